"""Run the studies of docs/results and write their tables, answers and figures there: `python benchmarks/results.py`.

Give names to run only some of them. A study that was run before is resumed or extended, as any sweep. With `--again`
nothing is trained: the stored tables are analysed again, with the settings in their answers.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.analysis.figures.registry import save_figures
from pipeline.analysis.run_table import read_table
from pipeline.analysis.stats.answer import analyse
from pipeline.analysis.stats.settings import AnalysisSettings, Margin
from pipeline.analysis.text.render import print_answer
from pipeline.analysis.text.report_json import to_json
from pipeline.tracking.store import open_existing_store
from pipeline.tracking.sweep import find_parent, sweep_names
from pipeline.tracking.target import DEFAULT_EXPERIMENT, DEFAULT_URI

RESULTS = Path(__file__).parents[1] / "docs" / "results"
DIGITS = "experiment=linear_rule"
# Each study on digits differs in one setting from the first, which has warmup 5 % and momentum 0.9.
STUDIES = {
    "digits": DIGITS,
    "digits_momentum0": f"{DIGITS} optimizer.momentum=0 optimizer.base_lr=0.5",
    "digits_adamw": f"{DIGITS} optimizer=adamw scaling=sqrt scaling.base_batch=64",
    "digits_steps": f"{DIGITS} budget=steps budget.epochs=null budget.steps=200 noise_scale.epochs=[-1]",
    "digits_target": f"{DIGITS} budget=target budget.epochs=null budget.metric=val/loss budget.threshold=0.3 "
    "budget.max_epochs=20 schedule=constant noise_scale.epochs=[-1]",
    "digits_warmup25": f"{DIGITS} schedule.warmup_fraction=0.25",
    "fashion_mnist_adamw": "experiment=fashion_mnist optimizer=adamw optimizer.base_lr=0.001 scaling=sqrt "
    "batch=32,128,512,2048",
    # A convolution net that is small enough for a search and a confirmation in an hour on two cores.
    "fashion_mnist_cnn": "experiment=fashion_mnist model=simple_cnn model.channels=[8,16] model.dense=128 "
    "batch=64,256,1024 budget.epochs=2 noise_scale.epochs=[1]",
    "fashion_mnist": "experiment=fashion_mnist",
}


def run(name: str, overrides: str) -> None:
    """Run one study in the working directory, and copy its report."""
    command = [sys.executable, "-m", "pipeline.train", "-m", *shlex.split(overrides), f"sweep.name={name}"]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    store = open_existing_store(DEFAULT_URI, DEFAULT_EXPERIMENT)
    parent = find_parent(store, name)
    assert parent is not None, sweep_names(store)
    target = RESULTS / name
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(store.client.download_artifacts(parent.info.run_id, "report", scratch))
        for file in ("runs.csv", "report.json", *(f.name for f in folder.glob("*.png"))):
            shutil.copyfile(folder / file, target / file)
    print(f"{name}: {time.perf_counter() - started:.0f} s: {' '.join(command[1:])}", flush=True)


def analyse_again(name: str) -> None:
    """Analyse a study's stored table, and write its answer and figures."""
    target = RESULTS / name
    before = json.loads((target / "report.json").read_text())
    terms = AnalysisSettings(
        Margin(),
        "fixed beforehand",
        configured_base=before["base_batch"],
        objective=before["objective"],
        budget=before["budget"],
        # Answers of before had a number there: how often their sweep had been judged.
        looks=tuple(looks) if isinstance(looks := before.get("looks"), list) else (),
        split_seed=before.get("split_seed") or "",
    )
    runs = read_table(target / "runs.csv")
    answer = analyse(runs, terms)
    (target / "report.json").write_text(json.dumps(to_json(answer), indent=2) + "\n")
    with tempfile.TemporaryDirectory() as scratch:
        for path in save_figures(answer, runs, Path(scratch)):
            if path.suffix == ".png":
                shutil.copyfile(path, target / path.name)
    print_answer(answer, name)


def main() -> None:
    """Run the given studies, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(STUDIES)}")
    parser.add_argument("--again", action="store_true", help="analyse the stored tables; train nothing")
    options = parser.parse_args()
    for name in options.names or STUDIES:
        analyse_again(name) if options.again else run(name, STUDIES[name])


if __name__ == "__main__":
    main()
