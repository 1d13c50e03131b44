"""What every command does around its work."""

import signal
import sys

import pytest
from hydra.errors import InstantiationException

from lr_study import SweepFailedError
from pipeline.command import run_command
from pipeline.errors import RequestError


def outcome(capsys, error=None):
    def main():
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as end:
        run_command(main)
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (RequestError("given\nallowed"), 2, "given\nallowed\n"),
        (SweepFailedError("3 of 4 trials failed"), 1, "3 of 4 trials failed\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
    ],
)
def test_each_way_to_end_has_its_code_and_no_traceback(capsys, error, code, said):
    assert outcome(capsys, error) == (code, said)


def test_a_request_error_is_found_behind_what_libraries_wrap_around_it(capsys):
    wrapper = InstantiationException("Error in call to target\nfull_key: x")
    wrapper.__cause__ = RequestError("batch=0: a number of examples is a whole number from 1 up.")
    assert outcome(capsys, wrapper) == (2, "batch=0: a number of examples is a whole number from 1 up.\n")


def test_an_error_of_the_work_itself_is_not_taken_for_a_wrong_request():
    def main():
        raise ValueError("matrix is singular")

    with pytest.raises(ValueError, match="matrix is singular"):
        run_command(main)


def test_termination_leaves_with_143():
    def main():
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as end:
        run_command(main)
    assert end.value.code == 143
    assert sys.exc_info()[0] is None
