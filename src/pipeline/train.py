"""`python -m pipeline.train`: one run; with `-m`, a sweep of them.

A run imports torch and mlflow once its request is known: `--help`, `--cfg` and the driver of a sweep need neither.
"""

import os

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lr_study import Trial, TrialPruned, current_trial
from lr_study.saved_config import mask_saved_config
from pipeline.command import exit_with_request_error, request_message, run_command
from pipeline.config import Config, conf_dir, register, resolve
from pipeline.config.checks import check_request
from pipeline.process import streams
from pipeline.run import worker
from pipeline.tracking.check import check_target
from pipeline.tracking.target import TrackingTarget

register()


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")
def main(cfg: DictConfig) -> float:
    """Train once, as `cfg` says, and return the objective."""
    # A sweep's worker process unpickles this function, and runs neither the line above nor `run_command`.
    register()
    streams.make_safe()
    os.chdir(HydraConfig.get().runtime.cwd)  # hydra.job.chdir has left it; Hydra goes back itself after the job
    trial = current_trial()
    if trial is None:
        mask_saved_config(cfg)  # a sweep does so for its trials
    rank = 0
    try:
        config = resolve(cfg)
        rank = worker.own_rank(config)
        if rank:
            check_request(config)
            worker.train_under_torchrun(config, rank)
        return train(config, trial)
    except Exception as error:
        if trial is not None:
            raise  # the sweep records it and goes on
        if (message := request_message(error)) is None:
            raise
        if rank:
            worker.await_refusal_of_rank_0()
        exit_with_request_error(message)


def train(config: Config, trial: Trial | None = None) -> float:
    """Check the request, train, track; returns the objective, bounded where the run failed.

    Raises:
        RequestError: the request can't be carried out; nothing was written.
        TrialPruned: the sweep's pruner ended the trial.
    """
    check_request(config)
    if trial is None:  # a sweep has checked the place of all its trials
        check_target(TrackingTarget(config.tracking.uri, config.tracking.experiment))
    from pipeline.run.training import run_training  # imports torch: what is refused is refused before

    run, objective, _ = run_training(config, trial)
    if trial is not None:
        trial.set_attributes(status=run.status, **({"mlflow_run_id": run.id} if run.id else {}))
        if run.status == "pruned":
            raise TrialPruned
    return objective


if __name__ == "__main__":
    run_command(main)
