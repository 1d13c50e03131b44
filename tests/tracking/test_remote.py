"""A tracking server can't make MLflow read or write a folder of this machine that the user doesn't trust."""

import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils as mlflow_utils

from pipeline.errors import RequestError
from pipeline.tracking.logged import read_logged
from pipeline.tracking.remote import check_not_local, no_local_artifacts

RUN_ID = "0123456789abcdef" * 2


class Liar(ThreadingHTTPServer):
    """A tracking server with one run; each answer names the next of `says` as the place of the run's files."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.uri = f"http://127.0.0.1:{self.server_port}"
        self.says = deque(["mlflow-artifacts:/1/files"])
        self.experiment = "mlflow-artifacts:/1"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        path, server = urlsplit(self.path).path, self.server
        if path.endswith("/runs/get"):
            where = server.says[0]
            server.says.rotate(-1)
            info = {
                "run_id": RUN_ID,
                "run_uuid": RUN_ID,
                "experiment_id": "1",
                "status": "FINISHED",
                "artifact_uri": where,
            }
            answer = {"run": {"info": info, "data": {"tags": [{"key": "pipeline", "value": "run"}]}}}
        elif path.endswith("/experiments/get"):
            answer = {"experiment": {"experiment_id": "1", "name": "x", "artifact_location": server.experiment}}
        elif "/mlflow-artifacts/artifacts/1/files/config/config.yaml" in path:
            return self.reply(b"batch: 1\n")
        elif "/mlflow-artifacts/artifacts" in path:
            inside = parse_qs(urlsplit(self.path).query).get("path", [""])[0].endswith("config")
            answer = {"files": [{"path": "config.yaml", "is_dir": False, "file_size": 9}] if inside else []}
        else:
            answer = {}
        return self.reply(json.dumps(answer).encode())

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(b"{}")

    def reply(self, content):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Liar() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        mlflow_utils._artifact_repos_cache.clear()
        yield server
        server.shutdown()
        thread.join()
        mlflow_utils._artifact_repos_cache.clear()


@pytest.fixture
def mine(tmp_path):
    """A folder of the user, with a file that looks like a run's."""
    (tmp_path / "mine" / "config").mkdir(parents=True)
    (tmp_path / "mine" / "config" / "config.yaml").write_text("batch: 7\n")
    return tmp_path / "mine"


def test_a_run_of_a_server_that_keeps_its_own_files_is_read(server):
    assert read_logged(server.uri, RUN_ID).config == "batch: 1\n"


@pytest.mark.parametrize("form", ["{}", "file://{}", "file:{}", "FILE://{}", "{}/../mine", "{}%00", "file://{}%00"])
def test_a_folder_of_this_machine_is_not_read(server, mine, form):
    server.says = deque([form.format(mine)])
    with pytest.raises(RequestError, match="folder of your own machine"):
        read_logged(server.uri, RUN_ID)


def test_a_folder_named_in_the_servers_second_answer_is_not_read_either(server, mine):
    server.says = deque(["mlflow-artifacts:/1/files", str(mine)])
    with pytest.raises(RequestError, match="folder of your own machine"):
        read_logged(server.uri, RUN_ID)


def test_a_run_whose_repetition_would_write_to_a_folder_of_this_machine_is_not_read(server, mine):
    server.experiment = f"file://{mine}"
    with pytest.raises(RequestError, match=rf"(?s)folder of your own machine.*--trust {mine}"):
        read_logged(server.uri, RUN_ID)


def test_only_folders_below_a_trusted_one_are_read(server, mine):
    server.says, server.experiment = deque([f"file://{mine}"]), str(mine)
    assert read_logged(server.uri, RUN_ID, ["mine.Net", str(mine.parent)]).config == "batch: 7\n"
    for others in (["mine"], [f"{mine}x"], ["."], [str(mine / "config")]):
        mlflow_utils._artifact_repos_cache.clear()
        with pytest.raises(RequestError, match="folder of your own machine"):
            read_logged(server.uri, RUN_ID, others)


def test_inside_the_block_nothing_is_written_to_a_folder_that_is_not_trusted(server, tmp_path):
    server.says = deque([f"file://{tmp_path}/new"])
    client = MlflowClient(tracking_uri=server.uri)
    with no_local_artifacts(server.uri, ()), pytest.raises(RequestError, match="folder of your own machine"):
        client.log_text(RUN_ID, "text", "config/config.yaml")
    assert list(tmp_path.iterdir()) == []
    with no_local_artifacts(server.uri, [str(tmp_path)]):
        client.log_text(RUN_ID, "text", "a.txt")
    client.log_text(RUN_ID, "text", "b.txt")  # after the block, all folders are allowed again
    assert sorted(file.name for file in tmp_path.rglob("*.txt")) == ["a.txt", "b.txt"]


def test_a_database_on_this_machine_may_name_its_folders(tmp_path):
    with no_local_artifacts(f"sqlite:///{tmp_path}/mlflow.db", ()):
        client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
        experiment = client.create_experiment("x", artifact_location=str(tmp_path / "artifacts"))
        client.log_text(client.create_run(experiment).info.run_id, "text", "a.txt")
    assert len(list(tmp_path.rglob("a.txt"))) == 1


@pytest.mark.parametrize(
    "uri", ["mlflow-artifacts:/1", "s3://bucket/x", "https://h/x", "gs://b", "hdfs://h/x", "dbfs:/x"]
)
def test_an_address_on_another_machine_is_accepted(uri):
    check_not_local(uri, ())


@pytest.mark.parametrize("uri", ["", "x", "/", "file:", " file:///x", "C:\\x", "file://[", "./s3://x"])
def test_what_can_not_be_parsed_as_an_address_counts_as_a_folder(uri):
    with pytest.raises(RequestError, match="folder of your own machine"):
        check_not_local(uri, ())
