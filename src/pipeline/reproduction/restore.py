"""From what a run logged to a configuration that can run here.

`pipeline.reproduction.trust` limits what it may build. The keys that belonged to the run's machine and store get this
machine's values. Values that only the store knows are put in after every interpolation is resolved, so that nothing in
the store can make this process look up an environment variable.
"""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf.errors import OmegaConfBaseException

from pipeline.config import Config, from_dict
from pipeline.config.checks import MEMORY_FORMATS, PRECISIONS, check_request
from pipeline.config.schema import Runtime
from pipeline.errors import RequestError
from pipeline.reproduction.trust import check_trusted, parse_logged, shown

if TYPE_CHECKING:
    from pipeline.tracking.logged import LoggedRun

# The runtime of runs that were logged before these keys existed.
OLD_RUNTIME = {"precision": "fp32", "memory_format": "contiguous", "workers": 1, "compile": False, "stack": 1}
# Patterns of the values that a run logs of its runtime.
RUNTIME_VALUES = {
    "device": r"auto|cpu|mps|(cuda|xpu)(:[0-9]{1,2})?",
    "threads": r"auto|[1-9][0-9]{0,3}",
    "precision": "|".join(PRECISIONS),
    "memory_format": "|".join(MEMORY_FORMATS),
    "workers": r"[1-9][0-9]{0,3}",
    "compile": r"[Tt]rue|[Ff]alse",
    "stack": r"auto|[1-9][0-9]{0,3}",
}
IMAGE_SET, IMAGE_FOLDER = "pipeline.data.torchvision_images", "pipeline.data.image_folder"


def restore_config(logged: "LoggedRun", uri: str, trusted: Collection[str] = ()) -> Config:
    """The logged configuration, to run here: in the store `uri`, as a single run, with the threads and device it used.

    Names in `trusted` may be built beyond those of `pipeline.reproduction.trust`.

    Raises:
        RequestError: it is no configuration of this version of the project, has a value that none can have, or builds
            what isn't trusted.
    """
    if "${" in logged.experiment:
        raise RequestError(
            f"{logged.run_id}: its experiment is called {shown(logged.experiment)}, which looks like an interpolation."
            "\nIf the name is yours, rename the experiment in MLflow."
        )
    tree = parse_logged(logged.config)
    for key in ("dataset", "model", "optimizer", "runtime", "tracking"):  # read before the schema has checked them
        if not isinstance(tree.get(key), dict):
            raise _other_version(logged, f"{key} is {'missing' if key not in tree else 'no group of keys'}")
    check_trusted(tree, trusted)
    tree["tracking"] |= {"uri": "none", "experiment": "none", "checkpoints": "none", "log_model": "none"}
    tree["sweep"] = {"name": "none", "parent": None}
    tree["resume"] = None
    tree["runtime"] = OLD_RUNTIME | tree["runtime"]
    tree.pop("report", None)  # it says how a sweep is judged, not what a run does
    try:
        config = from_dict(tree)
    except RequestError:
        raise
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise _other_version(logged, str(error).splitlines()[0]) from None
    config.tracking.uri, config.tracking.experiment = uri, logged.experiment
    config.runtime = _runtime_used(config.runtime, logged.params)
    config.batching.micro_batch = _micro_batch_used(config.batching.micro_batch, logged.params)
    if "root" in config.dataset:
        config.dataset["root"] = _data_root(config.dataset, trusted)
    check_request(config)
    return config


def _other_version(logged: "LoggedRun", reason: str) -> RequestError:
    return RequestError(
        f"{logged.run_id}: its configuration is not one of this version ({shown(reason)})."
        "\nUse the version that made it: git checkout of the commit on its MLflow page."
    )


def _runtime_used(configured: Runtime, params: Mapping[str, str]) -> Runtime:
    """The runtime as the run's params have it, else as it was configured."""
    used = {key: str(params.get(f"runtime.{key}", value)) for key, value in vars(configured).items()}
    for key, value in used.items():
        if re.fullmatch(RUNTIME_VALUES[key], value) is None:
            raise RequestError(f"runtime.{key}={shown(value)}: no run logs such a value, so it was edited.")
    number_or_auto = {key: used[key] if used[key] == "auto" else int(used[key]) for key in ("threads", "stack")}
    return Runtime(
        device=used["device"],
        **number_or_auto,
        precision=used["precision"],
        memory_format=used["memory_format"],
        workers=int(used["workers"]),
        compile=used["compile"].lower() == "true",
    )


def _micro_batch_used(configured: int | str | None, params: Mapping[str, str]) -> int | str | None:
    """The most examples in one forward pass, where `auto` left the choice to the run; None is the whole batch."""
    used = params.get("batching.micro_batch", "auto")
    if configured != "auto" or used == "auto":
        return configured
    if re.fullmatch(r"null|[1-9][0-9]{0,8}", used) is None:
        raise RequestError(f"batching.micro_batch={shown(used)}: no run logs such a value, so it was edited.")
    return None if used == "null" else int(used)


def _data_root(dataset: Mapping[str, Any], trusted: Collection[str]) -> str:
    """The folder to read a logged data set from: the logged one only where nothing would be written into it."""
    given, target = dataset["root"], dataset.get("_target_")
    if not isinstance(given, str):
        raise RequestError(f"dataset.root={shown(given)}: it must be the path of a folder.")
    mine = os.environ.get("PIPELINE_DATA")
    if target == IMAGE_SET:
        from pipeline.data.torchvision_images import is_present

        return given if is_present(dataset.get("source"), given) else mine or "data"
    if not os.path.isdir(given):
        return mine or "data"  # the path is another machine's
    is_mine = mine and Path(given).resolve().is_relative_to(Path(mine).resolve())
    if target == IMAGE_FOLDER and target not in trusted and not is_mine:
        raise RequestError(
            f"dataset.root={shown(given)}: a logged configuration reads images below PIPELINE_DATA only"
            f" ({mine or 'which is not set'}).\nSet it to a folder above them, or, if you know them: "
            f"--trust {IMAGE_FOLDER}."
        )
    return given
