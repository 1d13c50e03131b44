"""What a run rested on, as it is logged."""

import sys

from pipeline.tracking.environment import installed_packages


def test_packages_that_another_one_carries_with_it_are_not_installed_ones(tmp_path, monkeypatch):
    carried = tmp_path / "setuptools" / "_vendor"
    for folder, name in ((carried, "carried"), (tmp_path / "site-packages", "installed")):
        (folder / f"{name}-1.0.dist-info").mkdir(parents=True)
        (folder / f"{name}-1.0.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        monkeypatch.syspath_prepend(folder)
    assert str(carried) in sys.path
    packages = installed_packages().splitlines()
    assert "installed==1.0" in packages
    assert "carried==1.0" not in packages
