"""What is different now from what a run rested on: its configuration, code, packages, machine and data."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lr_study.masking import mask_passwords
from pipeline.config import Config
from pipeline.errors import RequestError
from pipeline.reproduction.metric_diff import package_changes
from pipeline.reproduction.trust import shown

if TYPE_CHECKING:
    from pipeline.tracking.logged import LoggedRun

# Characters of a machine's description; ours have three hundred.
LONGEST_MACHINE = 10_000
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Change:
    """What became of one thing that a run rested on.

    Attributes:
        what: its name.
        words: what is to be said of it.
        rounds_differently: whether another result in the last digits is to be expected for it.
    """

    what: str
    words: str = "the same"
    rounds_differently: bool = False


def changes_of_place(logged: "LoggedRun", config: Config) -> Iterator[Change]:
    """Configuration, code, packages and machine: what can be compared without building anything.

    Raises:
        RequestError: what the run logged of its machine can't be read.
    """
    from pipeline.tracking import environment, git

    yield Change("config", "as logged" if logged.is_sealed else "not checkable: the run has no config_digest")
    commit, difference = git.git_state()
    if logged.commit != commit:
        yield Change("code", f"commit {logged.commit or UNKNOWN} then, {commit or UNKNOWN} now")
    elif logged.difference != mask_passwords(difference):  # as it was logged
        yield Change("code", f"the same commit {commit}, with other changes to it")
    else:
        yield Change("code")
    here = environment.found_or("", "packages", environment.installed_packages)
    if logged.packages and here:
        packages = package_changes(logged.packages, here)
        yield Change("packages", packages or "the same", bool(packages))
    else:
        yield Change("packages", f"{UNKNOWN}: the run logged none", True)
    yield _change_of_machine(logged, config.runtime.device)


def change_of_data(logged: "LoggedRun", config: Config, may_fetch: bool) -> Change:
    """The data set by its digest.

    Args:
        logged, config: the run, and its configuration to be run here.
        may_fetch: whether to have it downloaded where it isn't here; else that is said.

    Raises:
        RequestError: it can't be had, though it may be fetched.
    """
    import torch

    from pipeline.run.workload import load_data

    if logged.dataset is None:
        return Change("data", f"{UNKNOWN}: the run logged none")
    if not may_fetch and (missing := _missing(config.dataset)) is not None:
        return Change("data", f"not compared: {missing}")
    try:
        digest = load_data(config.dataset, torch.device("cpu")).digest
    except RequestError as error:
        if may_fetch:
            raise
        return Change("data", f"not compared: {str(error).splitlines()[0]}")
    name, then = logged.dataset
    return Change("data", "the same" if digest == then else f"{name} had digest {then}, and has {digest} now")


def _missing(dataset: Mapping[str, Any]) -> str | None:
    """Why a data set would have to be fetched first; None where it lies here."""
    from pipeline.data.torchvision_images import is_present
    from pipeline.reproduction.restore import IMAGES

    if dataset.get("_target_") != IMAGES or is_present(dataset.get("source"), str(dataset.get("root"))):
        return None
    return f"{dataset.get('source')} is not in {dataset.get('root')}; a repetition fetches it"


def _change_of_machine(logged: "LoggedRun", device: str) -> Change:
    from pipeline.tracking import environment

    then, now = _machine_of(logged), environment.found_or({}, "machine", environment.machine)
    if not then:
        return Change("machine", f"{UNKNOWN}: the run logged none", True)
    kind_then, kind_now = _kind(then), _kind(now)
    computed_on = logged.tags.get("device")
    if device in ("auto", "cpu"):
        # A sweep's machine is its driver's; what a trial ran on, it says itself.
        kind_then["cpu"] = computed_on or kind_then["cpu"]
    else:
        kind_then["device"], kind_now["device"] = computed_on or UNKNOWN, _device_here(device)
    if words := _differences(kind_then, kind_now):
        return Change("machine", words, True)
    others = _differences(then, {key: now.get(key) for key in then})
    return Change("machine", f"the same kind ({others})" if others else "the same")


def _machine_of(logged: "LoggedRun") -> dict[str, Any]:
    try:
        if len(logged.machine) > LONGEST_MACHINE:
            raise ValueError
        machine = json.loads(logged.machine or "{}")
    except (ValueError, RecursionError):
        machine = None
    if not isinstance(machine, dict):
        raise RequestError(f"{logged.run_id}: its environment/machine.json can't be read, so it was edited.")
    return machine


def _kind(machine: Mapping[str, Any]) -> dict[str, Any]:
    """What decides how a machine rounds: not the patch level of its kernel, nor how many processors it has."""
    # As in Linux-6.1.0-44-amd64-x86_64-with-glibc2.36: the C library has the logarithms.
    system, _, library = str(machine.get("platform", UNKNOWN)).partition("-with-")
    return {
        "cpu": machine.get("cpu", UNKNOWN),
        "processor": machine.get("processor", UNKNOWN),
        "system": system.partition("-")[0],
        "library": library or UNKNOWN,
        "python": machine.get("python", UNKNOWN),
    }


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {shown(then[key])} → {shown(now[key])}" for key in sorted(then) if then[key] != now[key])


def _device_here(name: str) -> str:
    """The model of the device `name` on this machine."""
    import torch

    from pipeline.engine.runtime import device_name

    try:
        return device_name(torch.device(name)) or UNKNOWN
    except (RuntimeError, AssertionError):
        return "none here"
