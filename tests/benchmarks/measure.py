"""How fast `hicra measure` is: `python -m tests.benchmarks.measure [--rollouts 100000] [--words 500]`.

The rollouts are made from words of a Zipf law and, one in thirty, a Strategic Gram; a step has 1,000, of 125
problems with 8 each. What is timed is the command's whole work but the report: reading, matching, intervals.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from hicra import Lexicon
from hicra.dynamics.measure import measure

A_STEP, GROUP = 1000, 8


def write_rollouts(path: Path, n: int, words: int, lexicon: Lexicon) -> None:
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"word{i}" for i in range(20_000)] + list(lexicon.grams), dtype=object)
    zipf = 1 / np.arange(1, 20_001)
    chances = np.r_[zipf / zipf.sum() * 29 / 30, np.full(len(lexicon), 1 / len(lexicon) / 30)]
    with open(path, "w") as stream:
        for i in range(n):
            text = " ".join(vocabulary[rng.choice(vocabulary.size, words, p=chances)])
            row = {
                "step": i // A_STEP,
                "problem": f"{i // GROUP}",
                "response": text,
                "reward": int(rng.integers(2)),
            }
            stream.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=500)
    options = parser.parse_args()
    lexicon = Lexicon.load("listing1")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rollouts.jsonl"
        write_rollouts(path, options.rollouts, options.words, lexicon)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        found = measure(path, lexicon)
        seconds = time.perf_counter() - started
        size = path.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {
        "rollouts": options.rollouts,
        "text (MB)": round(size / 1e6),
        "seconds": round(seconds, 1),
        "peak memory (MB)": round(peak / 1024),
        "before measuring (MB)": round(before / 1024),
        "steps": int(found.steps["step"].nunique()),
        "cores": os.cpu_count(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
