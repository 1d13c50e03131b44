"""Sentences about verdicts: how far each stands if the base LR lies elsewhere, and which population it is about."""

import pytest

from pipeline.analysis.stats.results import Answer, BatchResult, RuleResult
from pipeline.analysis.text.summary import summary
from pipeline.analysis.text.verdicts import verdicts_from_other_lrs


def answer_of(*cells, **more):
    """An answer from batch 64, whose best LR is 0.2 and lies between 0.15 and 0.3."""
    base = BatchResult(64, 10, 0, 0.2, 0.15, 0.3, rules={"linear": RuleResult(0.2, verdict="holds")})
    batches = tuple(sorted((base, *cells), key=lambda cell: cell.batch))
    return Answer(64, "", 0.2, 0.01, None, batches, None, None, None, None, **more)


def cell(batch, verdict, low, high):
    rules = {"linear": RuleResult(0.2 * batch / 64, verdict=verdict)}
    return BatchResult(batch, 10, 0, 0.1, band_low=low, band_high=high, rules=rules)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (cell(32, "holds", 0.05, 0.2), "the verdict at 32 is the same."),
        (cell(32, "holds", 0.09, 0.2), "linear would hold at 32 from 0.18 to 0.3."),
        (cell(128, "breaks", 0.1, 0.2), "the verdict at 128 is the same."),
        (cell(128, "breaks", 0.1, 0.34), "linear would hold at 128 from 0.15 to 0.17."),
    ],
)
def test_a_verdict_stands_as_far_as_its_own_curve_stays_within_the_margin(found, said):
    assert verdicts_from_other_lrs(answer_of(found)) == [f"With another base LR within 0.15 … 0.3: {said}"]


@pytest.mark.parametrize("found", [cell(32, "undecided", 0.05, 0.2), cell(32, "holds", 0.12, 0.2)])
def test_nothing_is_said_of_an_open_verdict_or_where_the_curve_disagrees_with_the_fresh_seeds(found):
    assert verdicts_from_other_lrs(answer_of(found)) == []


@pytest.mark.parametrize(
    ("split_seed", "seeds", "said"),
    [
        ("replicate", 8, "Each seed has a validation split of its own: the answer is about the workload"),
        ("0", 8, "All seeds share the validation split 0: the answer is about that split."),
        ("0", 1, None),
        ("", 8, None),
    ],
)
def test_the_report_says_which_population_it_speaks_of(split_seed, seeds, said):
    lines = [line for line in summary(answer_of(split_seed=split_seed, seeds=seeds)) if "split" in line]
    assert [line.startswith(said) for line in lines] == ([True] if said else [])
