"""How long `compress --help` takes: whole processes, beside an empty Python, in turns.

python benchmarks/help_time.py -o benchmarks/records/
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import lines

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {"compress --help": ["-m", "compress", "--help"], "empty Python": ["-c", "pass"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "records")
    options = parser.parse_args()
    samples = measure(options.rounds)
    context = {**lines.context("click"), "measure": "help"}
    lines.write(options.output / "help.jsonl", [{**context, "name": name, "samples_ms": own} for name, own in samples.items()])
    for name, own in samples.items():
        print(f"{name}: {median(own):.0f} ms, {min(own):.0f} at best")
    print("target: compress --help under 300 ms")


def measure(rounds: int) -> dict[str, list[float]]:
    """Wall time in ms of each command's process; the first round warms the disk cache and is not counted."""
    samples: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for index in range(rounds + 1):
        for name, arguments in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            if index:
                samples[name].append(1e3 * (time.perf_counter() - start))
    return samples


if __name__ == "__main__":
    main()
