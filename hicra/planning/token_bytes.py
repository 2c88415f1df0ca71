"""The bytes of each token id, by the tokenizer's own alphabet."""

from __future__ import annotations

import json
import re
from functools import lru_cache

from hicra.errors import HicraError


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
        raise HicraError(
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
