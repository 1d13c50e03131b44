"""The loss over batch size and LR as a map, and beside it the best LR relative to the linear rule's."""

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from pipeline.analysis.figures.axes import batch_axis, log_axis, margins_of, ratio_axis, side_room
from pipeline.analysis.figures.marks import column, plot_rules, plot_runs, plot_verdicts, verdict_legend
from pipeline.analysis.figures.style import BAND, BLUE, GREY, INK, PAPER, RULE_STYLES, WIDTH, in_style, new_figure
from pipeline.analysis.runs import Run
from pipeline.analysis.stats.results import JUDGED_RULES, Answer, BatchResult

# Heights above each batch size's best loss, in margins. They double, so that both the valley and its flanks show.
LEVELS = (0, 1, 2, 4, 8, 16)
# Darkest within the margin, but lighter than every line. Where nothing was tried it stays blank.
SHADES = (BAND, "#B9D0E4", "#CDDDEB", "#DCE6EF", "#E6ECF2", "#EEF1F5")
# Without a margin, heights are counted in this share of the batch size's best loss.
SHARE = 0.05
# Points of each curve on either side of its minimum, and columns between two batch sizes.
POINTS, COLUMNS = 32, 6
# The axis of ratios reaches at least so many octaves either side of 1, so that a small difference looks small.
MIN_OCTAVES = 1.2
LAW_DASHES = (0, (7, 1.5, 1, 1.5))
HALO = [withStroke(linewidth=2.4, foreground=PAPER)]


@in_style
def map_figure(answer: Answer, runs: Sequence[Run]) -> Figure:
    """Draw the loss over (batch, LR) with the best LR, the rules and the failing LRs; beside it, best LR ÷ linear's."""
    alone = len(answer.batches) == 1
    figure = new_figure(WIDTH / 2 if alone else WIDTH, 4.0)
    if has_ratio_panel(answer):
        axes, right = figure.subplots(1, 2, width_ratios=(1.45, 1))
        _draw_ratios(right, answer)
    else:
        axes = figure.subplots()
    _draw_map(axes, answer, runs)
    figure.legend(handles=_legend(answer), loc="outside lower center", ncols=2 if alone else 4, columnspacing=1.5)
    return figure


def has_ratio_panel(answer: Answer) -> bool:
    """Return whether there is anything to compare: several batch sizes, and a best LR to start from."""
    return bool(answer.others) and answer.base.best_lr is not None


def _draw_map(axes: Axes, answer: Answer, runs: Sequence[Run]) -> None:
    cells = answer.batches
    room = 2 ** side_room(cells)
    batch_axis(axes, cells)
    tried = np.array([run.lr for run in runs])
    shown = np.concatenate([tried, *(column(cells, name) for name in ("best_lr", "ci_low", "ci_high"))])
    shown = shown[np.isfinite(shown) & (shown > 0)]
    low, high = shown.min() / 2**0.5, shown.max() * 2**0.75
    log_axis(axes, "y", low, high)
    axes.set_ylabel("learning rate")
    shades = None
    for group in _uninterrupted(cells, "curve"):
        shades = _shade(axes, answer, group, room)
    if shades is not None:
        bar = axes.figure.colorbar(shades, ax=axes, pad=0.01, aspect=35, shrink=0.7, anchor=(0, 1))
        bar.outline.set_linewidth(0.4)
        bar.ax.tick_params(length=2, width=0.4)
    _hatch_failing(axes, cells, high, room)
    places = np.column_stack([[run.batch for run in runs], tried])
    plot_runs(axes, list(enumerate(runs)), places, marker=".", ms=2, mew=0, color=GREY)
    if answer.others and answer.base.best_lr is not None:
        plot_rules(axes, answer, answer.base.best_lr, path_effects=HALO)
    _draw_best(axes, cells)
    unit = margins_of(answer.margin) if answer.margin and answer.margin > 0 else f"steps of {SHARE:.0%} of it"
    what = "Worse than the best" if len(cells) == 1 else "Worse than each batch's own best"
    axes.set_title("Runs" if shades is None else f"{what}, in {unit}", loc="left")


def _uninterrupted(cells: Sequence[BatchResult], name: str) -> list[list[BatchResult]]:
    """Group the neighbouring cells in which attribute `name` is known."""
    groups = itertools.groupby(cells, key=lambda cell: getattr(cell, name) is not None)
    return [list(group) for is_known, group in groups if is_known]


def _shade(axes: Axes, answer: Answer, group: Sequence[BatchResult], room: float) -> QuadContourSet:
    """Fill the map between neighbouring batch sizes, interpolating from curve to curve along the valley.

    Interpolating at equal LR would raise the floor between two valleys. So each curve is divided into equal parts from
    its lowest LR to the best and on to the highest, and both the LRs and the heights of these parts are interpolated.
    """
    parts = [_profile(cell, answer.margin) for cell in group]
    places, heights = (np.stack([part[i] for part in parts]) for i in (0, 1))
    x = np.log2(column(group, "batch"))
    edge = np.log2(room)
    # The map goes on beyond the outermost batch sizes, so that they (or the only one) have a width too.
    x = np.concatenate([[x[0] - edge], x, [x[-1] + edge]])
    places, heights = (np.concatenate([a[:1], a, a[-1:]]) for a in (places, heights))
    fine = np.linspace(0, len(x) - 1, (len(x) - 1) * COLUMNS + 1)
    x_fine = np.interp(fine, np.arange(len(x)), x)
    places, heights = (np.stack([np.interp(fine, np.arange(len(x)), row) for row in a.T]) for a in (places, heights))
    grid = np.broadcast_to(2**x_fine, places.shape)
    shades = axes.contourf(grid, 2**places, heights, levels=LEVELS, colors=SHADES, extend="max", zorder=0)
    # Lines of the same colour close the gaps that viewers of SVG show between neighbouring areas.
    shades.set(edgecolor="face", linewidth=0.2)
    return shades


def _profile(cell: BatchResult, margin: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return a cell's median curve: log2 LRs, equally many on each side of the minimum; heights above it in margins."""
    assert cell.curve is not None
    octaves = cell.curve.octaves
    loss = np.exp(np.median(cell.curve.draws, axis=0))
    best = octaves[loss.argmin()]
    places = np.concatenate([np.linspace(octaves[0], best, POINTS), np.linspace(best, octaves[-1], POINTS)])
    unit = margin if margin and margin > 0 else SHARE * loss.min()
    return places, (np.interp(places, octaves, loss) - loss.min()) / unit


def _hatch_failing(axes: Axes, cells: Sequence[BatchResult], top: float, room: float) -> None:
    """Hatch from the lowest LR that fails up to `top`."""
    for group in _uninterrupted(cells, "failing_lr"):
        x, y = column(group, "batch"), column(group, "failing_lr")
        x = np.concatenate([[x[0] / room], x, [x[-1] * room]])
        y = np.concatenate([y[:1], y, y[-1:]])
        axes.fill_between(x, y, np.maximum(y, top), facecolor="none", edgecolor=GREY, hatch="/////", lw=0, zorder=1)
        axes.plot(x, y, color=GREY, lw=0.8, zorder=1)


def _draw_best(axes: Axes, cells: Sequence[BatchResult]) -> None:
    """Draw the best LRs with their intervals, and an arrow where the best may lie beyond what was tried."""
    x, best = column(cells, "batch"), column(cells, "best_lr")
    for name in ("band_low", "band_high"):
        axes.plot(x, column(cells, name), color=INK, lw=0.5, zorder=2)
    axes.plot(x, best, color=INK, lw=0.8, zorder=3)
    known = np.isfinite(best)
    errors = np.abs(np.stack([best - column(cells, "ci_low"), column(cells, "ci_high") - best]))
    style = {"fmt": "o", "color": INK, "mfc": INK, "ms": 3, "elinewidth": 1, "capsize": 1.5, "zorder": 4}
    if known.any():
        axes.errorbar(x[known], best[known], yerr=errors[:, known], **style)  # type: ignore[arg-type]
    for cell in cells:
        if cell.censored and cell.curve is not None:
            end, factor = (-1, 2**0.6) if cell.censored == "high" else (0, 2**-0.6)
            lr = float(2 ** cell.curve.octaves[end])
            arrow = {"arrowstyle": "->", "color": INK, "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", (cell.batch, lr * factor), (cell.batch, lr), arrowprops=arrow)
    if not known.any():
        axes.text(0.5, 0.98, "no best LR could be estimated", ha="center", va="top", transform=axes.transAxes)


def _draw_ratios(axes: Axes, answer: Answer) -> None:
    """Draw the right panel: best LRs, LRs within the margin, rules and the best law, each divided by linear's LR."""
    assert answer.base.best_lr is not None
    cells = answer.batches
    sizes = column(cells, "batch")
    linear = answer.base.best_lr * sizes / answer.base_batch
    best, low, high = (column(cells, name) / linear for name in ("best_lr", "ci_low", "ci_high"))
    bands = np.stack([column(cells, "band_low"), column(cells, "band_high")]) / linear
    batch_axis(axes, cells, most=7)
    shown = np.concatenate([best, low, high, bands.ravel()])
    octaves = np.log2(shown[np.isfinite(shown) & (shown > 0)])
    ratio_axis(axes, 2 ** min(-MIN_OCTAVES, octaves.min() - 0.3), 2 ** max(MIN_OCTAVES, octaves.max() + 0.3))
    # The bars of many batch sizes must not touch.
    axes.vlines(sizes, *bands, color=BAND, lw=float(np.clip(90 / len(cells), 1.5, 8)))
    plot_rules(axes, answer, exponent=JUDGED_RULES["linear"])
    if answer.laws:
        law = np.asarray(answer.laws[0].lrs, dtype=float) / linear
        axes.plot(sizes, law, color=BLUE, ls=LAW_DASHES, lw=1.2, zorder=2)
    axes.vlines(sizes, low, high, color=INK, lw=1, zorder=4)
    marks = zip(sizes, best, map(_verdict, cells), strict=True)
    plot_verdicts(axes, [(size, ratio, verdict) for size, ratio, verdict in marks if np.isfinite(ratio)])
    axes.set_ylabel("best learning rate ÷ linear's")
    axes.set_title("Best, relative to the linear rule", loc="left")


def _ratio_legend(answer: Answer) -> list[Line2D]:
    handles = []
    if answer.laws:
        law = answer.laws[0]
        kind = "law" if law.rule == answer.selected_law else f"likeliest law, weight {law.weight:.2f}"
        label = f"{kind}: {law.rule.replace('_', ' ')}"
        handles.append(Line2D([], [], color=BLUE, ls=LAW_DASHES, lw=1.2, label=label))
    verdicts = (_verdict(cell) for cell in answer.batches if cell.best_lr is not None)
    return handles + verdict_legend(verdicts, prefix="linear: ")


def _verdict(cell: BatchResult) -> str:
    return cell.rules["linear"].verdict if "linear" in cell.rules else "undecided"


def _legend(answer: Answer) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = []
    if any(cell.best_lr is not None for cell in answer.batches):
        handles.append(Line2D([], [], color=INK, marker="o", ms=3, lw=0.8, label="best LR, 95 % interval"))
    if has_ratio_panel(answer):
        handles += [
            Line2D([], [], color=color, ls=dashes, label=f"{rule} from {answer.base_batch}")
            for rule, (color, dashes) in RULE_STYLES.items()
        ]
    if any(cell.band_low is not None for cell in answer.batches):
        handles.append(Patch(fc=BAND, ec=INK, lw=0.5, label="within the margin of the best"))
    if any(cell.failing_lr is not None for cell in answer.batches):
        handles.append(Patch(fc="none", ec=GREY, hatch="/////", lw=0.4, label="training fails from here on"))
    if any(cell.censored for cell in answer.batches):
        handles.append(
            Line2D([], [], color=INK, marker=r"$\uparrow$", ls="", label="best may lie beyond what was tried")
        )
    handles.append(Line2D([], [], color=GREY, marker=".", ms=3, mew=0, ls="", label="run"))
    return handles + (_ratio_legend(answer) if has_ratio_panel(answer) else [])
