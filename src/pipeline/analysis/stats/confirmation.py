"""Sequential confirmation: which fresh seeds a sweep still has to run, look by look, until its verdicts are decided."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.analysis.runs import Run
from pipeline.analysis.stats.batch_fit import BatchFit, fit_batches
from pipeline.analysis.stats.pairs import seeds_at
from pipeline.analysis.stats.settings import AnalysisSettings, choose_base
from pipeline.analysis.stats.verdict import Terms, compared_lrs, judge_by_pairs, make_terms

# Fresh seeds are numbered from here, so that a reader tells them from the search's at a glance.
FIRST_FRESH_SEED = 1000


@dataclass(frozen=True)
class Extension:
    """Fresh seeds that one batch size needs for its next look.

    Attributes:
        batch: the batch size.
        lrs: every seed runs at each of these LRs; the rule's comes first.
        first, count: the seeds are numbers `first` to `first + count - 1` of the fresh ones, counted from 0.
    """

    batch: int
    lrs: tuple[float, ...]
    first: int
    count: int

    @property
    def seeds(self) -> range:
        """The seeds themselves."""
        return range(FIRST_FRESH_SEED + self.first, FIRST_FRESH_SEED + self.first + self.count)


def next_points(runs: Sequence[Run], settings: AnalysisSettings) -> list[Extension]:
    """Return what has to run for the next look at each batch size that isn't decided; empty when the sweep is done.

    It follows from the runs alone, so a killed job that asks again gets the same answer. A look that is finished in
    part is asked for again as a whole. The LRs follow from the search's runs alone.
    """
    fits = fit_batches(runs)
    if not fits or not settings.looks:
        return []
    base, _ = choose_base(list(fits), settings.base_batch, settings.configured_base)
    return extend(fits, make_terms(fits, base, settings))


def extend(fits: Mapping[int, BatchFit], terms: Terms) -> list[Extension]:
    """Return the next looks at batch sizes that are fitted already."""
    base = fits[terms.base]
    if terms.base_lr is None or terms.margin is None:
        return []
    extensions, is_judged = [], False
    for size, fit in fits.items():
        lr = terms.lr_at(size, 1.0)
        others = compared_lrs(fit, lr)
        if size == terms.base or not others:
            continue
        is_judged = True
        extension = _next_look(fit, (lr, *others), terms)
        if extension is not None:
            extensions.append(extension)
    best = base.search_best or terms.base_lr
    if is_judged and best < base.search_failing and len(seeds_at(base.fresh, best)) < terms.looks[0]:
        extensions.append(Extension(terms.base, (best,), 0, terms.looks[0]))
    return sorted(extensions, key=lambda extension: extension.batch)


def _next_look(fit: BatchFit, lrs: tuple[float, ...], terms: Terms) -> Extension | None:
    """The next look at one batch size; None if it is decided, or all looks were taken."""
    if fit.result.failing_lr is not None and lrs[0] >= fit.result.failing_lr:
        return None
    ended = min(len(seeds_at(fit.fresh, lr)) for lr in lrs)
    done = max((look for look in terms.looks if look <= ended), default=0)
    result = judge_by_pairs(fit, lrs[0], terms) if done else None
    following = next((look for look in terms.looks if look > done), None)
    if following is None or (result is not None and result.verdict != "undecided"):
        return None
    return Extension(fit.result.batch, lrs, done, following - done)
