"""Regret over the batch size, a panel for each rule: how much worse the rule's LR is than the best one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.analysis.figures.axes import batch_axis, fix_ticks, margins_of, objective_label, plain
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
    """The heights at which results stand: at their regret in margins up to `top`, or in one of the rows above."""

    margin: float
    top: float
    rows: Mapping[str, float]

    @classmethod
    def of(cls, results: Sequence[RuleResult], margin: float) -> "_Scale":
        regrets = np.array([(result.regret, result.regret_high) for result in results], dtype=float)
        highest = regrets[np.isfinite(regrets)].max(initial=0.0) / margin
        top = float(min(max(highest, MIN_TOP) * 1.25, MAX_TOP))
        needed = {_row(result) for result in results} | ({FAILS} if np.isinf(regrets).any() else set())
        rows = [row for row in (FAILS, UNKNOWN) if row in needed]
        return cls(margin, top, {row: _above(top, number) for number, row in enumerate(rows, start=1)})

    def heights(self, regrets: Sequence[float | None]) -> np.ndarray:
        """Return the heights of regrets in the objective's unit; infinite ones stand in the row of failing runs."""
        values = np.array(regrets, dtype=float)
        failing = self.rows.get(FAILS, math.nan)
        return np.where(np.isinf(values), failing, np.minimum(values / self.margin, self.top))

    def apply(self, axes: Axes) -> None:
        """Set the y-axis, with the margin as a line."""
        # With these numbers the scale is linear up to 1 and goes on with the same slope, by one for each octave.
        axes.set_yscale("symlog", base=2, linthresh=1, linscale=0.5)
        axes.set_ylim(-0.12, _above(self.top, len(self.rows) + 0.5))
        shown = [tick for tick in TICKS if tick <= self.top / 1.1]
        fix_ticks(axes.yaxis, [*shown, *self.rows.values()], [*map(plain, shown), *self.rows], [])
        axes.axhspan(0, 1, color=BAND, alpha=0.35, lw=0, zorder=0)
        axes.axhline(1, color=INK, lw=0.7, zorder=1)
        if self.rows:
            axes.axhline(_above(self.top, 0.5), color=GREY, lw=0.4, zorder=1)


def _above(top: float, rows: float) -> float:
    """Return the height `rows` rows above `top`; a row is a ninth of the scale, whose length is 1 + log2(top)."""
    return top * 2 ** (rows * (1 + math.log2(top)) / 9)


def _row(result: RuleResult) -> str | None:
    """Return the row of a result without a number; None for others."""
    if result.regret is not None and not math.isnan(result.regret):
        return None
    return FAILS if result.verdict == "breaks" else UNKNOWN


def _draw_rule(axes: Axes, answer: Answer, rule: str, scale: _Scale) -> None:
    color, dashes = RULE_STYLES[rule]
    judged = [(cell.batch, cell.rules[rule]) for cell in answer.batches if rule in cell.rules]
    rows = [(batch, scale.rows[row], result.verdict) for batch, result in judged if (row := _row(result))]
    known = [(batch, result) for batch, result in judged if _row(result) is None]
    sizes = np.array([batch for batch, _ in known])
    regret = scale.heights([result.regret for _, result in known])
    low = scale.heights([result.regret_low for _, result in known])
    high = scale.heights([result.regret_high for _, result in known])
    is_finite = np.array([math.isfinite(result.regret or 0.0) for _, result in known], dtype=bool)
    axes.plot(sizes, np.where(is_finite, regret, np.nan), ls=dashes, color=color, lw=0.7, zorder=2)
    has_ends = ~np.isnan(low + high)
    axes.vlines(sizes[has_ends], low[has_ends], high[has_ends], color=color, lw=1, zorder=3)
    # These regrets are lower bounds: beyond the fitted LRs the loss only gets worse.
    is_bound = has_ends & np.array([result.reason == "at least" for _, result in known], dtype=bool)
    axes.plot(sizes[is_bound], high[is_bound], ls="", marker="^", color=color, ms=2.5, zorder=3)
    points = zip(sizes, regret, (result.verdict for _, result in known), strict=True)
    plot_verdicts(axes, [*points, *rows], color)
