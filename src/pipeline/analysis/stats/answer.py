"""The answer: the best LR of each batch size, and how far the linear rule holds; from a table of runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.analysis.runs import CONFIRM, Run, by_objective, published_means
from pipeline.analysis.stats.batch_fit import BatchFit, fit_batch
from pipeline.analysis.stats.confirmation import same_lr
from pipeline.analysis.stats.laws import fit_exponent, fit_laws, select_law
from pipeline.analysis.stats.optima import estimate_optima
from pipeline.analysis.stats.power import detectable_error
from pipeline.analysis.stats.questions import answer_questions
from pipeline.analysis.stats.results import (
    JUDGED_RULES,
    MAX_OTHER_BASES,
    STEPS_TO_TARGET,
    Answer,
    BatchResult,
    Estimate,
    SensitivityCheck,
)
from pipeline.analysis.stats.verdict import LEVEL, holding_range, judge
from pipeline.errors import RequestError


@dataclass(frozen=True)
class Margin:
    """What counts as no difference: a share of the best loss at the base batch, or an absolute loss."""

    value: float = 0.05
    is_share: bool = True

    def absolute(self, best_value: float | None) -> float | None:
        """The margin in the objective's unit; None where it is a share of what isn't known."""
        if not self.is_share:
            return self.value
        return None if best_value is None else self.value * best_value

    def share(self, best_value: float | None) -> float | None:
        """The margin as a share of the best loss; None where that is unknown, or nothing."""
        if self.is_share:
            return self.value
        return self.value / best_value if best_value else None

    def __str__(self) -> str:
        return f"{100 * self.value:g}% of the best" if self.is_share else f"{self.value:g}"


@dataclass(frozen=True)
class AnalysisSettings:
    """On what terms a table is judged, besides its runs.

    Attributes:
        margin: fixed before the data are seen; `margin_source` says when.
        base_batch: where the rules start; it must be in the table.
        configured_base: used if `base_batch` is None and it is in the table; else the smallest batch is.
        objective: of the column `value`; `budget`: what was kept equal. Both are named in the answer.
        looks: how often the same sweep has been judged with more data, this time included.
        planned_looks: how often it was meant to be, 1 to 3: their levels add up to 5 %.
    """

    margin: Margin = Margin()
    margin_source: str = ""
    base_batch: int | None = None
    configured_base: int | None = None
    objective: str = "value"
    budget: str = ""
    looks: int = 1
    planned_looks: int = 1


def analyse(runs: Sequence[Run], terms: AnalysisSettings = AnalysisSettings()) -> Answer:
    """Analyse a table of runs of one workload; stalled ones already marked (`table.mark_stalled`).

    Raises:
        RequestError: no runs, or none at `base_batch`.
    """
    sizes = sorted({run.batch for run in runs})
    if not sizes:
        raise RequestError("There are no runs to analyse.")
    base, reason = choose_base(sizes, terms.base_batch, terms.configured_base)
    level = LEVEL / terms.planned_looks
    cells = _cells(runs, sizes)
    margin = terms.margin.absolute(cells[base].result.best_value)
    judged = judge(cells, base, margin, level)
    holds_from, holds_up_to, breaks_at = holding_range(_verdicts(judged, "linear"), base)
    found = estimate_optima(list(cells.values()), np.random.default_rng(0))
    below = found.only(found.batches < (breaks_at or math.inf))
    laws = fit_laws(found, base, sizes)
    answer = Answer(
        base_batch=base,
        base_reason=reason,
        margin=margin,
        margin_text=str(terms.margin),
        margin_source=terms.margin_source,
        seed_sd=_seed_sd(cells[base]),
        batches=tuple(judged[size] for size in sizes),
        exponent=fit_exponent(found),
        exponent_to_break=fit_exponent(below) if breaks_at else None,
        holds_from=holds_from,
        holds_up_to=holds_up_to,
        breaks_at=breaks_at,
        laws=laws,
        selected_law=select_law(laws),
        other_bases=_other_anchors(cells, base, margin, level),
        objectives=_objectives(runs, terms, base, level, cells[base].result.best_value),
        objective=terms.objective,
        budget=terms.budget,
        seeds=len({run.seed for run in runs if run.phase != CONFIRM and run.seed is not None}),
        looks=terms.looks,
        level=level,
    )
    answer = replace(answer, batches=_with_power(answer, cells, level))
    return replace(answer, questions=answer_questions(answer, list(cells.values())))


def choose_base(sizes: Sequence[int], asked: int | None, configured: int | None) -> tuple[int, str]:
    """The batch size that the rules start from, and why this one; see `Terms`."""
    if asked is not None:
        if asked not in sizes:
            raise RequestError(f"--base-batch={asked}: no runs at it.\nChoose one of: {', '.join(map(str, sizes))}.")
        return asked, "as asked for"
    if configured in sizes:
        assert configured is not None
        return configured, "scaling.base_batch"
    return sizes[0], "the smallest that was run"


def _cells(runs: Sequence[Run], sizes: Sequence[int]) -> dict[int, BatchFit]:
    by_size: dict[int, list[Run]] = {size: [] for size in sizes}
    for run in runs:
        by_size[run.batch].append(run)
    return {size: fit_batch(by_size[size]) for size in sizes}


def _judged(name: str, slope: Estimate | None, batches: Mapping[int, BatchResult], base: int) -> SensitivityCheck:
    linear = _verdicts(batches, "linear")
    others = {rule: _verdicts(batches, rule) for rule in JUDGED_RULES if rule != "linear"}
    return SensitivityCheck(name, slope, linear, *holding_range(linear, base), others)


def _verdicts(batches: Mapping[int, BatchResult], rule: str) -> dict[int, str]:
    return {size: cell.rules[rule].verdict for size, cell in batches.items()}


def _seed_sd(cell: BatchFit) -> float | None:
    """By how much single runs of different seeds differ at the best LR; None where there are no two seeds.

    Fresh seeds at just that LR, where there are any; else the search's near it, with the curve's slope taken out;
    of published means it is what they say themselves.
    """
    best, curve, near = cell.result.best_lr, cell.result.curve, cell.near_best()
    if known := [run.value_sd for run in published_means(near) if run.value_sd is not None]:
        return math.sqrt(float(np.mean(np.square(known))))
    fresh = [run for run in near if best and run.phase == CONFIRM and same_lr(run.lr, best)]
    runs = fresh if len(fresh) > 1 else [run for run in near if run.phase != CONFIRM]
    if best is None or curve is None or len({run.seed for run in runs} - {None}) < 2:
        return None
    median = np.median(curve.draws, axis=0)
    slope = np.interp(np.log2([run.lr for run in runs]), curve.octaves, median)
    at_best = np.interp(math.log2(best), curve.octaves, median)
    return float(np.std([run.value for run in runs] * np.exp(at_best - slope), ddof=1))


def _other_anchors(
    cells: Mapping[int, BatchFit], base: int, margin: float | None, level: float
) -> tuple[SensitivityCheck, ...]:
    """The rules' verdicts from every other batch size that has a best LR, within the same margin."""
    if len(cells) > MAX_OTHER_BASES:
        return ()
    found = []
    for size, cell in cells.items():
        if size == base or cell.result.best_lr is None:
            continue
        found.append(_judged(f"from batch {size}", None, judge(cells, size, margin, level), size))
    return tuple(found)


def _objectives(
    runs: Sequence[Run], terms: AnalysisSettings, base: int, level: float, best_value: float | None
) -> tuple[SensitivityCheck, ...]:
    """The same question by every objective that the table has; none where there is only one.

    The margin is the same share of each one's best: an absolute one is in the unit of the first alone.
    Where runs end at a target their losses are all about that target, and say nothing.
    """
    if terms.objective == STEPS_TO_TARGET:
        return ()
    tables = by_objective(runs, terms.objective)
    share = terms.margin.share(best_value)
    if len(tables) < 2 or share is None:
        return ()
    found = []
    for name, table in tables.items():
        cells = _cells(table, sorted({run.batch for run in table}))
        margin = terms.margin if name == terms.objective else Margin(share)
        slope = fit_exponent(estimate_optima(list(cells.values()), np.random.default_rng(0)))
        batches = judge(cells, base, margin.absolute(cells[base].result.best_value), level)
        found.append(_judged(name, slope, batches, base))
    return tuple(found)


def _with_power(answer: Answer, cells: Mapping[int, BatchFit], level: float) -> tuple[BatchResult, ...]:
    rng = np.random.default_rng(0)
    strict = level / max(1, len(cells) - 1)
    base = cells[answer.base_batch]
    judged = {result.batch: replace(cells[result.batch], result=result) for result in answer.batches}
    return tuple(
        replace(result, detectable=detectable_error(judged[result.batch], base, answer.margin, strict, rng))
        for result in answer.batches
    )
