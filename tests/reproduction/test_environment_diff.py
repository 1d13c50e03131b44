"""What is different now from what a run rested on, and whether other last digits are to be expected for it."""

import importlib
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline.config.schema import Runtime
from pipeline.errors import RequestError
from pipeline.reproduction.environment_diff import _diff_packages, diff_data, diff_environment
from pipeline.tracking.logged import LoggedRun

HERE = {
    "platform": "Linux-6.1.0-44-amd64-x86_64-with-glibc2.36",
    "processor": "x86_64",
    "cpu": "AMD EPYC 7543",
    "cpus": 2,
    "memory_gib": 8,
    "python": "3.11.7",
}
PACKAGES = "torch==2.9\n"
RUN = LoggedRun(
    *("0" * 32, "lr-batch", "complete", "", {}, {"mlflow.source.git.commit": "abc", "config_digest": "1"}, {}),
    *(("digits", "0" * 32), PACKAGES, json.dumps(HERE), ""),
)
CPU = SimpleNamespace(runtime=Runtime(device="cpu"))
GPU = SimpleNamespace(runtime=Runtime(device="cuda"))


@pytest.fixture(autouse=True)
def target(monkeypatch):
    """This machine, and a repository without changes."""
    monkeypatch.setattr("pipeline.tracking.environment.machine", lambda: dict(HERE))
    monkeypatch.setattr("pipeline.tracking.environment.installed_packages", lambda: PACKAGES)
    monkeypatch.setattr("pipeline.tracking.git.git_state", lambda: ("abc", ""))
    monkeypatch.setattr("pipeline.reproduction.environment_diff._device_here", lambda name: "NVIDIA A100")


def changes(config=CPU, machine=None, **fields):
    run = replace(RUN, **({} if machine is None else {"machine": json.dumps(HERE | machine)}) | fields)
    return {change.subject: change for change in diff_environment(run, config)}


def test_where_nothing_is_different_it_says_so_and_forgives_nothing():
    found = changes()
    assert [(c.subject, c.description) for c in found.values()] == [
        *(("config", "as logged"), ("code", "the same"), ("packages", "the same"), ("machine", "the same"))
    ]
    assert not any(change.changes_rounding for change in found.values())


@pytest.mark.parametrize(
    "machine",
    [
        {"cpu": "Intel Xeon 8370C"},
        {"python": "3.11.8"},
        {"processor": "aarch64"},
        {"platform": "Linux-6.1.0-44-amd64-x86_64-with-glibc2.41"},
        {"platform": "macOS-14.1-arm64-arm-64bit"},
    ],
)
def test_another_model_or_version_rounds_differently(machine):
    found = changes(machine=machine)["machine"]
    assert found.changes_rounding
    assert "→" in found.description


@pytest.mark.parametrize(
    "machine", [{"platform": "Linux-6.1.0-99-cloud-amd64-x86_64-with-glibc2.36"}, {"cpus": 64}, {"memory_gib": 512}]
)
def test_the_patch_level_of_the_kernel_is_said_and_forgives_nothing(machine):
    found = changes(machine=machine)["machine"]
    assert not found.changes_rounding
    assert found.description.startswith("the same kind (")
    assert "→" in found.description


def test_a_machine_that_was_logged_without_its_model_is_not_known_to_be_the_same():
    old = {key: value for key, value in HERE.items() if key != "cpu"}
    found = {c.subject: c for c in diff_environment(replace(RUN, machine=json.dumps(old)), CPU)}["machine"]
    assert found.changes_rounding
    assert "cpu unknown → AMD EPYC 7543" in found.description
    assert {c.subject: c for c in diff_environment(replace(RUN, machine=""), CPU)}["machine"].changes_rounding


def test_a_trials_own_device_counts_and_not_its_sweeps_drivers():
    driver, trial = {"cpu": "Intel of the login node"}, RUN.tags | {"device": "AMD EPYC 7543"}
    assert changes(machine=driver)["machine"].changes_rounding
    assert not changes(machine=driver, tags=trial)["machine"].changes_rounding
    elsewhere = RUN.tags | {"device": "AMD EPYC 9654"}
    assert "AMD EPYC 9654 → AMD EPYC 7543" in changes(tags=elsewhere)["machine"].description


def test_a_gpu_is_compared_by_its_name():
    assert not changes(GPU, tags=RUN.tags | {"device": "NVIDIA A100"})["machine"].changes_rounding
    found = changes(GPU, tags=RUN.tags | {"device": "NVIDIA H100"})["machine"]
    assert found.changes_rounding
    assert "device NVIDIA H100 → NVIDIA A100" in found.description
    assert "device unknown" in changes(GPU)["machine"].description


@pytest.mark.parametrize(
    "machine", ["{", "[1]", "3", "null", '"x"', "[" * 5000, '{"a":' * 5000, "9" * 6000, '{"a": "' + "x" * 20_000 + '"}']
)
def test_a_description_of_the_machine_that_cannot_be_read_is_refused(machine):
    with pytest.raises(RequestError, match=r"environment/machine\.json can't be read"):
        list(diff_environment(replace(RUN, machine=machine), CPU))


def test_a_configuration_without_a_digest_is_said_not_to_be_checkable():
    assert changes(tags={})["config"].description == "not checkable: the run has no config_digest"


def test_code_and_packages_are_compared():
    assert changes(difference="+x")["code"].description == "the same commit abc, with other changes to it"
    assert changes(tags={})["code"].description == "commit unknown then, abc now"
    assert changes(packages="torch==2.8\n")["packages"].description == "torch 2.8 → 2.9"
    assert changes(packages="torch==2.8\n")["packages"].changes_rounding
    assert changes(packages="")["packages"].changes_rounding


MNIST = {
    "dataset": {
        "_target_": "pipeline.data.torchvision_images",
        "name": "mnist",
        "source": "MNIST",
        "classes": 10,
        "shape": [1, 28, 28],
        "split_seed": 0,
        "val_examples": 10,
        "augment": False,
    }
}


def test_data_that_is_not_here_is_not_compared_and_not_fetched(tmp_path, monkeypatch):
    module = importlib.import_module("pipeline.data.torchvision_images")  # its function has the same name
    monkeypatch.setattr(module, "_download", lambda *arguments: pytest.fail("downloads"))
    config = SimpleNamespace(dataset=MNIST["dataset"] | {"root": str(tmp_path / "data")})
    change = diff_data(RUN, config, may_fetch=False)
    assert change.description.startswith("not compared: MNIST is not in")
    assert list(tmp_path.iterdir()) == []


def test_data_that_cannot_be_had_is_said_where_it_is_only_compared_and_refused_where_it_is_needed():
    config = SimpleNamespace(dataset={"_target_": "pipeline.data.digits", "name": "digits"})
    assert diff_data(RUN, config, may_fetch=False).description.startswith("not compared: dataset: ")
    with pytest.raises(RequestError):
        diff_data(RUN, config, may_fetch=True)
    assert diff_data(replace(RUN, dataset=None), config, may_fetch=False).description.startswith("unknown")


def test_package_changes_are_named():
    assert _diff_packages("a==1\nb==2\n", "a==1\nb==2\n") == ""
    assert _diff_packages("a==1\nb==2\nc==3\n", "a==1\nb==3\nd==4\n") == "b 2 → 3; missing now: c; new: d"
