"""Samplers, pruners, objectives, intervals and further trials, in sweeps of the test app."""

import math
import warnings

import numpy as np
import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage
from optuna.trial import TrialState

from lr_study import FixedTrial, Hooks, Progress, current_trial, storage
from tests.lr_study.inprocess import multirun, parabola, reporting, table, trials_of

SEARCH = ("x=tag(log,interval(0.125,8.0))", "seed=0,1,2")


@pytest.mark.parametrize("sampler", ["grid", "qmc", "random", "tpe", "gp", "cmaes"])
def test_every_ready_sampler_searches_any_number_of_dimensions(tmp_path, sampler):
    search = (*SEARCH, "size=int(interval(1,9))", f"hydra/sweeper/sampler={sampler}", "hydra.sweeper.n_trials=9")
    multirun(tmp_path, *search)
    trials = trials_of(tmp_path)
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 9
    assert all(isinstance(t.params["size"], int) and 1 <= t.params["size"] <= 9 for t in trials)
    assert all(0.125 <= t.params["x"] <= 8 for t in trials)
    assert len({(t.params["x"], t.params["size"]) for t in trials}) >= 3


@pytest.mark.parametrize(
    "target",
    ["optuna.samplers.NSGAIISampler", "optuna.samplers.BruteForceSampler", "optuna.samplers.NSGAIIISampler"],
)
def test_any_sampler_of_optuna_can_be_chosen_by_its_class(tmp_path, target):
    named = ("hydra/sweeper/sampler=random", f"hydra.sweeper.sampler._target_={target}")
    multirun(tmp_path, "size=int(interval(1,4))", "x=2.0", "hydra.sweeper.n_trials=6", *named)
    assert len(table(tmp_path)) == 6


def test_the_grid_takes_each_point_with_every_replicate(tmp_path):
    search = (*SEARCH, "hydra/sweeper/sampler=grid", "hydra.sweeper.sampler.points=3", "hydra.sweeper.n_trials=12")
    multirun(tmp_path, *search)
    points = [(t.params["x"], t.user_attrs["replicate"]) for t in trials_of(tmp_path)]
    lows = [0.125, 1.0, 8.0]
    # The first trial takes the configured value instead of the first point.
    assert points[0] == (1.0, "0")
    assert points[1:9] == [(pytest.approx(x), str(seed)) for x in lows for seed in range(3)][1:]


def test_a_model_based_sampler_finds_the_optimum_that_random_search_misses(tmp_path):
    best = {}
    for sampler in ("tpe", "random"):
        folder = tmp_path / sampler
        multirun(folder, *SEARCH, f"hydra/sweeper/sampler={sampler}", "hydra.sweeper.n_trials=24", "size=3")
        late = [t for t in trials_of(folder) if t.number >= 12]
        best[sampler] = sum(abs(math.log2(t.params["x"] / 3)) for t in late) / len(late)
    assert best["tpe"] < 0.7 * best["random"]


@pytest.mark.parametrize("pruner", ["none", "median", "hyperband", "successive_halving"])
def test_every_ready_pruner_works_from_the_trials_own_process(tmp_path, pruner):
    search = (*SEARCH, f"hydra/sweeper/pruner={pruner}", "hydra.sweeper.n_trials=24", "hydra/sweeper/sampler=random")
    multirun(tmp_path, *search, task=reporting)
    trials = trials_of(tmp_path)
    states = {t.state for t in trials}
    assert states == ({TrialState.COMPLETE} if pruner == "none" else {TrialState.COMPLETE, TrialState.PRUNED})
    assert all(t.intermediate_values for t in trials)
    for trial in trials:
        whole = len(trial.intermediate_values) == 5
        assert whole or trial.state is TrialState.PRUNED


def test_optunas_own_pruning_exception_counts_as_well(tmp_path):
    def task(cfg):
        if cfg.seed == 1:
            raise optuna.TrialPruned
        return parabola(cfg)

    multirun(tmp_path, *SEARCH, "hydra.sweeper.n_trials=6", task=task)
    assert [t.state for t in trials_of(tmp_path)] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE] * 2


def test_several_objectives_are_searched_together(tmp_path):
    def task(cfg):
        return parabola(cfg), cfg.x

    search = (*SEARCH, "hydra.sweeper.direction=[minimize,maximize]", "hydra.sweeper.n_trials=12")
    multirun(tmp_path, *search, task=task)
    trials = trials_of(tmp_path)
    assert all(
        t.values
        == [pytest.approx(math.log2(t.params["x"]) ** 2 + 0.1 * int(t.user_attrs["replicate"]) + 1), t.params["x"]]
        for t in trials
    )


@pytest.mark.parametrize("returned", [None, "text", (1.0, 2.0), float("nan")])
def test_a_trial_that_returns_no_number_fails_with_the_reason(tmp_path, returned):
    def task(cfg):
        return returned if cfg.seed == 1 else parabola(cfg)

    multirun(tmp_path, *SEARCH, "hydra.sweeper.n_trials=6", task=task)
    failed = [t for t in trials_of(tmp_path) if t.state is TrialState.FAIL]
    assert [t.number for t in failed] == [1, 4]
    assert all("NaN" in t.user_attrs["error"] or "not 1 number" in t.user_attrs["error"] for t in failed)


def test_the_trials_of_a_wave_get_different_points_although_none_has_a_result(tmp_path):
    multirun(tmp_path, "x=tag(log,interval(0.125,8.0))", "hydra.sweeper.n_trials=24", "hydra.sweeper.workers=6")
    trials = trials_of(tmp_path)
    assert {tuple(t.user_attrs["wave"]) for t in trials} == {(0, 12, 0, 12), (1, 12, 12, 24)}
    assert len({t.params["x"] for t in trials}) == 24


def test_an_optimum_at_the_end_of_an_interval_widens_it_up_to_three_times_and_logs_it(tmp_path, capsys):
    search = ("x=tag(log,interval(1.0,2.0))", "size=100", "hydra.sweeper.n_trials=40", "hydra.sweeper.widenings=3")
    multirun(tmp_path, *search)
    said = [line for line in capsys.readouterr().out.splitlines() if "end of its interval" in line]
    assert len(said) == 3
    assert "now 1 to 128" in said[-1]
    trials = trials_of(tmp_path)
    assert max(t.params["x"] for t in trials) > 32
    # The distribution in Optuna's storage is wide from the start.
    assert {str(t.distributions["x"]) for t in trials} == {
        "FloatDistribution(high=128.0, log=True, low=0.015625, step=None)"
    }


def test_an_interval_is_not_widened_where_the_optimum_lies_inside(tmp_path):
    multirun(tmp_path, *SEARCH, "hydra.sweeper.n_trials=24", "hydra.sweeper.widenings=3")
    assert all(0.125 <= t.params["x"] <= 8 for t in trials_of(tmp_path))


class Confirming(Hooks):
    """Asks for two points with fresh replicates once the search is done."""

    calls: list[str]

    def __init__(self):
        Confirming.calls = []

    def started(self, sweep):
        self.calls.append("started")
        return {}

    def wave_done(self, progress: Progress):
        self.calls.append("wave")

    def further_trials(self, sweep):
        assert self.calls[-1] == "wave" or self.calls == ["started"]
        return [
            FixedTrial(cell.name, {"x": x}, replicate=str(seed))
            for cell in sweep.cells
            for x in (1.5, 20.0)
            for seed in (7, 8)
        ]

    def ended(self, outcome):
        self.calls.append(outcome.status)


def test_further_trials_follow_the_search_and_are_run_once(tmp_path):
    phases = []

    def task(cfg):
        phases.append((current_trial().phase, cfg.seed))
        return parabola(cfg)

    search = (*SEARCH, "size=1,2", "hydra.sweeper.n_trials=4")
    hooks = "hydra.sweeper.hooks={_target_:tests.lr_study.test_search.Confirming}"
    multirun(tmp_path, *search, hooks, task=task)
    assert [phase for phase, _ in phases] == ["search"] * 8 + ["confirm"] * 8
    assert {seed for phase, seed in phases if phase == "confirm"} == {7, 8}
    for size in (1, 2):
        confirmed = [t for t in trials_of(tmp_path, f"app/size={size}") if t.user_attrs["phase"] == "confirm"]
        assert sorted(t.params["x"] for t in confirmed) == [1.5, 1.5, 20.0, 20.0]
    multirun(tmp_path, *search, hooks, task=task)
    assert len(phases) == 16
    multirun(tmp_path, *search, hooks, "hydra.sweeper.n_trials=5", task=task)
    assert len(phases) == 18
    assert Confirming.calls[-1] == "complete"


def test_config_groups_make_cells_also_by_globs(tmp_path):
    multirun(tmp_path / "glob", "method=glob(*)", "size=range(1,3)", "x=interval(0.5,2.0)", "hydra.sweeper.n_trials=2")
    open_studies = [
        trials_of(tmp_path / "glob", f"app/method={method},size={size}")
        for method in ("adam", "sgd")
        for size in (1, 2)
    ]
    assert [len(trials) for trials in open_studies] == [2, 2, 2, 2]


def test_the_search_space_is_resolved_inside_each_cell(tmp_path):
    params = "+hydra.sweeper.params.x='tag(log,interval(${size},${twice:}))'"
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("twice", lambda _root_: 2 * _root_.size, replace=True)
    multirun(tmp_path, "size=1,10", params, "hydra.sweeper.n_trials=4")
    assert all(1 <= t.params["x"] <= 2 for t in trials_of(tmp_path, "app/size=1"))
    assert all(10 <= t.params["x"] <= 20 for t in trials_of(tmp_path, "app/size=10"))


def test_a_sweep_stops_at_once_when_all_trials_fail_with_one_error_and_later_by_the_share_of_failures(tmp_path):
    from lr_study import SweepFailedError

    def task(cfg):
        raise RuntimeError("nothing works")

    with pytest.raises(SweepFailedError, match="nothing works"):
        multirun(tmp_path / "alike", *SEARCH, task=task)
    assert len(trials_of(tmp_path / "alike")) == 2
    # With the cause fixed, the same command resumes the sweep.
    multirun(tmp_path / "alike", *SEARCH, "hydra.sweeper.n_trials=8")
    states = [t.state for t in trials_of(tmp_path / "alike")]
    assert states == [TrialState.FAIL] * 2 + [TrialState.COMPLETE] * 6

    def often(cfg):
        if cfg.x > 0.5:
            raise RuntimeError(f"too large: {cfg.x}")
        return parabola(cfg)

    search = (
        *SEARCH,
        "hydra/sweeper/sampler=random",
        "hydra.sweeper.n_trials=50",
        "hydra.sweeper.max_failure_rate=0.3",
    )
    with pytest.raises(SweepFailedError, match="too large"):
        multirun(tmp_path / "often", *search, task=often)
    assert 10 <= len(trials_of(tmp_path / "often")) < 20


@pytest.mark.parametrize("refusals", [1, 10**6])
def test_a_result_that_the_storage_refuses_is_written_again_and_given_up_after_some_tries(
    tmp_path, monkeypatch, refusals
):
    monkeypatch.setattr(storage, "_PAUSE", 0.0)
    write, refused = JournalStorage.set_trial_state_values, []

    def refuse(storage, trial_id, state, values=None):
        if state is TrialState.COMPLETE and len(refused) < refusals:
            refused.append(trial_id)
            raise StorageInternalError("the connection was lost")
        return write(storage, trial_id, state, values)

    monkeypatch.setattr(JournalStorage, "set_trial_state_values", refuse)
    options = ("x=interval(0.25,4.0)", "hydra.sweeper.n_trials=3", "hydra.sweeper.max_failure_rate=1.0")
    multirun(tmp_path, *options)
    trials = trials_of(tmp_path)
    if refusals == 1:
        assert [t.state for t in trials] == [TrialState.COMPLETE] * 3
    else:
        assert [t.state for t in trials] == [TrialState.FAIL] * 3
        assert {t.user_attrs["error"] for t in trials} == {"its process ended without a result"}


def test_optunas_own_plots_read_the_storage(tmp_path):
    multirun(tmp_path, *SEARCH, "hydra/sweeper/pruner=median", "hydra.sweeper.n_trials=12", task=reporting)
    from lr_study.storage import open_storage

    study = optuna.load_study(study_name="app", storage=open_storage(str(tmp_path / "out" / "optuna.journal")))
    assert study.best_trial.value == min(t.value for t in study.trials if t.state is TrialState.COMPLETE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for draw in (
            "plot_optimization_history",
            "plot_slice",
            "plot_intermediate_values",
            "plot_timeline",
            "plot_edf",
        ):
            assert np.ravel(getattr(optuna.visualization.matplotlib, draw)(study))[0].has_data()


class NeedsMissingPackage(optuna.samplers.RandomSampler):
    """Imports its package when it first proposes, as Optuna's CMA-ES does."""

    def sample_independent(self, study, trial, param_name, param_distribution):
        raise ModuleNotFoundError("No module named 'nowhere'", name="nowhere")


def test_a_sampler_that_needs_a_missing_package_is_refused_before_anything_starts(tmp_path):
    from lr_study.errors import SweepRequestError

    named = "hydra.sweeper.sampler._target_=tests.lr_study.test_search.NeedsMissingPackage"
    with pytest.raises(SweepRequestError, match=r"not installed \(nowhere\)"):
        multirun(tmp_path, *SEARCH, "hydra/sweeper/sampler=random", named)
    assert list(tmp_path.iterdir()) == []
