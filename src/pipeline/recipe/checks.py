"""Checks of single numbers, with the name of the key that held them."""

import math

from pipeline.errors import RequestError


def check_batch(name: str, value: object) -> None:
    """Refuse what can't be a number of examples: `name` is the key that held `value`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RequestError(f"{name}={value}: a number of examples is a whole number from 1 up.")


def check_positive(name: str, value: object) -> None:
    """Refuse what is not a finite number above zero: `name` is the key that held `value`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:  # type: ignore[arg-type, operator]
        raise RequestError(f"{name}={value}: it must be a finite number above 0.")
