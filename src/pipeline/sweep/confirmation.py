"""Confirmation after the search: fresh seeds run the LRs that a verdict compares, look by look, while it is open."""

from collections.abc import Sequence

from lr_study import FixedTrial
from lr_study.space import Cell
from pipeline.analysis.runs import CONFIRM, parse_cell_name
from pipeline.analysis.stats.confirmation import FIRST_FRESH_SEED, next_points
from pipeline.config.schema import Confirm
from pipeline.sweep.answer import runs_by_workload, settings_of
from pipeline.tracking.store import Store


def confirming_trials(
    store: Store, sweep: str, cells: Sequence[Cell], budget: Confirm, sweep_seed: int = 0
) -> list[FixedTrial]:
    """Return the trials of the next look at each verdict that is still open; none where the budget is used up.

    Another `sweep_seed` (`hydra.sweeper.seed`) takes other fresh seeds.
    """
    first_seed = FIRST_FRESH_SEED * (1 + sweep_seed)
    names = {parse_cell_name(cell.name): cell.name for cell in cells}
    trials = []
    workloads = runs_by_workload(store, sweep)
    used = sum(run.phase == CONFIRM for runs, _ in workloads.values() for run in runs)
    for runs, params in workloads.values():
        for extension in next_points(runs, settings_of(params)):
            name = names.get(frozenset({("batch", str(extension.batch)), *runs[0].other.items()}))
            used += len(extension.lrs) * extension.count
            if name is None or (budget.runs is not None and used > budget.runs):
                continue
            first = first_seed + extension.first
            seeds = f"{first}-{first + extension.count - 1}"
            trials += [FixedTrial(name, {"optimizer.lr": lr}, seeds, CONFIRM) for lr in extension.lrs]
    return trials
