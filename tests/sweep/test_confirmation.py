"""From the next look to trials: which seeds are fresh, and what a budget of runs allows."""

from types import SimpleNamespace

import pytest

from pipeline.analysis.runs import Run
from pipeline.analysis.stats.confirmation import Extension
from pipeline.config.schema import Confirm
from pipeline.sweep import confirmation

CELLS = [SimpleNamespace(name="batch=32"), SimpleNamespace(name="batch=128")]


@pytest.fixture
def ask(monkeypatch):
    """Return the trials for looks of 12 pairs at two LRs of batch 32 and 128, after these runs."""

    def trials(runs, budget=None, sweep_seed=0, first=0):
        extensions = [Extension(batch, (0.1, 0.2), first, 12) for batch in (32, 128)]
        monkeypatch.setattr(confirmation, "runs_by_workload", lambda store, sweep: {"": (runs, {})})
        monkeypatch.setattr(confirmation, "settings_of", lambda params: None)
        monkeypatch.setattr(confirmation, "next_points", lambda runs, settings: extensions)
        found = confirmation.confirming_trials(None, "s", CELLS, Confirm(runs=budget), sweep_seed)
        return [(trial.cell, trial.params["optimizer.lr"], trial.replicate) for trial in found]

    return trials


def searched(*seeds):
    return [Run(batch, 0.1, 0.5, seed=seed) for batch in (32, 128) for seed in seeds]


@pytest.mark.parametrize(
    ("seeds", "sweep_seed", "fresh"),
    [((0, 11), 0, "1000-1011"), ((0,), 2, "3000-3011"), ((990, 1005), 0, "2000-2011"), ((4000,), 1, "5000-5011")],
)
def test_fresh_seeds_are_none_of_the_searchs(ask, seeds, sweep_seed, fresh):
    assert {seeds for _, _, seeds in ask(searched(*seeds), sweep_seed=sweep_seed)} == {fresh}


def test_a_look_that_exceeds_the_budget_does_not_begin(ask):
    assert len(ask(searched(0), budget=48)) == 4
    assert [cell for cell, *_ in ask(searched(0), budget=47)] == ["batch=32"] * 2
    assert ask(searched(0), budget=23) == []


def test_what_has_run_of_an_interrupted_look_counts_once(ask):
    half = [Run(32, 0.1, 0.5, seed=seed, phase="confirm") for seed in range(1000, 1012)]
    assert len(ask([*searched(0), *half], budget=48)) == 4
    assert len(ask([*searched(0), *half], budget=47)) == 2
