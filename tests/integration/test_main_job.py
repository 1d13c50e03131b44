"""The main job, whole: within its time, its memory, and with an answer that makes sense."""

import json
import re
import sys

import pytest

from pipeline.tracking.store import open_existing_store
from tests.integration.measure import measure


@pytest.mark.slow
def test_the_main_job_answers_in_three_minutes_and_two_gigabytes(tmp_path):
    done = measure([sys.executable, "-m", "pipeline.train", "experiment=linear_rule", "-m"], tmp_path)
    print(f"\nmain job: {done.seconds:.0f} s, peak memory {done.peak_pss / 1e9:.2f} GB (sum of PSS)\n{done.output}")
    assert done.returncode == 0
    store = open_existing_store(f"sqlite:///{tmp_path}/mlruns/mlflow.db", "lr-batch")
    runs = list(store.client.search_runs([store.experiment_id], "tags.pipeline = 'trial'", max_results=1000))
    searched = [run for run in runs if run.data.tags["phase"] == "search"]
    assert len(searched) == 7 * 24
    assert {run.data.params["seed"] for run in searched} == {str(seed) for seed in range(8)}
    # Fresh seeds, at each batch size but the base at least at the best LR and at one rule's.
    confirmed = [run for run in runs if run.data.tags["phase"] == "confirm"]
    assert {run.data.params["seed"] for run in confirmed} == {str(seed) for seed in range(1000, 1005)}
    assert len(confirmed) >= 5 * (1 + 6 * 2)
    assert all("noise_scale/trace" in run.data.metrics for run in runs if run.data.tags["status"] == "complete")
    (parent,) = store.client.search_runs([store.experiment_id], "tags.pipeline = 'sweep'")
    report = store.client.download_artifacts(parent.info.run_id, "report/report.json", str(tmp_path))
    with open(report) as file:
        answer = json.load(file)
    best = {cell["batch"]: cell["best_lr"] for cell in answer["batches"]}
    assert list(best) == [4, 8, 16, 32, 64, 128, 256]
    # The best LR grows with the batch over the small sizes …
    assert best[4] < best[16] < best[64]
    # … more slowly than linearly over the whole range, and faster than not at all …
    assert 0.5 < answer["exponent"]["value"] < 1.0
    # … and cells of fewer than 50 steps are flagged.
    assert [cell["batch"] for cell in answer["batches"] if cell["steps"] < 50] == [128, 256]
    assert re.search(r"(?m)^ *128 †", done.output)
    assert done.seconds < 180
    assert done.peak_pss < 2e9
