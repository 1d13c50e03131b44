"""Confirmation after the search: fresh seeds run the LRs that a verdict compares, look by look, while it is open."""

from collections.abc import Sequence

from lr_study import FixedTrial
from lr_study.space import Cell
from pipeline.analysis.runs import CONFIRM, Run, parse_cell_name
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
    names = {parse_cell_name(cell.name): cell.name for cell in cells}
    trials = []
    workloads = runs_by_workload(store, sweep)
    everything = [run for runs, _ in workloads.values() for run in runs]
    first_seed = _first_fresh_seed(everything, sweep_seed)
    used = sum(run.phase == CONFIRM for run in everything)
    for runs, params in workloads.values():
        for extension in next_points(runs, settings_of(params)):
            name = names.get(frozenset({("batch", str(extension.batch)), *runs[0].other.items()}))
            first = first_seed + extension.first
            # A look that was interrupted is asked for as a whole: what has run of it counts once.
            done = sum(r.phase == CONFIRM and r.batch == extension.batch and (r.seed or 0) >= first for r in runs)
            used += len(extension.lrs) * extension.count - done
            if name is None or (budget.runs is not None and used > budget.runs):
                continue
            seeds = f"{first}-{first + extension.count - 1}"
            trials += [FixedTrial(name, {"optimizer.lr": lr}, seeds, CONFIRM) for lr in extension.lrs]
    return trials


def _first_fresh_seed(runs: Sequence[Run], sweep_seed: int) -> int:
    """Return where the fresh seeds begin: a round number that is above every seed of the search."""
    searched = max((run.seed for run in runs if run.phase != CONFIRM and run.seed is not None), default=0)
    return FIRST_FRESH_SEED * max(1 + sweep_seed, 1 + searched // FIRST_FRESH_SEED)
