"""Run the benchmarks one after the other, and print how long each takes: `make bench`.

    python benchmarks/everything.py PEERS_PYTHON

`RESULTS.md` has their results, and those of longer ones that are not part of this: `loop.py --compile`,
`loop.py --pieces`, `sweep.py --whole`, `workers.py --threads`, and `peers/compare.py` with all of its LRs.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
# Names of bfloat16 among a processor's features in /proc/cpuinfo: Intel and AMD (vectors), Intel (tiles), Arm.
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


def parts(peers: str) -> list[list[str]]:
    """Return the commands, each with the minutes that it takes on two cores."""
    in_bfloat16 = ["loop.py", "--precision", "bf16", "--model", "simple_cnn"]
    return [
        ["loop.py"],  # 4
        *([in_bfloat16] if has_bfloat16() else []),  # 1
        ["start.py"],  # 0.7
        ["memory.py", "--repeats", "3"],  # 1.5
        ["workers.py"],  # 4.5
        ["tracking.py", "--repeats", "2"],  # 0.7
        ["overhead.py", "--trials", "40", "--repeats", "1"],  # 0.5
        ["sweep.py"],  # 2
        ["stack.py"],  # 2
        ["main_job.py", "--repeats", "1"],  # 2
        # One by one: the peers' sweeper was measured to be slower with two trials at the same time.
        ["peers/compare.py", peers, "--way", "one by one"],  # 8
    ]


def has_bfloat16() -> bool:
    """Return whether this processor computes in bfloat16; False if the system doesn't say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    words = {word for line in lines if line.lower().startswith(("flags", "features")) for word in line.split()}
    return bool(words & BFLOAT16)


def main() -> int:
    """Run all parts, even if one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", help="Python of the peers' environment")
    failed, begun = [], time.perf_counter()
    if not has_bfloat16():
        print("This processor has no bfloat16, so loop.py --precision bf16 is left out.", flush=True)
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
