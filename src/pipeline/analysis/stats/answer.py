"""The answer: the best LR of each batch size, and how far the linear rule holds; from a table of runs."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.analysis.runs import CONFIRM, Run, published_means
from pipeline.analysis.stats.batch_fit import BatchFit, fit_batches
from pipeline.analysis.stats.confirmation import same_lr
from pipeline.analysis.stats.laws import fit_exponent, fit_laws, select_law
from pipeline.analysis.stats.optima import estimate_optima
from pipeline.analysis.stats.power import detectable_errors
from pipeline.analysis.stats.questions import answer_questions
from pipeline.analysis.stats.results import Answer
from pipeline.analysis.stats.settings import AnalysisSettings, choose_base
from pipeline.analysis.stats.verdict import (
    LEVEL,
    check_objectives,
    check_other_bases,
    holding_range,
    judge,
    verdicts_on,
)
from pipeline.errors import RequestError
from pipeline.recipe.statuses import RAISED


def analyse(runs: Sequence[Run], settings: AnalysisSettings | None = None) -> Answer:
    """Analyse runs of one workload, stalled ones marked; RequestError without any, or without any at the base batch."""
    settings = settings or AnalysisSettings()
    fits = fit_batches(runs)
    if not fits:
        raise RequestError("There are no runs to analyse.")
    base, base_reason = choose_base(list(fits), settings.base_batch, settings.configured_base)
    level = LEVEL / settings.planned_looks
    best_value = fits[base].result.best_value
    margin = settings.margin.absolute(best_value)
    batches = judge(fits, base, margin, level)
    detectable = detectable_errors(fits, batches, base, margin, level, np.random.default_rng(0))
    holds_from, holds_up_to, breaks_at = holding_range(verdicts_on("linear", batches), base)
    optima = estimate_optima(list(fits.values()), np.random.default_rng(0))
    below_break = optima.only(optima.batches < (breaks_at or math.inf))
    laws = fit_laws(optima, base, list(fits))
    share = settings.margin.share(best_value)
    answer = Answer(
        base_batch=base,
        base_reason=base_reason,
        margin=margin,
        margin_text=str(settings.margin),
        margin_source=settings.margin_source,
        seed_sd=_seed_sd(fits[base]),
        batches=tuple(replace(result, detectable=detectable[size]) for size, result in batches.items()),
        exponent=fit_exponent(optima),
        exponent_to_break=fit_exponent(below_break) if breaks_at else None,
        holds_from=holds_from,
        holds_up_to=holds_up_to,
        breaks_at=breaks_at,
        laws=laws,
        selected_law=select_law(laws),
        other_bases=check_other_bases(fits, base, margin, level),
        objectives=check_objectives(runs, settings.objective, base, settings.margin, share, level),
        objective=settings.objective,
        budget=settings.budget,
        seeds=len({run.seed for run in runs if run.phase != CONFIRM and run.seed is not None}),
        raised=tuple(run for run in runs if run.status == RAISED),
        looks=settings.looks,
        level=level,
    )
    return replace(answer, questions=answer_questions(answer, list(fits.values())))


def _seed_sd(fit: BatchFit) -> float | None:
    """Estimate the standard deviation between single runs of different seeds at the best LR.

    From fresh seeds at that LR if there are several; else from the search's runs near it, after the curve's slope is
    taken out. Published means state it themselves. None where there are no two seeds.
    """
    best, curve, near = fit.result.best_lr, fit.result.curve, fit.near_best()
    if known := [run.value_sd for run in published_means(near) if run.value_sd is not None]:
        return math.sqrt(float(np.mean(np.square(known))))
    fresh = [run for run in near if best and run.phase == CONFIRM and same_lr(run.lr, best)]
    runs = fresh if len(fresh) > 1 else [run for run in near if run.phase != CONFIRM]
    if best is None or curve is None or len({run.seed for run in runs} - {None}) < 2:
        return None
    median = np.median(curve.draws, axis=0)
    at_lr = np.interp(np.log2([run.lr for run in runs]), curve.octaves, median)
    at_best = np.interp(math.log2(best), curve.octaves, median)
    return float(np.std([run.value for run in runs] * np.exp(at_best - at_lr), ddof=1))
