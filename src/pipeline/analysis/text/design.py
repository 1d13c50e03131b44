"""`python -m pipeline.report --plan`: its options, and what a planned study could show in about what time."""

import argparse
import math

from lr_study import available_cores
from pipeline.analysis.stats.design import Design, simulate_design
from pipeline.analysis.text.render import new_table, open_console
from pipeline.errors import RequestError

# Seconds for a run of the default workload. Measured: the main job on digits, 288 runs in 90 s on two cores.
DEFAULT_SECONDS = 0.6


def add_design_arguments(parser: argparse._ArgumentGroup) -> None:
    """Add the options that describe a design."""
    parser.add_argument("--batches", default="16,32,64,128,256", help="batch sizes (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=12, help="seeds of the search (default: %(default)s)")
    parser.add_argument("--looks", default="12,24,48,96", help="fresh seeds at each look (default: %(default)s)")
    parser.add_argument("--noise", default="10%", help="spread (sd) of the loss between runs of a seed (default: 10%%)")
    parser.add_argument("--curvature", default="3%", help="cost of half the best LR at the base batch (default: 3%%)")
    parser.add_argument("--seconds-per-run", type=float, help="how long a run of yours takes")
    parser.add_argument("--workers", type=int, default=available_cores(), help="runs at once (default: all cores)")


def read_design(options: argparse.Namespace) -> Design:
    """Check the options of `--plan`; a RequestError names the option that is out of its range."""
    batches = _numbers("--batches", options.batches, "16,32,64", lowest=1)
    looks = _numbers("--looks", options.looks, "12,24,48", lowest=2)
    base = options.base_batch or batches[len(batches) // 2]
    if base not in batches:
        raise RequestError(f"--base-batch={base}: it is not among --batches={options.batches}.\nChoose one of them.")
    for name in ("seeds", "workers"):
        if (value := getattr(options, name)) < 1:
            raise RequestError(f"--{name}={value}: it must be 1 or more.")
    if options.seconds_per_run is not None and not 0 < options.seconds_per_run < math.inf:
        raise RequestError(f"--seconds-per-run={options.seconds_per_run}: it must be above 0.")
    return Design(
        batches,
        base,
        options.seeds,
        tuple(looks),
        margin=_share("--margin", options.margin or "10%"),
        noise=_share("--noise", options.noise),
        curvature=math.log1p(_share("--curvature", options.curvature)),
    )


def _numbers(name: str, text: str, example: str, lowest: int) -> list[int]:
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < lowest:
        raise RequestError(f"{name}={text}: give whole numbers from {lowest} up, as {example}.")
    return numbers


def _share(name: str, text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise RequestError(f"{name}={text}: with --plan it is a share of the loss, above 0 and below 100%, as 5%.")
    return value


def print_plan(design: Design, seconds: float | None, workers: int) -> None:
    """Simulate the design and print what it could show, and how long it takes at `seconds` a run."""
    expected = simulate_design(design)
    console = open_console(file_width=100)
    table = new_table(f"About {expected.runs} runs")
    for column in ("batch", "best LR's 95 % interval (octaves)", "pairs until linear holds"):
        table.add_column(column, justify="right")
    for batch in design.batches:
        width, pairs = expected.width[batch], expected.pairs[batch]
        mark = " *" if batch == design.base else ""
        table.add_row(
            f"{batch}{mark}", "no estimate" if width is None else f"{width:.1f}", _pairs(batch, pairs, design)
        )
    console.print(table)
    if expected.exponent is not None:
        console.print(f"The exponent's 95 % interval would be about {expected.exponent:.2f} wide.")
    console.print(
        f"Assumed: linear is true, runs of a seed differ by {design.noise:.1%}, one octave off costs "
        f"{math.expm1(design.curvature):.1%} at "
        f"batch {design.base} (*), in proportion to the batch elsewhere; margin {design.margin:.1%}."
    )
    minutes = expected.runs * (seconds or DEFAULT_SECONDS) / workers / 60
    console.print(f"About {minutes:.2g} min with {workers} runs at once, {seconds or DEFAULT_SECONDS:g} s each.")
    if seconds is None:
        console.print("That is the time of the default workload. Give yours with --seconds-per-run.")


def _pairs(batch: int, pairs: float | None, design: Design) -> str:
    if batch == design.base:
        return ""
    return f"over {design.looks[-1]}" if pairs is None else f"{pairs:.0f}"
