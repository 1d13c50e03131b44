"""The error bars are right as often as they say: a sample in every test run, the whole of it in `make test-long`."""

import pytest
from benchmarks import calibrate, verdicts


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


@pytest.mark.long
def test_the_intervals_are_calibrated(capsys):
    with capsys.disabled():
        pooled, lowest = calibrate.main(["--studies", "500"])
    assert 0.93 <= pooled <= 0.98
    assert lowest >= 0.85


@pytest.mark.long
def test_the_verdicts_and_the_laws_are_as_sure_as_they_say(capsys):
    with capsys.disabled():
        figures = verdicts.main(["--sweeps", "200"])
    for law, found in figures.items():
        assert found["sweeps with any false `breaks`"] <= 0.05, law
        assert found.get("`holds` where it exceeds 1.5 margins", 0.0) <= 0.05, law
        assert found.get("`breaks` where it exceeds 2 margins", 1.0) >= 0.95, law
        assert found["`holds` where the true regret is below half a margin"] >= 0.9, law
        for name, share in found.items():
            if name.endswith("interval covers"):
                assert share >= 0.93, (law, name, share)
