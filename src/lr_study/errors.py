"""The sweeper's errors, and the reason in any error."""

import re

from hydra.errors import HydraException

from lr_study.masking import mask_passwords

# The most characters of a reason.
LONGEST_REASON = 120
# What the system said, somewhere in the long texts that network libraries and databases make of it.
_SYSTEM = re.compile(
    r"Connection refused|timed out|Name or service not known|Network is unreachable|disk is full"
    r"|too many \d+ error responses|password authentication failed|Access denied for user"
)


class SweepRequestError(HydraException):
    """The requested sweep can't run; nothing was started."""


class SweepFailedError(RuntimeError):
    """Too many trials raised an error. Finished trials are kept."""


def reason_of(error: BaseException) -> str:
    """Say in one line why `error` was raised.

    Returns:
        The first line of its innermost cause, without a full stop and without passwords, at most 120 characters; the
        name of the class where there is no text. Of a longer line only what the system said, if that is in it.
    """
    error = _innermost(error)
    text = str(error).strip()
    if not text:
        return type(error).__name__
    # Masked before it is cut: half a password is still a secret.
    line = mask_passwords(text.splitlines()[0]).rstrip(".")
    if len(line) <= LONGEST_REASON:
        return line
    said = _SYSTEM.search(line)
    return said.group() if said else line[: LONGEST_REASON - 1] + "…"


def describe_error(error: BaseException) -> str:
    """Return `ValueError: why` in one line: the class of its innermost cause, and the reason."""
    kind, reason = type(_innermost(error)).__name__, reason_of(error)
    return kind if reason == kind else f"{kind}: {reason}"


def _innermost(error: BaseException) -> BaseException:
    # A pool of processes adds the worker's traceback as a cause, whose text is many lines.
    while error.__cause__ is not None and not type(error.__cause__).__name__.endswith("RemoteTraceback"):
        error = error.__cause__
    return error
