"""The lexicon recipes on real traces: speed, growth, stability, and what each condition brings.

    python -m tests.benchmarks.lexicon speed --solutions FILE --text-field solution --after '<think>'
    python -m tests.benchmarks.lexicon growth --solutions FILE --text-field solution --after '<think>'
    python -m tests.benchmarks.lexicon stability --solutions FILE FILE --correct-field correct --one-per question
    python -m tests.benchmarks.lexicon conditions --solutions FILE ... --background FILE --labels FILE

Each prints a Markdown table and the machine's cores. `growth` resamples the solutions with replacement
to 1, 2, 4 and 8 times their number.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from itertools import combinations

import numpy as np
import pandas as pd

from hicra.lexicon import contrast
from hicra.lexicon.build import build_lexicon
from hicra.lexicon.corpus import Corpus
from hicra.lexicon.labelled_sentences import read_sentences, schemes, score_sentences
from hicra.lexicon.lexicon import Lexicon
from hicra.lexicon.ngram_counts import EncodedCorpus, NgramTable, frequent_ngrams


def _measure(texts) -> dict:
    started = time.perf_counter()
    lexicon = build_lexicon(texts)
    counts = lexicon.provenance["counts"]
    return {
        "solutions": counts["solutions"],
        "words": counts["words"],
        "n-grams embedded": counts["embedded_ngrams"],
        "seconds": round(time.perf_counter() - started, 1),
        "peak GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "grams": len(lexicon),
    }


def speed(options) -> pd.DataFrame:
    """The paper preset from file to lexicon, in this process."""
    return pd.DataFrame([_measure(_corpus(options, options.solutions))])


def growth(options) -> pd.DataFrame:
    """Counting and Cluster DF alone, and everything, at 1x to 8x; a process each, for its peak memory."""
    rows = []
    for times in (1, 2, 4, 8):
        command = [sys.executable, "-m", "benchmarks.lexicon", *sys.argv[1:], "--times", str(times)]
        rows += json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    table = pd.DataFrame(rows)
    first = table.iloc[0]
    growth_of = {k: table[k] / first[k] for k in ("words", "counting seconds", "seconds")}
    return table.assign(**{f"{k} x": v.round(2) for k, v in growth_of.items()})


def _grown(options) -> str:
    texts = list(_corpus(options, options.solutions))
    chosen = random.Random(0).choices(range(len(texts)), k=options.times * len(texts))
    started = time.perf_counter()
    with EncodedCorpus(texts[i] for i in chosen) as corpus:
        frequent_ngrams(corpus, len(chosen) // 100)
    counting = time.perf_counter() - started
    row = {
        "times": options.times,
        "counting seconds": round(counting, 1),
        **_measure(texts[i] for i in chosen),
    }
    return json.dumps([row])


def stability(options) -> pd.DataFrame:
    """Jaccard overlap of the grams under changes that should not matter much."""
    texts = list(_corpus(options, options.solutions))
    shuffled = random.Random(0).sample(texts, len(texts))
    half = len(texts) // 2
    variants = {
        "seeds 0, 1, 2": [build_lexicon(texts, seed=s) for s in (0, 1, 2)],
        "halves of the corpus": [build_lexicon(part) for part in (shuffled[:half], shuffled[half:])],
        "source files": [build_lexicon(_corpus(options, [path])) for path in options.solutions],
        "k-means, HDBSCAN": [build_lexicon(texts, clustering=c) for c in ("kmeans", "hdbscan")],
        "clusters 300, 600, 1200": [build_lexicon(texts, n_clusters=k) for k in (300, 600, 1200)],
    }
    if options.background:
        short = _background(options)
        parts = [
            build_lexicon(p, preset="hicra", background=short) for p in (shuffled[:half], shuffled[half:])
        ]
        variants["halves of the corpus, preset hicra"] = parts
    rows = []
    for name, lexicons in variants.items():
        pairs = [_jaccard(a, b) for a, b in combinations(lexicons, 2)]
        sizes = ", ".join(str(len(x)) for x in lexicons)
        rows.append(
            {"varied": name, "grams": sizes, "Jaccard (mean of pairs)": round(float(np.mean(pairs)), 2)}
        )
    return pd.DataFrame(rows)


def _jaccard(a: Lexicon, b: Lexicon) -> float:
    return len(set(a.grams) & set(b.grams)) / len(set(a.grams) | set(b.grams))


def conditions(options) -> pd.DataFrame:
    """The hicra preset with each condition left out, others tried, on the labelled tuning set."""
    sizes, min_share = contrast.SIZES, contrast.MIN_SHARE
    with (
        EncodedCorpus(_corpus(options, options.solutions), sizes) as corpus,
        EncodedCorpus(_background(options), sizes, like=corpus) as short,
    ):
        table = frequent_ngrams(corpus, max(2, round(0.02 * len(corpus))))
        bits = contrast.contrast(table, corpus, short)
    early, share = table.early / table.tf, table.df / len(corpus)
    wording = np.array(
        [not any(w.isdigit() or len(w) == 1 and w not in "ai" for w in g.split()) for g in table.grams]
    )
    length = np.array([g.count(" ") + 1 for g in table.grams])
    high, late = bits >= contrast.MIN_CONTRAST, early <= contrast.MAX_EARLY
    often = share >= min_share
    opens = np.array([not g.endswith((" the", " a", " of", " to", " that", " is")) for g in table.grams])
    variants = {
        "preset hicra": high & late & often,
        "without contrast": late & often,
        "without the opening's": high & often,
        "and no numbers or variables": high & late & often & wording,
        "2 % of the solutions instead of 5 %": high & late,
        "3 to 5 words only (paper)": high & late & often & (length >= 3),
        "and sparse: at most 2 a solution": high & late & often & (table.tf <= 2 * table.df),
        "and no trailing function word": high & late & often & opens,
        "and no gram that holds another": _innermost(table, high & late & often),
    }
    sets = {name: read_sentences(options.labels, name) for name in schemes(options.labels)}
    rows = []
    for name, mask in variants.items():
        grams = table.take(mask).grams
        rows.append({"variant": name, "grams": len(grams), **_scores(Lexicon.from_grams(grams), sets)})
    return pd.DataFrame(rows)


def _innermost(table: NgramTable, mask: np.ndarray) -> np.ndarray:
    kept = [f" {table.grams[i]} " for i in np.flatnonzero(mask)]
    holds = np.array([sum(inner in f" {g} " for inner in kept) > 1 for g in table.grams])
    return mask & ~holds


def _scores(lexicon: Lexicon, sets: dict) -> dict:
    values, f1 = {}, []
    for scheme, sentences in sets.items():
        try:
            score = score_sentences(lexicon, sentences)
        except ValueError:
            continue  # the scheme labels nothing as planning
        f1.append(score.f1)
        if scheme == "ss":
            values = {k: round(getattr(score, k), 3) for k in ("precision", "recall", "f1")}
    return {**values, "mean F1 of schemes": round(float(np.mean(f1)), 3)}


def _corpus(options, sources) -> Corpus:
    return Corpus(
        sources,
        text=options.text_field,
        correct=options.correct_field,
        one_per=options.one_per,
        boxed_only=bool(options.correct_field),
        after=options.after,
    )


def _background(options) -> Corpus:
    return Corpus(options.background, text=options.text_field, boxed_only=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[f.__name__ for f in (speed, growth, stability, conditions)])
    parser.add_argument("--solutions", nargs="+", required=True)
    parser.add_argument("--background", nargs="+")
    parser.add_argument("--labels")
    parser.add_argument("--text-field", default="response")
    parser.add_argument("--correct-field")
    parser.add_argument("--one-per")
    parser.add_argument("--after", default="")
    parser.add_argument("--times", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.times:
        print(_grown(options))
        return
    table = globals()[options.what](options)
    print(table.to_csv(sep="|", index=False))
    print(f"{os.cpu_count()} cores")


if __name__ == "__main__":
    main()
