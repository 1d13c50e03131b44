"""`python -m pipeline.report`: wrong requests are refused, thin tables are reported with what can't be said."""

import json
import re
from pathlib import Path

import pytest

from pipeline import report
from pipeline.errors import RequestError

HEADER = "batch,lr,value,seed,status\n"


def write(path, text):
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("batch,value\n64,1.0\n", ["row 1", "no column lr", "batch, lr, value"]),
        ("batch,lr\n64,1.0\n", ["no column value"]),
        (HEADER + "64,0.1,0.5,0,complete\n64,much,0.5,0,complete\n", ["row 2", "lr=much is not a number"]),
        (HEADER + "64,-0.1,0.5,0,complete\n", ["row 1", "lr=-0.1", "above 0"]),
        (HEADER + "0,0.1,0.5,0,complete\n", ["batch=0", "above 0"]),
        (HEADER, ["no runs in it"]),
        ("", ["no runs in it"]),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, text, names):
    with pytest.raises(RequestError) as refused:
        report.main(["--table", write(tmp_path / "runs.csv", text)])
    said = str(refused.value)
    assert all(name in said for name in names), said
    assert len(said.splitlines()) <= 2


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ["--table", "--plan"]),
        (["--table", "/nowhere.csv"], ["/nowhere.csv", "can't be read"]),
        (["--table", "TABLE", "--base-batch", "63"], ["--base-batch=63", "64"]),
        (["--table", "TABLE", "--margin=-5%"], ["-5%"]),
        (["--table", "TABLE", "--json", "/nowhere/out.json"], ["/nowhere/out.json", "can't be written"]),
        (["--plan", "--batches", "16,x"], ["--batches=16,x", "16,32,64"]),
        (["--plan", "--base-batch", "63"], ["--base-batch=63"]),
        (["--plan", "--seeds", "0"], ["--seeds=0"]),
        (["--plan", "--noise", "200%"], ["--noise=200%"]),
        (["--plan", "--seconds-per-run", "-1"], ["--seconds-per-run"]),
    ],
)
def test_a_wrong_request_is_refused(tmp_path, arguments, names):
    table = write(tmp_path / "runs.csv", HEADER + "64,0.1,0.5,0,complete\n")
    with pytest.raises(RequestError) as refused:
        report.main([table if argument == "TABLE" else argument for argument in arguments])
    assert all(name in str(refused.value) for name in names), refused.value


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("64,0.1,0.5,0,complete\n64,0.2,0.4,0,complete\n", "One batch size says nothing about a rule"),
        (
            "64,0.1,0.5,0,complete\n128,0.1,0.4,0,complete\n",
            "Only one LR was tried at each batch size, so no rule can be compared",
        ),
        (
            "64,0.1,nan,0,diverged\n128,0.1,nan,0,diverged\n",
            "Can't say whether the linear rule holds: batch 64 has no best LR",
        ),
        (
            "64,0.1,nan,0,lost\n128,0.1,,0,interrupted\n",
            "Can't say whether the linear rule holds: batch 64 has no best LR",
        ),
    ],
)
def test_a_thin_table_gets_a_report_of_what_cannot_be_said(tmp_path, capsys, rows, says):
    files = ["--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html"), "--figures", str(tmp_path)]
    report.main(["--table", write(tmp_path / "runs.csv", HEADER + rows), *files])
    assert says in capsys.readouterr().out
    answer = json.loads((tmp_path / "a.json").read_text())
    assert all(cell["best_lr"] is None and cell["ci_low"] is None for cell in answer["batches"])
    assert all(cell["regret"] in (None, 0.0) for cell in answer["batches"])
    assert answer["exponent"] is None
    assert {item["answer"] for item in answer["questions"]} == {"This sweep cannot tell."}


def test_failed_runs_of_anybodys_table_are_counted_without_a_reason(tmp_path, capsys):
    rows = "64,0.1,0.5,0,complete\n64,0.2,,0,failed\n128,0.1,,,failed\n"
    page = tmp_path / "a.html"
    report.main(["--table", write(tmp_path / "runs.csv", HEADER + rows), "--html", str(page)])
    said = " ".join(capsys.readouterr().out.split())
    sentence = "2 of 3 runs failed with an error, and say nothing about their LR: no reason is known (batch 64, LR 0.2, seed 0; batch 128, LR 0.1)."
    assert sentence in said
    assert "No run failed" not in said
    assert sentence in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--html", "x.html"], "no runs to draw"), (["--base-batch", "63"], "16, 32, 64, 128")]
)
def test_figures_and_base_batches_that_a_table_of_best_lrs_lacks_are_refused(tmp_path, arguments, says):
    table = write(tmp_path / "optima.csv", "batch,best_lr\n16,0.1\n32,0.2\n64,0.4\n128,0.8\n")
    with pytest.raises(RequestError, match=says):
        report.main(["--table", table, *arguments])


def test_a_margin_that_is_given_with_the_report_is_not_called_fixed_beforehand(tmp_path, capsys):
    rows = "".join(
        f"{b},{0.1 * 2**i},{0.2 + 0.01 * i * i},{s}\n" for b in (64, 128) for i in range(-3, 4) for s in "01"
    )
    table = write(tmp_path / "runs.csv", "batch,lr,value,seed\n" + rows)
    report.main(["--table", table, "--margin", "3%"])
    assert "3% of the best, given with this report" in " ".join(capsys.readouterr().out.split())
    report.main(["--table", table])
    assert "10% of the best, the default" in " ".join(capsys.readouterr().out.split())


def test_a_workloads_name_with_slashes_makes_no_folders(tmp_path):
    rows = "".join(f"64,{0.1 * 2**i},{0.2 + i * i},0,complete,a/b\n" for i in range(-3, 4))
    table = write(tmp_path / "runs.csv", HEADER.replace("status", "status,data") + rows)
    report.main(["--table", table, "--json", str(tmp_path / "a.json"), "--figures", str(tmp_path / "figures")])
    assert (tmp_path / "a-data=a-b.json").exists()
    assert (tmp_path / "figures" / "data=a-b" / "answer.png").exists()


def test_several_workloads_in_a_table_get_an_answer_each(tmp_path, capsys):
    rows = "".join(f"64,{0.1 * 2**i},{0.2 + i * i},0,complete,{o}\n" for o in ("sgd", "adam") for i in range(-3, 4))
    table = write(tmp_path / "runs.csv", HEADER.replace("status", "status,optimizer") + rows)
    report.main(["--table", table, "--json", str(tmp_path / "a.json")])
    assert "optimizer=sgd" in capsys.readouterr().out
    assert {path.name for path in tmp_path.glob("*.json")} == {"a-optimizer=sgd.json", "a-optimizer=adam.json"}


@pytest.mark.long
@pytest.mark.alone
def test_ten_thousand_runs_are_reported_in_thirty_seconds_and_a_gigabyte_and_cost_no_more_than_in_proportion(
    run_python,
):
    benchmark = Path(__file__).parents[1] / "benchmarks" / "report.py"
    done = run_python(str(benchmark), "--runs", "1250", "10000", OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    found = re.findall(r"== (\d+) runs: .* ([\d.]+) s of processor time, peak memory so far (\d+) MB", done.stdout)
    print("\n", found)
    (few, few_seconds, _), (many, many_seconds, megabytes) = [tuple(map(float, row)) for row in found]
    assert many_seconds / few_seconds < many / few
    assert many_seconds < 30
    assert megabytes < 1000


def test_a_plan_says_what_a_design_could_tell_and_how_long_it_takes(capsys):
    design = ["--plan", "--batches", "32,128", "--seeds", "4", "--looks", "6,12", "--workers", "2"]
    report.main([*design, "--seconds-per-run", "6"])
    said = capsys.readouterr().out
    # Searched: 2 × 12 LRs × 4 seeds. Fresh seeds: 6 at the base batch, 6 or 12 at three or four LRs of the other.
    runs = int(re.search(r"About (\d+) runs", said)[1])
    assert 96 + 6 + 18 <= runs <= 96 + 6 + 48
    assert f"About {runs * 3 / 60:.2g} min with 2 runs at once, 6 s each." in said
    report.main(design)
    assert "0.6 s each.\nThat is the time of the default workload." in capsys.readouterr().out


def test_a_plan_whose_looks_are_no_numbers_of_pairs_is_refused():
    for looks in ("1,2", "x"):
        with pytest.raises(RequestError, match=f"--looks={looks}"):
            report.main(["--plan", "--looks", looks])
