"""The error bars are right as often as they say: a sample in every test run, the whole of it in `make test-long`."""

import csv
import gzip

import numpy as np
import pytest
from benchmarks import calibrate, pool, verdicts


def test_a_sample_of_scenarios_is_covered():
    scenarios = [
        calibrate.Scenario("symmetric", "equal", "grid", 3),
        calibrate.Scenario("steep right", "growing", "adaptive", 3),
        calibrate.Scenario("walled", "equal", "grid", 5),
    ]
    found = [calibrate.calibrate(scenario, 40) for scenario in scenarios]
    assert sum(covered for _, covered, _ in found) / sum(estimates for estimates, _, _ in found) >= 0.9
    assert all(estimates >= 25 for estimates, _, _ in found)


@pytest.mark.parametrize("law", ["linear", "sqrt"])
def test_a_sample_of_sweeps_is_judged_rightly(law):
    figures = verdicts.summarize(law, [verdicts.judge_one(law, 0.1, number) for number in range(2)])
    assert figures["sweeps with any false `breaks`"] == 0
    assert figures["`holds` where the true regret is below half a margin"] >= 0.7
    if law == "sqrt":
        assert figures["`holds` where it exceeds 1.5 margins"] == 0
        assert figures["`breaks` where it exceeds 2 margins"] >= 0.8


def write_pool(path, sizes, seeds=220):
    """Runs of a workload whose best LR saturates, with flat curves at small batches and failures at large LRs."""
    rng = np.random.default_rng(0)
    of_seed = rng.normal(0, 0.3, seeds)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["batch", "lr", "seed", "value", "status"])
        for size in sizes:
            best = np.log2(0.15) + np.log2(3 / (1 + 128 / size))
            for octave in np.arange(-9, 3, 0.5) + 0.25:
                away = octave - best
                log_loss = np.minimum(0.03 * np.sqrt(size / 64) * away**2, 2.5) + of_seed + rng.normal(0, 0.09, seeds)
                failed = rng.random(seeds) < 1 / (1 + np.exp(-4 * (away - 2.6)))
                for seed in range(seeds):
                    value = "" if failed[seed] else 0.16 * np.exp(log_loss[seed])
                    rows.writerow([size, 2.0**octave, seed, value, "diverged" if failed[seed] else "complete"])


def test_studies_from_a_pool_are_judged_by_what_is_true_of_the_whole_pool(tmp_path):
    write_pool(tmp_path / "pool.csv.gz", (16, 64, 1024))
    cells = pool.load(tmp_path / "pool.csv.gz")
    assert cells[64].values.shape == (24, 220)
    assert np.log2(cells[64].lrs[cells[64].best]) == pytest.approx(np.log2(0.15), abs=0.5)
    rows = pool.draw_study(cells, 64, 0.10, 0)["cells"]
    assert [batch for batch, *_ in rows] == [16, 1024]
    assert rows[0][1] < 1 < 2 < rows[1][1]
    assert rows[1][2] == "breaks"


@pytest.mark.long
@pytest.mark.alone
def test_studies_from_a_pool_have_few_false_verdicts(tmp_path, capsys):
    write_pool(tmp_path / "pool.csv.gz", (8, 16, 32, 64, 128, 256, 512, 1024))
    with capsys.disabled():
        figures = pool.main([str(tmp_path / "pool.csv.gz"), "--studies", "100"])
    assert figures["studies with any false `breaks`"] <= 0.05
    assert figures["`holds` where it exceeds 1.5 margins"] <= 0.05
    assert figures["`breaks` where it exceeds 2 margins"] >= 0.95
    assert figures["decided, of batch sizes beside the base"] >= 5.5


@pytest.mark.long
@pytest.mark.alone
def test_the_intervals_are_calibrated(capsys):
    with capsys.disabled():
        pooled, lowest = calibrate.main(["--studies", "500"])
    assert 0.93 <= pooled <= 0.98
    assert lowest >= 0.85


@pytest.mark.long
@pytest.mark.alone
def test_the_verdicts_and_the_laws_are_as_sure_as_they_say(capsys):
    with capsys.disabled():
        figures = verdicts.main(["--sweeps", "100"])
    for law, found in figures.items():
        assert found["sweeps with any false `breaks`"] <= 0.05, law
        assert found.get("`holds` where it exceeds 1.5 margins", 0.0) <= 0.05, law
        assert found.get("`breaks` where it exceeds 2 margins", 1.0) >= 0.95, law
        assert found["`holds` where the true regret is below half a margin"] >= 0.9, law
        for name, share in found.items():
            if name.endswith("interval covers"):
                assert share >= 0.93, (law, name, share)
