"""Token ids -> planning mask, by words and byte offsets (paper, section 3 and A.2).

A token is a planning token iff it overlaps an occurrence of a Strategic Gram. Offsets come from
the tokens' own bytes, never from encoding the text again: sampled ids need not be the canonical
tokenisation, and a character may be split over tokens.

Some rows at a time become one array of characters, and each step is a few numpy passes over it:
tokens -> characters (token_bytes.py) -> words -> grams (word_matching.py) -> tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from hicra.errors import MissingExtraError
from hicra.lexicon.lexicon import Lexicon
from hicra.planning.token_bytes import token_bytes
from hicra.planning.word_matching import Trie, decode, find_words

try:
    import torch
except ModuleNotFoundError as error:
    raise MissingExtraError("PlanningTagger", "torch", "trl") from error

CUT = b"\n"  # in place of what has no text; no word and no gram runs across it
BLOCK = 1 << 15  # tokens in one pass: arrays small enough for the cache


class _Text(NamedTuple):
    """C characters made of N tokens. An invalid byte b is one character, U+DC00 + b."""

    codes: np.ndarray  # (C,) code points
    first_byte: np.ndarray  # (C + 1,) where each character starts, and the end
    token_of_byte: np.ndarray
    n_tokens: int


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

    def _mark(self, text: _Text) -> np.ndarray:
        raise NotImplementedError

    def _text(self, ids: np.ndarray) -> _Text:
        data = b"".join(map(self._bytes.__getitem__, ids.tolist()))
        token_of_byte = np.repeat(np.arange(ids.size), self._n_bytes[ids])
        return _Text(*decode(data), token_of_byte, ids.size)


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
        self._trie = Trie([tuple(gram.split(" ")) for gram in lexicon.grams])

    def _mark(self, text: _Text) -> np.ndarray:
        words = find_words(text.codes)
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


def _cover(text: _Text, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(N,) tokens that hold a byte of a span of characters start[i]:end[i]."""
    first = text.token_of_byte[text.first_byte[start]]
    last = text.token_of_byte[text.first_byte[end] - 1]
    opened = np.bincount(first, minlength=text.n_tokens + 1)
    closed = np.bincount(last + 1, minlength=text.n_tokens + 1)
    return np.cumsum(opened - closed)[:-1] > 0
