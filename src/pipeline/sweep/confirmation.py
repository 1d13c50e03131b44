"""Confirmation after the search: fresh seeds run each rule's LR and the best one at every batch size."""

from collections.abc import Iterator, Sequence

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
    return [
        FixedTrial(names[choices], {"optimizer.lr": lr}, str(seed), CONFIRM)
        for choices, lr, fresh in _points(store, sweep, seeds)
        for seed in fresh
        if choices in names
    ]


def _points(store: Store, sweep: str, count: int) -> Iterator[tuple[frozenset[tuple[str, str]], float, list[int]]]:
    """(a cell's choices, LR, `count` seeds): the seeds are the first that the search did not use, the same for all."""
    workloads = runs_by_workload(store, sweep)
    used = {run.seed for runs, _ in workloads.values() for run in runs if run.phase != CONFIRM}
    candidates = range(FIRST_FRESH_SEED, FIRST_FRESH_SEED + count + len(used))
    seeds = [seed for seed in candidates if seed not in used][:count]
    for runs, params in workloads.values():
        base, _ = choose_base(sorted({run.batch for run in runs}), None, int(params["scaling.base_batch"]))
        for batch, lr in points_to_confirm(runs, base):
            yield frozenset({("batch", str(batch)), *runs[0].other.items()}), lr, seeds
