"""A lexicon against labelled sentences: does it mark the sentences that steer?

A sentence counts as marked when the lexicon finds at least one gram in it. Label files are JSON Lines
in one of two shapes: a sentence a line, with its problem, its text and its label; or a trace a line,
whose `chunks_by_taxonomy` holds the same sentences labelled in several schemes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from hicra.errors import HicraError
from hicra.files import iter_jsonl
from hicra.lexicon.lexicon import Lexicon
from hicra.words import segments

# Decision: what counts as planning in the six schemes of the tuning set. A scheme has some of them.
# Restating the problem, recalling facts and summing up do not: they say where a solution stands.
STEERING = frozenset(
    {
        "Planning and Strategy",
        "Alternative Strategy and Backtracking",
        "Alternative Strategy or Backtracking",
        "Backtracking",
        "Comparative Analysis",
        "Comparison or Meta-Analysis",
        "Example Testing",
        "Question Posing",
        "Question Posing or Self-Directed Inquiry",
        "Uncertainty Estimation",
        "Uncertainty or Confidence Estimation",
        "Verification",
        "Verification or Consistency Check",
    }
)
NOT_WRITTEN = frozenset({"Prompt"})  # sentences of the task, not of the model
DRAWS = 2000
LONGEST = 5  # words of an n-gram that could have found a missed sentence


class LabelError(HicraError):
    """A label file that cannot be scored; the message names the place and the remedy."""


class Sentence(NamedTuple):
    problem: str
    text: str
    label: str


class Score(NamedTuple):
    """Precision, recall and F1 over sentences, each with its 95 % bootstrap interval over problems."""

    precision: float
    recall: float
    f1: float
    intervals: dict[str, tuple[float, float]]
    n: int
    positive: float  # share of the sentences
    classes: pd.DataFrame  # label, sentences, marked (share), planning (bool)


def schemes(path: Path | str) -> list[str]:
    """The labelling schemes of a file; empty for one sentence a line."""
    return sorted({name for _, row in iter_jsonl(path) for name in row.get("chunks_by_taxonomy", ())})


def read_sentences(path: Path | str, scheme: str | None = None) -> list[Sentence]:
    """The labelled sentences of a file. Raises LabelError for a missing field or an unknown scheme."""
    found = [s for number, row in iter_jsonl(path) for s in _sentences(f"{path}, line {number}", row, scheme)]
    if not found:
        raise LabelError(f"{path} has no sentence in scheme {scheme!r}; it has: {', '.join(schemes(path))}")
    return [s for s in found if s.label not in NOT_WRITTEN]


def _sentences(where: str, row: dict, scheme: str | None) -> Iterator[Sentence]:
    if "chunks_by_taxonomy" not in row:
        yield Sentence(*(_text(row, names, where) for names in FIELDS))
        return
    if scheme is None:
        raise LabelError(f"{where} has several schemes: choose one of {', '.join(row['chunks_by_taxonomy'])}")
    problem = _text(row, FIELDS[0], where)
    for chunk in row["chunks_by_taxonomy"].get(scheme, ()):
        yield Sentence(problem, *(_text(chunk, names, where) for names in FIELDS[1:]))


FIELDS = (("problem_id", "problem"), ("text", "sentence"), ("category", "label"))


def _text(row: dict, names: tuple[str, ...], where: str) -> str:
    for name in names:
        if name in row:
            return str(row[name])
    raise LabelError(f"{where} has no field {' or '.join(names)}; its fields are: {', '.join(row)}")


def score_sentences(
    lexicon: Lexicon, sentences: list[Sentence], planning: Collection[str] = STEERING, *, seed: int = 0
) -> Score:
    """Score `lexicon` on `sentences`, those with a label in `planning` being the positive ones.

    Raises LabelError when no sentence, or every one, is positive: then there is nothing to tell apart.
    """
    truth = np.array([s.label in planning for s in sentences])  # (S,)
    if truth.all() or not truth.any():
        labels = ", ".join(sorted({s.label for s in sentences}))
        raise LabelError(f"{truth.sum()} of {truth.size} sentences are planning; the labels are: {labels}")
    marked = np.array([bool(lexicon.find(s.text)) for s in sentences])  # (S,)
    counts = np.array([marked & truth, marked & ~truth, ~marked & truth]).T.astype(int)  # (S, 3) tp fp fn
    problems, which = np.unique([s.problem for s in sentences], return_inverse=True)
    totals = np.zeros((len(problems), 3), dtype=int)  # (P, 3)
    np.add.at(totals, which, counts)
    rng = np.random.default_rng(seed)
    draws = totals[rng.integers(len(problems), size=(DRAWS, len(problems)))].sum(axis=1)  # (DRAWS, 3)
    low, high = np.nanquantile(_ratios(draws), [0.025, 0.975], axis=0)  # (3,)
    names = ("precision", "recall", "f1")
    intervals = {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}
    precision, recall, f1 = map(float, _ratios(totals.sum(axis=0)[None])[0])
    classes = _classes(sentences, marked, planning)
    return Score(precision, recall, f1, intervals, truth.size, float(truth.mean()), classes)


def _ratios(counts: np.ndarray) -> np.ndarray:
    """Precision, recall and F1 (N, 3) of (N, 3) tp, fp, fn; a ratio over nothing is NaN."""
    tp, fp, fn = counts.T
    with np.errstate(invalid="ignore"):
        return np.stack([tp / (tp + fp), tp / (tp + fn), 2 * tp / (2 * tp + fp + fn)], axis=1)


def _classes(sentences: list[Sentence], marked: np.ndarray, planning: Collection[str]) -> pd.DataFrame:
    groups = defaultdict(list)
    for sentence, mark in zip(sentences, marked, strict=True):
        groups[sentence.label].append(mark)
    rows = [(k, len(v), float(np.mean(v)), k in planning) for k, v in groups.items()]
    table = pd.DataFrame(rows, columns=["label", "sentences", "marked", "planning"])
    return table.sort_values(["planning", "sentences"], ascending=False, ignore_index=True)


def score_table(
    lexicons: list[Lexicon], path: Path | str, planning: Collection[str] = STEERING
) -> pd.DataFrame:
    """One row a lexicon and scheme: precision, recall, F1 with intervals, sentences, share positive.

    Schemes that label nothing as planning are left out; LabelError when that is all of them.
    """
    rows = []
    for scheme, sentences in _usable(path, planning).items():
        for lexicon in lexicons:
            score = score_sentences(lexicon, sentences, planning)
            ratios = {
                k: f"{getattr(score, k):.2f} [{a:.2f}, {b:.2f}]" for k, (a, b) in score.intervals.items()
            }
            rest = {"sentences": score.n, "positive": round(score.positive, 2)}
            rows.append({"lexicon": lexicon.name, "scheme": scheme or "-", **ratios, **rest})
    return pd.DataFrame(rows)


def classes_table(
    lexicons: list[Lexicon], path: Path | str, planning: Collection[str] = STEERING
) -> pd.DataFrame:
    """Share of the sentences of every label that each lexicon marks, one row a scheme and label."""
    tables = []
    for scheme, sentences in _usable(path, planning).items():
        scores = {x.name: score_sentences(x, sentences, planning).classes for x in lexicons}
        table = next(iter(scores.values())).drop(columns="marked").assign(scheme=scheme or "-")
        tables.append(table.assign(**{name: c["marked"].round(2) for name, c in scores.items()}))
    return pd.concat(tables, ignore_index=True)


def errors_table(
    lexicon: Lexicon, sentences: list[Sentence], planning: Collection[str] = STEERING
) -> pd.DataFrame:
    """Every sentence that `lexicon` marks wrongly or misses, once, under the gram that explains most.

    Columns: error, "wrongly marked" or "missed"; gram; wrong, the sentences that err and hold the gram;
    right, those that hold it and do not err; problem, label, text. A wrongly marked sentence stands under
    a gram of the lexicon, a missed one under an n-gram that would have found it (none: ""); `right` then
    counts sentences that are rightly left unmarked. Of a sentence's grams that with the highest
    `wrong - right` is taken: the one to drop, or to add, first. Rows are in that order.
    """
    found = [(s, {match.gram for match in lexicon.find(s.text)}) for s in sentences]
    marked = [(s, grams, s.label not in planning) for s, grams in found if grams]
    silent = [(s, set(_ngrams(s.text)), s.label in planning) for s, grams in found if not grams]
    columns = ["error", "gram", "wrong", "right", *Sentence._fields]
    rows = [("wrongly marked", *row) for row in _explained(marked)]
    return pd.DataFrame(rows + [("missed", *row) for row in _explained(silent)], columns=columns)


def _explained(held: list[tuple[Sentence, set[str], bool]]) -> list[tuple]:
    """(gram, wrong, right, *sentence) for each sentence that errs; `held` has sentence, grams, errs."""
    wrong = Counter(gram for _, grams, errs in held if errs for gram in grams)
    right = Counter(gram for _, grams, errs in held if not errs for gram in grams)

    def gain(gram: str) -> tuple:
        return wrong[gram] - right[gram], len(gram), gram

    best = [(max(grams, key=gain, default=""), s) for s, grams, errs in held if errs]
    best.sort(key=lambda pair: gain(pair[0]), reverse=True)
    return [(gram, wrong[gram], right[gram], *s) for gram, s in best]


def _ngrams(text: str) -> Iterator[str]:
    for run in segments(text):
        for i in range(len(run)):
            for n in range(1, min(LONGEST, len(run) - i) + 1):
                yield " ".join(word.text for word in run[i : i + n])


def errors_text(
    lexicons: list[Lexicon], path: Path | str, n_grams: int, planning: Collection[str] = STEERING
) -> str:
    """`errors_table` of each lexicon and scheme to read: the first `n_grams` grams with their sentences."""
    return "\n".join(
        line
        for scheme, sentences in _usable(path, planning).items()
        for lexicon in lexicons
        for error, table in errors_table(lexicon, sentences, planning).groupby("error", sort=False)
        for line in [
            f"\n{lexicon.name}, scheme {scheme or '-'}: {len(table)} sentences {error}",
            *_error_lines(table, n_grams),
        ]
    )


def _error_lines(table: pd.DataFrame, n_grams: int) -> Iterator[str]:
    for gram in table["gram"].unique()[:n_grams]:
        rows = table[table["gram"] == gram]
        yield f"  {gram!r}: in {rows['wrong'].iloc[0]} of them and {rows['right'].iloc[0]} others"
        yield from (f"    [{row.label}] {' '.join(row.text.split())}" for row in rows.itertuples())


def _usable(path: Path | str, planning: Collection[str]) -> dict[str | None, list[Sentence]]:
    names: list[str | None] = [*schemes(path)] or [None]
    found = {scheme: read_sentences(path, scheme) for scheme in names}
    usable = {k: v for k, v in found.items() if any(s.label in planning for s in v)}
    if not usable:
        labels = ", ".join(sorted({s.label for v in found.values() for s in v}))
        raise LabelError(f"{path} labels no sentence as planning; its labels are: {labels}")
    return usable
