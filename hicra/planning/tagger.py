"""Token ids -> planning mask, by words and byte offsets (paper, section 3 and A.2).

A token is a planning token iff it overlaps an occurrence of a Strategic Gram. Offsets come from
the tokens' own bytes, never from encoding the text again: sampled ids need not be the canonical
tokenisation, and a character may be split over tokens.

Some rows at a time become one array of characters, and each step is a few numpy passes over it:
tokens -> characters -> words, each a 64-bit hash -> grams, by a trie over word ids -> tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from hicra.lexicon.lexicon import Lexicon
from hicra.words import BOUNDARIES, MATH_BRACKETS, fold, in_word

CUT = b"\n"  # in place of what has no text; no word and no gram runs across it
BLOCK = 1 << 15  # tokens in one pass: arrays small enough for the cache
OTHER, IN_WORD, BOUNDARY = 0, 1, 2
N_CODE_POINTS = 0x110000
BASE = 0x9E3779B97F4A7C15  # of the word hash; odd, hence invertible modulo 2**64


class _Text(NamedTuple):
    """C characters made of N tokens. An invalid byte b is one character, U+DC00 + b."""

    codes: np.ndarray  # (C,) code points
    first_byte: np.ndarray  # (C + 1,) where each character starts, and the end
    token_of_byte: np.ndarray
    n_tokens: int


class _Words(NamedTuple):
    """W words of a text."""

    start: np.ndarray  # (W,) first character
    end: np.ndarray  # (W,) behind the last
    code: np.ndarray  # (W,) 64-bit hash of the folded word
    cut: np.ndarray  # (W,) whether a boundary stands before it


class _Tagger:
    """What both taggers share: ids to text, spans to mask. `_mark` is what differs."""

    def __init__(self, tokenizer) -> None:
        pieces = token_bytes(tokenizer)
        self._bytes = [CUT if piece is None else piece for piece in pieces] + [CUT]
        self._n_bytes = np.array([len(piece) for piece in self._bytes])  # (V + 1,)
        self._cut = len(pieces)
        self._eos = tokenizer.eos_token_id

    def __call__(self, completion_ids: torch.Tensor, completion_mask: torch.Tensor) -> torch.Tensor:
        """Planning mask (B, T), bool, on the ids' device, of ids (B, T) with their 0/1 mask (B, T).

        Padding, special tokens, the first EOS and all that follows are never planning, and no
        gram runs across them. The same holds for an id without text (a spare embedding row).
        Raises ValueError unless both have the same shape (B, T) and ids are integers.
        """
        shapes = f"{tuple(completion_ids.shape)} and {tuple(completion_mask.shape)}"
        if completion_ids.ndim != 2 or completion_ids.shape != completion_mask.shape:
            raise ValueError(f"completion_ids and completion_mask, {shapes}, must be (B, T)")
        if completion_ids.is_floating_point():
            raise ValueError(f"completion_ids must be integers, not {completion_ids.dtype}")
        # -1 for what the mask leaves out: ids and mask make one trip to the host.
        ids = torch.where(completion_mask.bool(), completion_ids, -1).cpu().numpy()  # (B, T)
        return torch.from_numpy(self._tag(ids)).to(completion_ids.device)  # (B, T)

    def _tag(self, ids: np.ndarray) -> np.ndarray:
        no_text = (ids < 0) | (ids >= self._cut)  # (B, T)
        if self._eos is not None:
            no_text |= np.logical_or.accumulate(ids == self._eos, axis=1)  # (B, T)
        ids = np.pad(np.where(no_text, self._cut, ids), ((0, 0), (1, 1)), constant_values=self._cut)
        mask = np.zeros(ids.shape, bool)  # (B, 1 + T + 1): each row starts and ends with a cut
        n_rows = max(1, BLOCK // ids.shape[1])
        for i in range(0, len(ids), n_rows):
            mask[i : i + n_rows] = self._mark_rows(ids[i : i + n_rows])
        return np.ascontiguousarray(mask[:, 1:-1])  # (B, T)

    def _mark_rows(self, ids: np.ndarray) -> np.ndarray:
        flat = ids.ravel()
        kept = np.ones(flat.size, bool)
        kept[1:-1] = (flat[1:-1] != self._cut) | (flat[:-2] != self._cut)  # a cut behind a cut
        mask = np.zeros(flat.size, bool)
        mask[kept] = self._mark(self._text(flat[kept]))
        return mask.reshape(ids.shape)

    def _text(self, ids: np.ndarray) -> _Text:
        data = b"".join(map(self._bytes.__getitem__, ids.tolist()))
        token_of_byte = np.repeat(np.arange(ids.size), self._n_bytes[ids])
        return _Text(*_decode(data), token_of_byte, ids.size)


class PlanningTagger(_Tagger):
    """`tagger(completion_ids, completion_mask) -> planning mask`, bool (B, T), for a lexicon.

    Equal, token for token, to decoding each row, `lexicon.find`, and marking the tokens that
    overlap a match (overlapping matches: union). `tokenizer` is a fast tokenizer of transformers,
    byte-level BPE or SentencePiece. Cost is linear in the tokens and nearly independent of the
    lexicon's size.
    """

    def __init__(self, lexicon: Lexicon, tokenizer) -> None:
        super().__init__(tokenizer)
        self.lexicon = lexicon
        self._trie = _Trie([tuple(gram.split(" ")) for gram in lexicon.grams])

    def _mark(self, text: _Text) -> np.ndarray:
        words = _words(text.codes)
        n_words = self._trie.longest(words)  # (W,)
        first = np.flatnonzero(n_words)
        last = first + n_words[first] - 1
        return _cover(text, words.start[first], words.end[last])


class SpanTagger(_Tagger):
    """The same mask for spans from anywhere else: `find(text)` gives character spans of a row.

    For true spans of a known world, and for checks against `Lexicon.find`. `find` is called once
    for each row, with the completion's text up to its first EOS or padding at the end; a special
    token within is a newline there, an invalid byte one U+FFFD.
    """

    def __init__(self, find: Callable[[str], Iterable[tuple[int, int]]], tokenizer) -> None:
        super().__init__(tokenizer)
        self.find = find

    def _mark_rows(self, ids: np.ndarray) -> np.ndarray:
        mask = np.zeros(ids.shape, bool)
        for row, marked in zip(ids, mask, strict=True):
            length = 1 + np.flatnonzero(row != self._cut).max(initial=0)
            marked[1:length] = self._mark(self._text(row[1:length]))
        return mask

    def _mark(self, text: _Text) -> np.ndarray:
        codes = np.where((text.codes >= 0xDC80) & (text.codes <= 0xDCFF), 0xFFFD, text.codes)
        found = list(self.find(codes.astype("<u4").tobytes().decode("utf-32-le")))
        spans = np.array([tuple(span)[:2] for span in found], np.int64).reshape(-1, 2)
        start, end = spans[spans[:, 0] != spans[:, 1]].T
        if np.any((start < 0) | (start > end) | (end > codes.size)):
            raise ValueError(f"find gave a span outside its text of {codes.size}: {found}")
        return _cover(text, start, end)


class _Trie:
    """Grams as paths over word ids; id 0 is any word that no gram has."""

    def __init__(self, grams: list[tuple[str, ...]]) -> None:
        vocabulary = sorted({word for gram in grams for word in gram})
        # A blank behind each word, because the heading mark ## is a word only before a blank.
        lines = "".join(f"\n{word} " for word in vocabulary)
        codes = _words(_decode(f"{lines}\n".encode())[0]).code
        if len(set(codes.tolist())) != len(vocabulary):
            raise RuntimeError("two words of the lexicon share a hash; choose another BASE")
        self._codes = np.sort(codes)
        ids = dict(zip(vocabulary, 1 + np.searchsorted(self._codes, codes), strict=True))
        self._build([[int(ids[word]) for word in gram] for gram in grams], 1 + len(vocabulary))

    def _build(self, paths: list[list[int]], n_ids: int) -> None:
        edges: dict[int, int] = {}  # node * n_ids + word id -> node; the root is node 0
        ends = set()
        for path in paths:
            node = 0
            for word in path:
                node = edges.setdefault(node * n_ids + word, 1 + len(edges))
            ends.add(node)
        self._n_ids, self._depth = n_ids, max(map(len, paths))
        self._keys = np.array([*sorted(edges), np.iinfo(np.int64).max])
        self._targets = np.array([edges[key] for key in self._keys[:-1].tolist()])
        self._is_end = np.isin(np.arange(1 + len(edges)), list(ends))
        self._first = np.array([edges.get(word, 0) for word in range(n_ids)])

    def longest(self, words: _Words) -> np.ndarray:
        """(W,) words in the longest gram that starts at each word, 0 where none does."""
        place = np.searchsorted(self._codes, words.code).clip(max=self._codes.size - 1)  # (W,)
        ids = np.where(self._codes[place] == words.code, place + 1, 0)  # (W,)
        following = np.pad(np.where(words.cut, 0, ids), (0, self._depth))  # a cut fits no gram
        longest = np.zeros(ids.size, np.int64)
        node = self._first[ids]
        at, node = np.flatnonzero(node), node[node > 0]
        for depth in range(1, self._depth + 1):
            longest[at[self._is_end[node]]] = depth
            key = node * self._n_ids + following[at + depth]
            place = np.searchsorted(self._keys, key)
            alive = (following[at + depth] > 0) & (self._keys[place] == key)
            at, node = at[alive], self._targets[place[alive]]
        return longest


def token_bytes(tokenizer) -> list[bytes | None]:
    """The bytes of each id of a fast tokenizer; None for special tokens and ids without a token.

    Byte-level BPE (GPT-2's alphabet) and SentencePiece (the sign U+2581 is a blank, <0xNN> a
    byte) are told apart by the tokenizer's decoder; added tokens are their own text. Raises
    ValueError for any other tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = json.loads(backend.decoder.__getstate__()) if backend and backend.decoder else {}
    kinds = {step["type"] for step in decoder.get("decoders", [decoder]) if step}
    to_bytes = _byte_level if "ByteLevel" in kinds else _sentencepiece
    if not kinds & {"ByteLevel", "ByteFallback", "Metaspace"}:
        name = type(tokenizer).__name__
        raise ValueError(
            f"{name} with decoder {sorted(kinds)}: token bytes are known only for fast tokenizers "
            "of the byte-level BPE or SentencePiece kind"
        )
    pieces: list[bytes | None] = [None] * (1 + max(tokenizer.get_vocab().values()))
    for token, i in tokenizer.get_vocab().items():
        pieces[i] = to_bytes(token)
    special = set(tokenizer.all_special_ids)
    for i, added in tokenizer.added_tokens_decoder.items():
        pieces[i] = None if added.special or i in special else added.content.encode()
    for i in special:
        pieces[i] = None
    return pieces


def _byte_level(token: str) -> bytes:
    alphabet = _byte_alphabet()
    if all(sign in alphabet for sign in token):
        return bytes(alphabet[sign] for sign in token)
    return token.encode()  # as the tokenizer's own decoder does


def _sentencepiece(token: str) -> bytes:
    if re.fullmatch("<0x[0-9A-F]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()


@lru_cache
def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes follow U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def _decode(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Code points (C,) and the first byte of each (C + 1,); an invalid byte b is U+DC00 + b."""
    if data.isascii():
        return np.frombuffer(data, np.uint8), np.arange(len(data) + 1)
    text = data.decode("utf-8", "surrogateescape")
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    n_bytes = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
    n_bytes[(codes >= 0xDC80) & (codes <= 0xDCFF)] = 1
    return codes, np.concatenate([[0], np.cumsum(n_bytes)])


@lru_cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """For each code point what it is to a word, and the random number of its folded form."""
    folded = fold("".join(map(chr, range(N_CODE_POINTS))))
    kinds = np.fromiter(map(in_word, folded), np.uint8, N_CODE_POINTS)  # OTHER or IN_WORD
    kinds[[ord(sign) for sign in BOUNDARIES]] = BOUNDARY
    numbers = np.random.default_rng(0).integers(0, 1 << 64, N_CODE_POINTS, np.uint64)
    return kinds, numbers[np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), "<u4")]


@lru_cache(maxsize=4)
def _powers(n: int) -> tuple[np.ndarray, np.ndarray]:
    """BASE**i and BASE**-i modulo 2**64 for i in 1..n."""
    inverse = pow(BASE, -1, 1 << 64)
    return tuple(np.cumprod(np.full(n, base, np.uint64)) for base in (BASE, inverse))


def _words(codes: np.ndarray) -> _Words:
    """The words of a text that starts and ends with CUT, as words.segments finds them."""
    kind_of, number_of = _tables()
    kinds = kind_of[codes]  # (C,)
    backslash = np.flatnonzero(codes[:-1] == ord("\\"))
    brackets = [ord(bracket) for bracket in MATH_BRACKETS]
    kinds[backslash[np.isin(codes[backslash + 1], brackets)]] = BOUNDARY
    mark = np.flatnonzero((codes[1:-2] == ord("#")) & (codes[2:-1] == ord("#"))) + 1
    is_heading = (codes[mark - 1] == ord("\n")) & np.isin(codes[mark + 2], [ord(" "), ord("\t")])
    kinds[mark[is_heading]] = kinds[mark[is_heading] + 1] = IN_WORD
    edges = np.flatnonzero(np.diff(kinds == IN_WORD)) + 1  # start, end, start, end, ...
    start, end = edges[::2], edges[1::2]
    n_boundaries = np.cumsum(kinds == BOUNDARY)[start]  # (W,) before each word
    powers, inverse_powers = _powers(1 << codes.size.bit_length())
    # sum over a word of number * BASE**(its place in the word), from sums over the whole text
    sums = np.cumsum(number_of[codes] * inverse_powers[: codes.size])  # (C,)
    code = (sums[end - 1] - sums[start - 1]) * powers[start]  # (W,)
    return _Words(start, end, code, np.diff(n_boundaries, prepend=-1) > 0)


def _cover(text: _Text, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(N,) tokens that hold a byte of a span of characters start[i]:end[i]."""
    first = text.token_of_byte[text.first_byte[start]]
    last = text.token_of_byte[text.first_byte[end] - 1]
    opened = np.bincount(first, minlength=text.n_tokens + 1)
    closed = np.bincount(last + 1, minlength=text.n_tokens + 1)
    return np.cumsum(opened - closed)[:-1] > 0
