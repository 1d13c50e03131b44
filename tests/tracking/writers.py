"""Eight processes, started at once without a store, that each track fifty runs of a hundred metrics."""

import subprocess
import sys

from pipeline.tracking.spool.recovery import upload_unsent
from pipeline.tracking.store import open_existing_store

PROCESSES, RUNS, METRICS = 8, 50, 100
PROGRAM = f"""
import sys
from pipeline.tracking.target import TrackingTarget
from pipeline.tracking.run import TrackedRun
target, writer = TrackingTarget(sys.argv[1], "many"), sys.argv[2]
for number in range({RUNS}):
    with TrackedRun(target, "run", {{"writer": writer, "number": str(number)}}) as run:
        run.log_params({{"writer": writer, "number": number}})
        for step in range({METRICS} // 4):
            run.log_metrics({{name: int(writer) * 1000 + step for name in "abcd"}}, step)
"""


def write_and_count(uri, folder):
    """Run the processes, then count all that is in the store."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, uri, str(writer)], cwd=folder, stderr=subprocess.PIPE, text=True
        )
        for writer in range(PROCESSES)
    ]
    said = [process.communicate(timeout=900)[1] for process in writers]
    assert [process.returncode for process in writers] == [0] * PROCESSES, said
    # On a slow disk a writer stops waiting for the others, and leaves its spool to be sent here.
    sent = upload_unsent(folder / "mlruns" / "spool", uri)
    assert (sent.failed, sent.alive, sent.closed) == ([], 0, 0)
    print(f"\n{len(sent.runs)} of {PROCESSES * RUNS} runs were sent late")
    assert not list(folder.glob("**/spool/*.jsonl"))
    store = open_existing_store(uri, "many")
    found = list(store.client.search_runs([store.experiment_id], max_results=1000))
    assert len(found) == PROCESSES * RUNS
    assert {run.info.status for run in found} == {"FINISHED"}
    keys = {(run.data.params["writer"], run.data.params["number"]) for run in found}
    assert len(keys) == PROCESSES * RUNS
    for run in found:
        writer = int(run.data.params["writer"])
        for name in "abcd":
            history = store.client.get_metric_history(run.info.run_id, name)
            values = [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)]
            assert values == [(step, writer * 1000 + step) for step in range(METRICS // 4)]
