"""Figures at every size of study: files that parse, marks for every run, axes that people can read."""

import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from pipeline.analysis.figures.axes import batch_axis, plain, plain_ticks
from pipeline.analysis.figures.learning_curves import save_learning_curves
from pipeline.analysis.figures.loss import loss_figure
from pipeline.analysis.figures.map import map_figure
from pipeline.analysis.figures.registry import draw_figures, save_figures
from pipeline.analysis.figures.regret import regret_figure
from pipeline.analysis.figures.steps import perfect_scaling_ends, steps_figure
from pipeline.analysis.figures.style import add_headline, new_figure, to_svg
from pipeline.analysis.runs import Run
from pipeline.analysis.stats.answer import analyse
from pipeline.analysis.stats.results import BatchResult, Law, RuleResult
from pipeline.analysis.stats.settings import AnalysisSettings, Margin
from tests.analysis.simulate import study

SVG = "{http://www.w3.org/2000/svg}"


def table(sizes, **options):
    rng = np.random.default_rng(0)
    options = {"shape": "steep right", "noise": 0.01, "seed_sd": 0.05} | options
    return [run for size in sizes for run in study(size, 0.1 * 3 / (1 + 128 / size), rng, **options)]


def words(figure):
    """What stands in a figure as text."""
    return " ".join("".join(e.itertext()) for e in ElementTree.fromstring(to_svg(figure)).iter(f"{SVG}text"))


def numbers(figure):
    """The runs that have a mark, in the order of their groups."""
    found = re.findall(r'id="runs-([\d-]+)"', to_svg(figure))
    return [int(number) for group in found for number in group.split("-")]


@pytest.fixture(scope="module")
def seven():
    runs = table((16, 32, 64, 128, 256, 512, 1024), wall=1.0)
    return runs, analyse(runs, AnalysisSettings(base_batch=64, objective="val/loss"))


@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        pytest.param((64,), {"answer", "losses"}, id="one"),
        pytest.param((64, 512), {"answer", "losses", "regret"}, id="two"),
        pytest.param(
            sorted({round(8 * 2 ** (i / 4)) for i in range(50)}),
            {"answer", "losses", "regret"},
            marks=pytest.mark.long,
            id="fifty",
        ),
    ],
)
def test_every_figure_that_applies_is_written_as_png_and_svg(tmp_path, sizes, names):
    runs = table(sizes, trials=12)
    paths = save_figures(analyse(runs), runs, tmp_path / "new")
    assert {path.name for path in paths} == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    for path in paths:
        if path.suffix == ".png":
            assert min(imread(path).shape[:2]) > 400
        else:
            assert ElementTree.parse(path).getroot().tag == f"{SVG}svg"
            assert "<image" not in path.read_text()  # lines, at any size


TOO_FEW = [Run(32, 0.1 * 2**i, 1.0 + i, seed=0) for i in range(3)]
FAILED = [Run(b, 0.1 * 2**i, math.nan, status="diverged") for b in (32, 64) for i in range(5)]
INFINITE = [Run(b, 0.1 * 2**i, math.inf) for b in (32, 64) for i in range(5)]
UNFINISHED = [Run(b, 0.1, math.nan, status=s) for b in (32, 64) for s in ("pruned", "lost", "missed")]
ZEROS = [Run(b, float(2**x), max(0.0, 0.01 * x**2), seed=0) for b in (32, 64) for x in np.linspace(-2, 2, 17)]
NEGATIVE = [Run(b, 0.1 * 2 ** (i / 2), -1.0 + abs(i), seed=0) for b in (32, 64) for i in range(-4, 5)]
HUGE = [*table((32, 64), trials=12), Run(32, 0.9, 1e300), Run(64, 0.9, 1e300)]
ODD_LR = [*table((32, 64), trials=12), Run(32, math.inf, 1.0, status="diverged")]


@pytest.mark.parametrize(
    "runs",
    [TOO_FEW, FAILED, INFINITE, UNFINISHED, ZEROS, NEGATIVE, HUGE, ODD_LR],
    ids=["too few", "failed", "infinite", "unfinished", "zeros", "negative", "huge", "odd lr"],
)
def test_tables_that_hold_no_answer_still_have_their_figures(tmp_path, runs):
    answer = analyse(runs, AnalysisSettings(Margin(0.01, False)))
    save_figures(answer, runs, tmp_path)
    for name in ("answer", "losses"):
        assert "nan" not in (tmp_path / f"{name}.svg").read_text().lower()
    drawable = [place for place, run in enumerate(runs) if math.isfinite(run.lr)]
    assert sorted(numbers(loss_figure(answer, runs))) == drawable


def test_published_optima_without_runs_have_the_map_alone(tmp_path):
    cells = tuple(BatchResult(size, 0, 0, best_lr=0.1 * size / 64) for size in (64, 128, 256))
    answer = replace(analyse(TOO_FEW), base_batch=64, batches=cells, margin=None)
    assert [path.name for path in save_figures(answer, [], tmp_path)] == ["answer.png", "answer.svg"]


def test_where_nothing_could_be_estimated_the_map_says_so():
    assert "no best LR could be estimated" in words(map_figure(analyse(TOO_FEW), TOO_FEW))


def test_every_run_has_one_mark_in_the_map_and_one_in_the_losses(seven):
    runs, answer = seven
    for figure in (map_figure(answer, runs), loss_figure(answer, runs)):
        assert sorted(numbers(figure)) == list(range(len(runs)))


def test_the_headline_is_the_title_and_the_axes_name_their_units(seven):
    runs, answer = seven
    figure = map_figure(answer, runs)
    add_headline(figure, "Linear holds up to 256.")
    text = words(figure)
    assert "Linear holds up to 256." in text
    assert "batch size (examples)" in text
    assert "learning rate" in text
    assert "validation loss (nats)" in words(loss_figure(answer, runs))


def test_kinds_of_runs_are_named_in_the_legend_where_they_occur(seven):
    runs, answer = seven
    assert "run that confirms" not in words(loss_figure(answer, runs))
    more = [*runs, replace(runs[0], phase="confirm"), Run(64, 0.1, math.nan, status="pruned")]
    text = words(loss_figure(answer, more))
    for kind in ("run that confirms", "diverged or stalled", "no result"):
        assert kind in text


def test_the_best_law_is_drawn_beside_the_rules(seven):
    runs, answer = seven
    law = Law("broken_line", {}, 1.0, 0.95, 0.5, tuple(cell.best_lr or 0.1 for cell in answer.batches))
    likeliest = replace(answer, laws=(law,), selected_law=None)
    assert "likeliest law, weight 0.95: broken line" in words(map_figure(likeliest, runs))
    named = words(map_figure(replace(likeliest, selected_law="broken_line"), runs))
    assert "law: broken line" in named
    assert "likeliest" not in named


def test_a_minimum_beyond_what_was_tried_has_an_arrow_and_no_point():
    lrs = 2.0 ** np.linspace(-6, -4, 15)
    runs = [Run(b, float(lr), float(1 + (np.log2(lr) + 1) ** 2), seed=0) for b in (32, 64) for lr in lrs]
    answer = analyse(runs)
    assert {cell.censored for cell in answer.batches} == {"high"}
    assert "beyond what was tried" in words(map_figure(answer, runs))


def test_the_same_table_gives_the_same_files(seven):
    runs, answer = seven
    first, second = ({n: to_svg(f) for n, f in draw_figures(answer, runs)} for _ in range(2))
    assert first == second
    assert "dc:date" not in "".join(first.values())


def test_drawing_leaves_the_settings_of_other_users_of_matplotlib_alone(seven, tmp_path):
    before = dict(matplotlib.rcParams)
    save_figures(seven[1], seven[0], tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_regret_shows_a_row_only_for_what_has_no_number(seven):
    _, answer = seven
    rules = {"linear": RuleResult(0.1, regret=0.0, regret_low=0.0, regret_high=0.001, verdict="holds")}
    calm = replace(answer, batches=tuple(replace(cell, rules=rules) for cell in answer.batches))
    assert "runs fail" not in words(regret_figure(calm))
    fails = {"linear": RuleResult(9.0, verdict="breaks", reason="diverges")}
    unknown = {"linear": RuleResult(9.0, verdict="censored")}
    cells = [replace(answer.batches[0], rules=fails), replace(answer.batches[1], rules=unknown), *calm.batches[2:]]
    text = words(regret_figure(replace(answer, batches=tuple(cells))))
    assert "runs fail" in text
    assert "not known" in text


def test_infinite_regrets_stand_among_the_failing_ones(seven):
    _, answer = seven
    rules = {"linear": RuleResult(0.1, regret=math.inf, regret_low=0.5, regret_high=math.inf, verdict="breaks")}
    assert "runs fail" in words(
        regret_figure(replace(answer, batches=tuple(replace(c, rules=rules) for c in answer.batches)))
    )


@pytest.mark.parametrize("margin", [None, 0.0, -1.0])
def test_without_a_margin_there_is_no_regret_to_draw(seven, margin):
    assert regret_figure(replace(seven[1], margin=margin)) is None


def test_steps_to_target_are_drawn_where_they_were_measured():
    runs = [
        replace(run, value=round(run.value * 64 / max(64 / run.batch, 1 / 8)))
        for run in table((64, 128, 256, 512, 1024, 2048), floor=2000 / 64, noise=0.01)
    ]
    assert steps_figure(analyse(runs)) is None
    figure = steps_figure(analyse(runs, AnalysisSettings(objective="steps to target")))
    assert "perfect scaling" in words(figure)
    assert "steps to target (optimizer steps)" in words(figure)


def test_perfect_scaling_ends_where_larger_batches_no_longer_save_steps_in_proportion():
    cells = [BatchResult(size, 9, 0) for size in (64, 128, 256, 512)]
    noise = np.random.default_rng(0).normal(1, 0.01, (4, 500))
    steps = np.array([[1000], [505], [400], [390]]) * noise
    assert perfect_scaling_ends(cells, steps, 0.05) == (128, 256)
    assert perfect_scaling_ends(cells, np.array([[1000], [500], [250], [125]]) * noise, 0.05) is None
    assert perfect_scaling_ends(cells[:1], steps[:1], 0.05) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0005, "0.0005"), (0.016, "0.016"), (1.0, "1"), (2000.0, "2000"), (1e-5, "1e-5"), (2.5e7, "2.5e7"), (0.0, "0")],
)
def test_ticks_are_numbers_as_people_write_them(value, text):
    assert plain(value) == text


@pytest.mark.parametrize("low", [1e-7, 0.0031, 0.7, 1234.0])
@pytest.mark.parametrize("ratio", [1.01, 1.7, 9, 300, 1e6, 1e15])
def test_an_axis_of_any_width_has_two_to_eight_numbers_inside_it(low, ratio):
    ticks, _ = plain_ticks(low, low * ratio, 8)
    assert 2 <= len(ticks) <= 8
    assert all(low * 0.995 <= tick <= low * ratio * 1.005 for tick in ticks)


@pytest.mark.parametrize("sizes", [(64,), (63, 64, 65), tuple(range(100, 150)), (1, 1_000_000)])
def test_batch_sizes_are_ticks_of_which_as_many_have_numbers_as_fit(sizes):
    axes = new_figure(3, 2).subplots()
    batch_axis(axes, [BatchResult(size, 1, 0) for size in sizes], most=6)
    shown, rest = axes.xaxis.get_majorticklocs(), axes.xaxis.get_minorticklocs()
    assert 1 <= len(shown) <= 7
    assert {*shown, *rest} == set(sizes)


def test_the_curves_of_one_run_are_drawn(tmp_path):
    keys = ("train/loss", "val/loss", "train/error", "val/error")
    save_learning_curves([{"epoch": e, **dict.fromkeys(keys, 1 / (e + 1))} for e in range(3)], tmp_path / "curves.png")
    assert imread(tmp_path / "curves.png").shape[1] == 1400
    assert "error (fraction)" in (tmp_path / "curves.svg").read_text()
