"""A run and its repetition, value by value."""

import math

from pipeline.reproduction.metric_diff import LARGEST, diff_metrics

NAN, INFINITY = float("nan"), float("inf")


def test_equal_histories_have_no_differences_and_speed_is_not_compared():
    logged = {"a": {1: 0.5, 2: NAN}, "b": {1: LARGEST}, "examples_per_second": {1: 100.0}}
    found = {"a": {1: 0.5, 2: NAN}, "b": {1: INFINITY}, "examples_per_second": {1: 7.0}}
    assert diff_metrics(logged, found, 0.0, only_logged=False) == ([], 3)


def test_the_last_bit_counts_unless_a_tolerance_is_given():
    logged, found = {"a": {1: 1.0}}, {"a": {1: math.nextafter(1.0, 2.0)}}
    ((difference,), count) = diff_metrics(logged, found, 0.0, only_logged=False)
    assert (difference.metric, difference.step, count) == ("a", 1, 1)
    assert 0 < difference.relative < 1e-15
    assert diff_metrics(logged, found, 1e-12, only_logged=False) == ([], 1)


def test_what_is_missing_on_either_side_differs_whatever_the_tolerance():
    logged, found = {"a": {1: 1.0, 2: 1.0}, "b": {1: NAN}}, {"a": {1: 1.0}, "b": {1: 2.0}, "c": {1: 1.0}}
    differences, count = diff_metrics(logged, found, 1e9, only_logged=False)
    assert [(d.metric, d.step, d.relative) for d in differences] == [
        *(("a", 2, math.inf), ("b", 1, math.inf), ("c", 1, math.inf))
    ]
    assert count == 4


def test_a_run_that_was_cut_short_misses_nothing_it_never_logged():
    assert diff_metrics({"a": {1: 1.0}}, {"a": {1: 1.0, 2: 3.0}, "b": {1: 1.0}}, 0.0, only_logged=True) == ([], 1)
