"""Compare the peak memory of a run with that of the bare loop: `python benchmarks/memory.py` (Linux only).

The network is simple_cnn, the data are 20,000 images of 28×28 as floats. The first measurement, with `batching=auto`,
is the peak of the whole process. The second one, in micro-batches of 256, is what training adds to a process that has
loaded data and libraries and has trained a tiny network; it counts gradients, but neither parameters nor momentum.
"""

import argparse
import re
import subprocess
import sys

from interleaved import show

# Run in a process of its own. `loop.py` of this folder has both loops; VmHWM is the kernel's record of the peak.
PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
import loop
measure = loop.{side}("{name}", "fp32")
measure("tiny", 8, 2)
def kilobytes(what):
    (line,) = [line for line in open("/proc/self/status") if line.startswith(what)]
    return line.split()[1]
print("whole", kilobytes("VmHWM"))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # resets the peak
print("before", kilobytes("VmRSS"))
{call}
print("after", kilobytes("VmHWM"))
"""
MIB = 1024
PARAMETERS = 4 * (25 * 32 + 32 + 32 * 64 * 25 + 64 + 64 * 49 * 1024 + 1024 + 1024 * 10 + 10) / 2**20


def peak(side: str, name: str, call: str) -> tuple[float, float]:
    """Return (peak of the whole process, peak above the memory used before `call`) in MiB."""
    folder = __file__.rpartition("/")[0] or "."
    program = PROGRAM.format(folder=folder, side=side, name=name, call=call)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = {what: int(number) / MIB for what, number in re.findall(r"(whole|before|after) (\d+)", done.stdout)}
    return max(found["whole"], found["after"]), found["after"] - found["before"]


def main(repeats: int) -> None:
    """Measure and print."""
    call = 'measure("simple_cnn", 2048, 2)'
    pairs = [(peak("engine", "engine", call)[0], peak("bare", "plain", call)[0]) for _ in range(repeats)]
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    show(
        *("peak memory, simple_cnn, batch 2048, engine ÷ plain bare loop", "≤ 1.1", ratios[len(ratios) // 2]),
        mib=[round(number) for number in pairs[0]],
        range=[round(ratios[0], 3), round(ratios[-1], 3)],
    )
    for batch in (256, 2048, 16384):
        call = f'measure("simple_cnn", {batch}, 2, micro_batch=256)'
        # The optimizer's momentum is as large as the parameters.
        beyond = peak("engine", "engine", call)[1] - 2 * PARAMETERS
        show(f"MiB beyond data, model and optimizer state, batch {batch} in pieces of 256", "≤ 300", beyond)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    main(parser.parse_args().repeats)
