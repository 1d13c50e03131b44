"""Which environments `make test-versions` makes, by the Pythons that are found."""

from pathlib import Path

import pytest

from tests import environments


@pytest.mark.parametrize(
    ("found", "made"),
    [
        (["3.11", "3.12", "3.13"], {"lowest": "3.11", "newest-3.12": "3.12", "newest-3.13": "3.13"}),
        (["3.12", "3.13"], {"lowest": "3.12", "newest-3.13": "3.13", "newest-3.11": None}),
        (["3.11"], {"lowest": "3.11", "newest-3.11": "3.11", "newest-3.12": None, "newest-3.13": None}),
    ],
)
def test_the_lowest_and_the_newest_versions_are_always_tested_and_a_missing_python_is_named(monkeypatch, found, made):
    monkeypatch.setattr(environments, "find_python", lambda minor: Path(minor) if minor in found else None)
    listed = {e.name: e.python and str(e.python) for e in environments.claimed_environments()}
    assert listed == made


def test_a_missing_python_is_skipped_by_name(capsys):
    row, passed = environments.run(environments.Environment("newest-3.13", "highest", "3.13", None))
    assert (row[1], passed) == ("3.13 not found", True)
    assert capsys.readouterr().out == "newest-3.13: no python3.13 is found here; skipped.\n"
