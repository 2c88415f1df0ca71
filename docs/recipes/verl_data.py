"""Parquet files for verl, from the study's environment: `python docs/recipes/verl_data.py data/verl`.

train.parquet holds DAPO-Math-17k and DeepScaleR without the problems that are in a benchmark; each benchmark
has a file of its own. Sets are those of data/problem_sets.yaml, each at one commit; JSON Lines files may take
their place.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from hicra.study.problems.contamination import refuse_contaminated
from hicra.study.problems.problem_sets import Problem, read_set, set_name

SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


def rows(problems: Iterable[Problem], name: str) -> pd.DataFrame:
    """verl's columns, a row a problem."""
    return pd.DataFrame(
        {
            "data_source": name,
            "prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": problem.problem}],
            "reward_model": {"style": "rule", "ground_truth": problem.answer},
            "extra_info": {"index": i, "source": problem.source},
        }
        for i, problem in enumerate(problems)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", nargs="+", default=["dapo-math-17k", "deepscaler"])
    parser.add_argument("--benchmarks", nargs="+", default=["aime24", "aime25", "math500", "amc23"])
    given = parser.parse_args()
    benchmarks = {set_name(source): read_set(source) for source in given.benchmarks}
    training, report = refuse_contaminated(read_set(given.train), benchmarks)
    given.out.mkdir(parents=True, exist_ok=True)
    print(str(report).splitlines()[0])
    for name, problems in {"train": training, **benchmarks}.items():
        rows(problems, "math" if name == "train" else name).to_parquet(given.out / f"{name}.parquet")
        print(f"{given.out / name}.parquet: {len(problems)} problems")


if __name__ == "__main__":
    main()
