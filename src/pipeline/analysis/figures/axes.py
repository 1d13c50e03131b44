"""Axes that the figures share: log-2 scales with ticks at numbers that people read."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter, NullLocator

from pipeline.analysis.stats.results import STEPS_TO_TARGET, Answer, BatchResult

OBJECTIVE_LABELS = {
    "val/loss": "validation loss (nats)",
    "train/loss": "training loss (nats)",
    "test/loss": "test loss (nats)",
    "val/error": "validation error (fraction)",
    "train/error": "training error (fraction)",
    "test/error": "test error (fraction)",
    STEPS_TO_TARGET: "steps to target (optimizer steps)",
}


def objective_label(answer: Answer) -> str:
    """Name the objective with its unit."""
    return OBJECTIVE_LABELS.get(answer.objective, answer.objective)


def side_room(cells: Sequence[BatchResult]) -> float:
    """Return by how many octaves an axis of batch sizes goes on beyond those that were run, on either side."""
    span = math.log2(cells[-1].batch / cells[0].batch)
    return max(0.35, 0.03 * span) if span else 0.7


def batch_axis(axes: Axes, cells: Sequence[BatchResult], most: int = 10) -> None:
    """Set a log-2 x-axis with a tick at each batch size that was run, and numbers at no more than `most` of them."""
    sizes = [cell.batch for cell in cells]
    room = 2 ** side_room(cells)
    axes.set_xscale("log", base=2)
    axes.set_xlim(sizes[0] / room, sizes[-1] * room)
    apart = math.log2(sizes[-1] / sizes[0]) / most
    # If there are too many sizes for a number at each, powers of two get the numbers.
    powers = [size for size in sizes if size & (size - 1) == 0]
    candidates = powers if len(sizes) > most and len(powers) > 3 else sizes
    shown = candidates[:1]
    for size in candidates[1:]:
        if math.log2(size / shown[-1]) > apart * 0.999:
            shown.append(size)
    fix_ticks(axes.xaxis, shown, [str(size) for size in shown], [size for size in sizes if size not in shown])
    axes.set_xlabel("batch size (examples)")


def log_axis(axes: Axes, which: str, low: float, high: float, most: int = 8) -> None:
    """Set the log-2 axis `x` or `y` from `low` to `high` (above zero), with `most` round numbers: 0.01, 0.02, 0.05."""
    axes.set(**{f"{which}lim": (low, high)})
    (axes.set_xscale if which == "x" else axes.set_yscale)("log", base=2)
    ticks, minor = plain_ticks(low, high, most)
    fix_ticks(axes.xaxis if which == "x" else axes.yaxis, ticks, [plain(tick) for tick in ticks], minor)


def ratio_axis(axes: Axes, low: float, high: float, most: int = 8) -> None:
    """Set a log-2 y-axis of multiples, with ticks at 1/4, 1/2, 1, 2, 4."""
    axes.set_yscale("log", base=2)
    axes.set_ylim(low, high)
    first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
    step = math.ceil((last - first + 1) / most)
    octaves = [octave for octave in range(first, last + 1) if octave % step == 0]
    labels = [f"{2**octave}" if octave >= 0 else f"1/{2**-octave}" for octave in octaves]
    fix_ticks(axes.yaxis, [2.0**octave for octave in octaves], labels, [])


def plain_ticks(low: float, high: float, most: int) -> tuple[list[float], list[float]]:
    """Choose two to `most` round numbers between `low` and `high`, and more of them for ticks without a number."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)

    def multiples(*digits: float) -> list[float]:
        ticks = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        return [tick for tick in ticks if low <= tick <= high]

    for digits in ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = multiples(*digits)
        if len(ticks) > most:
            continue
        if len(ticks) < 2:
            break
        # Bare ticks are for wide axes. Those of a narrow axis would be too close to read a number off them.
        minor = multiples(1, 2, 5) if len(digits) < 3 else []
        return ticks, [tick for tick in minor if tick not in ticks]
    if high / low > 10:
        powers = multiples(1)
        ticks = powers[:: math.ceil(len(powers) / most)]
        return ticks, [tick for tick in powers if tick not in ticks]
    return [float(f"{tick:.3g}") for tick in np.geomspace(low, high, 5)[1::2]], []


def plain(value: float) -> str:
    """Write a number as people do: 0.0005, 0.02, 3, 2000, 1e-5."""
    return f"{value:.6g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")


def margins_of(margin: float) -> str:
    """Name the unit of an axis in margins: `margins of 0.0012`."""
    return f"margins of {plain(float(f'{margin:.2g}'))}"


def fix_ticks(axis: Axis, ticks: Sequence[float], labels: Sequence[str], minor: Sequence[float]) -> None:
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_major_formatter(FixedFormatter(list(labels)))
    axis.set_minor_locator(FixedLocator(list(minor)) if minor else NullLocator())
    axis.set_minor_formatter(NullFormatter())
