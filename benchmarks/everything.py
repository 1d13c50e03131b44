"""All of the measurements, one after the other, and how long each took: `make bench`.

    python benchmarks/everything.py PEERS_PYTHON

`RESULTS.md` has what they found, and names the others, which take longer: `loop.py --compile`, `loop.py --pieces`,
`sweep.py --whole`, `workers.py --threads`, `peers/compare.py` with all of its
LRs, and repeats of the sweeps.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
# What processors call it that compute in bfloat16: Intel's and AMD's vectors, Intel's tiles, Arm.
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


def parts(peers: str) -> list[list[str]]:
    """The commands, each with about the minutes that it takes on two cores."""
    in_bfloat16 = ["loop.py", "--precision", "bf16", "--model", "simple_cnn"]
    return [
        ["loop.py"],  # 4
        *([in_bfloat16] if has_bfloat16() else []),  # 1
        ["start.py"],  # 0.7
        ["memory.py", "--repeats", "3"],  # 1.5
        ["workers.py"],  # 4.5
        ["tracking.py", "--repeats", "2"],  # 0.7
        ["overhead.py", "--trials", "40", "--repeats", "1"],  # 0.5
        ["sweep.py"],  # 2.5
        # By then the peers' sweeper was found to be slower with two trials at once.
        ["peers/compare.py", peers, "--lrs", "12", "--way", "one by one"],  # 4
    ]


def has_bfloat16() -> bool:
    """Whether this processor computes in bfloat16; where Linux doesn't say, it counts as if not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    words = {word for line in lines if line.lower().startswith(("flags", "features")) for word in line.split()}
    return bool(words & BFLOAT16)


def main() -> int:
    """Run all parts, also after one that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", help="the Python of the peers' environment")
    failed, begun = [], time.perf_counter()
    if not has_bfloat16():
        print("This processor has no bfloat16: loop.py --precision bf16 is left out.", flush=True)
    for script, *arguments in parts(parser.parse_args().peers):
        name, started = " ".join([script, *arguments]), time.perf_counter()
        print(f"\n{name}", flush=True)
        if subprocess.run([sys.executable, str(FOLDER / script), *arguments], check=False).returncode:
            failed.append(name)
        print(json.dumps({"part": name, "seconds": round(time.perf_counter() - started)}), flush=True)
    print(f"\n{(time.perf_counter() - begun) / 60:.0f} minutes; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
