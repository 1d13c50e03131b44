"""Compare the training loop with the shortest PyTorch loop that does the same arithmetic on the same data in memory.

    python benchmarks/loop.py                 # single precision
    python benchmarks/loop.py --precision bf16 --model simple_cnn
    python benchmarks/loop.py --compile       # also `compiled`: `engine` with runtime.compile=true
    python benchmarks/loop.py --pieces 256 512 1024 2048    # simple_cnn at 2048, in such micro-batches

Each side is a process of its own, because settings of the C library and of torch hold for a whole process. The sides
are measured in turn, so that a machine whose speed drifts affects all of them. A ratio is the median over the rounds.

- `engine`: `pipeline.engine.fit` with the settings of `runtime=auto` and `batching=auto`, tracked in MLflow (SQLite);
- `same`: the bare loop with the same memory format, precision and allocator settings;
- `plain`: the bare loop with PyTorch's own defaults;
- `bytes`: `engine` with images kept as bytes, as data sets above 256 MiB are; the bare loops have floats;
- `pieces-512`: `engine` in micro-batches of at most 512 examples.

It prints a JSON line for each case, with each side's peak memory so far, and a table.
"""

import argparse
import functools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F

EXAMPLES = 20_000
# (model, batch, steps); the steps take one to three seconds on two cores.
CASES = [
    ("mlp", 32, 1200),
    ("mlp", 256, 400),
    ("mlp", 2048, 60),
    ("simple_cnn", 32, 60),
    ("simple_cnn", 256, 12),
    ("simple_cnn", 2048, 3),
]


def build(name):
    """Build a network of the configuration group `model`, for images of 28×28."""
    from pipeline.models import MLP, SimpleCNN

    torch.manual_seed(0)
    if name == "mlp":
        return MLP((1, 28, 28), 10, (256, 128))
    if name == "tiny":  # trained once so that everything is imported
        return SimpleCNN((1, 28, 28), 10, (2, 2), 8)
    return SimpleCNN((1, 28, 28), 10, (32, 64), 1024)


def data():
    """Return random images as bytes, and labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (EXAMPLES, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 10, (EXAMPLES,), generator=generator)


def optimizer_of(model, side):
    """Make the optimizer, with torch's defaults for `plain`, else as the pipeline does: the arithmetic is the same."""
    from pipeline.engine.optimizer_calls import fused_if_possible

    make = functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    return make(model.parameters()) if side == "plain" else fused_if_possible(make, list(model.parameters()))


def prepared(model, precision):
    """Return the model with the settings of `runtime=auto`, and the precision."""
    from pipeline.engine import arrange, set_up_runtime

    model, runtime = arrange(model, set_up_runtime("cpu", "auto", False, precision), "auto")
    return model, runtime.precision


def engine(side, precision):
    """Return a function from (model's name, batch, steps) to the examples per second of `fit`, without evaluations."""
    from pipeline.data import InMemorySplit, Splits
    from pipeline.engine import chosen_micro_batch, fit
    from pipeline.recipe.budget import Budget, plan_training
    from pipeline.recipe.schedule import Schedule, make_schedule
    from pipeline.tracking.run import TrackedRun
    from pipeline.tracking.target import TrackingTarget

    images, labels = data()
    mean, std = torch.full((1, 1, 1), 127.5), torch.full((1, 1, 1), 73.9)
    if side == "bytes":
        train = InMemorySplit(images, labels, mean, std)
    else:
        train = InMemorySplit(images.float().sub_(mean).div_(std), labels)
    evaluated = InMemorySplit(torch.zeros(10, 1, 28, 28), labels[:10])
    splits = Splits("benchmark", train, evaluated, evaluated, 10, "", 2.3, "")
    target = TrackingTarget(f"sqlite:///{tempfile.mkdtemp()}/mlruns/mlflow.db", "benchmark")

    def measure(name, batch, steps, micro_batch="auto"):
        model, used = prepared(build(name), precision)
        plan = plan_training(Budget(kind="steps", steps=steps), batch, len(train))
        schedule = make_schedule(Schedule(name="cosine", final_factor=0.0), plan.total_steps, plan.steps_per_epoch)
        with TrackedRun(target, "benchmark", {}) as run:
            result = fit(
                *(model, optimizer_of(model, side), splits, plan, schedule),
                batch=batch,
                seed=0,
                micro_batch=chosen_micro_batch(micro_batch, model, train, torch.device("cpu"), batch, precision=used),
                precision=used,
                compiled=side == "compiled",
                on_evaluation=lambda evaluation: run.log_metrics(evaluation.metrics, evaluation.epoch),
            )
        return result.steps * batch / result.train_seconds

    return measure


def bare(side, precision):
    """Return the same function of the shortest loop: select, forward, mean loss, backward, step, LR."""
    from pipeline.engine.runtime import FP32

    images, labels = data()
    images = images.float().sub_(127.5).div_(73.9)

    def measure(name, batch, steps):
        model, used = prepared(build(name), precision) if side == "same" else (build(name), FP32)
        optimizer = optimizer_of(model, side)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        passes = -(-steps * batch // len(labels))
        order = torch.cat([torch.randperm(len(labels)) for _ in range(passes)])[: steps * batch]
        started = time.perf_counter()
        for where in order.split(batch):
            with used.context():
                logits = model(images[where])
            loss = F.cross_entropy(logits.float(), labels[where])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return steps * batch / (time.perf_counter() - started)

    return measure


def serve(side, precision):
    """Measure each case that is read from stdin, until its end."""
    kind, _, piece = side.partition("-")
    measure = (bare if kind in ("same", "plain") else engine)(kind, precision)
    more = {"micro_batch": int(piece)} if piece else {}
    for line in sys.stdin:
        found = measure(*json.loads(line), **more)
        print(found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)


class Side:
    """A process that measures one side."""

    def __init__(self, name: str, precision: str) -> None:
        command = [sys.executable, __file__, "--side", name, "--precision", precision]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self, *case) -> float:
        """Measure a case; return its examples per second."""
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        rate, self.peak_kib = map(float, self._process.stdout.readline().split())
        return rate

    def end(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def main(cases: list[tuple], pairs: list[tuple[str, str]], repeats: int, precision: str) -> None:
    """Measure and print the ratios of `pairs` of sides in `cases`."""
    sides = {name: Side(name, precision) for name in dict.fromkeys(name for pair in pairs for name in pair)}
    rows = []
    for name, batch, steps in cases:
        for side in sides.values():
            side.measure(name, batch, max(2, steps // 4))  # warm-up
        rounds = [{which: side.measure(name, batch, steps) for which, side in sides.items()} for _ in range(repeats)]
        row = {"model": name, "batch": batch, "precision": precision}
        row |= {f"{which}_per_second": round(statistics.median(r[which] for r in rounds)) for which in sides}
        row["peak_mib"] = {which: round(side.peak_kib / 1024) for which, side in sides.items()}
        for ours, theirs in pairs:
            ratios = [r[ours] / r[theirs] for r in rounds]
            row[f"{ours}/{theirs}"] = round(statistics.median(ratios), 3)
            row[f"{ours}/{theirs} range"] = [round(min(ratios), 2), round(max(ratios), 2)]
        print(json.dumps(row), flush=True)
        rows.append(row)
    for side in sides.values():
        side.end()
    columns = [f"{pairs[0][0]}_per_second", *(f"{ours}/{theirs}" for ours, theirs in pairs)]
    print(f"\n{'model':12} {'batch':>6}" + "".join(f"{column:>24}" for column in columns))
    for row in rows:
        print(f"{row['model']:12} {row['batch']:6}" + "".join(f"{row[column]:24,}" for column in columns))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {precision}, {repeats} rounds")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--pieces", type=int, nargs="+")
    parser.add_argument("--model", choices=("mlp", "simple_cnn"), help="only this network")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    # There is no target for small batches in bfloat16.
    chosen = [case for case in CASES if given.model in (None, case[0]) and (given.precision == "fp32" or case[1] > 32)]
    wanted = [("engine", "same"), ("engine", "plain")]
    if given.precision == "fp32":
        wanted.append(("bytes", "same"))
    if given.compile:
        wanted.append(("compiled", "engine"))
    if given.pieces:
        chosen, wanted = CASES[-1:], [(f"pieces-{piece}", "plain") for piece in given.pieces]
    if given.side:
        serve(given.side, given.precision)
    else:
        main(chosen, wanted, given.repeats, given.precision)
