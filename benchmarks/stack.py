"""Measure how much faster stacked replicates train than the same runs one after another: `python benchmarks/stack.py`.

Training alone, with its evaluations, on one thread: five epochs of the digits by the engine's ordinary loop, and by
stacks of the size that `runtime.stack=auto` chooses among 32 replicates.
"""

import argparse
import functools
import statistics

import torch
from hydra import compose, initialize_config_dir
from interleaved import in_turn, ratio, show

from pipeline.config import Config, conf_dir, register, resolve
from pipeline.run.replicates import stack_size, train_replicates
from pipeline.run.workload import build_workload

REPLICATES = 32
# Seconds a replicate, one after another and stacked, at least so many times as fast: by hidden layers and batch size.
TARGETS = {
    "[64]": {4: 8.0, 16: 6.0, 64: 4.0, 256: 1.5},
    "[256,128]": {4: 1.0, 16: 1.0, 64: 1.0, 256: 1.0},
}


def seconds_each(config: Config, size: int, replicates: int) -> float:
    """Train `replicates` of a run, `size` at once; return the seconds of training for each."""
    config.seed = f"0-{replicates - 1}" if replicates > 1 else 0
    workload = build_workload(config, in_sweep=True)
    found = train_replicates(config, workload, size, lambda step: None, lambda evaluations: False)
    return sum(result.train_seconds for result in found.by_seed.values()) / replicates


def main() -> None:
    """Measure each network and batch size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    register()
    for hidden, targets in TARGETS.items():
        for batch, target in targets.items():
            with initialize_config_dir(conf_dir(), version_base="1.3"):
                overrides = [f"model.hidden={hidden}", f"batch={batch}", f"seed=0-{REPLICATES - 1}"]
                config = resolve(compose("config", overrides))
            size = stack_size(config, build_workload(config, in_sweep=True), in_sweep=True)
            found = in_turn(
                {
                    "alone": functools.partial(seconds_each, config, 1, 1),
                    "stacked": functools.partial(seconds_each, config, size, REPLICATES if size > 1 else 1),
                },
                repeats,
            )
            medians = {name: round(1000 * statistics.median(values), 1) for name, values in found.items()}
            median, low, high = ratio(found["alone"], found["stacked"])
            show(
                f"mlp {hidden}, batch {batch}: replicates a second against one at a time, {size} at once",
                f"≥ {target:g}",
                median,
                range=[round(low, 2), round(high, 2)],
                milliseconds=medians,
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
