"""What every command does around its work: exit codes, errors in one or two lines, common options.

Exit codes: 0 done; 1 the work failed; 2 the request was wrong; 129, 130, 143 ended by SIGHUP, SIGINT (Ctrl-C), SIGTERM.
"""

import argparse
import os
import re
import sys
import unicodedata
from collections.abc import Callable
from typing import NoReturn

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from lr_study import SweepFailedError
from lr_study.interruption import ending_on_signals, raise_if_signalled
from lr_study.masking import mask_passwords
from pipeline.errors import RequestError, RunError, request_error_behind
from pipeline.process import streams
from pipeline.process.collector import collect_seldom
from pipeline.process.surroundings import is_folder_gone, prepare
from pipeline.tracking.target import DEFAULT_EXPERIMENT, DEFAULT_URI


def run_command(main: Callable[[], object]) -> NoReturn:
    """Run `main` and leave the process with the exit code that says how it went."""
    streams.make_safe()
    # Without this Hydra prints up to 14 lines and exits with 1; with it, its errors reach the `except` below.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    collect_seldom()
    code: str | int | None = 0
    try:
        with ending_on_signals():
            _run(main)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        code = 130
    except SystemExit as ended:
        code = ended.code
    sys.stdout.flush()
    if not code and (lost := streams.write_error()) is not None:
        print(f"The output could not be written: {lost.strerror}.", file=sys.stderr)
        code = 1
    sys.exit(code)


def _run(main: Callable[[], object]) -> None:
    """Run `main`, and raise SystemExit with a message printed for each error that has one."""
    try:
        prepare()
        main()
    except (SweepFailedError, RunError) as error:
        print(mask_passwords(str(error)), file=sys.stderr)
        sys.exit(1)
    except (HydraException, OmegaConfBaseException, RequestError, ValueError) as error:
        raise_if_signalled()
        if (message := request_message(error)) is None:
            raise
        exit_with_request_error(message)
    except Exception as error:
        raise_if_signalled()  # a library may have turned the signal into another error
        if is_folder_gone():
            print("The working folder was deleted while the command ran.", file=sys.stderr)
            sys.exit(1)
        if isinstance(error, OSError) and error.filename is not None:
            print(printable(f"{error.filename}: {error.strerror}."), file=sys.stderr)
            sys.exit(1)
        raise
    raise_if_signalled()


def add_store_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name MLflow's store and experiment."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", DEFAULT_EXPERIMENT)
    wanted = f"MLflow experiment (default: MLFLOW_EXPERIMENT_NAME or {DEFAULT_EXPERIMENT})"
    parser.add_argument("--experiment", default=name, help=wanted)
    uri = os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_URI)
    parser.add_argument("--tracking-uri", default=uri, help="MLflow's store (default: MLFLOW_TRACKING_URI or mlruns/)")


def exit_with_request_error(message: str) -> NoReturn:
    """Print `message` on stderr and leave with exit code 2."""
    print(printable(mask_passwords(message)), file=sys.stderr)
    sys.exit(2)


def printable(text: str) -> str:
    """`text` with � in place of control characters, which could change the terminal; line ends stay."""
    return "".join("�" if unicodedata.category(c)[0] == "C" and c != "\n" else c for c in text)


def request_message(error: BaseException) -> str | None:
    """One or two lines for an error that a wrong request caused; None for any other error."""
    if (request_error := request_error_behind(error)) is not None:
        return str(request_error)
    if isinstance(error, OverrideParseException) and "Ambiguous" not in str(error):
        return f"{error.override}: not understood.\nWrite key=value; quote what holds spaces, commas or brackets."
    if isinstance(error, HydraException | OmegaConfBaseException):
        cause = error.__cause__
        detail = f"\n{cause}" if isinstance(cause, OmegaConfBaseException) else ""
        return _two_lines(f"{error}{detail}")
    # Hydra raises a bare ValueError where options exclude each other.
    if "can be specified" in str(error) or "can only be used" in str(error):
        return _two_lines(str(error))
    return None


def _two_lines(message: str) -> str:
    """Shorten a message of Hydra or OmegaConf to what was given and what is allowed."""
    message = re.sub(r"\x1b\[[0-9;]*m", "", message)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    key = next((line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")), None)
    if "Available options in" in message:
        start = next(i for i, line in enumerate(lines) if line.startswith("Available options in"))
        group = lines[start].split("'")[1]
        options = [line for line in lines[start + 1 :] if re.fullmatch(r"[\w./-]+", line)]
        return f"{lines[0].rstrip('.')}.\nChoose one of {group}=: {', '.join(options)}."
    if match := re.search(r"Key '(.+?)' (?:is not in struct|not in '(\w+)')", message):
        full = key or match.group(1)
        return f"{full}: there is no such key.\nSee the keys there are: python -m pipeline.train --cfg job."
    if match := re.search(r"Missing mandatory value: ([\w.]+)", message):
        return f"{match.group(1)} is not set, and has no default.\nSet it: {match.group(1)}=VALUE."
    if match := re.search(r"Value '(.*?)'.*could not be converted to (\w+)", message):
        return f"{key or 'value'}={match.group(1)}: it must be of type {match.group(2)}."
    if key and (match := re.search(r"Error merging override (\S+?)=(.*)", lines[0])):
        if "is not a ListConfig" in message:
            return f"{key}={match.group(2)}: it must be a list.\nWrite {key}=[{match.group(2)}]."
        if "is not Optional" in message:
            return f"{key}={match.group(2)}: it must have a value.\nLeave it out for the default."
    if match := re.search(r"Ambiguous value for argument '(.+?)'", message):
        given = match.group(1)
        return f"{given}: several values make a sweep, and this is a single run.\nAdd -m, or write a list: key=[a,b]."
    if match := re.search(r"Could not override '(.+?)'", message):
        hint = next((line for line in lines if line.startswith(("Did you mean", "To append"))), "")
        return f"{match.group(1)}: there is no such key or group.\n{hint}".rstrip()
    kept = [line for line in lines if not line.startswith(("full_key", "object_type", "reference_type"))]
    return "\n".join(kept[:2])
