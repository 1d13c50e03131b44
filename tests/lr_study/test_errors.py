"""The reason in an exception: one line, whatever was raised."""

import pytest

from lr_study import reason_of
from lr_study.errors import LONGEST_REASON, describe_error


def raised(error, cause=None):
    try:
        raise error from cause
    except BaseException as caught:
        return caught


class _RemoteTraceback(Exception):  # noqa: N818  (the name that pools give it)
    """As process pools attach it."""


LONG = "x" * 500


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("too large.\nAnd more."), "too large"),
        (raised(RuntimeError("outer"), raised(TypeError("middle"), KeyError("inner"))), "'inner'"),
        (raised(ValueError("in the worker"), _RemoteTraceback('\n"""\nTraceback …"""')), "in the worker"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (ValueError(" \n"), "ValueError"),
        (ConnectionError("no answer from http://me:hunter2@host"), "no answer from http://me:***@host"),
        (ConnectionError(f"{LONG} [Errno 111] Connection refused"), "Connection refused"),
        (ValueError(LONG), "x" * (LONGEST_REASON - 1) + "…"),
    ],
)
def test_the_reason_is_one_short_line_of_the_innermost_cause_without_passwords(error, reason):
    assert reason_of(error) == reason


@pytest.mark.parametrize(
    ("error", "described"),
    [
        (raised(RuntimeError("outer"), KeyError("inner")), "KeyError: 'inner'"),
        (ValueError("too large.\nAnd more."), "ValueError: too large"),
        (AssertionError(), "AssertionError"),
        (
            ConnectionError("no answer from http://me:hunter2@host"),
            "ConnectionError: no answer from http://me:***@host",
        ),
    ],
)
def test_an_error_is_described_by_its_class_and_reason(error, described):
    assert describe_error(error) == described


def test_a_password_that_would_be_cut_in_half_is_masked_first():
    address = f"postgresql://me:{'secret' * 50}@host/db"
    assert "secret" not in reason_of(ConnectionError(f"can't reach {address}"))
