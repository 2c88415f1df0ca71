"""Texts to occurrences of Strategic Grams and of what follows them, many texts in a few numpy passes.

Equal to `Lexicon.find` on each text: every occurrence of every gram, overlapping ones too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from hicra.lexicon.lexicon import Lexicon
from hicra.planning.word_matching import Trie, Words, find_words
from hicra.words import compose, segments

BLOCK = 32  # texts searched at once
FOLLOWING = 3  # words of the procedural n-gram that follows a Strategic Gram
MULTIPLIERS = np.random.default_rng(1).integers(1 << 62, size=FOLLOWING, dtype=np.uint64) * 2 + 1


class Occurrences(NamedTuple):
    """What `GramFinder` finds in B texts; M occurrences, by text."""

    n_words: np.ndarray  # (B,) words of each text
    n_planning: np.ndarray  # (B,) those inside an occurrence
    text: np.ndarray  # (M,) which text
    gram: np.ndarray  # (M,) which of the lexicon's grams
    at: np.ndarray  # (M,) its first word, counted from the text's first
    follower: np.ndarray  # (M,) hash of the procedural n-gram behind it, 0 where there is none
    follower_span: np.ndarray  # (M, 2) its characters in the joined texts, composed


class GramFinder:
    """`finder(texts) -> Occurrences`, for a lexicon.

    A follower is the next three words after an occurrence that ends its planning span: words inside
    another occurrence are not procedural.
    """

    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        self._trie = Trie([tuple(gram.split(" ")) for gram in lexicon.grams])

    def __call__(self, texts: Sequence[str]) -> Occurrences:
        texts = [compose(text)[0] for text in texts]
        words = find_words(_codes(_joined(texts)))
        begins = np.cumsum([1, *(len(text) + 1 for text in texts)])  # (B + 1,) characters
        bounds = np.searchsorted(words.start, begins)  # (B + 1,) words
        at, n, gram = self._trie.matches(words)  # (M,) each
        opened = np.bincount(at, minlength=words.start.size + 1)
        covered = np.cumsum(opened - np.bincount(at + n, minlength=words.start.size + 1))[:-1] > 0  # (W,)
        planning = np.concatenate([[0], np.cumsum(covered)])  # (W + 1,)
        text = np.searchsorted(bounds, at, side="right") - 1  # (M,)
        follower, span = _followers(words, at + n, bounds[text + 1], covered)
        order = np.lexsort((n, at))  # as Lexicon.find: by start, then end
        by_text = text[order], gram[order], (at - bounds[text])[order], follower[order], span[order]
        return Occurrences(np.diff(bounds), np.diff(planning[bounds]), *by_text)


def _joined(texts: Sequence[str]) -> str:
    """The texts as one, with what no gram crosses around each."""
    return "\n".join(["", *texts, ""])


def _codes(text: str) -> np.ndarray:
    """Code points (C,); half a surrogate pair is one."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _followers(
    words: Words, first: np.ndarray, end: np.ndarray, covered: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Hash (M,) and characters (M, 2) of the words first..first + 2 of a text that ends before word `end`."""
    n_words = words.code.size
    there = first < end  # (M,)
    there[there] = ~covered[first[there]]
    code, last = np.zeros(first.size, np.uint64), np.minimum(first + FOLLOWING, end) - 1
    for i in range(FOLLOWING):
        inside = there & (first + i < end)
        code[inside] += (words.code[first[inside] + i] + np.uint64(1)) * MULTIPLIERS[i]
    if not n_words:
        return code, np.zeros((first.size, 2), np.int64)
    span = np.stack([words.start[first % n_words], words.end[last % n_words]], 1)  # (M, 2)
    return np.where(there, code | np.uint64(1), np.uint64(0)), span


def gram_counts(texts: Sequence[str], finder: GramFinder) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Occurrences of each gram, and of each procedural n-gram that follows it, over `texts`."""
    counts: Counter = Counter()
    followers: dict[str, Counter] = defaultdict(Counter)
    for block in blocks(texts):
        composed = [compose(text)[0] for text in block]
        found, whole = finder(composed), _joined(composed)
        names = [finder.lexicon.grams[i] for i in found.gram]
        counts.update(names)
        for i in np.flatnonzero(found.follower):
            start, end = found.follower_span[i]
            words = (word.text for run in segments(whole[start:end] + " ") for word in run)
            followers[names[i]][" ".join(words)] += 1
    return dict(counts), {gram: dict(own) for gram, own in followers.items()}


def blocks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Some texts at a time: all of a step's, of 16K tokens each, would make arrays of gigabytes."""
    for start in range(0, len(texts), BLOCK):
        yield texts[start : start + BLOCK]
