"""The lexicon recipes on real traces: speed, growth, stability, and what each condition brings.

    python -m tests.benchmarks.lexicon speed --solutions FILE --text-field solution --after '<think>'
    python -m tests.benchmarks.lexicon growth --solutions FILE --text-field solution --after '<think>'
    python -m tests.benchmarks.lexicon stability --solutions FILE FILE --correct-field correct --one-per question
    python -m tests.benchmarks.lexicon conditions --solutions FILE ... --background FILE --labels FILE
    python -m tests.benchmarks.lexicon general --traces FOLDER --out data/lexicons/general.json
    python -m tests.benchmarks.lexicon families --traces FOLDER
    python -m tests.benchmarks.lexicon agreement --traces FOLDER

Each prints a Markdown table and the machine's cores. `growth` resamples the solutions with replacement
to 1, 2, 4 and 8 times their number. `general` builds the shipped lexicon of that name, `families` scores
every lexicon on each family of models, `general` also as built without that family, and `agreement` tells
what its parts bring and how stable it is.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd

from hicra.files import iter_jsonl
from hicra.lexicon import contrast, kinds
from hicra.lexicon.build import build_lexicon
from hicra.lexicon.corpus import Corpus
from hicra.lexicon.labelled_sentences import Sentence, read_sentences, schemes, score_sentences
from hicra.lexicon.lexicon import Lexicon, shipped
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
        command = [sys.executable, "-m", "tests.benchmarks.lexicon", *sys.argv[1:], "--times", str(times)]
        rows += json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    table = pd.DataFrame(rows)
    first = table.iloc[0]
    growth_of = {k: table[k] / first[k] for k in ("words", "counting seconds", "seconds")}
    return table.assign(**{f"{k} x": v.round(2) for k, v in growth_of.items()})


def _grown(options) -> str:
    texts = list(_corpus(options, options.solutions))
    chosen = random.Random(0).choices(range(len(texts)), k=options.times * len(texts))
    started = time.perf_counter()
    frequent_ngrams(EncodedCorpus(texts[i] for i in chosen), len(chosen) // 100)
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
    corpus = EncodedCorpus(_corpus(options, options.solutions), sizes)
    short = EncodedCorpus(_background(options), sizes)
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


FAMILIES = {  # of the shipped `general`: a file, and how to read it
    "R1-distilled Llama-8B": ("general_cots", {"text": "solution", "after": "<think>", "boxed_only": False}),
    "Sky-T1 27B (Gemma-2)": ("skyt1_correct_27b", {"correct": "correct"}),
    "Sky-T1 32B (Qwen2.5)": ("skyt1_correct_32b_ckpts_aime24", {"correct": "correct"}),
}
SOURCE = (
    "the thinking of R1-distilled Llama-8B on general problems, complete but not graded "
    "(interp-reasoning/thought-anchors, MIT), and of Sky-T1 27B and checkpoints of Sky-T1 32B, correct "
    "(NovaSky-AI/SkyThought, Apache-2.0); background: short solutions of non-reasoning models (SkyThought); "
    "seeds of the kinds: by hand, hicra/lexicon/kinds.py"
)
LABELS = Path(__file__).with_name("planning_sentences.csv")
END_OF_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\\\[\(\"'*])")


def general_lexicon(traces: Path, families: Iterable[str] = FAMILIES, part=None, **options) -> Lexicon:
    """`general` of some families; `part` chooses solutions by their number."""
    solutions = {name: _thinking(traces, name, part) for name in families}
    short = Corpus([traces / "short_cot_controls.jsonl.gz"], boxed_only=False)
    return build_lexicon(solutions, preset="general", background=short, source=SOURCE, **options)


def _thinking(traces: Path, family: str, part=None) -> Iterable[str]:
    file, how = FAMILIES[family]
    texts = Corpus([traces / f"{file}.jsonl.gz"], thinking=True, **how)
    return texts if part is None else (text for i, text in enumerate(texts) if part(i))


def general(options) -> pd.DataFrame:
    """Builds and saves the shipped lexicon."""
    lexicon = general_lexicon(options.traces, name=options.out.stem)
    lexicon.save(options.out)
    kinds_of = pd.Series(lexicon.kinds).value_counts()
    return pd.DataFrame([{"grams": len(lexicon), **lexicon.provenance["counts"], **kinds_of}])


def families(options) -> pd.DataFrame:
    """Every lexicon on the labelled sentences of each family, and the share of its thinking that it marks."""
    labelled = _labelled(options.traces)
    traces = read_sentences(options.traces / "math_multi_taxonomy.jsonl.gz", "ss")
    lexicons = [
        (name, lambda _, name=name: Lexicon.load(name)) for name in shipped() if "families" not in name
    ]
    lexicons.append(("general, built without the family", _without(options.traces)))
    rows = []
    for name, lexicon_for in lexicons:
        row, f1 = {"lexicon": name}, []
        for family, sentences in labelled.items():
            score = score_sentences(lexicon_for(family), sentences, {"planning"})
            row[family] = _three(score)
            f1.append(score.f1)
        row["mean F1"] = round(float(np.mean(f1)), 2)
        row["tuning traces"] = _three(score_sentences(lexicon_for("R1-distilled Llama-8B"), traces))
        texts = [t for i, t in enumerate(_thinking(options.traces, "R1-distilled Llama-8B")) if i % 50 == 0]
        row["characters marked, R1"] = round(_covered(lexicon_for("R1-distilled Llama-8B"), texts), 2)
        short = Corpus([options.traces / "short_cot_controls.jsonl.gz"], boxed_only=False)
        texts = [t for i, t in enumerate(short) if i % 50 == 0]
        row["short solutions"] = round(_covered(lexicon_for("R1-distilled Llama-8B"), texts), 2)
        rows.append(row)
    return pd.DataFrame(rows)


def agreement(options) -> pd.DataFrame:
    """`general` against itself: without its seeds, from half of the solutions, without a family, other seeds."""
    traces, whole = options.traces, Lexicon.load("general")
    variants = {
        "contrast alone, 6 bits": lambda: _changed(traces, BITS_PER_SIMILARITY=0.0, MIN_STEERING=6.0),
        "half of the solutions, even": lambda: general_lexicon(traces, part=lambda i: i % 2 == 0),
        "half of the solutions, odd": lambda: general_lexicon(traces, part=lambda i: i % 2 == 1),
        "every second seed": lambda: _fewer_seeds(traces),
        "seed 1 of the clustering": lambda: general_lexicon(traces, seed=1),
        **{f"without {name}": lambda name=name: _without(traces)(name) for name in FAMILIES},
    }
    labelled = [s for sentences in _labelled(traces).values() for s in sentences]
    tuning = read_sentences(traces / "math_multi_taxonomy.jsonl.gz", "ss")
    rows = []
    for name in options.variants or variants:
        lexicon = variants[name]()
        both = set(whole.grams) & set(lexicon.grams)
        row = {"variant": name, "grams": len(lexicon), "overlap": round(_jaccard(whole, lexicon), 2)}
        row["same kind"] = round(float(np.mean([whole.kinds[g] == lexicon.kinds[g] for g in both])), 2)
        row["families"] = _three(score_sentences(lexicon, labelled, {"planning"}))
        rows.append(row | {"tuning traces": _three(score_sentences(lexicon, tuning))})
    return pd.DataFrame(rows)


def _three(score) -> str:
    return f"{score.precision:.2f} {score.recall:.2f} {score.f1:.2f}"


def _fewer_seeds(traces: Path) -> Lexicon:
    fewer = {n: {k: v[::2] for k, v in getattr(kinds, n).items()} for n in ("STEERING", "OTHER")}
    with patch.multiple(kinds, **fewer):
        return general_lexicon(traces)


def _without(traces: Path):
    made = {}

    def build(family: str) -> Lexicon:
        if family not in made:
            made[family] = general_lexicon(traces, [name for name in FAMILIES if name != family])
        return made[family]

    return build


def _changed(traces: Path, **settings) -> Lexicon:
    with patch.multiple(contrast, **settings):
        return general_lexicon(traces)


def _covered(lexicon: Lexicon, texts: list[str]) -> float:
    marked = 0
    for text in texts:
        spans = np.zeros(len(text), dtype=bool)
        for match in lexicon.find(text):
            spans[match.start : match.end] = True
        marked += spans.sum()
    return marked / sum(map(len, texts))


def _labelled(traces: Path) -> dict[str, list[Sentence]]:
    """Sentences of each family with their labels; the file of labels holds no text, only where it stands."""
    labels = pd.read_csv(LABELS)
    found = {}
    for family, (file, how) in FAMILIES.items():
        rows = dict(iter_jsonl(traces / f"{file}.jsonl.gz"))
        mine, texts = labels[labels["file"] == file], {}
        for line in mine["line"].unique():
            text = rows[line][how.get("text", "response")].split(how.get("after", "\0"), 1)[-1]
            texts[line] = _split(text.split("</think>")[0] if "after" in how else text)
        found[family] = [
            Sentence(f"{file} {row.line}", texts[row.line][row.sentence], ("other", "planning")[row.planning])
            for row in mine.itertuples()
        ]
    return found


def _split(text: str) -> list[str]:
    lines = re.sub(r"<\|[^|<>]*\|>|</?think>", "\n", text).split("\n")
    parts = [part.strip() for line in lines for part in END_OF_SENTENCE.split(line)]
    return [part for part in parts if re.search(r"\w", part)]


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


COMMANDS = (speed, growth, stability, conditions, general, families, agreement)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[f.__name__ for f in COMMANDS])
    parser.add_argument("--solutions", nargs="+")
    parser.add_argument("--traces", type=Path, help="folder of the traces that `general` is made from")
    parser.add_argument("--variants", nargs="+", help="of `agreement`; all if not given")
    parser.add_argument("--out", type=Path)
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
