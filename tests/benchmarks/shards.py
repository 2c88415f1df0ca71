"""What a lexicon by shards costs, and of how many words: `python -m tests.benchmarks.shards --solutions FILE
--text-field solution --after '<think>' [--times 4]`.

One shard is measured on one core, of the solutions drawn with replacement, `--times` as many; the table for
`--words` in all, in shards of `--shard` words, is computed from that: work, what moves, what the driver holds.
"""

from __future__ import annotations

import argparse
import json
import pickle
import random
import tempfile
import time
from pathlib import Path

import numpy as np

from hicra.lexicon import ngram_counts
from hicra.lexicon.corpus import Corpus
from hicra.lexicon.ngram_counts import bucket_counts, exact_counts, frequent_ngrams, label_counts
from hicra.lexicon.shards import encoded

FREQUENT = 0.01  # of the solutions, as the preset paper


def timed(function, *arguments):
    started = time.perf_counter()
    found = function(*arguments)
    return time.perf_counter() - started, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--solutions", nargs="+", required=True)
    parser.add_argument("--text-field", default="response")
    parser.add_argument("--after", default="")
    parser.add_argument("--times", type=int, default=4)
    parser.add_argument("--words", type=float, default=1e10)
    parser.add_argument("--shard", type=float, default=1e8)
    given = parser.parse_args()
    texts = list(Corpus(given.solutions, text=given.text_field, after=given.after, boxed_only=False))
    drawn = random.Random(0).choices(texts, k=given.times * len(texts))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.jsonl"
        path.write_text("".join(json.dumps({"response": text}) + "\n" for text in drawn))
        read, (part, told) = timed(encoded, Corpus([path], boxed_only=False), 0, (3, 4, 5))
    n, solutions = part.n_words, len(part)
    first, buckets = timed(bucket_counts, part)
    second, counts = timed(exact_counts, part, buckets >= FREQUENT * solutions)
    table = frequent_ngrams(part, int(FREQUENT * solutions))
    third, _ = timed(label_counts, part, table.code, np.arange(len(table.grams)) % 500)
    adding, _ = timed(np.add, buckets, buckets)
    merging, _ = timed(ngram_counts._merge, counts, counts)
    seconds = {"reading and encoding": read, "buckets": first, "exact counts": second, "Cluster DF": third}
    print(f"measured: {n / 1e6:.1f} M words in {solutions} solutions, one core")
    for name, spent in seconds.items():
        print(f"  {name}: {spent:.1f} s, {n / spent / 1e6:.2f} M words/s")
    print(
        f"  encoded {len(pickle.dumps(part)) / n:.1f} bytes a word; of a solution {len(pickle.dumps(told)) / solutions:.0f} bytes to the driver"
    )
    print(f"  buckets {buckets.nbytes / 1e6:.0f} MB, adding two {adding:.2f} s")
    size = sum(array.nbytes for array in counts)
    print(
        f"  exact counts {counts[0].size} rows, {size / 1e6:.1f} MB, merging two {merging:.2f} s; {len(table.grams)} frequent n-grams"
    )
    shards, all_solutions = given.words / given.shard, given.words / n * solutions
    print(f"computed: {given.words:.0e} words, {shards:.0f} shards, {all_solutions:.1e} solutions")
    print(f"  map: {given.words / n * sum(seconds.values()) / 3600:.1f} core hours")
    print(f"  encoded, over all nodes: {given.words * len(pickle.dumps(part)) / n / 1e9:.0f} GB")
    print(f"  driver, for repeats: {all_solutions * len(pickle.dumps(told)) / solutions / 1e9:.1f} GB")
    print(
        f"  buckets to be added: {shards * buckets.nbytes / 1e9:.1f} GB, {shards * adding:.0f} s of one core"
    )
    share = (buckets >= FREQUENT * solutions).mean()
    print(f"  buckets that are not ruled out: {share:.2%}")


if __name__ == "__main__":
    main()
