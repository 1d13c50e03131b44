"""A table of runs: one row a run, from a sweep or from anybody's CSV or JSON lines."""

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.errors import RequestError

FAILED = ("diverged", "stalled")
# The phase of runs with fresh seeds at chosen LRs, after the search.
CONFIRM = "confirm"
# Neither a result nor a bound on the LR: the run did not end by itself.
UNFINISHED = ("failed", "interrupted", "lost", "pruned", "missed", "running")
STATUSES = ("complete", *FAILED, *UNFINISHED)
# Share of the best constant guess's loss at which a run has learned nothing, if a smaller LR has.
NEAR_GUESS = 0.95


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        batch: examples in one optimizer step.
        lr: the (peak) learning rate.
        value: the objective, smaller is better.
        seed: which repetition; None where unknown.
        status: `complete`, or one of `FAILED` or `UNFINISHED`.
        train_loss, error, test_loss: mean training loss, fraction of wrong answers, mean test loss, at the end.
        steps: optimizer steps taken.
        run_id: of the MLflow run that it was read from.
        phase: `search`, or `confirm` for a fresh seed at an LR that was chosen before.
        value_sd, n: where a row is a published mean: its standard deviation over `n` runs.
        noise_trace, noise_squared_norm: tr Σ and |G|² of the gradient, as last measured.
        other: any further swept keys.
    """

    batch: int
    lr: float
    value: float
    seed: int | None = None
    status: str = "complete"
    train_loss: float | None = None
    error: float | None = None
    test_loss: float | None = None
    steps: int | None = None
    run_id: str | None = None
    phase: str = "search"
    value_sd: float | None = None
    n: int | None = None
    noise_trace: float | None = None
    noise_squared_norm: float | None = None
    other: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether the run bounds the best LR from above: it diverged or stalled, or has no finite value."""
        return self.status in FAILED or (self.status == "complete" and not math.isfinite(self.value))

    @property
    def usable(self) -> bool:
        """Whether the value may enter a fit."""
        return self.status == "complete" and math.isfinite(self.value)


_WHOLE = ("batch", "seed", "steps", "n")
_NUMBERS = (*_WHOLE, "lr", "value", "train_loss", "error", "test_loss", "value_sd", "noise_trace", "noise_squared_norm")
# What is not known may be missing; a number that is none is as good as missing.
_OPTIONAL = ("train_loss", "error", "test_loss", "value_sd", "noise_trace", "noise_squared_norm")
# More runs than this behind one published mean are a slip of the pen.
MOST_RUNS = 1_000_000
# A column of which every second row or so has a value of its own was not swept: it was measured.
MOST_WORKLOADS, FEWEST_ROWS = 1 / 3, 6


def read_table(path: Path) -> list[Run]:
    """Read a CSV with a header, or JSON lines; columns `batch, lr, value` and what else `Run` has.

    Raises:
        RequestError: the file or a column is missing, or a cell is no number; the message names the line.
    """
    runs = [run_from_row(row, f"{path}, row {number}") for number, row in enumerate(read_rows(path), start=1)]
    if not runs:
        raise RequestError(f"{path}: no runs in it.\nIt needs the columns batch, lr, value and a row a run.")
    for key in sorted({key for run in runs for key in run.other}):
        kinds = len({run.other.get(key) for run in runs})
        if len(runs) >= FEWEST_ROWS and kinds > MOST_WORKLOADS * len(runs):
            raise RequestError(
                f"{path}: column {key} has {kinds} values in {len(runs)} rows; each would be a workload of its own.\n"
                "Leave out columns of what was measured; keep those of what was chosen."
            )
    return runs


def read_rows(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a CSV file with a header, or of JSON lines (`.jsonl`, `.ndjson`), by column.

    Raises:
        RequestError: it can't be read as such.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RequestError(f"{path}: it can't be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise RequestError(f"{path}: it is not text.\nA table of runs is a CSV file or JSON lines, in UTF-8.") from None
    if path.suffix in (".jsonl", ".ndjson"):
        return list(_json_rows(text, path))
    try:
        reader = csv.DictReader(text.splitlines())
        names = [name.strip() for name in reader.fieldnames or ()]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise RequestError(f"{path}: column {twice[0]} is there twice.\nKeep one of them.")
        return list(reader)
    except csv.Error as error:
        raise RequestError(f"{path}: it is no CSV file ({error}).\nGive a header and a row a run.") from None


def _json_rows(text: str, path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict):
            raise RequestError(f"{path}, line {number}: it is not a JSON object.\nWrite one object of columns a line.")
        rows.append(row)
    return rows


def run_from_row(row: Mapping[str, Any], where: str) -> Run:
    """A `Run` from a mapping of column names to text or numbers; unknown columns become `other`."""
    given = {key.strip(): value for key, value in row.items() if key is not None and value not in (None, "")}
    if missing := [key for key in ("batch", "lr") if key not in given]:
        raise RequestError(f"{where}: no column {missing[0]}.\nA table of runs needs batch, lr, value.")
    if "value" not in given and given.get("status", "complete") == "complete":
        raise RequestError(f"{where}: no column value.\nA table of runs needs batch, lr, value.")
    values: dict[str, Any] = {"value": math.nan, "status": str(given.get("status", "complete"))}
    values |= {"run_id": given.get("run_id"), "phase": str(given.get("phase", "search"))}
    if values["status"] not in STATUSES:
        raise RequestError(f"{where}: status={values['status']}.\nIt is one of: {', '.join(STATUSES)}.")
    numbers = {key: number_in(key, given[key], where) for key in _NUMBERS if key in given}
    values |= {key: int(number) if key in _WHOLE else number for key, number in numbers.items()}
    values |= {key: None for key in _OPTIONAL if key in values and not math.isfinite(values[key])}
    if values["batch"] < 1 or not 0 < values["lr"] < math.inf:
        raise RequestError(f"{where}: batch={values['batch']}, lr={values['lr']}: both must be finite and above 0.")
    for key in ("value", "value_sd", "n"):
        number = values.get(key)
        if number is not None and (number < 0 or (key == "n" and not 1 <= number <= MOST_RUNS)):
            raise RequestError(f"{where}: {key}={given[key]}.\nvalue is a loss, and value_sd and n are not negative.")
    other = {key: str(value) for key, value in given.items() if key not in values}
    return Run(**values, other=other)


def number_in(name: str, text: Any, where: str) -> float:
    """The number in a table's cell.

    Raises:
        RequestError: it is none, or not whole where it must be.
    """
    try:
        number = float(text)
    except (TypeError, ValueError, OverflowError):
        raise RequestError(f"{where}: {name}={text} is not a number.") from None
    if name in _WHOLE and not number.is_integer():
        raise RequestError(f"{where}: {name}={text} is not a whole number.")
    return number


def write_table(runs: Sequence[Run], path: Path) -> None:
    """Write `runs` as the CSV that `read_table` reads."""
    others = sorted({key for run in runs for key in run.other})
    columns = [key for key in asdict(runs[0]) if key != "other"] + others
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for run in runs:
            row = asdict(run)
            writer.writerow(row | row.pop("other"))


def mark_stalled(runs: Sequence[Run], guess_loss: float) -> list[Run]:
    """Mark runs that learned nothing although a smaller LR at the same batch did, as `stalled`.

    A too large LR mostly ends as a constant guess, without any explosion; the loss alone doesn't tell it from
    a healthy run at a too small LR, but the neighbours do.

    Args:
        runs: of one workload.
        guess_loss: mean loss of the best constant guess, in nats.
    """
    limit = NEAR_GUESS * guess_loss
    learned: dict[int, float] = {}
    for run in runs:
        if run.usable and run.train_loss is not None and run.train_loss < limit:
            learned[run.batch] = min(run.lr, learned.get(run.batch, math.inf))
    return [
        replace(run, status="stalled")
        if run.status == "complete"
        and run.train_loss is not None
        and run.train_loss >= limit
        and run.lr > learned.get(run.batch, math.inf)
        else run
        for run in runs
    ]


def by_objective(runs: Sequence[Run], objective: str) -> dict[str, list[Run]]:
    """The same runs judged by each objective that every usable run has: `objective` itself first, then others.

    Args:
        runs: with `value` by `objective`.
        objective: its name; one that is among the others is not repeated.
    """
    tables = {objective: list(runs)}
    columns = {"val/error": "error", "train/loss": "train_loss"}
    for name, column in columns.items():
        known = all(getattr(run, column) is not None for run in runs if run.usable)
        if name not in tables and known and any(run.usable for run in runs):
            tables[name] = [
                replace(run, value=getattr(run, column)) if getattr(run, column) is not None else run for run in runs
            ]
    return tables


def published(runs: Sequence[Run]) -> list[Run]:
    """The rows that are published means of several runs, if all usable ones are; else none."""
    usable = [run for run in runs if run.usable]
    return usable if usable and all(run.n is not None and run.n > 1 for run in usable) else []


def choices_of(cell: str) -> frozenset[tuple[str, str]]:
    """What a sweep's cell was chosen by, from its name: `batch=64,model.hidden=[256,128],optimizer=adamw`."""
    # A comma inside of brackets or quotes parts no choices.
    parts = re.findall(r"""(?:\[[^\]]*\]|\{[^}]*\}|\([^)]*\)|'[^']*'|"[^"]*"|[^,])+""", cell)
    return frozenset((key, value) for part in parts for key, _, value in [part.partition("=")] if value)


def by_workload(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs in groups of what else was swept (`optimizer=adamw`, say), since one law is for one workload."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        name = " ".join(f"{key}={value}" for key, value in sorted(run.other.items()))
        groups.setdefault(name, []).append(run)
    return groups
