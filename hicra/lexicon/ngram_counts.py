"""Word n-grams of a corpus, counted in memory that grows with its vocabulary, not with its size.

One pass over the texts writes their words, as ids, to an unnamed file on disk; everything after it
reads blocks of that file. An n-gram is known by a 64-bit hash of its word ids until it turns out to be
frequent: a first look counts hashes in a table of fixed size, which can only overstate, and a second
counts exactly what the table could not rule out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from hicra.errors import HicraError
from hicra.files import sha256
from hicra.words import segments

CUT = -1  # between clauses: no n-gram crosses the end of one
UNKNOWN = -2  # a word of no interest
EARLY = 0.1  # the part of a solution that counts as its beginning
BLOCK = 1 << 19  # word ids read at a time
BUCKETS = 1 << 24
LONGEST = 8  # words of an n-gram, at most
MULTIPLIERS = np.random.default_rng(0).integers(1 << 62, size=LONGEST, dtype=np.uint64) * 2 + 1


class Block(NamedTuple):
    """The n-grams of some whole solutions; all arrays (M,), one entry an occurrence."""

    code: np.ndarray  # 64-bit hash
    solution: np.ndarray  # which of the block's solutions
    start: np.ndarray  # first word, as an index into the corpus
    size: np.ndarray  # words
    early: np.ndarray  # whether it stands at the beginning of its solution
    n_solutions: int


class NgramTable(NamedTuple):
    """Frequent n-grams, sorted; arrays are (N,)."""

    grams: list[str]
    code: np.ndarray
    df: np.ndarray  # solutions that hold it
    tf: np.ndarray  # occurrences
    early: np.ndarray  # occurrences at the beginning of a solution

    def take(self, keep: np.ndarray) -> NgramTable:
        """The n-grams under a mask (N,)."""
        kept = np.flatnonzero(keep)
        return NgramTable([self.grams[i] for i in kept], *(array[kept] for array in self[1:]))


class EncodedCorpus:
    """Texts as word ids on disk, as long as the `with` lasts. Raises ValueError where there is no text.

    `sizes` are the lengths of its n-grams in words, 3 to 5 in the paper. `like` is a corpus whose words
    alone are told apart, so that the n-grams of both can be compared.
    """

    def __init__(
        self, texts: Iterable[str], sizes: tuple[int, ...] = (3, 4, 5), like: EncodedCorpus | None = None
    ) -> None:
        self.sizes, self.like = sizes, like
        self.ids: dict[str, int] = {} if like is None else like.ids
        self.ends, self.n_words, self.digest = [0], 0, 0
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by __exit__)
        try:
            self._write(texts)
        except BaseException:
            self.file.close()
            raise
        self.words = list(self.ids)

    def __enter__(self) -> EncodedCorpus:
        return self

    def __exit__(self, *error) -> None:
        self.file.close()

    @property
    def sha256(self) -> str:
        """A sum of the texts' hashes: the same for any order."""
        return f"{self.digest % (1 << 256):064x}"

    def _write(self, texts: Iterable[str]) -> None:
        for text in texts:
            encoded = self._encode(text)  # (n,)
            self.file.write(encoded.tobytes())
            self.ends.append(self.ends[-1] + encoded.size)
            self.digest += int(sha256(text), 16)
        if len(self) == 0:
            raise HicraError("no solution to build a lexicon from; give correct solutions")

    def __len__(self) -> int:
        return len(self.ends) - 1

    def _encode(self, text: str) -> np.ndarray:
        found, ids = [CUT], self.ids
        for run in segments(text):
            if self.like is None:
                found += [ids.setdefault(word.text, len(ids)) for word in run]
            else:
                found += [ids.get(word.text, UNKNOWN) for word in run]
            found.append(CUT)
            self.n_words += len(run)
        return np.array(found, dtype=np.int32)

    def blocks(self) -> Iterator[Block]:
        """The n-grams of all solutions, some solutions at a time."""
        first = 0
        for last in range(1, len(self) + 1):
            if self.ends[last] - self.ends[first] >= BLOCK or last == len(self):
                yield self._block(first, last)
                first = last

    def _block(self, first: int, last: int) -> Block:
        start, n = self.ends[first], self.ends[last] - self.ends[first]
        self.file.seek(start * 4)
        ids = np.frombuffer(self.file.read(n * 4), dtype=np.int32)  # (n,)
        lengths = np.diff(self.ends[first : last + 1])
        solution = np.repeat(np.arange(last - first), lengths)  # (n,)
        into = (start + np.arange(n) - np.array(self.ends)[first:last][solution]) / lengths[solution]  # (n,)
        cuts = np.flatnonzero(ids == CUT)
        left = cuts[np.minimum(np.searchsorted(cuts, np.arange(n)), cuts.size - 1)] - np.arange(n)
        mixed = _mix(ids.astype(np.uint64))  # (n,)
        parts = []
        for size in self.sizes:
            at = np.flatnonzero(left >= size)
            code = np.full(at.size, size, dtype=np.uint64)
            for j in range(size):
                code += mixed[at + j] * MULTIPLIERS[j]
            parts.append((_mix(code), solution[at], at + start, np.full(at.size, size), into[at] < EARLY))
        return Block._make([*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)), last - first])

    def text(self, start: int, size: int) -> str:
        """The words of one n-gram, joined by blanks."""
        self.file.seek(int(start) * 4)
        ids = np.frombuffer(self.file.read(int(size) * 4), dtype=np.int32)
        return " ".join(self.words[i] for i in ids)


def frequent_ngrams(corpus: EncodedCorpus, min_df: int) -> NgramTable:
    """Every n-gram that `min_df` or more solutions hold, with its counts."""
    buckets = np.zeros(BUCKETS, dtype=np.int32)
    for block in corpus.blocks():
        once = _once_a_solution(block.code, block.solution)
        np.add.at(buckets, block.code[once] % np.uint64(BUCKETS), 1)
    empty = np.zeros(0, dtype=np.int64)
    total = np.zeros(0, dtype=np.uint64), empty, empty, empty, empty, empty
    for block in corpus.blocks():
        maybe = np.flatnonzero(buckets[block.code % np.uint64(BUCKETS)] >= min_df)
        total = _merge(total, _count(Block._make([*(a[maybe] for a in block[:5]), block.n_solutions])))
    kept = total[1] >= min_df
    code, df, tf, early, start, size = (a[kept] for a in total)
    grams = [corpus.text(s, n) for s, n in zip(start, size, strict=True)]
    order = sorted(range(len(grams)), key=grams.__getitem__)
    return NgramTable([grams[i] for i in order], *(a[order] for a in (code, df, tf, early)))


def group_df(corpus: EncodedCorpus, table: NgramTable, labels: np.ndarray) -> np.ndarray:
    """Solutions that hold at least one n-gram of each label, (max label + 1,); labels (N,) from 0."""
    counts = np.zeros(labels.max() + 1, dtype=np.int64)
    for block in corpus.blocks():
        known, which = _known(block.code, table.code)
        pairs = np.unique(block.solution[known] * counts.size + labels[which])
        counts += np.bincount(pairs % counts.size, minlength=counts.size)
    return counts


def occurrences(corpus: EncodedCorpus, table: NgramTable) -> np.ndarray:
    """Occurrences (N,) of the n-grams of `table` in another corpus, made `like` the table's."""
    counts = np.zeros(len(table.grams), dtype=np.int64)
    for block in corpus.blocks():
        counts += np.bincount(_known(block.code, table.code)[1], minlength=counts.size)
    return counts


def _known(codes: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the `codes` that are `wanted`, and which of those each is."""
    order = np.argsort(wanted)
    at = np.searchsorted(wanted[order], codes)
    at = order[np.minimum(at, wanted.size - 1)]
    known = np.flatnonzero(wanted[at] == codes)
    return known, at[known]


def _once_a_solution(code: np.ndarray, solution: np.ndarray) -> np.ndarray:
    """Indices of the first occurrence of each hash in each solution."""
    return np.unique(code ^ _mix(solution.astype(np.uint64)), return_index=True)[1]


def _count(block: Block) -> tuple[np.ndarray, ...]:
    """code, df, tf, early, and start and size of an example, one entry a distinct n-gram."""
    code, first, which, tf = np.unique(block.code, return_index=True, return_inverse=True, return_counts=True)
    df = np.bincount(which[_once_a_solution(block.code, block.solution)], minlength=code.size)
    early = np.bincount(which, weights=block.early, minlength=code.size).astype(np.int64)
    return code, df, tf, early, block.start[first], block.size[first]


def _merge(one: tuple, other: tuple) -> tuple:
    joined = [np.concatenate(pair) for pair in zip(one, other, strict=True)]
    code, first, which = np.unique(joined[0], return_index=True, return_inverse=True)
    sums = [np.bincount(which, weights=a, minlength=code.size).astype(np.int64) for a in joined[1:4]]
    return code, *sums, joined[4][first], joined[5][first]


def _mix(values: np.ndarray) -> np.ndarray:
    """A 64-bit finaliser (splitmix64): near inputs become unrelated."""
    values = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
