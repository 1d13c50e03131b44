"""A real MLflow server that goes away while runs write to it: nothing is lost or doubled, and training never waits."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from mlflow import MlflowClient

from pipeline.tracking.run import TrackedRun
from pipeline.tracking.spool.background import BackgroundUploader
from pipeline.tracking.spool.recovery import upload_unsent
from pipeline.tracking.spool.spool import list_spools
from pipeline.tracking.target import TrackingTarget
from tests import outputs
from tests.tracking.servers import Server

pytestmark = pytest.mark.long  # servers take ten seconds to start
EPOCHS = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(BackgroundUploader, "_failed_at", -float("inf"))
    monkeypatch.setattr("pipeline.tracking.spool.background.SEND_SECONDS", 0.2)


def log_epochs(run, first, last):
    for epoch in range(first, last + 1):
        run.log_metrics({"a": epoch / 2, "b": float("nan") if epoch == 3 else -epoch}, epoch)
        time.sleep(0.02)


def begin(server, name):
    run = TrackedRun(TrackingTarget(server.uri, "outages"), name, {"pipeline": "run", "name": name})
    run.log_params({f"p{i}": i for i in range(150)})
    run.log_text("text: 1\n", "config/config.yaml")
    return run


def send_later(run, server):
    """Send the run as `sync` does, once the run's own thread has released its spool."""
    deadline = time.monotonic() + 60
    # At once: the server may have hung while it stored an artifact, which is else tried again after a minute.
    while (sent := upload_unsent(run.spool.path.parent, server.uri, retry_now=True)).alive:
        assert time.monotonic() < deadline, "the run's own thread is still sending"
        time.sleep(0.2)
    assert (sent.failed, sent.partial) == ([], [])


def in_mlflow(server, name):
    """Read the one run of that name, and each metric's history."""
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("outages")
    found = client.search_runs([experiment.experiment_id], f"tags.name = '{name}'")
    assert len(found) == 1, f"{len(found)} runs called {name}"
    run = found[0]
    histories = {key: client.get_metric_history(run.info.run_id, key) for key in ("a", "b")}
    return client, run, histories


def is_whole(server, name, started, ended):
    client, run, histories = in_mlflow(server, name)
    assert len(run.data.params) == 150
    for key, history in histories.items():
        assert [m.step for m in sorted(history, key=lambda m: m.step)] == list(range(1, EPOCHS + 1)), key
    values = {m.step: m.value for m in histories["a"]}
    assert values == {epoch: epoch / 2 for epoch in range(1, EPOCHS + 1)}
    assert [m.step for m in histories["b"] if m.value != m.value] == [3]
    times = [m.timestamp / 1000 for m in sorted(histories["a"], key=lambda m: m.step)]
    assert times == sorted(times)
    assert started - 1 < times[0] <= times[-1] < ended + 1, "the times are those of the training"
    assert (run.info.status, run.data.tags["status"]) == ("FINISHED", "complete")
    assert [f.path for f in client.list_artifacts(run.info.run_id, "config")] == ["config/config.yaml"]


def log_through(server, name, outage, over=None):
    """Log a run; call `outage` after five epochs, and `over` after fifteen."""
    started = time.time()
    run = begin(server, name)
    with run:
        log_epochs(run, 1, 5)
        outage()
        slowest = time.monotonic()
        log_epochs(run, 6, 15)
        assert time.monotonic() - slowest < 2, "training waited for MLflow"
        if over is not None:
            over()
        log_epochs(run, 16, EPOCHS)
    return run, started, time.time()


def test_a_run_is_in_mlflow_when_it_ends_if_the_server_answers(server):
    run, started, ended = log_through(server, "plain", lambda: None)
    assert run.is_sent
    is_whole(server, "plain", started, ended)
    assert list_spools(run.target.spool) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_run_is_sent_later_if_the_server_is_down_at_its_end(server, number, caplog):
    name = f"gone-{number}"
    run, started, ended = log_through(server, name, lambda: server.stop(number))
    assert not run.is_sent
    assert caplog.text.count("can't be written") == 1
    assert len(list_spools(run.target.spool)) == 1
    server.start()
    sent = upload_unsent(run.target.spool, server.uri)
    assert (len(sent.runs), sent.closed, sent.failed) == (1, 0, [])
    is_whole(server, name, started, ended)
    assert list(run.target.spool.iterdir()) == []


def test_a_run_is_sent_while_it_trains_if_the_server_comes_back(server):
    def back():
        server.start()
        time.sleep(3)

    run, started, ended = log_through(server, "back", lambda: server.stop(signal.SIGKILL), back)
    assert run.is_sent
    is_whole(server, "back", started, ended)


def test_training_does_not_wait_for_a_server_that_hangs(server, caplog):
    before = time.monotonic()
    run, started, ended = log_through(server, "hung", lambda: server.send(signal.SIGSTOP))
    assert not run.is_sent
    assert time.monotonic() - before < 40
    server.send(signal.SIGCONT)
    time.sleep(1)  # now it handles the requests that it received before
    send_later(run, server)
    is_whole(server, "hung", started, ended)


class Ill(BaseHTTPRequestHandler):
    """Answers every request with error 500, like a server whose database is gone."""

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_PATCH = do_PUT = answer  # noqa: N815  (http.server's names)

    def log_message(self, *arguments):
        """Say nothing."""


@contextlib.contextmanager
def ill_server(port):
    with HTTPServer(("127.0.0.1", port), Ill) as ill:
        thread = threading.Thread(target=ill.serve_forever, args=(0.05,))
        thread.start()
        yield
        ill.shutdown()
        thread.join()


def test_a_run_is_sent_later_if_the_server_answers_every_request_with_error_500(server, caplog):
    server.stop()
    started = time.time()
    with ill_server(server.port):
        run = begin(server, "ill")
        with run:
            log_epochs(run, 1, EPOCHS)
        ended = time.time()
    assert not run.is_sent
    assert ended - started < 10
    assert caplog.text.count("can't be written") == 1
    assert "(too many 500 error responses)" in caplog.text
    server.start()
    send_later(run, server)
    is_whole(server, "ill", started, ended)


def test_a_run_is_sent_again_from_its_start_if_the_server_comes_back_with_another_database(tmp_path, caplog):
    server = Server(tmp_path / "server")
    server.start()
    started = time.time()
    try:
        run = begin(server, "forgotten")
        with run:
            log_epochs(run, 1, 10)
            old = run.id
            server.stop(signal.SIGKILL)
            for file in server.folder.glob("server.db*"):
                file.unlink()
            server.start()
            MlflowClient(server.uri).create_experiment("another that has the number")
            log_epochs(run, 11, EPOCHS)
        if not run.is_sent:
            send_later(run, server)
        is_whole(server, "forgotten", started, time.time())
        assert in_mlflow(server, "forgotten")[1].info.run_id != old
    finally:
        server.stop()


def test_the_next_run_sends_what_the_last_one_could_not_send(server):
    server.stop()
    first = begin(server, "first")
    with first:
        log_epochs(first, 1, EPOCHS)
    started = time.time()
    server.start()
    with begin(server, "second") as second:
        log_epochs(second, 1, EPOCHS)
        deadline = time.monotonic() + 30
        while len(list_spools(second.target.spool)) > 1 and time.monotonic() < deadline:
            time.sleep(0.1)
    is_whole(server, "first", started - 60, time.time())
    is_whole(server, "second", started, time.time())


def test_requests_whose_answers_are_lost_count_once(server, monkeypatch):
    """Every request reaches the server, and every other answer is lost."""
    calls = {"count": 0}

    def losing(method):
        def call(self, *args, **kwargs):
            answer = method(self, *args, **kwargs)
            calls["count"] += 1
            if calls["count"] % 2:
                raise ConnectionError("the answer was lost")
            return answer

        return call

    for name in ("create_run", "log_batch", "log_text", "set_terminated"):
        monkeypatch.setattr(MlflowClient, name, losing(getattr(MlflowClient, name)))
    monkeypatch.setattr("pipeline.tracking.spool.background.RETRY_SECONDS", 0.1)
    run, started, ended = log_through(server, "answers", lambda: time.sleep(2))
    monkeypatch.undo()
    assert calls["count"] >= 4
    if not run.is_sent:
        send_later(run, server)
    is_whole(server, "answers", started, ended)


def test_the_next_run_sends_all_records_of_a_killed_run_and_closes_it_as_lost(server, tmp_path):
    program = (
        "import sys, time\n"
        "from pipeline.tracking.target import TrackingTarget\n"
        "from pipeline.tracking.run import TrackedRun\n"
        "run = TrackedRun(TrackingTarget(sys.argv[1], 'outages'), 'killed', {'pipeline': 'run', 'name': 'killed'})\n"
        "assert run.id\n"
        "for epoch in range(1, 1000):\n"
        "    run.log_metrics({'a': epoch, 'b': epoch}, epoch); print(epoch, flush=True); time.sleep(0.01)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, server.uri], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) == 50:
            process.kill()
            break
    said = [int(line) for line in process.stdout]
    process.wait()
    process.stdout.close()
    with begin(server, "after") as run:
        log_epochs(run, 1, EPOCHS)
    upload_unsent(run.target.spool, server.uri)
    _, killed, histories = in_mlflow(server, "killed")
    assert (killed.info.status, killed.data.tags["status"]) == ("KILLED", "lost")
    steps = sorted(m.step for m in histories["a"])
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= max([50, *said])


def test_the_command_trains_to_the_end_without_a_server_and_sync_sends_the_run_later(server, run_python, tmp_path):
    server.stop()
    request = ("-m", "pipeline.train", "budget.epochs=2", f"tracking.uri={server.uri}")
    done = run_python(*request)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("can't be written") == 1
    assert "To send it later" in done.stdout
    away = run_python("-m", "pipeline.sync", "--tracking-uri", server.uri)
    assert away.returncode == 1
    assert "could not be sent" in away.stderr
    assert "Traceback" not in away.stderr
    server.start()
    done = run_python("-m", "pipeline.sync", "--tracking-uri", server.uri)
    assert done.returncode == 0, done.stderr
    assert "1 run(s) sent" in done.stdout
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("lr-batch")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["status"] == "complete"
    assert len(client.get_metric_history(run.info.run_id, "val/loss")) == 2
    assert {f.path for f in client.list_artifacts(run.info.run_id)} >= {"checkpoints", "config", "curves.png"}
    again = run_python("-m", "pipeline.sync", "--tracking-uri", server.uri)
    assert "nothing is waiting" in again.stdout


def test_a_sweep_trains_without_a_server_and_the_same_command_reports_when_the_server_is_back(
    server, run_python, tmp_path
):
    server.stop()
    request = ("-m", "pipeline.train", "-m", "batch=32,128", "seed=0,1", "hydra.sweeper.n_trials=8", "budget.epochs=2")
    request += (f"tracking.uri={server.uri}", "tracking.experiment=sweeps", "report.confirm.looks=[2]")
    done = run_python(*request)
    assert done.returncode == 0, done.stderr
    assert "16/16 trials" in done.stderr
    assert "The report has to wait" in done.stderr
    assert done.stderr.count("can't be written") == 1, done.stderr
    assert "can't be reached" not in done.stderr
    server.start()
    done = run_python(*request)
    assert done.returncode == 0, done.stderr
    assert "best LR" in done.stdout
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("sweeps")
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = [run for run in found if run.data.tags["pipeline"] == "sweep"]
    assert (parent.info.status, parent.data.tags["status"]) == ("FINISHED", "complete")
    trials = [run for run in found if run.data.tags["pipeline"] == "trial"]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert {run.info.status for run in trials} == {"FINISHED"}
    searched = [
        (run.data.tags["study"], run.data.tags["trial"]) for run in trials if run.data.tags["phase"] == "search"
    ]
    assert len(searched) == len(set(searched)) == 16
    assert any(run.data.tags["phase"] == "confirm" for run in trials)
    assert "report" in {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert list((tmp_path / "mlruns" / "spool").glob("*.jsonl")) == []


def test_a_run_is_reproduced_in_an_empty_folder_from_the_tracking_server_alone(server, run_python, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    where = (f"tracking.uri={server.uri}", "tracking.experiment=shared")
    done = run_python("-m", "pipeline.train", "budget.epochs=2", "seed=5", *where, folder=here)
    assert done.returncode == 0, done.stderr
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("shared")
    (original,) = client.search_runs([experiment.experiment_id])
    request = ("-m", "pipeline.reproduce", original.info.run_id, "--tracking-uri", server.uri)
    checked = run_python(*request, "--check", folder=there)
    assert checked.returncode == 0, checked.stderr
    assert list(there.iterdir()) == []
    again = run_python(*request, folder=there)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "equal bit for bit" in again.stdout
    tags = [run.data.tags for run in client.search_runs([experiment.experiment_id])]
    assert [tag["reproduces"] for tag in tags if "reproduces" in tag] == [original.info.run_id]


@contextlib.contextmanager
def small_disk(folder):
    """Mount a file system of 24 MiB at `folder`, and yield a function that fills it."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a disk that is full for real needs root; tests/tracking/spool/test_spool.py simulates one")

    def fill():
        with open(folder / "fill", "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    try:
        yield fill
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_loses_nothing_while_the_server_answers(server, tmp_path):
    with small_disk(tmp_path / "mlruns") as fill:
        started = time.time()
        with begin(server, "full disk") as run:
            log_epochs(run, 1, 5)
            fill()
            log_epochs(run, 6, EPOCHS)
        assert run.is_sent
        is_whole(server, "full disk", started, time.time())


def test_a_full_disk_under_database_and_spool_fails_the_run_and_keeps_what_was_written(run_python, tmp_path):
    with small_disk(tmp_path / "mlruns") as fill:
        process = outputs.CheckedPython("-m", "pipeline.train", "budget.epochs=60", folder=tmp_path)
        spool = tmp_path / "mlruns" / "spool"
        while not any('"metrics"' in path.read_text() for path in spool.glob("*.jsonl")):
            assert process.poll() is None
            time.sleep(0.02)
        fill()
        printed, said = process.communicate(timeout=200)
        assert process.returncode == 1
        assert "No space left on device" in said
        assert "Make room" in said
        assert "Traceback" not in said
        assert "epoch  60" in printed, "it trained to its end and said so"
        recorded = [json.loads(line) for path in spool.glob("*.jsonl") for line in path.read_text().splitlines()]
        recorded = [record["step"] for record in recorded if "metrics" in record]
        (tmp_path / "mlruns" / "fill").unlink()
        done = run_python("-m", "pipeline.sync")
        assert done.returncode == 0, done.stderr
        assert "1 run(s) sent" in done.stdout
        client = MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
        (run,) = client.search_runs([client.get_experiment_by_name("lr-batch").experiment_id])
        history = client.get_metric_history(run.info.run_id, "val/loss")
        assert sorted(metric.step for metric in history) == recorded
        assert recorded
