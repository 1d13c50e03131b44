"""A table of published optima (`batch, best_lr`): no runs, so the law alone."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.analysis.run_table import parse_number, read_rows
from pipeline.analysis.stats.laws import fit_exponent, fit_laws, select_law
from pipeline.analysis.stats.optima import Optima
from pipeline.analysis.stats.results import Estimate, Law
from pipeline.errors import RequestError

# Fewer optima leave nothing to see how well a law fits.
FEWEST = 4


def read_optima(path: Path) -> Optima | None:
    """Read the columns `batch, best_lr` and, where known, `ci_low, ci_high` (95 %); None where it is no such table.

    Without intervals all optima are taken to be equally well known: as well as a power law fits them. That gives the
    exponent's interval by Student's t, but no ground on which to prefer one law to another.

    Raises:
        RequestError: a cell is no positive number, a batch size is repeated, or there are too few.
    """
    rows = read_rows(path)
    if not rows or "best_lr" not in rows[0] or "lr" in rows[0]:
        return None
    values = [_read_row(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]
    batches = np.array([value["batch"] for value in values])
    if len(set(batches)) < len(batches) or len(batches) < FEWEST:
        raise RequestError(f"{path}: a law needs best LRs of {FEWEST} batch sizes or more, each once.")
    octaves = np.log2([value["best_lr"] for value in values])
    freedom = math.inf
    if all("ci_low" in value and "ci_high" in value for value in values):
        sds = np.array([math.log2(value["ci_high"] / value["ci_low"]) / 3.92 for value in values])
    else:
        slope, constant = np.polyfit(np.log2(batches), octaves, 1)
        residuals = octaves - slope * np.log2(batches) - constant
        freedom = len(batches) - 2
        sds = np.full(len(batches), math.sqrt((residuals**2).sum() / freedom))
    order = np.argsort(batches)
    sds = np.maximum(sds, 1e-6)[order]
    return Optima(batches[order], octaves[order], np.diag(sds**2), freedom)


def _read_row(row: Mapping[str, Any], where: str) -> dict[str, float]:
    names = ("batch", "best_lr", "ci_low", "ci_high")
    values = {name: parse_number(name, row[name], where) for name in names if row.get(name)}
    if missing := [name for name in names[:2] if name not in values]:
        raise RequestError(f"{where}: no {missing[0]}.\nA table of optima needs batch and best_lr.")
    if not all(0 < value < math.inf for value in values.values()) or values.get("ci_low", 0) > values.get(
        "ci_high", math.inf
    ):
        raise RequestError(
            f"{where}: batch, best_lr and the interval must be finite and above 0, ci_low below ci_high."
        )
    return values


def fit_published(found: Optima, base: int | None) -> tuple[Estimate | None, tuple[Law, ...], str | None]:
    """Exponent, laws and the one that is singled out, if any.

    Args:
        found: the optima.
        base: the batch size that the laws' free LR belongs to; None is the smallest.
    """
    batches = [int(batch) for batch in found.batches]
    laws = fit_laws(found, batches[0] if base is None else base, batches)
    return fit_exponent(found), laws, select_law(laws)
