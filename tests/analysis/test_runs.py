"""Stalled runs, and the names of a sweep's cells."""

import math

from pipeline.analysis.runs import Run, mark_stalled, parse_cell_name


def test_choices_with_commas_in_them_are_told_apart():
    wide, narrow = (parse_cell_name(f"batch=64,model.hidden=[64,{size}],name='a,b'") for size in (32, 16))
    assert wide == {("batch", "64"), ("model.hidden", "[64,32]"), ("name", "'a,b'")}
    assert wide != narrow
    assert parse_cell_name("") == frozenset()


def test_a_run_that_learned_nothing_is_stalled_only_if_a_smaller_lr_learned():
    guess = math.log(10)
    slow = Run(64, 0.001, 2.29, train_loss=2.29)
    good = Run(64, 0.1, 0.2, train_loss=0.1)
    fallen = Run(64, 1.0, 2.31, train_loss=2.30)
    elsewhere = Run(128, 1.0, 2.31, train_loss=2.30)
    marked = mark_stalled([slow, good, fallen, elsewhere], guess)
    assert [run.status for run in marked] == ["complete", "complete", "stalled", "complete"]
