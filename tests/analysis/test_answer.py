"""Verdicts on tables whose truth is known."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from pipeline.analysis.runs import Run
from pipeline.analysis.stats.answer import analyse
from pipeline.analysis.stats.questions import answer_questions
from pipeline.analysis.stats.results import Estimate
from pipeline.analysis.stats.settings import AnalysisSettings, Margin
from pipeline.analysis.text.render import columns, print_answer, rows, to_markdown
from pipeline.analysis.text.report_json import to_json
from pipeline.analysis.text.summary import summary
from pipeline.errors import RequestError
from tests.analysis.simulate import study

SIZES = (16, 32, 64, 128, 256, 512, 1024)


def table(law, sizes=SIZES, seed=0, **options):
    rng = np.random.default_rng(seed)
    options = {"shape": "steep right", "noise": 0.01, "seed_sd": 0.05, "trials": 40} | options
    return [run for size in sizes for run in study(size, law(size), rng, **options)]


def linear(size):
    return 0.1 * size / 64


def saturating(size):
    return 0.1 * (1 + 128 / 64) / (1 + 128 / size)


def verdicts(answer, rule="linear"):
    return {cell.batch: cell.rules[rule].verdict for cell in answer.batches}


def test_where_linear_is_exactly_true_it_holds_and_the_others_break():
    answer = analyse(table(linear), AnalysisSettings(configured_base=64))
    assert set(verdicts(answer).values()) <= {"holds", "undecided"}
    assert list(verdicts(answer).values()).count("holds") >= 5
    assert verdicts(answer, "fixed")[1024] == "censored"  # two octaves below what was tried there
    slope = answer.exponent
    assert slope.low <= 1 <= slope.high
    assert slope.value == pytest.approx(1, abs=0.1)
    assert answer.breaks_at is None


def failed(number, reason="ValueError: too few examples", **more):
    return [Run(1, 0.1 * 2**i, math.nan, i, "failed", reason=reason, **more) for i in range(number)]


def test_runs_that_an_error_ended_are_counted_and_named_with_the_error():
    answer = analyse([*table(linear), *failed(2)], AnalysisSettings(configured_base=64))
    said = summary(answer)
    assert (
        "2 of 282 runs failed with an error, and say nothing about their LR: ValueError: too few examples"
        " (batch 1, LR 0.1, seed 0; batch 1, LR 0.2, seed 1)."
    ) in said
    first, second = to_json(answer)["failed_runs"]
    assert first == {
        **{"batch": 1, "lr": 0.1, "seed": 0, "phase": "search", "run_id": None},
        "reason": "ValueError: too few examples",
    }
    assert second["seed"] == 1
    assert not any("failed with an error" in line for line in summary(analyse(table(linear))))
    assert to_json(analyse(table(linear)))["failed_runs"] == []


def test_of_many_errors_and_many_runs_the_first_are_named_and_the_rest_counted():
    runs = [run for number in range(5) for run in failed(6, f"KeyError: {number}")]
    (said,) = (line for line in summary(analyse([*table(linear), *runs])) if "failed with an error" in line)
    assert said.startswith("30 of 310 runs failed")
    assert (
        "KeyError: 0 (batch 1, LR 0.1, seed 0; batch 1, LR 0.2, seed 1; batch 1, LR 0.4, seed 2; 3 more); Key" in said
    )
    assert said.endswith(
        "KeyError: 2 (batch 1, LR 0.1, seed 0; batch 1, LR 0.2, seed 1; batch 1, LR 0.4, seed 2; 3 more); 2 more."
    )


def test_runs_that_only_an_error_ended_are_no_evidence_about_large_learning_rates():
    answer = analyse([*table(linear), *failed(2)], AnalysisSettings(configured_base=64))
    breaks = next(item for item in answer.questions if "break convergence" in item.question)
    assert breaks.evidence == "No run diverged or fell back to a constant guess: the LRs don't reach that far."


def test_between_the_fitted_curve_and_the_end_of_what_was_tried_the_regret_is_a_lower_bound():
    far = [Run(1024, float(2**x), 0.2 * math.exp(0.03 * (x - math.log2(1.6)) ** 2), 0) for x in np.linspace(-4, 0, 9)]
    answer = analyse([*table(linear), *far], AnalysisSettings(configured_base=64))
    fixed, sqrt = (answer.batches[-1].rules[rule] for rule in ("fixed", "sqrt"))
    assert (fixed.verdict, fixed.reason, fixed.regret_high) == ("breaks", "at least", math.inf)
    assert sqrt.verdict == "breaks"


def test_where_the_best_lr_saturates_linear_breaks_above_and_holds_near_the_base():
    far = [Run(1024, lr, 0.2 * math.exp(0.15 * math.log2(lr / saturating(1024)) ** 2), 0) for lr in (1.4, 2.0)]
    answer = analyse([*table(saturating), *far], AnalysisSettings(configured_base=64))
    assert verdicts(answer)[1024] == verdicts(answer)[512] == "breaks"
    assert answer.breaks_at in (256, 512)
    assert answer.holds_from <= 64 <= answer.holds_up_to < answer.breaks_at
    assert 0.2 < answer.exponent.value < 0.9


def test_noise_gives_undecided_and_no_false_breaks():
    # Linear is exactly true; at this noise hardly anything can be told, and nothing false must be.
    for seed in range(5):
        answer = analyse(
            table(linear, seed=seed, noise=0.15, seed_sd=0.1, trials=20), AnalysisSettings(configured_base=64)
        )
        assert "breaks" not in verdicts(answer).values()


def test_the_rules_lr_starts_from_the_base_batchs_own_best():
    answer = analyse(table(linear), AnalysisSettings(base_batch=128))
    best = next(cell.best_lr for cell in answer.batches if cell.batch == 128)
    for cell in answer.batches:
        assert cell.rules["linear"].lr == pytest.approx(best * cell.batch / 128, rel=0.05)
        assert cell.rules["fixed"].lr == pytest.approx(best, rel=0.05)


def test_a_rules_lr_at_or_above_the_lowest_failing_one_breaks_because_it_diverges():
    runs = table(lambda size: min(linear(size), 0.2), wall=0.7)
    answer = analyse(runs, AnalysisSettings(configured_base=64))
    result = next(cell.rules["linear"] for cell in answer.batches if cell.batch == 1024)
    assert (result.verdict, result.reason) == ("breaks", "diverges")
    assert all(cell.failing_lr is None or cell.failing_lr >= 0.7 for cell in answer.batches)


def test_failed_runs_bound_the_lr_and_never_enter_a_fit():
    runs = table(linear, wall=0.3, sizes=(64,))
    spoiled = [Run(r.batch, r.lr, 1e-9, r.seed, r.status, steps=r.steps) if r.failed else r for r in runs]
    first, second = (analyse(r).batches[0] for r in (runs, spoiled))
    assert first.best_lr == second.best_lr
    assert first.failing_lr >= 0.3 > first.stable_lr
    assert first.failed == sum(r.failed for r in runs) > 0


def test_an_lr_at_which_any_seed_failed_is_inadmissible():
    runs = table(linear, sizes=(64,))
    good = analyse(runs).batches[0]
    with_failure = analyse([*runs, Run(64, good.best_lr / 2, math.nan, 9, "diverged")]).batches[0]
    assert with_failure.stable_lr < good.best_lr / 2
    assert with_failure.best_lr is None  # what is left lies on one side of the minimum


def test_without_an_estimate_at_the_base_there_is_no_verdict():
    runs = [r for r in table(linear) if r.batch != 64 or r.lr < 0.07]
    answer = analyse(runs, AnalysisSettings(configured_base=64))
    assert set(verdicts(answer).values()) == {"censored"}
    assert answer.holds_up_to is None
    assert summary(answer)[0].startswith("Can't say")


def test_the_margin_is_a_share_of_the_base_batchs_best_loss_or_absolute():
    runs = table(linear)
    share = analyse(runs, AnalysisSettings(configured_base=64))
    best = next(cell.best_value for cell in share.batches if cell.batch == 64)
    assert share.margin == pytest.approx(0.10 * best)
    assert analyse(runs, AnalysisSettings(Margin(0.5, False))).margin == 0.5
    everything_goes = verdicts(analyse(runs, AnalysisSettings(Margin(10.0, False))), "fixed")
    assert set(everything_goes.values()) == {"holds", "censored"}
    assert everything_goes[1024] == "censored"  # two octaves below what was tried there


def test_the_base_batch_is_the_one_asked_for_else_the_configured_else_the_smallest():
    runs = table(linear)
    assert analyse(runs, AnalysisSettings(base_batch=256)).base_batch == 256
    assert analyse(runs, AnalysisSettings(configured_base=64)).base_batch == 64
    assert analyse(runs, AnalysisSettings(configured_base=63)).base_batch == 16
    with pytest.raises(RequestError, match="16, 32, 64"):
        analyse(runs, AnalysisSettings(base_batch=63))
    with pytest.raises(RequestError):
        analyse([])


def test_cells_of_fewer_than_fifty_steps_are_flagged():
    runs = [Run(r.batch, r.lr, r.value, r.seed, steps=3200 // r.batch) for r in table(linear)]
    answer = analyse(runs, AnalysisSettings(configured_base=64))
    assert [cell.batch for cell in answer.batches if cell.starved] == [128, 256, 512, 1024]
    assert "1024 †" in [row[0] for row in rows(answer)]
    assert any("fewer than 50" in line for line in summary(answer))


def test_the_same_table_gives_the_same_answer_in_any_order():
    runs = table(saturating, wall=1.0)
    shuffled = [runs[place] for place in np.random.default_rng(1).permutation(len(runs))]
    assert shuffled != runs
    assert to_json(analyse(shuffled)) == to_json(analyse(runs))


def test_the_json_is_json_and_has_the_documented_keys():
    answer = to_json(
        analyse(
            table(saturating, wall=1.0), AnalysisSettings(configured_base=64, objective="val/loss", budget="5 epochs")
        )
    )
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert {"base_batch", "margin", "seed_sd", "budget", "objective", "batches", "exponent"} <= set(answer)
    assert {"holds_from", "holds_up_to", "breaks_at"} <= set(answer)
    keys = "batch best_lr ci_low ci_high censored band_low band_high best_value test_value steps failed_fraction"
    keys += (
        " stable_lr failing_lr rule_lr regret regret_ci_low regret_ci_high verdict not_distinguishing evidence rules"
    )
    keys += " noise_scale seeds band_octaves band_is_open"
    assert all(set(cell) == set(keys.split()) for cell in answer["batches"])


def test_the_loss_at_the_best_lr_is_not_biased_by_the_lowest_point_of_each_curve():
    found = [
        analyse(study(64, 0.1, np.random.default_rng(seed), noise=0.1, seed_sd=0.0)).batches[0] for seed in range(60)
    ]
    known = [cell for cell in found if cell.best_lr is not None]
    at_best = np.mean([math.log(cell.best_value / 0.2) for cell in known])
    lowest = np.mean([np.median(cell.curve.draws.min(axis=1)) - math.log(0.2) for cell in known])
    assert len(known) > 30
    # What is left is that the place itself was chosen for its losses.
    assert lowest < -0.04 < -0.025 < at_best < 0.01


def test_a_holds_that_sqrt_or_fixed_shares_is_marked():
    answer = analyse(table(linear), AnalysisSettings(Margin(0.3), configured_base=64))
    alike = {cell.batch: cell.also_hold for cell in answer.batches}
    assert alike[64] == alike[128] == ("sqrt", "fixed")
    assert alike[1024] == ()
    marks = {row[0]: row[-3] for row in rows(answer)}
    assert (marks["128"], marks["64 *"], marks["1024"]) == ("holds ≈", "holds", "holds")
    assert any(
        line.startswith("≈ These runs can't tell the rules apart: where linear holds, so does sqrt at")
        for line in summary(answer)
    )
    assert to_json(answer)["batches"][3]["not_distinguishing"] == ["sqrt", "fixed"]


def test_the_test_loss_at_the_best_lr_stands_in_the_table_where_it_is_known():
    runs = table(linear, sizes=(64, 256))
    assert "on test" not in columns(analyse(runs))
    answer = analyse([replace(run, test_loss=run.value * 2) for run in runs])
    place = columns(answer).index("on test")
    for row, cell in zip(rows(answer), answer.batches, strict=True):
        assert float(row[place]) == pytest.approx(cell.test_value, rel=0.01)
        assert cell.test_value == pytest.approx(2 * cell.best_value, rel=0.1)
    assert " on test " in to_markdown(answer)


def test_the_stability_limit_is_an_interval_and_a_band_that_meets_an_end_is_open():
    walled = {row[0]: row for row in rows(analyse(table(linear, wall=0.7), AnalysisSettings(configured_base=64)))}
    place = columns(analyse(table(linear))).index("stability")
    stable, failing = map(float, walled["512"][place].split("…"))
    assert 0.3 < stable < 0.7 <= failing < 1.5
    assert walled["16"][place].startswith("> ")
    everything = rows(analyse(table(linear), AnalysisSettings(Margin(10.0, False))))
    assert all(row[3].startswith("≥ ") for row in everything)


def test_seeds_differ_by_what_runs_of_different_seeds_do_at_one_lr():
    assert analyse(table(linear, seeds=1)).seed_sd is None
    found = analyse(table(linear, sizes=(64,), seeds=8, noise=0.0, seed_sd=0.1, trials=80))
    offsets = np.random.default_rng(7).normal(0, 0.1, 8)
    assert found.seed_sd == pytest.approx(0.2 * np.exp(offsets).std(ddof=1), rel=0.25)
    # Runs of one and the same value, save for what the LR does: that is taken out.
    same = analyse(table(linear, sizes=(64,), seeds=8, noise=0.0, seed_sd=0.0, trials=80))
    assert same.seed_sd < 0.0005


def test_other_objectives_get_the_same_share_of_their_best_and_not_an_absolute_margin_in_another_unit():
    runs = [replace(run, error=run.value / 100, train_loss=run.value) for run in table(linear)]
    absolute = analyse(runs, AnalysisSettings(Margin(0.01, False), configured_base=64, objective="val/loss"))
    assert [judged.name for judged in absolute.objectives] == ["val/loss", "val/error", "train/loss"]
    first, error, _ = absolute.objectives
    assert (error.verdicts, error.others) == (first.verdicts, first.others)
    assert first.others == {rule: verdicts(absolute, rule) for rule in ("sqrt", "fixed")}
    assert to_json(absolute)["objectives"][1]["others"]["sqrt"]["64"] == "holds"


def test_noise_that_has_no_bound_gives_no_estimate_rather_than_a_narrow_one():
    covered = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        result = analyse(study(64, 0.1, rng, noise=3.0, seed_sd=0.0)).batches[0]
        if result.best_lr is not None:
            covered.append(result.ci_low <= 0.1 <= result.ci_high)
    assert not covered or sum(covered) >= 0.8 * len(covered)
    negative = [replace(run, value=run.value - 1) for run in study(64, 0.1, np.random.default_rng(0))]
    assert analyse(negative).batches[0].best_lr is None


@pytest.mark.parametrize(("sd", "answer"), [(0.1, "Yes, in proportion."), (0.6, "Yes; by how much can't be said.")])
def test_in_proportion_is_said_of_an_exponent_that_is_known(sd, answer):
    given = replace(analyse(table(linear)), exponent=Estimate(0.9, 0.9 - 1.4 * sd, 0.9 + 1.4 * sd))
    assert answer_questions(given, [])[0].answer == answer


def test_that_everything_failed_does_not_show_that_the_lr_is_to_blame():
    failed = [Run(size, 0.1 * 2**i, math.nan, 0, "diverged") for size in (32, 64) for i in range(3)]
    assert analyse(failed).questions[2].answer == "This sweep cannot tell."
    finished = Run(64, 0.01, 1.0, 0)
    assert analyse([*failed, finished]).questions[2].answer == "Yes."


@pytest.mark.parametrize(
    ("test", "train", "answer"),
    [
        ((0.5, 0.7), (0.1, 0.1), "Yes: 16 better than 1024."),
        ((0.5, 0.7), (0.1, 0.3), "This sweep cannot tell."),  # the larger batch trained less well by as much
        ((0.7, 0.5), (0.3, 0.1), "This sweep cannot tell."),  # and the other way round
        ((0.7, 0.5), (0.1, 0.1), "No: 1024 better than 16."),
    ],
)
def test_generalisation_is_what_tests_better_than_it_trained(test, train, answer):
    runs = [
        replace(
            run,
            test_loss=test[run.batch > 100] + 0.001 * run.seed,
            train_loss=train[run.batch > 100] + 0.001 * run.seed * (-1) ** run.batch.bit_length(),
        )
        for run in table(linear, sizes=(16, 1024))
    ]
    assert analyse(runs).questions[3].answer == answer


def test_text_from_a_table_is_printed_as_it_is(capsys):
    runs = [replace(run, other={"note": "[/x]"}) for run in table(linear, sizes=(32, 64))]
    print_answer(analyse(runs), "note=[/x]")
    assert "note=[/x]" in capsys.readouterr().out


def test_markdown_has_a_row_for_each_batch():
    text = to_markdown(analyse(table(linear), AnalysisSettings(configured_base=64)))
    assert text.startswith("**From batch 64 (LR 0.092) the linear rule holds at ")
    assert [line.split("|")[1].strip(" *") for line in text.splitlines() if line.startswith("| ")][1:] == [
        str(s) for s in SIZES
    ]
