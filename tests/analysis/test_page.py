"""The figures and the page, at every size of study."""

import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from pipeline.analysis.answer import Terms, analyse
from pipeline.analysis.page import render_page
from pipeline.analysis.pictures import figures_of, save_all
from pipeline.analysis.steps_figure import perfect_up_to
from pipeline.analysis.table import Run
from tests.analysis.simulate import study


def table(sizes, **options):
    rng = np.random.default_rng(0)
    options = {"noise": 0.02, "wall": 1.0} | options
    return [run for size in sizes for run in study(size, 0.3 / (1 + 128 / size), rng, **options)]


SIZES = {
    "one": table([64]),
    "two": table([64, 256]),
    "seven": table([4, 8, 16, 32, 64, 128, 256]),
    "all failed": [Run(64, 0.1 * 2**i, float("nan"), 0, "diverged") for i in range(4)],
    "nothing to fit": [Run(b, 0.1, 1.0, 0) for b in (32, 64)],
    "zero and negative": [Run(b, 0.1 * 2**i, v, 0) for b in (32, 64) for i, v in enumerate((0.0, -1.0, 0.5, 0.4, 1.0))],
}


def shown_runs(page):
    """(points in the SVG, points the page knows) for each group of points."""
    known = json.loads(re.search(r'id="points">(.*?)</script>', page, re.S).group(1))
    drawn = {}
    for group in known:
        start = page.index(f'<g id="{group}"')
        body = page[start : page.index('<g id="', start + 10)]
        uses = body.count("<use ")
        drawn[group] = uses or body.count("<path ")
    return drawn, {group: len(runs) for group, runs in known.items()}


@pytest.mark.parametrize("size", SIZES)
def test_figures_and_page_are_made_at_every_size_of_study(tmp_path, size):
    runs = SIZES[size]
    answer = analyse(runs)
    figures = figures_of(answer, runs)
    for png in save_all(figures, tmp_path):
        assert png.stat().st_size > 3000
        ET.parse(png.with_suffix(".svg"))
    page = render_page(answer, runs, figures, "a <sweep> & more")
    assert "a &lt;sweep&gt; &amp; more" in page
    assert "nan" not in re.sub(r"<script.*?</script>|data:image[^\"]*", "", page, flags=re.S).lower().split()


def test_every_run_can_be_pointed_at_and_leads_to_its_mlflow_run():
    runs = [
        Run(r.batch, r.lr, r.value, r.seed, r.status, steps=r.steps, run_id=f"id{n}")
        for n, r in enumerate(SIZES["seven"])
    ]
    answer = analyse(runs)
    page = render_page(answer, runs, figures_of(answer, runs), run_url=lambda run_id: f"http://mlflow/{run_id}")
    drawn, known = shown_runs(page)
    assert drawn == known
    assert sum(known.values()) == len(runs)
    assert all(f"http://mlflow/id{n}" in page for n in range(len(runs)))


def test_the_page_loads_nothing_from_elsewhere():
    runs = SIZES["two"]
    answer = analyse(runs)
    page = render_page(answer, runs, figures_of(answer, runs))
    for attribute in ("src", "href", "xlink:href"):
        for target in re.findall(rf'\b{attribute}="([^"]*)"', page):
            assert target.startswith(("#", "data:")), target
    assert "@import" not in page
    assert "fetch(" not in page


def test_ids_are_unique_though_several_figures_share_the_page():
    runs = SIZES["seven"]
    answer = analyse(runs)
    ids = re.findall(r'\bid="([^"]+)"', render_page(answer, runs, figures_of(answer, runs)))
    assert len(ids) == len(set(ids))


def test_steps_to_a_target_get_their_own_figure_with_the_end_of_perfect_scaling():
    rng = np.random.default_rng(0)
    runs = [
        Run(r.batch, r.lr, r.value / 0.2 * (6400 / r.batch + (50 if r.batch > 64 else 0)), r.seed, steps=1000)
        for size in (16, 32, 64, 128, 256)
        for r in study(size, 0.1, rng, noise=0.01, seed_sd=0.01)
    ]
    answer = analyse(runs, Terms(objective="steps to target", budget="target"))
    assert "steps" in figures_of(answer, runs)
    assert perfect_up_to(answer) == 64
