"""Reading and writing tables of runs."""

import math

import pytest

from pipeline.analysis.run_table import read_table, write_table
from pipeline.analysis.runs import Run
from pipeline.errors import RequestError


def test_a_written_table_reads_back_the_same(tmp_path):
    runs = [
        Run(
            64, 0.1, 0.5, 1, "complete", 0.4, 0.1, 0.6, 100, "abc", "confirm", 0.1, 5, 30.0, -0.5, {"optimizer": "sgd"}
        ),
        Run(64, 0.8, math.nan, 2, "diverged", other={"optimizer": "sgd"}),
        Run(64, 0.9, math.nan, 2, "failed", other={"optimizer": "sgd"}, reason='KeyError: "a", b'),
    ]
    write_table(runs, tmp_path / "runs.csv")
    first, second, third = read_table(tmp_path / "runs.csv")
    assert first == runs[0]
    assert (third.status, third.reason, third.other) == ("failed", 'KeyError: "a", b', {"optimizer": "sgd"})
    assert math.isnan(second.value)
    assert second.failed


def test_three_columns_are_enough_and_json_lines_do_too(tmp_path):
    (tmp_path / "a.csv").write_text("batch,lr,value\n64,0.1,0.5\n")
    (tmp_path / "a.jsonl").write_text('{"batch": 64, "lr": 0.1, "value": 0.5}\n')
    assert read_table(tmp_path / "a.csv") == read_table(tmp_path / "a.jsonl") == [Run(64, 0.1, 0.5)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch,value\n64,0.5\n", "row 1: no column lr"),
        ("batch,lr\n64,0.5\n", "row 1: no column value"),
        ("batch,lr,value\n64,0.1,0.5\n64,abc,1\n", "row 2: lr=abc is not a number"),
        ("batch,lr,value\n0,0.1,0.5\n", "above 0"),
        ("batch,lr,value\n64,-0.1,0.5\n", "above 0"),
        ("batch,lr,value\n64,inf,0.5\n", "finite and above 0"),
        ("batch,lr,value\n64.7,0.1,0.5\n", "batch=64.7 is not a whole number"),
        ("batch,lr,value,seed\n64,0.1,0.5,0.5\n", "seed=0.5 is not a whole number"),
        ("batch,lr,value\n64,0.1,-5\n", "value=-5"),
        ("batch,lr,value,n\n64,0.1,0.5,-5\n", "n=-5"),
        ("batch,lr,value,n\n64,0.1,0.5,1e18\n", "n=1e18"),
        ("batch,lr,value,value_sd\n64,0.1,0.5,-1\n", "value_sd=-1"),
        ("batch,lr,value,status\n64,0.1,0.5,Diverged\n", "status=Diverged.\nIt is one of: complete, diverged"),
        ("batch,lr,value,lr\n64,0.1,0.5,0.2\n", "column lr is there twice"),
        (
            "batch,lr,value,time\n" + "".join(f"64,0.1,0.5,{i}\n" for i in range(6)),
            "column time has 6 values in 6 rows",
        ),
        ("batch,lr,value\n64,0.1," + "1" * 200_000 + "\n", "no CSV file"),
        ("batch,lr,value\n", "no runs"),
        ("", "no runs"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_row(tmp_path, text, message):
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(RequestError, match=message):
        read_table(tmp_path / "runs.csv")


def test_a_byte_order_mark_and_measures_that_are_no_numbers_do_no_harm(tmp_path):
    text = "batch,lr,value,error,test_loss\n64,0.1,0.5,nan,inf\n"
    (tmp_path / "runs.csv").write_text(text, encoding="utf-8-sig")
    assert read_table(tmp_path / "runs.csv") == [Run(64, 0.1, 0.5)]


@pytest.mark.parametrize("line", ["{", "[1, 2]", "64,0.1,0.5"])
def test_a_line_that_is_no_json_object_is_named(tmp_path, line):
    (tmp_path / "runs.jsonl").write_text('{"batch": 64, "lr": 0.1, "value": 0.5}\n' + line + "\n")
    with pytest.raises(RequestError, match="line 2: it is not a JSON object"):
        read_table(tmp_path / "runs.jsonl")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RequestError, match="No such file"):
        read_table(tmp_path / "runs.csv")
