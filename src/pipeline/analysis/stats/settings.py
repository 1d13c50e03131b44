"""How a table is analysed: the margin, the base batch, and what the answer says about the runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import RequestError


@dataclass(frozen=True)
class Margin:
    """The largest regret that counts as none: a share of the best loss at the base batch, or an absolute loss.

    The default is about what half an octave of LR costs, a difference that people who tune by factors of two accept.
    """

    value: float = 0.10
    is_share: bool = True

    def absolute(self, best_value: float | None) -> float | None:
        """Return the margin in the objective's unit; None if it is a share of an unknown loss."""
        if not self.is_share:
            return self.value
        return None if best_value is None else self.value * best_value

    def share(self, best_value: float | None) -> float | None:
        """Return the margin as a share of the best loss; None if an absolute margin's best loss is unknown or zero."""
        if self.is_share:
            return self.value
        return self.value / best_value if best_value else None

    def __str__(self) -> str:
        return f"{100 * self.value:g}% of the best" if self.is_share else f"{self.value:g}"


@dataclass(frozen=True)
class AnalysisSettings:
    """Everything that an analysis needs besides the runs.

    Attributes:
        margin, margin_source: the margin, and when it was fixed.
        base_batch: the batch size that the rules start from; it must be in the table.
        configured_base: the base batch if `base_batch` is None and it is in the table; else the smallest one is.
        objective, budget: what the column `value` holds, and what was equal at all batch sizes; for the answer's text.
        looks: numbers of pairs of fresh seeds after which each batch size is judged, increasing; the first that decides
            counts. Empty: one look at all pairs.
        split_seed: `replicate` where each seed has its own validation split; else the one that all share, or empty.
        base_lr: the LR that the rules start from, tuned by the user; None for the best one that the search found.
    """

    margin: Margin = Margin()
    margin_source: str = ""
    base_batch: int | None = None
    configured_base: int | None = None
    objective: str = "value"
    budget: str = ""
    looks: tuple[int, ...] = ()
    split_seed: str = ""
    base_lr: float | None = None


def choose_base(sizes: Sequence[int], asked: int | None, configured: int | None) -> tuple[int, str]:
    """Return where the rules start, and why; RequestError if `asked` is not one of the sorted batch `sizes`."""
    if asked is not None:
        if asked not in sizes:
            raise RequestError(f"--base-batch={asked}: no runs at it.\nChoose one of: {', '.join(map(str, sizes))}.")
        return asked, "as asked for"
    if configured is not None and configured in sizes:
        return configured, "scaling.base_batch"
    return sizes[0], "the smallest that was run"
