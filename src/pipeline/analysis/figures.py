"""What all figures share, drawn without a display; and the curves of one run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe & Ito's palette: told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"


def draw_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Loss and error of one run over its evaluations, into a PNG.

    Args:
        rows: each with `epoch` and the metrics `train/loss val/loss train/error val/error`.
        path: file to write.
    """
    figure = new_figure(8, 3.2)
    epochs = [row["epoch"] for row in rows]
    for position, (measure, label) in enumerate((("loss", "loss (nats)"), ("error", "error (fraction)")), start=1):
        axes = figure.add_subplot(1, 2, position)
        for part, color in (("train", GREY), ("val", BLUE)):
            values = [row[f"{part}/{measure}"] for row in rows]
            axes.plot(epochs, values, "o-", color=color, label="validation" if part == "val" else part, ms=4)
        axes.set(xlabel="epoch", ylabel=label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    save(figure, path)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` × `height` inches."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write `figure` to `path` as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
