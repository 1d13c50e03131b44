"""All figures of an answer, as PNG and SVG."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from pipeline.analysis.figures.loss import loss_figure
from pipeline.analysis.figures.map import map_figure
from pipeline.analysis.figures.regret import regret_figure
from pipeline.analysis.figures.steps import steps_figure
from pipeline.analysis.figures.style import save
from pipeline.analysis.runs import Run
from pipeline.analysis.stats.results import Answer


def draw_all(answer: Answer, runs: Sequence[Run], folder: Path, title: str = "") -> list[Path]:
    """Write the figures that apply into `folder`: `answer`, `losses`, `regret` and `steps`, each `.png` and `.svg`.

    Args:
        answer: from `pipeline.analysis.stats.answer.analyse`.
        runs: the table it was made from.
        folder: made where it is missing.
        title: the headline, over the first figure.

    Returns:
        The files that were written.
    """
    figures = figures_of(answer, runs, title)
    return [path for name, figure in figures.items() for path in save(figure, folder / f"{name}.png")]


def figures_of(answer: Answer, runs: Sequence[Run], title: str = "") -> dict[str, Figure]:
    """The figures that apply, by name."""
    figures = {
        "answer": map_figure(answer, runs, title),
        "losses": loss_figure(answer, runs) if runs else None,  # of published optima there are no runs
        "regret": regret_figure(answer),
        "steps": steps_figure(answer),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}
