"""One training run from its configuration to its end in MLflow: build, open, train, log."""

import contextlib
import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from lr_study import Trial
from lr_study.masking import mask_passwords, mask_tree
from pipeline.analysis.replicate_table import REPLICATES, write_replicates
from pipeline.analysis.runs import CONFIRM
from pipeline.config import Config, as_dict, as_yaml, flatten
from pipeline.engine import Checkpoints, Evaluation, FitResult, World, evaluate, load_checkpoint, objective_value
from pipeline.engine.optimizer_calls import finish_imports
from pipeline.engine.state import State
from pipeline.process.collector import collect_as_usual
from pipeline.run import progress, recording, worker
from pipeline.run.replicates import Replicates, mean_metrics, stack_size, train_replicates
from pipeline.run.workload import Workload, build_workload
from pipeline.tracking.run import TrackedRun, config_digest
from pipeline.tracking.spool.resume import claim_resumable
from pipeline.tracking.target import TrackingTarget

log = logging.getLogger("pipeline.run")


def run_training(
    config: Config,
    trial: Trial | None = None,
    more_tags: Mapping[str, str] | None = None,
    last_evaluation: int | None = None,
) -> tuple[TrackedRun, float, Replicates]:
    """Train and track one run, which may be a sweep's `trial`; returns it, closed, its objective, and its replicates.

    The caller has checked the values in `config`, and the place of the run's records.

    It ends after `last_evaluation`, as a pruned trial does, or at the budget's end.

    Raises:
        RequestError: the request can't be carried out; nothing was written.
    """
    in_sweep = trial is not None
    try:
        workload = build_workload(config, in_sweep, World(0, config.runtime.workers))
    except Exception as error:
        if trial is not None:
            _track_failure(config, trial, error)
        raise
    total_steps = workload.plan.total_steps
    size = stack_size(config, workload, in_sweep)
    if not in_sweep:
        progress.announce(config, total_steps)
    finish_imports()
    run, state = _open_run(config, workload, trial, more_tags or {}, size)
    report = progress.Reporter(total_steps * math.ceil(len(config.seeds) / size), quiet=in_sweep)
    with run, report.bar:
        prune = _prune_rule(config, workload, trial, last_evaluation)
        if len(config.seeds) > 1:
            results = _train_several(run, report, config, workload, size, prune, in_sweep)
        else:
            with worker.process_group_of_run(config, in_sweep, run.close_after):
                result = _train(run, report, config, workload, state, prune)
                _log_result(run, report, config, workload, result, in_sweep)
            results = Replicates({config.seeds[0]: result})
        run.status = results.status
    if not in_sweep:
        report.done(results, run)  # asks for the run's id, which may take some seconds
    values = [
        objective_value(config.objective, result, workload.plan, workload.splits.guess_loss)
        for result in results.by_seed.values()
    ]
    if trial is not None and len(values) > 1:
        trial.set_attributes(standard_error=statistics.stdev(values) / math.sqrt(len(values)))
    return run, statistics.fmean(values), results


def _track_failure(config: Config, trial: Trial, error: Exception) -> None:
    """Track a trial that failed while its workload was built, so that the report counts it and says why."""
    run = TrackedRun(
        TrackingTarget(config.tracking.uri, config.tracking.experiment),
        recording.run_name(config),
        recording.tags_of(config, trial),
        parent=config.sweep.parent,
        sweep=config.sweep.name,
        quiet=True,
    )
    run.log_params(flatten(as_dict(config)))
    run.close_after(error)


def _open_run(
    config: Config, workload: Workload, trial: Trial | None, more_tags: Mapping[str, str], stack: int
) -> tuple[TrackedRun, State | None]:
    """Open the run and log its request; or resume one that died, with the state that it had reached."""
    target = TrackingTarget(config.tracking.uri, config.tracking.experiment)
    # Masked value by value, where it is clear where each ends, then as the text whose digest is logged.
    text = mask_passwords(as_yaml(mask_tree(as_dict(config))))
    tags = recording.tags_of(config, trial) | {
        "device": recording.device_used(workload),
        "config_digest": config_digest(text),
        **more_tags,
    }
    can_resume = config.resume == "auto"
    if can_resume and (claimed := claim_resumable(target, tags["config_digest"], load_checkpoint)) is not None:
        spool, state = claimed
        log.info("Resuming a run that was cut off after %d of its evaluations.", len(state["evaluations"]))
        return TrackedRun.resumed(target, spool), state
    run = TrackedRun(
        target,
        recording.run_name(config),
        tags,
        parent=config.sweep.parent,
        sweep=config.sweep.name if trial is not None else None,
        quiet=trial is not None,
        resumable=can_resume,
    )
    with contextlib.ExitStack() as until_entered:
        until_entered.push(run)  # an error in this block closes the run
        run.log_text(text, "config/config.yaml")
        recording.record_request(run, config, workload, trial, stack)
        until_entered.pop_all()
    return run, None


def _prune_rule(
    config: Config, workload: Workload, trial: Trial | None, last_evaluation: int | None
) -> Callable[[Evaluation], bool]:
    total = len(workload.plan.evaluation_steps)
    if trial is None:
        # Not at the budget's end: a run that was cut off there may have evaluated the test split already.
        return lambda evaluation: evaluation.epoch == last_evaluation and evaluation.epoch < total
    if trial.phase == CONFIRM:
        return lambda evaluation: False  # runs that are compared in pairs all train to the end
    metric = workload.plan.target[0] if workload.plan.target else config.objective

    def as_the_pruner_says(evaluation: Evaluation) -> bool:
        trial.report(evaluation.metrics[metric], evaluation.epoch, total)
        return trial.should_prune()

    return as_the_pruner_says


def _train(
    run: TrackedRun,
    report: progress.Reporter,
    config: Config,
    workload: Workload,
    state: State | None,
    should_prune: Callable[[Evaluation], bool],
) -> FitResult:
    """Train, and log metrics and checkpoints as they come."""
    # In the spool, which outlives this process: a run that dies is resumed from its checkpoints.
    checkpoints = Checkpoints(run.spool.files, _checkpoints_to_write(config), config.objective)
    if state is not None:
        checkpoints.resume_from_state(state)
        # A checkpoint is written before its evaluation is logged: log what the dead run did not.
        for evaluation in state["evaluations"]:
            run.log_metrics(evaluation["metrics"], evaluation["epoch"])

    def on_evaluation(evaluation: Evaluation) -> None:
        run.log_metrics(evaluation.metrics, evaluation.epoch)
        report.evaluation(evaluation)

    collect_as_usual()
    return workload.fit(
        config,
        noise_sample=workload.noise_sample,
        on_evaluation=on_evaluation,
        on_state=checkpoints.update,
        on_window=report.steps,
        should_prune=should_prune,
        resume_from=state,
    )


def _train_several(
    run: TrackedRun,
    report: progress.Reporter,
    config: Config,
    workload: Workload,
    size: int,
    should_prune: Callable[[Evaluation], bool],
    in_sweep: bool,
) -> Replicates:
    """Train the replicates, and log their means, and each one's evaluations as a table."""

    def prune(evaluations: Sequence[Evaluation]) -> bool:
        last = evaluations[0]
        return should_prune(Evaluation(last.epoch, last.step, mean_metrics(evaluations)))

    collect_as_usual()
    results = train_replicates(config, workload, size, report.steps, prune)
    evaluations = list(results.means())
    for evaluation in evaluations:
        run.log_metrics(evaluation.metrics, evaluation.epoch)
        report.evaluation(evaluation)
    if evaluations and "test/loss" in evaluations[-1].metrics:
        report.test(evaluations[-1].metrics["test/loss"], evaluations[-1].metrics["test/error"])
    run.log_metrics({"diverged": results.share("diverged")}, results.last_epoch)
    reached = [result.steps for result in results.by_seed.values() if result.status == "complete"]
    if workload.plan.target and reached:
        run.log_metrics({"steps_to_target": statistics.fmean(reached)}, results.last_epoch)
    run.log_text(write_replicates(results.rows()), REPLICATES)
    if not in_sweep:
        recording.draw_run_curves(run, evaluations)
    return results


def _checkpoints_to_write(config: Config) -> str:
    """The checkpoints that are kept, and those that resuming and the model need."""
    mode = config.tracking.checkpoints
    if config.resume == "auto":
        mode = {"none": "last", "best": "both"}.get(mode, mode)
    if config.tracking.log_model == "best":
        mode = {"none": "best", "last": "both"}.get(mode, mode)
    return mode


def _log_result(
    run: TrackedRun,
    report: progress.Reporter,
    config: Config,
    workload: Workload,
    result: FitResult,
    in_sweep: bool,
) -> None:
    """Log what is known once at the end: the test split, steps to the target, checkpoints, model and curves."""
    last = len(result.evaluations)
    run.log_metrics({"diverged": result.status == "diverged"}, last)
    if result.has_test:
        loss, error = evaluate(workload.model, workload.splits.test, world=workload.runtime.world)
        run.log_metrics({"test/loss": loss, "test/error": error}, last)
        report.test(loss, error)
    if workload.plan.target and result.status == "complete":
        run.log_metrics({"steps_to_target": result.steps}, last)
    for file in sorted(run.spool.files.glob("*.pt")):
        if config.tracking.checkpoints in ("both", file.stem):
            run.log_file(file, "checkpoints")
    if config.tracking.log_model == "best" and result.status == "complete":
        recording.log_best_model(run, workload)
    if not in_sweep:
        recording.draw_run_curves(run, result.evaluations)
