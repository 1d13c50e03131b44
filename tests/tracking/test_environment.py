"""Packages, machine and command of a run."""

import json
import sys

import pytest

from pipeline.tracking import environment


def test_packages_that_setuptools_carries_with_it_are_not_listed(tmp_path, monkeypatch):
    carried = tmp_path / "setuptools" / "_vendor"
    for folder, name in ((carried, "carried"), (tmp_path / "site-packages", "installed")):
        (folder / f"{name}-1.0.dist-info").mkdir(parents=True)
        (folder / f"{name}-1.0.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        monkeypatch.syspath_prepend(folder)
    assert str(carried) in sys.path
    packages = environment.installed_packages().splitlines()
    assert "installed==1.0" in packages
    assert "carried==1.0" not in packages


@pytest.mark.parametrize(
    ("said", "model"),
    [
        (
            "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) @ 2.20GHz\n\nprocessor\t: 1\nmodel name\t: other\n",
            "Intel(R) Xeon(R) @ 2.20GHz",
        ),
        ("processor: 0\ncpu\t\t: POWER9, altivec supported\n", "POWER9, altivec supported"),
        ("processor: 0\nCPU implementer: 0x41\nCPU part: 0xd0c\n", "arm64 implementer 0x41 part 0xd0c"),
        ("", "arm64"),
        (None, "arm64"),
    ],
)
def test_the_processors_model_is_read_from_the_system(tmp_path, monkeypatch, said, model):
    if said is not None:
        (tmp_path / "cpuinfo").write_text(said)
    monkeypatch.setattr(environment, "CPUINFO", str(tmp_path / "cpuinfo"))
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    monkeypatch.setattr("sys.platform", "linux")
    assert environment.cpu_model() == model


def test_the_machine_is_plain_data():
    machine = json.loads(json.dumps(environment.machine()))
    assert machine["cpu"]
    assert machine["python"].startswith("3.")


def test_a_command_line_with_any_bytes_is_valid_utf_8(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train", "name=\udcff"])
    environment.command_line().encode()
