"""The curves of one training run: loss and error over its epochs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.analysis.figures.style import BLUE, GREY, WIDTH, in_style, new_figure, save


@in_style
def save_learning_curves(evaluations: Sequence[Mapping[str, float]], path: Path) -> list[Path]:
    """Draw the evaluations' `train/loss val/loss train/error val/error` over `epoch`; write a PNG and an SVG."""
    figure = new_figure(WIDTH, 2.6)
    panels = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in evaluations]
    for axes, measure, label in zip(panels, ("loss", "error"), ("loss (nats)", "error (fraction)"), strict=True):
        for part, name, color, marker in (("train", "train", GREY, "s"), ("val", "validation", BLUE, "o")):
            values = [row[f"{part}/{measure}"] for row in evaluations]
            axes.plot(epochs, values, f"{marker}-", color=color, label=name, ms=3)
        axes.set(xlabel="epoch", ylabel=label)
        axes.set_ylim(bottom=0)
        axes.legend()
    return save(figure, path)
