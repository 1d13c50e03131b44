"""The table of a run's replicates: what is written is read again, to the last digit."""

import math

import pytest

from pipeline.analysis.replicate_table import ReplicateRow, read_replicates, write_replicates

ROWS = [
    ReplicateRow(0, "complete", 1, 10, {"val/loss": 0.1 + 0.2, "noise_scale": 5.0}),
    ReplicateRow(0, "complete", 2, 20, {"val/loss": 1e-17, "test/loss": math.inf}),
    ReplicateRow(1, "diverged", 0, 3),
]


def test_a_table_is_read_as_it_was_written():
    assert read_replicates(write_replicates(ROWS)) == ROWS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("seed,status,evaluation,step\n", "is empty"),
        ("seed,status,evaluation\n0,complete,1\n", "has no step"),
        ("seed,status,evaluation,step,val/loss\n0,complete,1,x,0.5\n", "invalid literal"),
        ("seed,status,evaluation,step,val/loss\n0,complete,1,2,low\n", "could not convert"),
    ],
)
def test_what_is_no_such_table_is_a_value_error(text, message):
    with pytest.raises(ValueError, match=message):
        read_replicates(text)
