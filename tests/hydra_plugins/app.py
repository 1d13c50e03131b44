"""A Hydra app that is nothing of this project: the sweeper must work with any."""

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class Method:
    name: str = MISSING


@dataclass
class Config:
    defaults: list[Any] = field(
        default_factory=lambda: ["_self_", {"method": "sgd"}, {"override hydra/sweeper": "lr_study"}]
    )
    x: float = 1.0
    size: int = 1
    seed: int = 0
    fails: str = "never"
    sleep: float = 0.0
    log: str = "runs.log"
    pids: bool = False
    method: Any = MISSING


store = ConfigStore.instance()
store.store(name="app_config", node=Config)
for name in ("sgd", "adam"):
    store.store(group="method", name=name, node=Method(name=name))


@hydra.main(version_base="1.3", config_path=None, config_name="app_config")
def main(cfg) -> float:
    with open(cfg.log, "a") as log:
        log.write(f"{cfg.size} {cfg.method.name} {cfg.seed} {cfg.x!r}\n")
    if cfg.pids:
        with open("pids.log", "a") as log:
            log.write(f"{os.getpid()}\n")
    time.sleep(cfg.sleep)
    unlucky = cfg.seed == 1
    if cfg.fails == "always" or (cfg.fails == "raise" and unlucky):
        raise RuntimeError("this seed is unlucky")
    if cfg.fails == "exit" and unlucky:
        sys.exit("this seed leaves")
    if cfg.fails == "nan" and unlucky:
        return float("nan")
    if cfg.fails == "unpicklable" and unlucky:
        raise type("Local", (Exception,), {"__reduce__": lambda self: 1 / 0})("no pickle")
    if cfg.fails == "kill" and unlucky:
        os.kill(os.getpid(), signal.SIGKILL)
    if cfg.fails == "tear" and unlucky:
        with open("out/optuna.journal", "ab") as journal:  # as a process does that is killed while it writes
            journal.write(b'{"op_code":8,"work')
        os.kill(os.getpid(), signal.SIGKILL)
    return (cfg.x - cfg.size) ** 2


if __name__ == "__main__":
    main()
