"""Laws from a table of published best LRs (`batch, best_lr`), without runs."""

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

# With fewer best LRs nothing shows how well a law fits.
MIN_ROWS = 4
# A 95 % interval is so many standard deviations wide.
WIDTH_95 = 3.92


def read_optima(path: Path) -> Optima | None:
    """Read the columns `batch, best_lr` and, if all rows have them, `ci_low, ci_high` (a 95 % interval).

    Without intervals, all best LRs get the standard deviation of the residuals of a power law. Then the exponent has a
    Student's t interval, but laws can't be compared.

    Returns:
        The best LRs; None if the table has no column `best_lr`, or has a column `lr` of single runs.

    Raises:
        RequestError: a cell is no positive number, a batch size is repeated, or there are too few.
    """
    rows = read_rows(path)
    if not rows or "best_lr" not in rows[0] or "lr" in rows[0]:
        return None
    values = [_read_row(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]
    batches = np.array([value["batch"] for value in values])
    if len(set(batches)) < len(batches) or len(batches) < MIN_ROWS:
        raise RequestError(f"{path}: a law needs best LRs of {MIN_ROWS} batch sizes or more, each once.")
    octaves = np.log2([value["best_lr"] for value in values])
    freedom = math.inf
    if all("ci_low" in value and "ci_high" in value for value in values):
        sds = np.array([math.log2(value["ci_high"] / value["ci_low"]) / WIDTH_95 for value in values])
    else:
        slope, constant = np.polyfit(np.log2(batches), octaves, 1)
        residuals = octaves - slope * np.log2(batches) - constant
        freedom = len(batches) - 2
        sds = np.full(len(batches), math.sqrt((residuals**2).sum() / freedom))
    order = np.argsort(batches)
    # A perfect fit has no residuals, but the covariance must be invertible.
    sds = np.maximum(sds, 1e-6)[order]
    return Optima(batches[order], octaves[order], np.diag(sds**2), freedom)


def _read_row(row: Mapping[str, Any], where: str) -> dict[str, float]:
    names = ("batch", "best_lr", "ci_low", "ci_high")
    values = {name: parse_number(name, row[name], where) for name in names if row.get(name)}
    if missing := [name for name in ("batch", "best_lr") if name not in values]:
        raise RequestError(f"{where}: no {missing[0]}.\nA table of best LRs needs batch and best_lr.")
    is_positive = all(0 < value < math.inf for value in values.values())
    if not is_positive or values.get("ci_low", 0) > values.get("ci_high", math.inf):
        raise RequestError(
            f"{where}: batch, best_lr and the interval must be finite and above 0, ci_low below ci_high."
        )
    return values


def fit_published(optima: Optima, base: int | None) -> tuple[Estimate | None, tuple[Law, ...], str | None]:
    """Fit the exponent and the laws, from the base batch or the smallest, and select a law if one stands out."""
    batches = [int(batch) for batch in optima.batches]
    laws = fit_laws(optima, batches[0] if base is None else base, batches)
    return fit_exponent(optima), laws, select_law(laws)
