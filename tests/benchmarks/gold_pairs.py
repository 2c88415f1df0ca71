"""Every gold answer against itself, and different ones against each other: none is right by accident.

python -m tests.benchmarks.gold_pairs --data DATA --out pairs.json

Different golds of one file are compared in both directions: all of them, or where a file has more than
`--most`, all of equal length. What is found right is listed, to be judged by eye: 1/2 and 0.5 are equal.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

from hicra.study.problems import answer_comparison, grading
from hicra.study.problems.answers import read
from hicra.study.problems.grading_worker import verdict


def gold_answers(data: Path) -> dict[str, list[str]]:
    """The different gold answers of each file of problems below `data`, by file name."""
    found = {}
    for path in sorted([*data.glob("benchmarks/*.jsonl"), *data.glob("train/*.jsonl.gz")]):
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        answers = {json.loads(line)["answer"] or "" for line in text.decode().splitlines()}
        found[path.name.split(".")[0]] = sorted(answer for answer in answers if answer.strip())
    return found


def pairs(answers: list[str], most: int) -> Iterator[tuple[str, str]]:
    """All pairs of different answers, or all of equal length where there are more than `most`."""
    if len(answers) * (len(answers) - 1) // 2 <= most:
        yield from itertools.combinations(answers, 2)
        return
    for _, equal in itertools.groupby(sorted(answers, key=len), key=len):
        yield from itertools.combinations(equal, 2)


def right(gold: str, answer: str) -> bool:
    """The verdict that `grade` gives, in this process: nothing here is model text."""
    texts = [grading.tidy(text) for text in (gold, answer)]
    said = grading.quick(*texts)
    return (said or verdict(answer_comparison, *json.loads(json.dumps([read(t) for t in texts])))) == "right"


def accidents(answers: list[str], most: int) -> tuple[int, list[tuple[str, str]]]:
    """How many pairs were tried, and which were found right in either direction."""
    tried, found = 0, []
    for pair in pairs(answers, most):
        tried += 1
        if right(*pair) or right(*pair[::-1]):
            found.append(pair)
    return tried, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with benchmarks/ and train/")
    parser.add_argument("--most", type=int, default=400_000, help="pairs of a file that are all tried")
    parser.add_argument("--only", nargs="+", help="names of files")
    parser.add_argument("--out", type=Path, help="where the pairs found right are written as JSON")
    options = parser.parse_args()
    report = {}
    print("| file | golds | against itself | pairs | right | seconds |\n|---|---|---|---|---|---|")
    for name, answers in gold_answers(options.data).items():
        if options.only and name not in options.only:
            continue
        started = time.monotonic()
        itself = [answer for answer in answers if not right(answer, answer)]
        tried, report[name] = accidents(answers, options.most)
        seconds = time.monotonic() - started
        alike = f"{len(answers) - len(itself)} of {len(answers)}"
        print(
            f"| {name} | {len(answers)} | {alike} | {tried:,} | {len(report[name])} | {seconds:.0f} |",
            flush=True,
        )
    if options.out:
        options.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
