"""Read and write a table of runs: one row a run, as CSV or JSON lines, from a sweep or from elsewhere."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.analysis.runs import Run
from pipeline.errors import RequestError
from pipeline.recipe.statuses import COMPLETE, STATUSES

_INTEGERS = ("batch", "seed", "steps", "n")
# Measurements: a cell without a finite number counts as missing.
_MEASURED = ("train_loss", "error", "test_loss", "value_sd", "noise_trace", "noise_squared_norm")
_NUMBERS = (*_INTEGERS, "lr", "value", *_MEASURED)
# The largest `n` that is taken for a number of runs, and not for a typing error.
MAX_RUNS_OF_MEAN = 1_000_000
# A column whose distinct values are more than this share of at least so many rows was measured, not swept.
MAX_SHARE_OF_WORKLOADS, MIN_ROWS_TO_CHECK = 1 / 3, 6


def read_table(path: Path) -> list[Run]:
    """Read a table with the columns `batch, lr, value` and any others of `Run`; unknown columns become `other`.

    A RequestError names the row in which a column is missing or a cell is no number.
    """
    runs = [_read_run(row, f"{path}, row {number}") for number, row in enumerate(read_rows(path), start=1)]
    if not runs:
        raise RequestError(f"{path}: there are no runs in it.\nGive the columns batch, lr, value, and one row a run.")
    for key in sorted({key for run in runs for key in run.other}):
        count = len({run.other.get(key) for run in runs})
        if len(runs) >= MIN_ROWS_TO_CHECK and count > MAX_SHARE_OF_WORKLOADS * len(runs):
            raise RequestError(
                f"{path}: column {key} has {count} values in {len(runs)} rows, and each value is analysed by itself.\n"
                "Leave out columns that were measured; keep those that were chosen."
            )
    return runs


def read_rows(path: Path) -> list[Mapping[str, Any]]:
    """Read the rows of a CSV file with a header, or of JSON lines (`.jsonl`, `.ndjson`); else raise RequestError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RequestError(f"{path}: it can't be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise RequestError(f"{path}: it is not text.\nGive a CSV file or JSON lines, in UTF-8.") from None
    if path.suffix in (".jsonl", ".ndjson"):
        return [
            _read_json_row(line, f"{path}, line {number}")
            for number, line in enumerate(text.splitlines(), start=1)
            if line.strip()
        ]
    try:
        reader = csv.DictReader(text.splitlines())
        names = [name.strip() for name in reader.fieldnames or ()]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise RequestError(f"{path}: column {repeated[0]} is there twice.\nKeep one of them.")
        return list(reader)
    except csv.Error as error:
        raise RequestError(f"{path}: it is no CSV file ({error}).\nGive a header and one row a run.") from None


def _read_json_row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        row = None
    if not isinstance(row, dict):
        raise RequestError(f"{where}: it is not a JSON object.\nWrite one object of columns a line.")
    return row


def _read_run(row: Mapping[str, Any], where: str) -> Run:
    given = {key.strip(): value for key, value in row.items() if key is not None and value not in (None, "")}
    status = str(given.get("status", COMPLETE))
    needed = ("batch", "lr", "value") if status == COMPLETE else ("batch", "lr")
    if missing := [key for key in needed if key not in given]:
        raise RequestError(f"{where}: no column {missing[0]}.\nA table of runs needs batch, lr, value.")
    if status not in STATUSES:
        raise RequestError(f"{where}: status={status}.\nIt is one of: {', '.join(STATUSES)}.")
    numbers: dict[str, Any] = {key: parse_number(key, given[key], where) for key in _NUMBERS if key in given}
    numbers |= {key: int(numbers[key]) for key in _INTEGERS if key in numbers}
    numbers |= {key: None for key in _MEASURED if key in numbers and not math.isfinite(numbers[key])}
    if numbers["batch"] < 1 or not 0 < numbers["lr"] < math.inf:
        raise RequestError(f"{where}: batch={numbers['batch']}, lr={numbers['lr']}: both must be finite and above 0.")
    if "n" in numbers and not 1 <= numbers["n"] <= MAX_RUNS_OF_MEAN:
        raise RequestError(f"{where}: n={given['n']}.\nGive the number of runs behind the mean, from 1 up.")
    for key in ("value", "value_sd"):
        if (numbers.get(key) or 0) < 0:
            raise RequestError(f"{where}: {key}={given[key]}.\nIt is a loss or its standard deviation, from 0 up.")
    texts = {"status": status, "run_id": given.get("run_id"), "phase": str(given.get("phase", "search"))}
    texts["reason"] = str(given.get("reason", ""))
    values = {"value": math.nan, **numbers, **texts}
    return Run(**values, other={key: str(value) for key, value in given.items() if key not in values})


def parse_number(name: str, text: Any, where: str) -> float:
    """Return the number in a cell of column `name`; RequestError if it is none, or must be an integer and is not."""
    try:
        number = float(text)
    except (TypeError, ValueError, OverflowError):
        raise RequestError(f"{where}: {name}={text} is not a number.") from None
    if name in _INTEGERS and not number.is_integer():
        raise RequestError(f"{where}: {name}={text} is not a whole number.")
    return number


def write_table(runs: Sequence[Run], path: Path) -> None:
    """Write `runs` as the CSV that `read_table` reads."""
    others = sorted({key for run in runs for key in run.other})
    columns = [key for key in asdict(runs[0]) if key != "other"] + others
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for run in runs:
            row = asdict(run)
            writer.writerow(row | row.pop("other"))
