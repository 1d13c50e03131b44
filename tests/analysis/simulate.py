"""Tables of runs whose truth is known."""

import numpy as np

from pipeline.analysis.runs import Run

SHAPES = {
    "symmetric": lambda d: 0.03 * d**2,
    "steep left": lambda d: np.where(d < 0, 0.08 * d**2, 0.02 * d**2),
    "steep right": lambda d: np.where(d < 0, 0.03 * d**2, 0.15 * d**2),
    "smooth skew": lambda d: 0.075 * (np.exp(0.9 * d) - 1 - 0.9 * d),
}
SPREAD = (0, 0.5, -0.5, 1, -1, 1.5, -1.5)


def study(
    batch,
    best_lr,
    rng,
    *,
    shape="symmetric",
    noise=0.03,
    seed_sd=0.08,
    seeds=3,
    trials=24,
    floor=0.2,
    wall=None,
):
    """One study as the sampler lays it out: a bracket, then points spread around a rough guess of the best."""
    center = np.log2(best_lr)
    near = center + rng.normal(0, 0.3)
    octaves = [center, center - 2, center + 2] + [near + SPREAD[i % 7] for i in range(trials - 3)]
    # A seed is good or bad at every batch size alike.
    offsets = np.random.default_rng(7).normal(0, seed_sd, seeds)
    runs = []
    for number, octave in enumerate(octaves):
        seed = number % seeds
        loss = floor * np.exp(SHAPES[shape](octave - center) + offsets[seed] + rng.normal(0, noise))
        failed = wall is not None and octave >= np.log2(wall)
        runs.append(
            Run(
                batch,
                float(2**octave),
                float(loss),
                seed=seed,
                status="diverged" if failed else "complete",
                steps=1000,
            )
        )
    return runs
