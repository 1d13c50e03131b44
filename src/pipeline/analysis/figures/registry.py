"""All figures of an answer, in the order of the page.

To add a figure, write a module with a function `(answer, runs) -> Figure | None` and add an entry to `FIGURES`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from pipeline.analysis.figures.loss import loss_figure
from pipeline.analysis.figures.map import has_ratio_panel, map_figure
from pipeline.analysis.figures.regret import regret_figure
from pipeline.analysis.figures.steps import steps_figure
from pipeline.analysis.figures.style import add_headline, save
from pipeline.analysis.runs import Run
from pipeline.analysis.stats.results import Answer
from pipeline.analysis.text.verdicts import headline


@dataclass(frozen=True)
class FigureEntry:
    """A figure, None where it does not apply, and what the page says about it."""

    draw: Callable[[Answer, Sequence[Run]], Figure | None]
    heading: str
    caption: str
    ratio_caption: str = ""

    def full_caption(self, answer: Answer) -> str:
        """Return the caption of the figure that was drawn for `answer`."""
        return f"{self.caption} {self.ratio_caption}".rstrip() if has_ratio_panel(answer) else self.caption


# By the name of the file. The first one shows the headline.
FIGURES = {
    "answer": FigureEntry(
        map_figure,
        "Loss over batch size and learning rate",
        "Each batch size's loss above its own best; between batch sizes it is interpolated along the valley. "
        "Where nothing was tried it stays blank.",
        "Right: the best learning rate as a multiple of what the linear rule gives; at 1 the rule is exactly right, "
        "and where a bar reaches 1 it is good enough.",
    ),
    "losses": FigureEntry(
        loss_figure,
        "Loss over learning rate, for each batch size",
        "Point at a run or tap it to see what it was; or focus the figure and use the arrow keys.",
    ),
    "regret": FigureEntry(
        regret_figure,
        "How much worse each rule is than the best",
        "In margins: below the line counts as no difference. Even up to one margin, by factors of two above.",
    ),
    "steps": FigureEntry(
        steps_figure,
        "Steps to target",
        "On the dashed line twice the batch takes half the steps; above it, a larger batch needs more examples.",
    ),
}


def draw_figures(answer: Answer, runs: Sequence[Run]) -> Iterator[tuple[str, Figure]]:
    """Draw the figures that apply to `answer`, which was made from `runs`, one at a time: (name, figure)."""
    for name, entry in FIGURES.items():
        figure = entry.draw(answer, runs)
        if figure is not None:
            yield name, figure


def save_figures(answer: Answer, runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write the figures into `folder`, as `NAME.png` and `NAME.svg`, the first one under the headline."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in draw_figures(answer, runs):
        if name == next(iter(FIGURES)):
            add_headline(figure, headline(answer))
        paths += save(figure, folder / name)
    return paths
