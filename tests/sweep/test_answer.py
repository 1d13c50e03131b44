"""A sweep's runs as they are analysed: each workload by itself."""

from pipeline.analysis.runs import Run
from pipeline.sweep.answer import runs_by_workload


def test_a_run_is_stalled_by_what_its_own_workload_learned(monkeypatch):
    def run(optimizer, lr, train_loss, guess):
        params[f"{optimizer}{lr}"] = {"dataset.guess_loss": str(guess)}
        other = {"optimizer": optimizer}
        return Run(64, lr, train_loss, 0, train_loss=train_loss, run_id=f"{optimizer}{lr}", other=other)

    params = {}
    runs = [run("adamw", 0.001, 0.2, 2.3), run("adamw", 1.0, 2.3, 2.3), run("sgd", 0.003, 2.29, 2.3)]
    monkeypatch.setattr("pipeline.sweep.answer.read_runs", lambda store, sweep: (runs, params))
    found = runs_by_workload(None, "sweep")
    assert {name: [r.status for r in marked] for name, (marked, _) in found.items()} == {
        "optimizer=adamw": ["complete", "stalled"],
        "optimizer=sgd": ["complete"],
    }


def test_runs_that_failed_before_their_data_set_was_there_stand_beside_the_others(monkeypatch):
    failed, complete = Run(64, 0.1, float("nan"), 0, "failed", run_id="a"), Run(64, 0.1, 0.2, 1, run_id="b")
    params = {"a": {"batch": "64"}, "b": {"batch": "64", "dataset.guess_loss": "2.3"}}
    for runs, expected in (([failed, complete], params["b"]), ([failed], params["a"])):
        monkeypatch.setattr("pipeline.sweep.answer.read_runs", lambda store, sweep, runs=runs: (runs, params))
        ((found, first),) = runs_by_workload(None, "sweep").values()
        assert (found, first) == (runs, expected)
