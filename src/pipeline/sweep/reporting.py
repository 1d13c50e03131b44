"""The report of a finished sweep: figures, page, tables and JSON on its run in MLflow."""

import json
import logging
import re
import tempfile
from pathlib import Path

from pipeline.analysis.figures.registry import save_figures
from pipeline.analysis.page.page import render_page
from pipeline.analysis.run_table import write_table
from pipeline.analysis.runs import workload_file_name
from pipeline.analysis.stats.results import Answer
from pipeline.analysis.text.render import to_markdown
from pipeline.analysis.text.report_json import to_json
from pipeline.recipe.statuses import CRASHED
from pipeline.sweep.answer import answer_sweep
from pipeline.tracking.store import Store
from pipeline.tracking.sweep import log_report, tag_stalled

log = logging.getLogger("pipeline.sweep")


def write_report(store: Store, sweep: str, parent_id: str, finished: int) -> dict[str, Answer]:
    """Analyse a sweep and put the report on its parent run; returns the answer to each of its workloads.

    `finished` is how many of its trials have ended without an error: it says how many of them MLflow lacks.
    """
    answers = answer_sweep(store, sweep)
    everything = [run for _, runs in answers.values() for run in runs]
    tag_stalled(store, everything)
    descriptions, best_lrs = [], {}
    if (missing := finished - sum(run.status not in CRASHED for run in everything)) > 0:
        lacks = f"{missing} of {finished} finished trials have no run in MLflow, so the report is made without them."
        log.warning("%s\nThey were deleted there, or are tracked in another store or experiment.", lacks)
        descriptions.append(lacks)
    with tempfile.TemporaryDirectory() as scratch:
        write_table(everything, Path(scratch) / "runs.csv")
        for name, (answer, runs) in answers.items():
            folder, title = Path(scratch) / workload_file_name(name), f"{sweep} {name}".strip()
            save_figures(answer, runs, folder)
            (folder / "report.json").write_text(json.dumps(to_json(answer), indent=2) + "\n", encoding="utf-8")
            (folder / "report.html").write_text(render_page(answer, runs, title, store.run_url), encoding="utf-8")
            descriptions.append(f"## {name}\n\n{to_markdown(answer)}" if name else to_markdown(answer))
            # MLflow's names of metrics may not hold `=`.
            metric = "best_lr/" + re.sub(r"[^\w. /-]+", ":", name) if name else "best_lr"
            best_lrs[metric] = {cell.batch: cell.best_lr for cell in answer.batches if cell.best_lr is not None}
        log_report(store, parent_id, scratch, "\n".join(descriptions), best_lrs)
    return {name: answer for name, (answer, _) in answers.items()}
