"""The command `advise`: what it prints and writes, its exit codes, and what it refuses."""

import json

import numpy as np
import pytest

from pipeline import advise
from pipeline.analysis.run_table import write_table
from tests.analysis.simulate import study

ASKED = ["--from-batch", "64", "--from-lr", "0.05", "--to-batch", "512"]
REFUSED = [
    # options after those of ASKED (the last one counts), what the message must name
    ("--to-batch 0", ["--to-batch=0", "from 1 up"]),
    ("--to-batch -8", ["--to-batch=-8"]),
    ("--from-batch 2.5", ["--from-batch=2.5", "whole number"]),
    ("--from-batch many", ["--from-batch=many"]),
    ("--from-lr 0", ["--from-lr=0", "above 0"]),
    ("--from-lr nan", ["--from-lr=nan"]),
    ("--from-lr inf", ["--from-lr=inf"]),
    ("--from-lr fast", ["--from-lr=fast"]),
    ("--betas 0.9 1", ["--betas 0.9 1", "less than, 1", "0.9 0.999"]),
    ("--betas -0.1 0.9", ["--betas -0.1 0.9"]),
    ("--betas nan x", ["--betas nan x"]),
    ("--eps 0", ["--eps=0"]),
    ("--exponent -1", ["--exponent=-1"]),
    ("--noise-scale inf", ["--noise-scale=inf"]),
    ("--sweep a --table b.csv", ["--sweep and --table"]),
    ("--sweep nope", ["no tracking database"]),
    ("--table nope.csv", ["nope.csv", "can't be read"]),
    ("--table binary.csv", ["binary.csv", "not text"]),
    ("--table empty.csv", ["empty.csv", "batch, lr, value"]),
    ("--json no/folder/advice.json", ["--json=no/folder/advice.json", "can't be written"]),
]


@pytest.mark.parametrize(("options", "names"), REFUSED, ids=[case[0] for case in REFUSED])
def test_a_wrong_request_is_refused_in_two_lines(tmp_path, call_command, options, names):
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.csv").write_text("batch,lr,value\n")
    done = call_command(advise.main, *ASKED, *options.split(" "))
    assert (done.code, done.out) == (2, ""), done
    assert 1 <= len(done.err.strip().splitlines()) <= 2, done.err
    for name in names:
        assert name in done.err
    assert {path.name for path in tmp_path.iterdir()} == {"binary.csv", "empty.csv"}


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    runs = [run for size in (32, 64, 512) for run in study(size, 0.1 * size / 64, rng, noise=0.01)]
    write_table(runs, tmp_path / "runs.csv")
    return str(tmp_path / "runs.csv")


def test_the_real_command_gives_rules_and_evidence_and_writes_them(run_python, table, tmp_path):
    done = run_python("-m", "pipeline.advise", *ASKED, "--table", table, "--json", "advice.json", fresh=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "linear *" in done.stdout
    assert "Measured best at 512: 0.8" in done.stdout
    assert "The linear rule, from the best LR at 64 to 512: holds" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    written = json.loads((tmp_path / "advice.json").read_text())
    assert written["evidence"]["base_batch"] == 64
    assert written["rules"][1]["lr"] == 0.4


def test_evidence_that_is_refused_is_no_failure(table, capsys):
    advise.main([*ASKED, "--to-batch", "4096", "--table", table])
    said = capsys.readouterr().out
    assert "3.2" in said  # linear, all the same
    assert "No LR for 4096: 4096 lies outside of what was measured (32 … 512)." in said
    assert "\n  python -m pipeline.train batch=4096 -m\n" in said


def test_a_missing_option_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        advise.main(ASKED[:4])
    assert end.value.code == 2
    assert "--to-batch" in capsys.readouterr().err
