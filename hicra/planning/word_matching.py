"""Words and Strategic Grams in an array of characters, in a few numpy passes: words.py, vectorised.

characters -> words, each a 64-bit hash -> grams, by a trie over word ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from hicra.words import ALONE, BOUNDARY, IN_WORD, MARK, MARKER, MATH_BRACKETS, compose, fold, kind

N_CODE_POINTS, UNSEEN = 0x110000, 255
BASE = 0x9E3779B97F4A7C15  # of the word hash; odd, hence invertible modulo 2**64


class Words(NamedTuple):
    """W words of a text."""

    start: np.ndarray  # (W,) first character
    end: np.ndarray  # (W,) behind the last
    code: np.ndarray  # (W,) 64-bit hash of the folded word
    cut: np.ndarray  # (W,) whether a boundary stands before it


class Trie:
    """Grams as paths over word ids; id 0 is any word that no gram has."""

    def __init__(self, grams: list[tuple[str, ...]]) -> None:
        vocabulary = sorted({word for gram in grams for word in gram})
        # A blank behind each word, because the heading mark ## is a word only before a blank.
        lines = "".join(f"\n{word} " for word in vocabulary)
        codes = find_words(decode(f"{lines}\n".encode())[0]).code
        if len(set(codes.tolist())) != len(vocabulary):
            raise RuntimeError("two words of the lexicon share a hash; choose another BASE")
        self._codes = np.sort(codes)
        ids = dict(zip(vocabulary, 1 + np.searchsorted(self._codes, codes), strict=True))
        self._build([[int(ids[word]) for word in gram] for gram in grams], 1 + len(vocabulary))

    def _build(self, paths: list[list[int]], n_ids: int) -> None:
        edges: dict[int, int] = {}  # node * n_ids + word id -> node; the root is node 0
        ends = {}
        for gram, path in enumerate(paths):
            node = 0
            for word in path:
                node = edges.setdefault(node * n_ids + word, 1 + len(edges))
            ends[node] = gram
        self._n_ids, self._depth = n_ids, max(map(len, paths))
        self._keys = np.array([*sorted(edges), np.iinfo(np.int64).max])
        self._targets = np.array([edges[key] for key in self._keys[:-1].tolist()])
        self._gram = np.array([ends.get(node, -1) for node in range(1 + len(edges))])
        self._first = np.array([edges.get(word, 0) for word in range(n_ids)])

    def longest(self, words: Words) -> np.ndarray:
        """(W,) words in the longest gram that starts at each word, 0 where none does."""
        longest = np.zeros(words.code.size, np.int64)
        for depth, at, _ in self._walk(words):
            longest[at] = depth
        return longest

    def matches(self, words: Words) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every occurrence of every gram, (M,) each: first word, words, and which gram it is."""
        found = [(at, np.full(at.size, depth), grams) for depth, at, grams in self._walk(words)]
        first, n_words, grams = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return first, n_words, grams

    def _walk(self, words: Words) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """For each length: the words at which a gram of that length starts, and which gram."""
        place = np.searchsorted(self._codes, words.code).clip(max=self._codes.size - 1)  # (W,)
        ids = np.where(self._codes[place] == words.code, place + 1, 0)  # (W,)
        following = np.pad(np.where(words.cut, 0, ids), (0, self._depth))  # a cut fits no gram
        node = self._first[ids]
        at, node = np.flatnonzero(node), node[node > 0]
        for depth in range(1, self._depth + 1):
            is_end = self._gram[node] >= 0
            yield depth, at[is_end], self._gram[node[is_end]]
            key = node * self._n_ids + following[at + depth]
            place = np.searchsorted(self._keys, key)
            alive = (following[at + depth] > 0) & (self._keys[place] == key)
            at, node = at[alive], self._targets[place[alive]]


def decode(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Code points (C,) in NFC and the first byte of each (C + 1,); an invalid byte b is U+DC00 + b."""
    if data.isascii():
        return np.frombuffer(data, np.uint8), np.arange(len(data) + 1)
    text = data.decode("utf-8", "surrogateescape")
    first_byte = _first_bytes(_code_points(text))
    composed, starts = compose(text)
    return (_code_points(composed), first_byte if composed is text else first_byte[starts])


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _first_bytes(codes: np.ndarray) -> np.ndarray:
    n_bytes = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
    n_bytes[(codes >= 0xDC80) & (codes <= 0xDCFF)] = 1
    return np.concatenate([[0], np.cumsum(n_bytes)])


@lru_cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """For each code point what it is to a word (UNSEEN until asked), and a number for its folded form."""
    numbers = np.random.default_rng(0).integers(0, 1 << 64, N_CODE_POINTS, np.uint64)
    folded = _code_points(fold("".join(map(chr, range(N_CODE_POINTS)))))
    return np.full(N_CODE_POINTS, UNSEEN, np.uint8), numbers[folded]


def _kinds(codes: np.ndarray) -> np.ndarray:
    """(C,) what each character is to a word."""
    table, _ = _tables()
    kinds = table[codes]
    if (kinds == UNSEEN).any():
        new = np.unique(codes[kinds == UNSEEN])
        table[new] = [kind(fold(chr(code))) for code in new.tolist()]
        kinds = table[codes]
    return kinds


@lru_cache(maxsize=4)
def _powers(n: int) -> tuple[np.ndarray, np.ndarray]:
    """BASE**i and BASE**-i modulo 2**64 for i in 1..n."""
    inverse = pow(BASE, -1, 1 << 64)
    powers, inverse_powers = (np.cumprod(np.full(n, base, np.uint64)) for base in (BASE, inverse))
    return powers, inverse_powers


def find_words(codes: np.ndarray) -> Words:
    """The words of a text that starts and ends with CUT, as words.segments finds them."""
    kinds = _kinds(codes)  # (C,)
    for first, last in _markers(codes):
        kinds[first:last] = BOUNDARY
    backslash = np.flatnonzero(codes[:-1] == ord("\\"))
    brackets = [ord(bracket) for bracket in MATH_BRACKETS]
    kinds[backslash[np.isin(codes[backslash + 1], brackets)]] = BOUNDARY
    mark = np.flatnonzero((codes[1:-2] == ord("#")) & (codes[2:-1] == ord("#"))) + 1
    is_heading = (codes[mark - 1] == ord("\n")) & np.isin(codes[mark + 2], [ord(" "), ord("\t")])
    kinds[mark[is_heading]] = kinds[mark[is_heading] + 1] = IN_WORD
    start, end = _edges(kinds)  # (W,), (W,)
    n_boundaries = np.cumsum(kinds == BOUNDARY)[start]  # (W,) before each word
    powers, inverse_powers = _powers(1 << codes.size.bit_length())
    # sum over a word of number * BASE**(its place in the word), from sums over the whole text
    numbers = _tables()[1][codes]  # (C,)
    sums = np.cumsum(numbers * inverse_powers[: codes.size])  # (C,)
    code = (sums[end - 1] - sums[start - 1]) * powers[start]  # (W,)
    return Words(start, end, code, np.diff(n_boundaries, prepend=-1) > 0)


def _markers(codes: np.ndarray) -> list[tuple[int, int]]:
    """Where markers of chat and thinking formats stand; texts without a < are not looked at."""
    if not (codes == ord("<")).any():
        return []
    text = codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
    return [marker.span() for marker in MARKER.finditer(text)]


def _edges(kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First character of each word and the one behind its last, (W,) each."""
    if kinds.max() <= BOUNDARY:
        edges = np.flatnonzero(np.diff(kinds == IN_WORD)) + 1  # start, end, start, end, ...
        return edges[::2], edges[1::2]
    is_mark = kinds == MARK
    base = np.maximum.accumulate(np.where(is_mark, 0, np.arange(kinds.size)))  # what a mark stands on
    own = kinds[base]
    inside = (own == IN_WORD) | (own == ALONE)
    before = np.concatenate([[BOUNDARY], own[:-1]])
    starts = inside & ~is_mark & ((before != IN_WORD) | (own == ALONE))
    goes_on = np.concatenate([(inside & ~starts)[1:], [False]])
    return np.flatnonzero(starts), np.flatnonzero(inside & ~goes_on) + 1
