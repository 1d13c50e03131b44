"""Regret over the batch size, a panel for each rule: how much worse the rule's LR is than the best one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from pipeline.analysis.figures.axes import batch_axis, margins_of, objective_label, plain
from pipeline.analysis.figures.marks import plot_verdicts, verdict_legend
from pipeline.analysis.figures.style import BAND, GREY, INK, RULE_STYLES, WIDTH, in_style, new_figure
from pipeline.analysis.runs import Run
from pipeline.analysis.stats.results import Answer, RuleResult

# Ticks in margins. The scale is linear up to one margin and logarithmic above.
TICKS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
# The top of the scale lies between these.
MIN_TOP, MAX_TOP = 4.0, 1000.0
# Rows above the scale, for results without a number.
FAILS, UNKNOWN = "runs fail", "not known"


@in_style
def regret_figure(answer: Answer, runs: Sequence[Run] = ()) -> Figure | None:
    """Draw the regret of each rule in margins, with 90 % intervals; None where no rule could be judged."""
    results = [cell.rules[rule] for cell in answer.batches for rule in RULE_STYLES if rule in cell.rules]
    judged = any(result.regret is not None or result.verdict == "breaks" for result in results)
    if not answer.margin or answer.margin < 0 or not judged or len(answer.batches) == 1:
        return None
    figure = new_figure(WIDTH, 2.7)
    panels = figure.subplots(1, len(RULE_STYLES), sharey=True)
    scale = _Scale.of(results, answer.margin)
    for axes, rule in zip(panels, RULE_STYLES, strict=True):
        batch_axis(axes, answer.batches, most=4)
        scale.apply(axes)
        _draw_rule(axes, answer, rule, scale)
        axes.set_title(f"{rule}, from batch {answer.base_batch}", loc="left", color=RULE_STYLES[rule][0])
    label = objective_label(answer).split(" (")[0]
    panels[0].set_ylabel(f"{label} above the best\n({margins_of(answer.margin)}), 90 % interval")
    figure.legend(handles=verdict_legend(result.verdict for result in results), loc="outside lower center", ncols=4)
    return figure


@dataclass(frozen=True)
class _Scale:
    """The heights at which results stand: at their regret in margins, or in a row above if they have none.

    Attributes:
        margin: in the objective's unit.
        top: end of the scale, in margins.
        rows: labels of the rows that are needed, the lowest first.
    """

    margin: float
    top: float
    rows: tuple[str, ...]

    @classmethod
    def of(cls, results: Sequence[RuleResult], margin: float) -> "_Scale":
        known = [value for result in results for value in (result.regret, result.regret_high) if _is_number(value)]
        highest = max((value for value in known if math.isfinite(value)), default=0.0) / margin
        top = min(max(highest, MIN_TOP) * 1.25, MAX_TOP)
        infinite = any(math.isinf(value) for value in known)
        rows = {_row(result) for result in results} | ({FAILS} if infinite else set())
        return cls(margin, top, tuple(row for row in (FAILS, UNKNOWN) if row in rows))

    def height(self, regret: float) -> float:
        """Return the height of a regret in the objective's unit; an infinite one stands in the row of failing ones."""
        return min(regret / self.margin, self.top) if math.isfinite(regret) else self.height_of_row(FAILS)

    def height_of_row(self, row: str) -> float:
        return self._above(self.rows.index(row) + 1)

    def _above(self, rows: float) -> float:
        return self.top * float(2 ** (rows * _squeeze(np.array(self.top)) / 9))

    def apply(self, axes: Axes) -> None:
        """Set the y-axis, with the margin as a line."""
        axes.set_yscale("function", functions=(_squeeze, _stretch))
        axes.set_ylim(-0.12, self._above(len(self.rows) + 0.5))
        shown = [tick for tick in TICKS if tick <= self.top / 1.1]
        axes.yaxis.set_major_locator(FixedLocator([*shown, *map(self.height_of_row, self.rows)]))
        axes.yaxis.set_major_formatter(FixedFormatter([*map(plain, shown), *self.rows]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.axhspan(0, 1, color=BAND, alpha=0.35, lw=0, zorder=0)
        axes.axhline(1, color=INK, lw=0.7, zorder=1)
        if self.rows:
            axes.axhline(self._above(0.5), color=GREY, lw=0.4, zorder=1)


def _squeeze(margins: np.ndarray) -> np.ndarray:
    """Return the length of the scale up to `margins`: linear up to 1, then logarithmic."""
    return np.where(margins <= 1, margins, 1 + np.log2(np.maximum(margins, 1)))


def _stretch(lengths: np.ndarray) -> np.ndarray:
    """Invert `_squeeze`; clipped, because matplotlib also asks for lengths far outside the axis."""
    return np.where(lengths <= 1, lengths, 2.0 ** (np.clip(lengths, 1, 60) - 1))


def _row(result: RuleResult) -> str | None:
    """Return the row of a result without a number; None for others."""
    if _is_number(result.regret):
        return None
    return FAILS if result.verdict == "breaks" else UNKNOWN


def _draw_rule(axes: Axes, answer: Answer, rule: str, scale: _Scale) -> None:
    color, dashes = RULE_STYLES[rule]
    points: list[tuple[float, float, str]] = []
    line: list[tuple[int, float]] = []
    for cell in answer.batches:
        result = cell.rules.get(rule)
        if result is None:
            continue
        row = _row(result)
        if row is not None:
            height = scale.height_of_row(row)
        else:
            assert result.regret is not None
            height = scale.height(result.regret)
            line.append((cell.batch, height if math.isfinite(result.regret) else math.nan))
        points.append((cell.batch, height, result.verdict))
    if line:
        axes.plot(*zip(*line, strict=True), ls=dashes, color=color, lw=0.7, zorder=2)
    _draw_intervals(axes, answer, rule, scale)
    plot_verdicts(axes, points, color)


def _draw_intervals(axes: Axes, answer: Answer, rule: str, scale: _Scale) -> None:
    results = [(cell.batch, cell.rules[rule]) for cell in answer.batches if rule in cell.rules]
    ends = [
        (batch, scale.height(result.regret_low), scale.height(result.regret_high), result.reason == "at least")
        for batch, result in results
        if _is_number(result.regret_low) and _is_number(result.regret_high) and _row(result) is None
    ]
    color = RULE_STYLES[rule][0]
    axes.vlines([e[0] for e in ends], [e[1] for e in ends], [e[2] for e in ends], color=color, lw=1, zorder=3)
    # These regrets are lower bounds: beyond the fitted LRs the loss only gets worse.
    bounds = [(batch, high) for batch, _, high, is_bound in ends if is_bound]
    axes.plot([b[0] for b in bounds], [b[1] for b in bounds], ls="", marker="^", color=color, ms=2.5, zorder=3)


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and not math.isnan(value)
