"""All figures of an answer."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from pipeline.analysis.figures import STYLE, save
from pipeline.analysis.loss_figure import loss_figure
from pipeline.analysis.map_figure import map_figure
from pipeline.analysis.regret_figure import regret_figure
from pipeline.analysis.results import Answer
from pipeline.analysis.sentences import headline
from pipeline.analysis.steps_figure import steps_figure
from pipeline.analysis.table import Run


def figures_of(answer: Answer, runs: Sequence[Run]) -> dict[str, Figure]:
    """The figures that apply, by name: `answer` and `losses`; `regret` and `steps` where there is something to show."""
    others = [cell for cell in answer.batches if cell.batch != answer.base_batch]
    with mpl.rc_context(STYLE):
        figures = {"answer": map_figure(answer, runs, headline(answer)), "losses": loss_figure(answer, runs)}
        if any(rule.regret is not None for cell in others for rule in cell.rules.values()):
            figures["regret"] = regret_figure(answer)
        if answer.objective == "steps to target" and any(cell.best_lr is not None for cell in answer.batches):
            figures["steps"] = steps_figure(answer)
    return figures


def save_all(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write figures into `folder`, as PNG and SVG; returns the PNGs."""
    with mpl.rc_context(STYLE):
        return [save(figure, folder / f"{name}.png") for name, figure in figures.items()]
