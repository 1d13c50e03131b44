"""What differs now from what a run depended on: its configuration, code, packages, machine and data."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lr_study.masking import mask_passwords
from pipeline.config import Config
from pipeline.errors import RequestError
from pipeline.reproduction.restore import IMAGE_SET
from pipeline.reproduction.trust import shown
from pipeline.tracking import environment, git

if TYPE_CHECKING:
    from pipeline.tracking.logged import LoggedRun

# Characters of a logged machine description; this project's own have three hundred.
MAX_CHARACTERS = 10_000
UNKNOWN = "unknown"


@dataclass(frozen=True)
class EnvironmentDifference:
    """How one thing that a run depended on compares with today's."""

    subject: str  # config, code, packages, machine or data
    description: str = "the same"
    changes_rounding: bool = False  # whether other last digits are to be expected for it


def diff_environment(logged: "LoggedRun", config: Config) -> Iterator[EnvironmentDifference]:
    """Compare configuration, code, packages and machine, without building anything.

    Raises:
        RequestError: the run's description of its machine can't be read.
    """
    is_checked = "config_digest" in logged.tags
    yield EnvironmentDifference("config", "as logged" if is_checked else "not checkable: the run has no config_digest")
    commit, patch = git.git_state()
    if logged.commit != commit:
        yield EnvironmentDifference("code", f"commit {logged.commit or UNKNOWN} then, {commit or UNKNOWN} now")
    elif logged.difference != mask_passwords(patch):  # the logged patch is masked, too
        yield EnvironmentDifference("code", f"the same commit {commit}, with other changes to it")
    else:
        yield EnvironmentDifference("code")
    here = environment.find_or("", "packages", environment.installed_packages)
    if logged.packages and here:
        changes = _diff_packages(logged.packages, here)
        yield EnvironmentDifference("packages", changes or "the same", bool(changes))
    else:
        yield EnvironmentDifference("packages", f"{UNKNOWN}: the run logged none", True)
    yield _diff_machine(logged, config.runtime.device)


def diff_data(logged: "LoggedRun", config: Config, may_fetch: bool) -> EnvironmentDifference:
    """Compare the data set by its digest; one that isn't here is downloaded only if `may_fetch` is set.

    Raises:
        RequestError: the data set can't be had, though it may be fetched.
    """
    import torch

    from pipeline.data.torchvision_images import is_present
    from pipeline.run.build import build_data

    if logged.dataset is None:
        return EnvironmentDifference("data", f"{UNKNOWN}: the run logged none")
    source, root = config.dataset.get("source"), config.dataset.get("root")
    needs_files = config.dataset.get("_target_") == IMAGE_SET
    if not may_fetch and needs_files and not is_present(source, str(root)):
        return EnvironmentDifference("data", f"not compared: {source} is not in {root}; a repetition fetches it")
    try:
        digest = build_data(config.dataset, torch.device("cpu")).digest
    except RequestError as error:
        if may_fetch:
            raise
        return EnvironmentDifference("data", f"not compared: {str(error).splitlines()[0]}")
    name, then = logged.dataset
    if digest == then:
        return EnvironmentDifference("data")
    return EnvironmentDifference("data", f"{name} had digest {then}, and has {digest} now")


def _diff_packages(then: str, now: str) -> str:
    """What differs between two requirements files, in words; empty where nothing does."""
    before, after = (dict(line.split("==", 1) for line in text.splitlines() if "==" in line) for text in (then, now))
    changed = [f"{n} {before[n]} → {after[n]}" for n in sorted(before) if n in after and before[n] != after[n]]
    missing, new = sorted(set(before) - set(after)), sorted(set(after) - set(before))
    parts = [", ".join(changed)] if changed else []
    parts += [f"missing now: {', '.join(missing)}"] if missing else []
    parts += [f"new: {', '.join(new)}"] if new else []
    return "; ".join(parts)


def _diff_machine(logged: "LoggedRun", device: str) -> EnvironmentDifference:
    then, now = _logged_machine(logged), environment.find_or({}, "machine", environment.machine)
    if not then:
        return EnvironmentDifference("machine", f"{UNKNOWN}: the run logged none", True)
    kind_then, kind_now = _rounding_kind(then), _rounding_kind(now)
    computed_on = logged.tags.get("device")
    if device in ("auto", "cpu"):
        # A sweep logs its driver's machine; each trial's tag says what the trial ran on.
        kind_then["cpu"] = computed_on or kind_then["cpu"]
    else:
        kind_then["device"], kind_now["device"] = computed_on or UNKNOWN, _device_here(device)
    if changes := _changes(kind_then, kind_now):
        return EnvironmentDifference("machine", changes, True)
    others = _changes(then, {key: now.get(key) for key in then})
    return EnvironmentDifference("machine", f"the same kind ({others})" if others else "the same")


def _logged_machine(logged: "LoggedRun") -> dict[str, Any]:
    try:
        if len(logged.machine) > MAX_CHARACTERS:
            raise ValueError
        machine = json.loads(logged.machine or "{}")
    except (ValueError, RecursionError):
        machine = None
    if not isinstance(machine, dict):
        raise RequestError(f"{logged.run_id}: its environment/machine.json can't be read, so it was edited.")
    return machine


def _rounding_kind(machine: Mapping[str, Any]) -> dict[str, Any]:
    """What decides how a machine rounds: neither its kernel's patch level nor its number of processors."""
    # As in Linux-6.1.0-44-amd64-x86_64-with-glibc2.36: the C library computes the logarithms.
    system, _, library = str(machine.get("platform", UNKNOWN)).partition("-with-")
    return {
        "cpu": machine.get("cpu", UNKNOWN),
        "processor": machine.get("processor", UNKNOWN),
        "system": system.partition("-")[0],
        "library": library or UNKNOWN,
        "python": machine.get("python", UNKNOWN),
    }


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {shown(then[key])} → {shown(now[key])}" for key in sorted(then) if then[key] != now[key])


def _device_here(name: str) -> str:
    import torch

    from pipeline.engine.runtime import device_name

    try:
        return device_name(torch.device(name)) or UNKNOWN
    except (RuntimeError, AssertionError):
        return "none here"
