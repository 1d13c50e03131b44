"""How much worse each rule's LR is than the best, over the batch size."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.analysis.figures import RULE_STYLES, batch_axis, new_figure
from pipeline.analysis.results import Answer, RuleResult

# Regrets are shown in margins, evenly up to two, by factors beyond; what fails stands above.
LINEAR_UP_TO, TOP = 2.0, 100.0


def regret_figure(answer: Answer) -> Figure:
    """Regret in margins with its 90 % interval: filled holds, crossed breaks, open is undecided."""
    figure = new_figure(6.0, 3.4)
    axes = figure.subplots()
    batches = [cell.batch for cell in answer.batches]
    axes.axhspan(-TOP, 1, color="0.93", zorder=0)
    axes.axhline(1, color="black", lw=0.8)
    axes.text(0.005, 1, " the margin", va="bottom", fontsize=8, transform=axes.get_yaxis_transform())
    for shift, (rule, (color, _, marker)) in zip((-1, 0, 1), RULE_STYLES.items(), strict=True):
        axes.plot([], [], marker=marker, ls="", color=color, label=rule)
        for cell in answer.batches:
            if cell.batch != answer.base_batch and rule in cell.rules:
                _draw_point(axes, cell.batch * 2 ** (0.12 * shift), cell.rules[rule], answer.margin, color, marker)
    axes.set_yscale("symlog", linthresh=LINEAR_UP_TO, linscale=1.2)
    axes.set_ylim(-1, TOP * 2)
    axes.set_yticks([-1, 0, 1, 2, 10, 100], ["−1", "0", "1", "2", "10", "fails"])
    axes.set_ylabel(f"regret in {answer.objective} (margins)")
    batch_axis(axes, batches)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.15), ncols=3, title=None)
    axes.grid(alpha=0.2, lw=0.5)
    figure.supxlabel("filled: holds; open: undecided or censored; crossed: breaks; bars: 90 %", fontsize=8)
    return figure


def _draw_point(axes: Axes, x: float, rule: RuleResult, margin: float | None, color: str, marker: str) -> None:
    if rule.reason == "diverges":
        axes.plot(x, TOP, "x", color=color, ms=6)
        return
    if rule.regret is None or margin is None or not math.isfinite(rule.regret):
        return
    low, middle, high = (float(np.clip(v / margin, -1, TOP)) for v in (rule.regret_low or 0, rule.regret, _high(rule)))
    face = color if rule.verdict == "holds" else "white"
    axes.vlines(x, low, high, color=color, lw=1.1)
    axes.plot(x, middle, marker, color=color, mfc=face, ms=5)
    if rule.verdict == "breaks":
        axes.plot(x, middle, "x", color="black", ms=5, mew=0.9)


def _high(rule: RuleResult) -> float:
    assert rule.regret is not None
    return rule.regret if rule.regret_high is None else rule.regret_high
