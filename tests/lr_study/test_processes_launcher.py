"""Worker processes: what they keep between jobs, and what they don't. Hydra's own suite is in test_hydra_suites.py."""

from pathlib import Path

from lr_study import worker_processes

APP = """
import os
import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf


@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    OmegaConf.register_new_resolver("once", lambda: 1)  # refuses to be registered twice
    with open("jobs.log", "a") as log:
        log.write(f"{os.getpid()} {id(Plugins.instance())} {HydraConfig.get().job.num} {cfg.x}\\n")
    return cfg.x


if __name__ == "__main__":
    main()
"""


def run(run_python, tmp_path: Path, *overrides: str) -> list[list[str]]:
    (tmp_path / "own.py").write_text(APP)
    done = run_python("own.py", "-m", "hydra/launcher=processes", *overrides)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in (tmp_path / "jobs.log").read_text().splitlines()]


def test_workers_keep_hydras_plugins_between_jobs_but_not_what_a_job_registers(run_python, tmp_path):
    jobs = run(run_python, tmp_path, "hydra.launcher.n_jobs=2", "+x=range(8)")
    assert sorted((int(number), int(x)) for _, _, number, x in jobs) == [(i, i) for i in range(8)]
    processes = {process for process, *_ in jobs}
    assert len(processes) <= 2
    assert len({(process, plugins) for process, plugins, *_ in jobs}) == len(processes)


def test_a_worker_unpacks_a_launch_once(monkeypatch):
    unpacked = []
    monkeypatch.setattr(worker_processes, "_last", None)
    monkeypatch.setattr(
        worker_processes.Singleton, "set_state", lambda state: None
    )  # this process's stays for other tests
    monkeypatch.setattr(
        worker_processes.Launch, "run", lambda self, number, overrides: (self.config, number, list(overrides))
    )
    load = worker_processes.pickle.loads
    monkeypatch.setattr(worker_processes.pickle, "loads", lambda data: unpacked.append(data) or load(data))
    first, second = (worker_processes.pack(worker_processes.Launch(None, config, None)) for config in ("one", "two"))
    returned = [
        worker_processes.run_packed(packed, n, ["x=1"]) for n, packed in enumerate((first, first, second, first))
    ]
    assert returned == [("one", 0, ["x=1"]), ("one", 1, ["x=1"]), ("two", 2, ["x=1"]), ("one", 3, ["x=1"])]
    assert [data for data in unpacked if data in (first[0], second[0])] == [first[0], second[0], first[0]]
