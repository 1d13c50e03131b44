"""A Hydra app that is independent of this project: the sweeper must work with any app."""

import contextlib
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
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
    tickets: str = ""  # a folder: each trial takes a file from it, and waits where there is none
    pids: int = 0  # each trial waits until so many processes have noted their ids in pids.log
    method: Any = MISSING


store = ConfigStore.instance()
store.store(name="app_config", node=Config)
for name in ("sgd", "adam"):
    store.store(group="method", name=name, node=Method(name=name))


def wait_until(ready: Callable[[], bool], what: str, seconds: float = 300) -> None:
    """Wait for `what`, for long enough on a busy machine."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not after {seconds:.0f} seconds")
        time.sleep(0.02)


def hand_out_tickets(folder: Path, count: int) -> None:
    """Let so many trials with `tickets=folder` continue; the others wait."""
    folder.mkdir(exist_ok=True)
    for ticket in folder.iterdir():
        ticket.unlink()
    for _ in range(count):
        (folder / uuid.uuid4().hex).touch()


def took_ticket(folder: Path) -> bool:
    for ticket in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another trial was faster
            ticket.unlink()
            return True
    return False


def note_process(count: int) -> None:
    log = Path("pids.log")
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    wait_until(lambda: len(set(log.read_text(encoding="utf-8").split())) >= count, f"{count} processes")


@hydra.main(version_base="1.3", config_path=None, config_name="app_config")
def main(cfg) -> float:
    with open(cfg.log, "a", encoding="utf-8") as log:
        log.write(f"{cfg.size} {cfg.method.name} {cfg.seed} {cfg.x!r}\n")
    if cfg.tickets:
        wait_until(lambda: took_ticket(Path(cfg.tickets)), "a ticket")
    if cfg.pids:
        note_process(cfg.pids)
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
