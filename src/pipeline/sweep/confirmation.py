"""Confirmation after the search: fresh seeds run each rule's LR and the best one at every batch size."""

import itertools
from collections.abc import Sequence

from lr_study import FixedTrial
from lr_study.space import Cell
from pipeline.analysis.runs import CONFIRM, parse_cell_name
from pipeline.analysis.stats.confirmation import points_to_confirm
from pipeline.analysis.stats.settings import choose_base
from pipeline.sweep.answer import runs_by_workload
from pipeline.tracking.store import Store

# Fresh seeds are numbered from here, so that a reader tells them from the search's at a glance.
FIRST_FRESH_SEED = 1000


def confirming_trials(store: Store, sweep: str, cells: Sequence[Cell], seeds: int) -> list[FixedTrial]:
    """The trials of `seeds` fresh seeds that a sweep still needs once its search is done."""
    names = {parse_cell_name(cell.name): cell.name for cell in cells}
    workloads = runs_by_workload(store, sweep)
    used = {run.seed for runs, _ in workloads.values() for run in runs if run.phase != CONFIRM}
    # The first seeds that the search did not use, the same for all.
    fresh = list(itertools.islice((seed for seed in itertools.count(FIRST_FRESH_SEED) if seed not in used), seeds))
    trials = []
    for runs, params in workloads.values():
        base, _ = choose_base(sorted({run.batch for run in runs}), None, int(params["scaling.base_batch"]))
        for batch, lr in points_to_confirm(runs, base):
            name = names.get(frozenset({("batch", str(batch)), *runs[0].other.items()}))
            if name is not None:
                trials += [FixedTrial(name, {"optimizer.lr": lr}, str(seed), CONFIRM) for seed in fresh]
    return trials
