"""The page: it loads nothing, shows every run, links to MLflow, and stays small."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from pipeline.analysis.figures.registry import FIGURES, FigureEntry, draw_figures
from pipeline.analysis.figures.style import new_figure
from pipeline.analysis.page.page import render_page
from pipeline.analysis.runs import Run
from pipeline.analysis.stats.answer import analyse
from pipeline.analysis.stats.results import AnsweredQuestion, Estimate, Law, SensitivityCheck
from pipeline.analysis.stats.settings import AnalysisSettings
from tests.analysis.simulate import study

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Elements and their attributes; fails where a tag is not closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def table(sizes=(32, 64, 128, 256), **options):
    rng = np.random.default_rng(0)
    runs = [r for size in sizes for r in study(size, 0.1 * size / 64, rng, shape="steep right", noise=0.01, **options)]
    return [replace(run, run_id=f"{number:032x}") for number, run in enumerate(runs)]


def url(run_id):
    return f"http://127.0.0.1:5000/#/experiments/1/runs/{run_id}?a=1&b=2"


@pytest.fixture(scope="module")
def runs():
    return [*table(), Run(64, 3.0, math.nan, 1, "diverged", run_id="f" * 32, phase="confirm")]


@pytest.fixture(scope="module")
def answer(runs):
    return analyse(runs, AnalysisSettings(base_batch=64, objective="val/loss"))


@pytest.fixture(scope="module")
def text(answer, runs):
    return render_page(answer, runs, "digits-mlp", url)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_it_loads_nothing(page, text):
    assert not page.all("link") + page.all("img") + page.all("image") + page.all("iframe")
    assert not [a for a in page.all("script") if "src" in a]
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) == {"#"}
    links = {attributes["href"] for attributes in page.all("a")}
    addresses = set(re.findall(r'https?://[^"\s]*', text))
    assert {address.replace("&amp;", "&") for address in addresses} == links


def test_every_run_can_be_pointed_at_in_the_map_and_in_the_losses(page, runs):
    marked = [int(a["data-run"]) for a in page.all("use") if "data-run" in a]
    assert sorted(marked) == sorted([*range(len(runs)), *range(len(runs))])


def test_every_run_links_to_mlflow_once(page, runs):
    assert sorted(a["href"] for a in page.all("a")) == sorted(url(run.run_id) for run in runs)


def test_without_addresses_or_ids_there_are_no_links(answer, runs):
    assert not Page(render_page(answer, runs, "x")).all("a")
    nameless = [replace(run, run_id=None) for run in runs]
    assert not Page(render_page(answer, nameless, "x", url)).all("a")


def test_the_data_behind_the_marks_are_those_of_the_table(text, runs):
    data = json.loads(re.search(r'id="runs">(.*?)</script>', text)[1])
    assert [tuple(row) for row in data[:-1]] == [
        (r.batch, r.lr, r.seed, r.value, r.status, r.phase, r.steps) for r in runs[:-1]
    ]
    assert data[-1] == [64, 3.0, 1, None, "diverged", "confirm", None]


def test_ids_are_unique_and_references_lead_somewhere(page, text):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    assert {first or second for first, second in used} <= set(ids)


def test_names_from_outside_are_escaped(answer, runs):
    evil = [replace(runs[0], status="</script><b>", seed=None), *runs[1:]]
    said = (AnsweredQuestion("<i>?", "a & b", "</dd>"),)
    text = render_page(replace(answer, questions=said, objective='"<u>'), evil, "<title>")
    assert not {"b", "i", "u"} & {tag for tag, _ in Page(text).elements}
    assert "&lt;title&gt;" in text


def test_it_has_language_headings_and_labels(page, answer, runs):
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    charts = page.all("svg")
    assert len(charts) == len(list(draw_figures(answer, runs)))
    assert all(chart["aria-label"] and chart["role"] == "group" for chart in charts)
    regions = [a for a in page.all("div") if a.get("role") == "region"]
    assert regions
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in regions)


def test_numbers_in_words_keep_their_digits(answer, runs):
    said = re.search(r"margins of ([\d.]+)", render_page(replace(answer, margin=0.00123), runs))
    assert said[1] == "0.0012"


def test_the_figures_take_the_pages_colours(text):
    styles = re.findall(r' style="([^"]*)"', text)
    assert len(styles) > 100
    assert not [style for style in styles if re.search(r"(?<!, )#[0-9a-f]{6}\b", style)]


def test_laws_questions_and_other_verdicts_have_their_tables(answer, runs):
    sizes = [cell.batch for cell in answer.batches]
    law = Law("power", {"exponent": Estimate(0.5, 0.4, math.inf)}, 1.0, 0.95, 0.5, (0.1,) * len(sizes), "a note")
    judged = SensitivityCheck(
        "val/error", None, dict.fromkeys(sizes, "breaks"), None, None, 128, {"sqrt": dict.fromkeys(sizes, "holds")}
    )
    full = replace(
        answer,
        laws=(law,),
        selected_law="power",
        objectives=(judged,),
        questions=(AnsweredQuestion("Q", "A", "E"),),
    )
    words = " ".join(Page(render_page(full, runs)).words)
    for expected in ("exponent 0.5 (0.4 … ∞)", "a note", "power ✓", "val/error", "nowhere", "Questions"):
        assert expected in words
    nothing = replace(answer, laws=(), questions=(), objectives=())
    bare = " ".join(Page(render_page(nothing, runs)).words)
    assert "Questions" not in bare
    assert "Laws" not in bare


def test_a_figure_that_is_added_to_the_registry_stands_on_the_page(answer, runs, monkeypatch):
    monkeypatch.setitem(
        FIGURES, "extra", FigureEntry(lambda answer, runs: new_figure(2, 2), "New & heading", "Caption.")
    )
    page = Page(render_page(answer, runs))
    assert page.all("svg")[-1]["aria-label"] == "New & heading. Caption."
    assert "New & heading" in page.words


@pytest.mark.parametrize("count", [1, 3])
def test_a_study_too_small_to_estimate_anything_still_has_its_page(count):
    few = [Run(32, 0.1 * 2**i, 1.0 + i) for i in range(count)]
    page = Page(render_page(analyse(few), few))
    assert len([a for a in page.all("use") if "data-run" in a]) == 2 * count


@pytest.mark.long
def test_ten_thousand_runs_stay_below_six_megabytes():
    many = table(sizes=(32, 64, 128, 256), trials=2500)
    text = render_page(analyse(many), many, "many", url)
    assert len(text.encode()) < 6e6
    assert text.count("data-run=") == 2 * len(many)
