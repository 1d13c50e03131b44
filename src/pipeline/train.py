"""`python -m pipeline.train`: one run; with `-m`, a sweep of them.

This module imports neither torch nor mlflow at the top: `--help`, `--cfg` and the driver of a sweep need
neither, and a run imports them when it has been asked for.
"""

import contextlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from hydra_plugins.lr_study_sweeper import Trial, TrialPruned, current_trial, masked
from pipeline import worker
from pipeline.analysis.table import CONFIRM
from pipeline.command import exit_with_request_error, request_message, run_command
from pipeline.config import as_yaml, conf_dir, register, resolve
from pipeline.garbage import collect_as_usual
from pipeline.recording import device_of, draw_run_curves, log_best_model, lr_factor, record_request, run_name, tags_of
from pipeline.request import check_request
from pipeline.tracking.location import Place, check_location, without_passwords

if TYPE_CHECKING:
    from pipeline.engine import FitResult
    from pipeline.engine.state import State
    from pipeline.progress import Reporter
    from pipeline.tracking.run import TrackedRun
    from pipeline.workload import Workload

log = logging.getLogger("pipeline.train")
register()


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")
def main(cfg: DictConfig) -> float:
    """Train once, as `cfg` says, and return the objective."""
    register()  # a worker process of a sweep gets here without having run the lines above
    trial = current_trial()
    rank = 0
    try:
        config = resolve(cfg)
        rank, count = worker.own_place(config)
        if rank:
            check_request(config)
            worker.assist(config, rank, count)
        return train(config, trial)
    except Exception as error:
        if trial is not None:
            raise  # the sweep records it and goes on
        if (message := request_message(error)) is None:
            raise
        if rank:
            worker.leave_the_word_to_the_first()
        exit_with_request_error(message)


def train(config: dict[str, Any], trial: Trial | None = None) -> float:
    """Check the request, train, track; returns the objective, bounded where the run failed.

    Args:
        config: the resolved configuration.
        trial: the sweep's trial that this run is, or None.

    Raises:
        RequestError: the request can't be carried out; nothing was written.
        TrialPruned: the sweep's pruner ended the trial.
    """
    from pipeline.engine import objective_value

    run, result, workload = carry_out(config, trial)
    if trial is not None:
        trial.set_attributes(status=result.status, **({"mlflow_run_id": run.id} if run.id else {}))
        if result.status == "pruned":
            raise TrialPruned
    return objective_value(config["objective"], result, workload.plan, workload.splits.guess_loss)


def carry_out(
    config: dict[str, Any],
    trial: Trial | None = None,
    more_tags: Mapping[str, str] | None = None,
    last_evaluation: int | None = None,
) -> tuple["TrackedRun", "FitResult", "Workload"]:
    """Check, train and track one run; what it came to.

    Args:
        config: the resolved configuration.
        trial: the sweep's trial that this run is, or None.
        more_tags: further tags for its MLflow run.
        last_evaluation: end after this evaluation as a pruned trial does; None goes through with the budget.
    """
    check_request(config)
    check_location(config["tracking"]["uri"])

    from pipeline import progress
    from pipeline.engine import Workers
    from pipeline.workload import prepare

    workers = Workers(0, config["runtime"]["workers"])
    workload = prepare(config, one_of_many=trial is not None, workers=workers)
    if trial is None:
        _announce(config, workload.plan.total_steps)
    run, state = _open_run(config, workload, trial, more_tags or {})
    with run, progress.reporter(workload.plan.total_steps, quiet=trial is not None) as report:
        with worker.gathered(config, workers, trial is not None, lambda _: run.close("failed", "FAILED")):
            result = _fit_and_record(run, report, config, workload, trial, state, last_evaluation)
        run.status = result.status
    report.done(result, run)
    return run, result, workload


def _open_run(
    config: dict[str, Any], workload: "Workload", trial: Trial | None, more_tags: Mapping[str, str]
) -> tuple["TrackedRun", "State | None"]:
    """Open the run in MLflow and log what it rests on; or go on with one that died, from the state it had reached."""
    from pipeline.engine import load_checkpoint
    from pipeline.tracking.resume import claim
    from pipeline.tracking.run import TrackedRun, config_digest

    place = Place(config["tracking"]["uri"], config["tracking"]["experiment"])
    # Value by value, where it is known where each ends; then as the artifact is, whose digest this has to be.
    text = without_passwords(as_yaml(masked(config)))
    tags = tags_of(config, trial) | {"config_digest": config_digest(text), "device": device_of(workload), **more_tags}
    if config["resume"] == "auto" and (claimed := claim(place, tags["config_digest"], load_checkpoint)) is not None:
        spool, state = claimed
        log.info("Going on with a run that was cut off after %d of its evaluations.", len(state["evaluations"]))
        return TrackedRun.resumed(place, spool), state
    run = TrackedRun(
        place,
        run_name(config),
        tags,
        parent=config["sweep"]["parent"],
        sweep=None if trial is None else config["sweep"]["name"],
        quiet=trial is not None,
        resumable=config["resume"] == "auto",
    )
    with contextlib.ExitStack() as until_it_is_entered:
        until_it_is_entered.push(run)  # what fails here closes it
        run.log_text(text, "config/config.yaml")
        record_request(run, config, workload, trial)
        until_it_is_entered.pop_all()
    return run, None


def _fit_and_record(
    run: "TrackedRun",
    report: "Reporter",
    config: dict[str, Any],
    workload: "Workload",
    trial: Trial | None,
    state: "State | None",
    last_evaluation: int | None,
) -> "FitResult":
    """Train, and log metrics, checkpoints and curves as they come."""
    from pipeline.engine import Checkpoints, Evaluation, evaluate, fit

    model, optimizer, plan = workload.model, workload.optimizer, workload.plan
    mode = config["tracking"]["checkpoints"]
    if config["resume"] == "auto":
        mode = {"none": "last", "best": "both"}.get(mode, mode)
    if config["tracking"]["log_model"] == "best":
        mode = {"none": "best", "last": "both"}.get(mode, mode)
    # Kept where they outlive this process, since a run that dies is gone on with from them.
    checkpoints = Checkpoints(run.spool.files, mode, config["objective"])
    if state is not None:
        checkpoints.gone_on_from(state)
        # A checkpoint is written before its evaluation is logged: what was not, is logged now.
        for evaluation in state["evaluations"]:
            run.log_metrics(evaluation["metrics"], evaluation["epoch"])

    def on_evaluation(evaluation: Evaluation) -> None:
        run.log_metrics(evaluation.metrics, evaluation.epoch)
        report.evaluation(evaluation)

    def should_prune(evaluation: Evaluation) -> bool:
        if trial is None:
            # Not at the budget's end: a run that was cut off after it may have looked at the test split already.
            return evaluation.epoch == last_evaluation and evaluation.epoch < len(plan.evaluation_steps)
        if trial.phase == CONFIRM:
            return False  # what is to be compared has to be run to its end
        metric = plan.target[0] if plan.target else config["objective"]
        trial.report(evaluation.metrics[metric], evaluation.epoch, len(plan.evaluation_steps))
        return trial.should_prune()

    collect_as_usual()
    result = fit(
        *(model, optimizer, workload.splits, plan, workload.schedule),
        batch=config["batch"],
        seed=config["seed"],
        micro_batch=workload.micro_batch,
        noise_sample=workload.noise_sample,
        on_evaluation=on_evaluation,
        on_state=checkpoints.update,
        on_window=report.steps,
        should_prune=should_prune,
        resume_from=state,
        precision=workload.runtime.precision,
        compiled=workload.runtime.compiled,
        workers=workload.runtime.workers,
    )
    last = len(result.evaluations)
    run.log_metrics({"diverged": result.status == "diverged"}, last)
    if result.has_test:
        test_loss, test_error = evaluate(model, workload.splits.test, workers=workload.runtime.workers)
        run.log_metrics({"test/loss": test_loss, "test/error": test_error}, last)
        report.test(test_loss, test_error)
    if plan.target and result.status == "complete":
        run.log_metrics({"steps_to_target": result.steps}, last)
    for file in sorted(run.spool.files.glob("*.pt")):
        if config["tracking"]["checkpoints"] in ("both", file.stem):
            run.log_file(file, "checkpoints")
    if config["tracking"]["log_model"] == "best" and result.status == "complete":
        log_best_model(run, workload)
    if trial is None:
        draw_run_curves(run, result.evaluations)
    return result


def _announce(config: dict[str, Any], steps: int) -> None:
    """Say which LR is used and why, before anything trains."""
    optimizer, scale, factor = config["optimizer"], config["scaling"], lr_factor(config)
    if factor is None:
        log.info("batch %d, LR %s, %d steps", config["batch"], optimizer.get("lr"), steps)
        return
    log.info(
        "batch %d: LR %.4g = %.4g × %.4g (rule %s; base LR %.4g at batch %d), %d steps",
        *(config["batch"], optimizer["lr"], optimizer["base_lr"], factor, scale["rule"]),
        *(optimizer["base_lr"], scale["base_batch"], steps),
    )
    warn_linear_adam(config)


def warn_linear_adam(config: dict[str, Any]) -> None:
    """Warn where the linear rule meets an optimizer that divides by the gradient's size."""
    if config["scaling"]["rule"] == "linear" and "base_betas" in config["optimizer"]:
        log.warning(
            "scaling=linear with %s: adaptive optimizers follow the square root more closely (scaling=sqrt).",
            config["optimizer"]["_target_"],
        )


if __name__ == "__main__":
    run_command(main)
