"""`python -m pipeline.train`: one run; with `-m`, a sweep of them.

A run imports torch and mlflow once its request is known: `--help`, `--cfg` and the driver of a sweep need neither.
"""

import hydra
from omegaconf import DictConfig

from lr_study import Trial, TrialPruned, current_trial
from pipeline.command import exit_with_request_error, request_message, run_command
from pipeline.config import Config, conf_dir, register, resolve
from pipeline.config.checks import check_request
from pipeline.run import worker

register()


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")
def main(cfg: DictConfig) -> float:
    """Train once, as `cfg` says, and return the objective."""
    register()  # a sweep's worker process unpickles this function without running the line above
    trial = current_trial()
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
    from pipeline.run.training import run_training

    run, objective = run_training(config, trial)
    if trial is not None:
        trial.set_attributes(status=run.status, **({"mlflow_run_id": run.id} if run.id else {}))
        if run.status == "pruned":
            raise TrialPruned
    return objective


if __name__ == "__main__":
    run_command(main)
