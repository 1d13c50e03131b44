"""Peak memory of a run beside the bare loop's: `python benchmarks/memory.py`. Linux: reads the kernel's own high mark.

The network is simple_cnn, the data are 20,000 images of 28×28 as floats. What lies "beyond" counts from just before the
first step, when data, network, optimizer and all libraries are there; the optimizer's state, which comes with it, and
the gradients are taken off.
"""

import argparse
import re
import subprocess
import sys

from interleaved import show

# `loop.py` of this folder has both loops.
PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
import loop
measure = loop.{side}("{name}", "fp32")
measure("simple_cnn", 8, 2)  # everything is imported and allocated once
def mark(what):
    status = open("/proc/self/status").read()
    print(what, *[line.split()[1] for line in status.splitlines() if line.startswith(("VmRSS", "VmHWM"))][::-1])
mark("before")
{call}
mark("after")
"""
MIB = 1024
PARAMETERS = 4 * (25 * 32 + 32 + 32 * 64 * 25 + 64 + 64 * 49 * 1024 + 1024 + 1024 * 10 + 10) / 2**20


def peak(side: str, name: str, call: str) -> tuple[float, float]:
    """(peak, peak beyond what was there before the first step), in MiB."""
    folder = __file__.rpartition("/")[0] or "."
    program = PROGRAM.format(folder=folder, side=side, name=name, call=call)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before = re.search(r"before (\d+) (\d+)", done.stdout)
    after = re.search(r"after (\d+) (\d+)", done.stdout)
    assert before, done.stdout
    assert after, done.stdout
    highest = max(int(number) for number in after.groups())
    return highest / MIB, (highest - min(int(number) for number in before.groups())) / MIB


def main(repeats: int) -> None:
    """Measure and print."""
    call = 'measure("simple_cnn", 2048, 3)'
    pairs = [(peak("engine", "engine", call)[0], peak("bare", "plain", call)[0]) for _ in range(repeats)]
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    show(
        *("peak memory, simple_cnn, batch 2048, engine ÷ plain bare loop", "≤ 1.1", ratios[len(ratios) // 2]),
        mib=[round(number) for number in pairs[0]],
        range=[round(ratios[0], 3), round(ratios[-1], 3)],
    )
    for batch in (256, 2048, 16384):
        _, beyond = peak("engine", "engine", f'measure("simple_cnn", {batch}, 2, micro_batch=256)')
        # Momentum and gradients are as large as the parameters each.
        show(
            f"MiB beyond data, model and optimizer state, batch {batch} in pieces of 256",
            "≤ 300",
            beyond - 2 * PARAMETERS,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    main(parser.parse_args().repeats)
