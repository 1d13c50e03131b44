"""What a command needs from the place where it is started, and what it takes from there by mistake."""

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

from pipeline.errors import RequestError

# Packages that commands import. With `python -m`, a file of the working folder comes before a package of its name.
PACKAGES = ("torch", "torchvision", "mlflow", "optuna", "numpy", "scipy", "sklearn", "matplotlib", "joblib", "PIL")


def prepare() -> None:
    """Refuse a place where no command can work, and set the variables that commands depend on.

    Raises:
        RequestError: this is Windows, the working folder is gone, a file in it hides a package, or Python leaves out
            `assert`.
    """
    if sys.platform == "win32":
        raise RequestError("Windows itself is not supported.\nUse the Windows Subsystem for Linux (WSL).")
    if not __debug__:
        raise RequestError("python -O: Hydra's parser needs assert.\nLeave -O out, and unset PYTHONOPTIMIZE.")
    if is_folder_gone():
        raise RequestError("The working folder has been deleted.\nStart from another folder.")
    folder = Path.cwd()
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin) if spec is not None and spec.origin else None
        if origin is not None and origin.parent in (folder, folder / name):
            raise RequestError(
                f"{origin}: Python takes it for the package {name}, which it hides.\nRename it, or start elsewhere."
            )
    # MLflow reports no usage over the network.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Figures go to files. Jupyter names a backend that only its own processes have.
    os.environ["MPLBACKEND"] = "agg"
    try:
        Path.home()
    except RuntimeError:  # a container's user may be in no list of users, and MLflow asks for the home folder
        os.environ["HOME"] = tempfile.gettempdir()


def is_folder_gone() -> bool:
    """Whether the working folder was deleted, by whatever name it may have been made again."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False
