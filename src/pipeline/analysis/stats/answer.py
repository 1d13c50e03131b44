"""The answer: the best LR of each batch size, and how far the linear rule holds; from a table of runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pipeline.analysis.runs import CONFIRM, Run, published_means
from pipeline.analysis.stats.batch_fit import BatchFit, fit_batches
from pipeline.analysis.stats.laws import fit_exponent, fit_laws, select_law
from pipeline.analysis.stats.objectives import check_objectives
from pipeline.analysis.stats.optima import estimate_optima
from pipeline.analysis.stats.pairs import seeds_at
from pipeline.analysis.stats.questions import answer_questions
from pipeline.analysis.stats.results import STRICTER_MARGIN, Answer
from pipeline.analysis.stats.settings import AnalysisSettings, Margin, choose_base
from pipeline.analysis.stats.table_checks import check_table
from pipeline.analysis.stats.verdict import Terms, given_base_lr, holding_range, judge, make_terms, verdicts_on
from pipeline.errors import RequestError
from pipeline.recipe.statuses import RAISED


def analyse(runs: Sequence[Run], settings: AnalysisSettings | None = None) -> Answer:
    """Analyse runs of one workload, stalled ones marked; RequestError without any, or without any at the base batch."""
    settings = settings or AnalysisSettings()
    fits = fit_batches(runs)
    if not fits:
        raise RequestError("There are no runs to analyse.")
    base, base_reason = choose_base(list(fits), settings.base_batch, settings.configured_base)
    terms = make_terms(fits, base, settings)
    batches = judge(fits, terms)
    holds_from, holds_up_to, breaks_at = holding_range(verdicts_on("linear", batches), base)
    optima = estimate_optima(list(fits.values()), np.random.default_rng(0))
    below_break = optima.only(optima.batches < (breaks_at or math.inf))
    exponent = fit_exponent(optima)
    laws = fit_laws(optima, base, list(fits))
    answer = Answer(
        base_batch=base,
        base_reason=base_reason,
        base_lr=terms.base_lr,
        base_lr_is_given=terms.base_lr is not None and terms.base_lr == given_base_lr(base, settings),
        margin=terms.margin,
        margin_text=str(settings.margin),
        margin_source=settings.margin_source,
        seed_sd=_seed_sd(fits[base]),
        batches=tuple(batches.values()),
        exponent=exponent,
        exponent_to_break=fit_exponent(below_break) if breaks_at else None,
        holds_from=holds_from,
        holds_up_to=holds_up_to,
        breaks_at=breaks_at,
        laws=laws,
        selected_law=select_law(laws),
        objectives=check_objectives(runs, fits, batches, terms, settings, exponent),
        stricter=_stricter(fits, terms, settings.margin),
        objective=settings.objective,
        budget=settings.budget,
        seeds=len({run.seed for run in runs if run.phase != CONFIRM and run.seed is not None}),
        raised=tuple(run for run in runs if run.status == RAISED),
        notes=check_table(runs),
        looks=settings.looks,
        split_seed=settings.split_seed,
    )
    return replace(answer, questions=answer_questions(answer, list(fits.values())))


def _stricter(fits: Mapping[int, BatchFit], terms: Terms, margin: Margin) -> dict[int, str] | None:
    """Linear's verdicts with half the default margin, by the same runs; None where the margin is no larger."""
    if terms.margin is None or not margin.is_share or margin.value <= STRICTER_MARGIN:
        return None
    strict = replace(terms, margin=terms.margin * STRICTER_MARGIN / margin.value)
    return verdicts_on("linear", judge(fits, strict))


def _seed_sd(fit: BatchFit) -> float | None:
    """Estimate the standard deviation between single runs of different seeds at the best LR.

    From fresh seeds at that LR if there are several; else from the search's runs near it, after the curve's slope is
    taken out. Published means state it themselves. None where there are no two seeds.
    """
    best, curve, near = fit.result.best_lr, fit.result.curve, fit.near_best()
    if known := [run.value_sd for run in published_means(near) if run.value_sd is not None]:
        return math.sqrt(float(np.mean(np.square(known))))
    fresh = [value for value in seeds_at(fit.fresh, best).values() if math.isfinite(value)] if best else []
    if len(fresh) > 1:
        return float(np.std(fresh, ddof=1))
    runs = [run for run in near if run.phase != CONFIRM]
    if best is None or curve is None or len({run.seed for run in runs} - {None}) < 2:
        return None
    median = np.median(curve.draws, axis=0)
    at_lr = np.interp(np.log2([run.lr for run in runs]), curve.octaves, median)
    at_best = np.interp(math.log2(best), curve.octaves, median)
    return float(np.std([run.value for run in runs] * np.exp(at_best - at_lr), ddof=1))
