"""The training loop beside the shortest PyTorch loop that does the same arithmetic from the same data in memory.

Prints a JSON line for each case and a table at the end. Runs alternate, so that a machine whose speed drifts
slows both; the ratio is taken pair by pair, and its median is what counts.
"""

import json
import statistics
import time

import torch
import torch.nn.functional as F

from pipeline.budget import plan_training
from pipeline.data import ExampleStream, InMemorySplit, Splits
from pipeline.engine import fit
from pipeline.models import MLP, SimpleCNN
from pipeline.schedule import make_schedule

EXAMPLES, REPEATS = 20_000, 5
MODELS = {
    "mlp": lambda: MLP((1, 28, 28), 10, (256, 128)),
    "simple_cnn": lambda: SimpleCNN((1, 28, 28), 10, (32, 64), 1024),
}
# Steps that take about a second each way on two cores.
CASES = [("mlp", 32, 600), ("mlp", 256, 200), ("mlp", 2048, 40), ("simple_cnn", 32, 60), ("simple_cnn", 256, 10)]


def main() -> None:
    """Measure every case and print what was found."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(EXAMPLES, 1, 28, 28, generator=generator)
    labels = torch.randint(0, 10, (EXAMPLES,), generator=generator)
    rows = []
    for name, batch, steps in CASES:
        data = (images, labels, batch, steps)
        # The first pair pays for warming up, and is left out.
        pairs = [(engine(name, *data), bare(name, *data)) for _ in range(REPEATS + 1)][1:]
        row = {
            "model": name,
            "batch": batch,
            "engine_examples_per_second": round(statistics.median(e for e, _ in pairs)),
            "bare_examples_per_second": round(statistics.median(b for _, b in pairs)),
            "ratio": round(statistics.median(e / b for e, b in pairs), 3),
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    print(f"\n{'model':12} {'batch':>6} {'engine/s':>10} {'bare/s':>10} {'ratio':>7}   (torch {torch.__version__})")
    for row in rows:
        model, batch, ours, theirs, ratio = row.values()
        print(f"{model:12} {batch:6} {ours:10,} {theirs:10,} {ratio:7.3f}")


def engine(name: str, images: torch.Tensor, labels: torch.Tensor, batch: int, steps: int) -> float:
    """Examples per second of `pipeline.engine.fit`, without its evaluations."""
    torch.manual_seed(0)
    model = MODELS[name]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    train, few = InMemorySplit(images, labels), InMemorySplit(images[:10], labels[:10])
    splits = Splits("benchmark", train, few, few, 10, "", 2.3, "")
    plan = plan_training("steps", batch, len(train), steps=steps)
    schedule = make_schedule("cosine", plan.total_steps, plan.steps_per_epoch, final_factor=0.0)
    result = fit(model, optimizer, splits, plan, schedule, batch=batch, seed=0)
    return result.steps * batch / result.train_seconds


def bare(name: str, images: torch.Tensor, labels: torch.Tensor, batch: int, steps: int) -> float:
    """Examples per second of the shortest loop: gather, forward, mean loss, backward, step, LR."""
    torch.manual_seed(0)
    model = MODELS[name]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = ExampleStream(len(labels), 0).take(0, steps * batch)
    started = time.perf_counter()
    for where in order.split(batch):
        loss = F.cross_entropy(model(images[where]), labels[where])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return steps * batch / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
