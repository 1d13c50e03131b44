"""What can go wrong with a sweep as a whole."""

from hydra.errors import HydraException


class SweepRequestError(HydraException):
    """The sweep that was asked for can't be run; nothing was started."""


class SweepFailedError(RuntimeError):
    """Too many trials raised an error; what was finished is kept."""
