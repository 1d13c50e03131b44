"""Ten thousand trials: none is lost, and time and memory for each don't grow."""

import itertools
import resource
import statistics
import sys
import time

import optuna
import pytest
from optuna.trial import TrialState

from lr_study import Hooks
from lr_study.storage import open_storage
from tests.integration.measure import measure
from tests.lr_study import stub
from tests.lr_study.inprocess import multirun
from tests.lr_study.test_parallel import task
from tests.lr_study.test_sweeper import APP, TWO_PROCESSES

pytestmark = [pytest.mark.long, pytest.mark.alone]
SEARCH = ("x=tag(log,interval(0.125,8.0))", "seed=0,1", "hydra/sweeper/sampler=random")


class Watching(Hooks):
    """Records this process's processor time and memory after each wave."""

    seen: list[tuple[int, float, int]]

    def started(self, sweep):
        Watching.seen = [(0, time.process_time(), resident())]
        return {}

    def wave_done(self, progress):
        self.seen.append((progress.finished, time.process_time(), resident()))


def resident():
    """Memory that this process holds now, in bytes."""
    with open("/proc/self/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def rates():
    """(ms, kB) of a trial in each quarter of the sweep."""
    seen = Watching.seen
    total = seen[-1][0]
    marks = [min(seen, key=lambda row, share=share: abs(row[0] - share * total)) for share in (0, 0.25, 0.5, 0.75, 1)]
    return [
        (1e3 * (b[1] - a[1]) / (b[0] - a[0]), (b[2] - a[2]) / 1e3 / (b[0] - a[0])) for a, b in itertools.pairwise(marks)
    ]


@pytest.mark.parametrize(("studies", "trials"), [(1, 10_000), (1_000, 10)])
def test_ten_thousand_trials_end_at_a_steady_cost(tmp_path, studies, trials):
    stub.register()
    cells = (f"size=range(1,{studies + 1})",) if studies > 1 else ()
    hooks = "hydra.sweeper.hooks={_target_:tests.lr_study.test_scale.Watching}"
    options = ("hydra/launcher=stub", "hydra.sweeper.workers=8", f"hydra.sweeper.n_trials={trials}", hooks)
    multirun(tmp_path, *SEARCH, *cells, *options, task=task)
    each = rates()
    print(f"\n{studies} × {trials} trials, by quarter:", ", ".join(f"{ms:.1f} ms {kb:.1f} kB" for ms, kb in each))
    open_storage.cache_clear()
    summaries = open_storage(str(tmp_path / "out" / "optuna.journal"))
    counted = [t for s in summaries.get_all_studies() for t in summaries.get_all_trials(s._study_id, deepcopy=False)]
    assert len(counted) == 10_000
    assert {t.state for t in counted} == {TrialState.COMPLETE}
    times, memory = zip(*each, strict=True)
    assert times[3] < 2 * times[1] + 1
    assert max(memory) < 100


def test_a_thousand_real_jobs_end_in_flat_memory(tmp_path):
    search = (*SEARCH, "hydra.sweeper.replicate_key=seed", "hydra.sweep.dir=out", "hydra.sweep.subdir=.")
    command = [
        sys.executable,
        APP,
        "-m",
        *search,
        "hydra.sweeper.n_trials=1000",
        "hydra.output_subdir=null",
        *TWO_PROCESSES,
    ]
    done = measure(command, tmp_path)
    assert done.returncode == 0, done.output[-2000:]
    study = optuna.load_study(study_name="app", storage=open_storage(str(tmp_path / "out" / "optuna.journal")))
    ends = sorted(t.datetime_complete for t in study.trials)
    assert len(ends) == 1000
    # Two waves at a time; the median, since the machine may be busy now and then.
    gaps = [(after - before).total_seconds() / 8 for before, after in itertools.pairwise(ends[::8])]
    quarters = [statistics.median(gaps[i : i + 31]) for i in (0, 31, 62, 93)]
    print(
        f"\n1000 real jobs: {done.seconds:.0f} s, peak {done.peak_pss / 1e6:.0f} MB;",
        "ms a trial by quarter:",
        [round(1e3 * q) for q in quarters],
    )
    assert quarters[3] < 1.5 * quarters[1]
    assert done.peak_pss < 1e9
