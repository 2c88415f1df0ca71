"""Word n-grams of a corpus, counted in memory that grows with its vocabulary, not with its size.

One pass over the texts writes their words, as ids, to an unnamed file on disk; everything after it
reads blocks of that file. An n-gram is known by a 64-bit hash of its words until it turns out to be
frequent: a first look counts hashes in a table of fixed size, which can only overstate, and a second
counts exactly what the table could not rule out. Both are sums over parts of a corpus, of which one
machine's has one and that of a cluster several (`shards.ShardedCorpus`).
"""

from __future__ import annotations

import copy
import operator
import tempfile
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

import numpy as np

from hicra.files import sha256
from hicra.words import segments

CUT = -1  # between clauses: no n-gram crosses the end of one
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


class CountedCorpus(Protocol):
    """What counts are made of: the sizes of n-grams in words, words in all, and sums over parts."""

    sizes: tuple[int, ...]
    n_words: int

    @property
    def sha256(self) -> str: ...

    def __len__(self) -> int: ...

    def total(self, function: Callable, merge: Callable, *arguments) -> Any: ...


class EncodedCorpus:
    """Texts as word ids on disk; `number` tells the parts of a corpus apart.

    `sizes` are the lengths of its n-grams in words, 3 to 5 in the paper.
    """

    def __init__(self, texts: Iterable[str], sizes: tuple[int, ...] = (3, 4, 5), number: int = 0) -> None:
        self.sizes, self.number = sizes, number
        self.n_words, self.digest = 0, 0
        ids: dict[str, int] = {}
        ends = [0]
        with tempfile.TemporaryFile() as file:
            for text in texts:
                encoded = self._encode(text, ids)  # (n,)
                file.write(encoded.tobytes())
                ends.append(ends[-1] + encoded.size)
                self.digest += int(sha256(text), 16)
            file.flush()
            # The mapping keeps the file, which has no name, until it goes.
            self.ids = np.memmap(file, np.int32, "r") if ends[-1] else np.zeros(0, np.int32)  # (n,)
        self.ends = np.array(ends)  # (solutions + 1,)
        self.words = list(ids)
        hashes = [int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little") for word in ids]
        self.hashes = np.array([*hashes, 0], dtype=np.uint64)  # the last is that of CUT, in no n-gram

    @property
    def sha256(self) -> str:
        """A sum of the texts' hashes: the same for any order."""
        return as_sha256(self.digest)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def total(self, function: Callable, merge: Callable, *arguments) -> Any:
        """function(part, *arguments), merged over the parts in order; this is the only part."""
        return function(self, *arguments)

    def keep(self, wanted: np.ndarray) -> EncodedCorpus:
        """The solutions under a mask (len,), in memory."""
        kept = copy.copy(self)
        lengths = np.diff(self.ends)
        kept.ids = np.asarray(self.ids)[np.repeat(wanted, lengths)]
        kept.ends = np.r_[0, np.cumsum(lengths[wanted])]
        kept.n_words = int((kept.ids != CUT).sum())
        return kept

    def _encode(self, text: str, ids: dict[str, int]) -> np.ndarray:
        found = [CUT]
        for run in segments(text):
            found += [ids.setdefault(word.text, len(ids)) for word in run]
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
        ids = np.array(self.ids[start : start + n])  # (n,)
        lengths = np.diff(self.ends[first : last + 1])
        solution = np.repeat(np.arange(last - first), lengths)  # (n,)
        into = (start + np.arange(n) - self.ends[first:last][solution]) / lengths[solution]  # (n,)
        cuts = np.flatnonzero(ids == CUT)
        left = cuts[np.minimum(np.searchsorted(cuts, np.arange(n)), cuts.size - 1)] - np.arange(n)
        mixed = self.hashes[ids]  # (n,)
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
        return " ".join(self.words[i] for i in self.ids[start : start + size])


def as_sha256(digest: int) -> str:
    return f"{digest % (1 << 256):064x}"


def frequent_ngrams(corpus: CountedCorpus, min_df: int) -> NgramTable:
    """Every n-gram that `min_df` or more solutions hold, with its counts."""
    buckets = corpus.total(bucket_counts, operator.add)  # (BUCKETS,)
    total = corpus.total(exact_counts, _merge, buckets >= min_df)
    kept = total[1] >= min_df
    code, df, tf, early, *place = (a[kept] for a in total)
    texts = corpus.total(place_texts, operator.or_, *place)
    grams = [texts[i] for i in range(code.size)]
    order = sorted(range(len(grams)), key=grams.__getitem__)
    return NgramTable([grams[i] for i in order], *(a[order] for a in (code, df, tf, early)))


def bucket_counts(part: EncodedCorpus) -> np.ndarray:
    """Solutions that hold an n-gram of each bucket of hashes, (BUCKETS,), one for each such n-gram."""
    buckets = np.zeros(BUCKETS, dtype=np.int32)
    for block in part.blocks():
        once = _once_a_solution(block.code, block.solution)
        np.add.at(buckets, block.code[once] % np.uint64(BUCKETS), 1)
    return buckets


def exact_counts(part: EncodedCorpus, maybe: np.ndarray) -> tuple[np.ndarray, ...]:
    """Code, df, tf, early, and part, start and size of an example, (N,) each, of the n-grams whose bucket
    is in `maybe` (BUCKETS,)."""
    empty = np.zeros(0, dtype=np.int64)
    total = (np.zeros(0, dtype=np.uint64), *(empty,) * 6)
    for block in part.blocks():
        wanted = np.flatnonzero(maybe[block.code % np.uint64(maybe.size)])
        found = _count(Block._make([*(a[wanted] for a in block[:5]), block.n_solutions]), part.number)
        total = _merge(total, found)
    return total


def place_texts(part: EncodedCorpus, number: np.ndarray, start: np.ndarray, size: np.ndarray) -> dict:
    """The texts of those of (N,) places that lie in this part, by their index."""
    return {int(i): part.text(start[i], size[i]) for i in np.flatnonzero(number == part.number)}


def group_df(corpus: CountedCorpus, table: NgramTable, labels: np.ndarray) -> np.ndarray:
    """Solutions that hold at least one n-gram of each label, (max label + 1,); labels (N,) from 0."""
    return corpus.total(label_counts, operator.add, table.code, labels)


def label_counts(part: EncodedCorpus, codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    counts = np.zeros(labels.max() + 1, dtype=np.int64)
    for block in part.blocks():
        known, which = _known(block.code, codes)
        pairs = np.unique(block.solution[known] * counts.size + labels[which])
        counts += np.bincount(pairs % counts.size, minlength=counts.size)
    return counts


def occurrences(corpus: CountedCorpus, table: NgramTable) -> np.ndarray:
    """Occurrences (N,) of the n-grams of `table` in another corpus."""
    return corpus.total(code_counts, operator.add, table.code)


def code_counts(part: EncodedCorpus, codes: np.ndarray) -> np.ndarray:
    counts = np.zeros(codes.size, dtype=np.int64)
    for block in part.blocks():
        counts += np.bincount(_known(block.code, codes)[1], minlength=counts.size)
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


def _count(block: Block, number: int) -> tuple[np.ndarray, ...]:
    """code, df, tf, early, and part, start and size of an example, one entry a distinct n-gram."""
    code, first, which, tf = np.unique(block.code, return_index=True, return_inverse=True, return_counts=True)
    df = np.bincount(which[_once_a_solution(block.code, block.solution)], minlength=code.size)
    early = np.bincount(which, weights=block.early, minlength=code.size).astype(np.int64)
    return code, df, tf, early, np.full(code.size, number), block.start[first], block.size[first]


def _merge(one: tuple, other: tuple) -> tuple:
    joined = [np.concatenate(pair) for pair in zip(one, other, strict=True)]
    code, first, which = np.unique(joined[0], return_index=True, return_inverse=True)
    sums = [np.bincount(which, weights=a, minlength=code.size).astype(np.int64) for a in joined[1:4]]
    return code, *sums, *(place[first] for place in joined[4:])


def _mix(values: np.ndarray) -> np.ndarray:
    """A 64-bit finaliser (splitmix64): near inputs become unrelated."""
    values = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
