"""The planning mask, against hand cases and against a slow oracle that shares no code with it."""

import random
import re
import unicodedata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hicra.lexicon.lexicon import Lexicon
from hicra.planning.tagger import PlanningTagger, SpanTagger
from hicra.planning.token_bytes import token_bytes
from tests.fuzz import fuzz

SENTENCES = [
    "So, we need to find x. Wait, no! Let's try a different approach: use the fact that",
    "## Step 1: we can see that caf\u00e9 \u2019s \u03c0 \u2264 2.\n## Step 2\nBut \\(x\\) is",
    "\u4e2d\u6587 \U0001f914 let\u2019s double-check; we can use $y$ and step-by-step reasoning",
]
GRAMS = ["so", "we need to", "need to find", "wait, no", "## step", "let's", "we can see that"]
GRAMS += ["\u8ba9\u6211", "\u0e23\u0e39\u0e49 so", "so \u092e\u0948\u0902", "\uadf8 so", "think"]
GRAMS += ["caf\u00e9 so", "so so", "i", "but wait", "step by step reasoning", "\u03c0 so", "is"]
LEXICON = Lexicon.from_grams(GRAMS)
SPECIAL = ["<eos>", "<pad>", "<sep>"]


def wrap(backend: Tokenizer) -> PreTrainedTokenizerFast:
    backend.add_special_tokens(SPECIAL)
    backend.add_tokens([AddedToken("<so>", normalized=False)])  # added, but plain text
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def byte_level() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False),
    )
    return wrap(backend)


def sentencepiece() -> PreTrainedTokenizerFast:
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    learner.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=160, show_progress=False))
    rare = {"\u4e2d", "\u2264", "\U0001f914", "\n"}  # left to the byte fallback
    pieces = [p for p in learner.get_vocab() if not rare & set(p) and "\n" not in p]
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] + sorted(pieces)
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return wrap(backend)


TOKENIZERS = {"byte-level": byte_level(), "sentencepiece": sentencepiece()}
PIECES = {name: token_bytes(tokenizer) for name, tokenizer in TOKENIZERS.items()}
TAGGERS = {name: PlanningTagger(LEXICON, tokenizer) for name, tokenizer in TOKENIZERS.items()}
IDS = {
    name: {piece: i for i, piece in enumerate(pieces) if piece is not None} for name, pieces in PIECES.items()
}
kinds = pytest.mark.parametrize("kind", TOKENIZERS)


def spell(kind: str, *pieces: str | bytes) -> list[int]:
    """Ids of exactly these tokens; a piece that is none is spelt in single bytes."""
    ids = []
    for piece in pieces:
        if piece in SPECIAL:
            ids.append(TOKENIZERS[kind].convert_tokens_to_ids(piece))
            continue
        data = piece if isinstance(piece, bytes) else piece.encode()
        whole = IDS[kind].get(data)
        ids += [whole] if whole is not None else [IDS[kind][data[i : i + 1]] for i in range(len(data))]
    return ids


def tag(kind: str, ids: list[int], mask: list[int] | None = None, lexicon=None) -> list[bool]:
    tagger = PlanningTagger(lexicon, TOKENIZERS[kind]) if lexicon else TAGGERS[kind]
    ids_row = torch.tensor([ids])
    return tagger(ids_row, torch.tensor([mask or [1] * len(ids)]))[0].tolist()


def marked(kind: str, text: str) -> str:
    """The text's planning tokens, where every byte is a token of its own."""
    data = text.encode()
    flags = tag(kind, [IDS[kind][data[i : i + 1]] for i in range(len(data))])
    return bytes(byte if flag else ord("_") for byte, flag in zip(data, flags, strict=True)).decode()


# ------------------------------------------------------------------ the oracle


def oracle_characters(data: bytes) -> list[tuple[str, int, int]]:
    """(character, first byte, byte behind it), by trying one to four bytes; composed with its marks."""
    found, i = [], 0
    while i < len(data):
        for n in (1, 2, 3, 4):
            try:
                found.append((data[i : i + n].decode(), i, i + n))
                break
            except UnicodeDecodeError:
                continue
        else:
            n = 1
            found.append(("\ufffd", i, i + 1))
        i += n
    return found


def oracle_clusters(characters):
    """Characters with the combining marks and jamo behind them: (composed, first byte, byte behind)."""
    clusters = []
    for sign, start, end in characters:
        before = clusters[-1][0] if clusters else ""
        composes = len(unicodedata.normalize("NFC", before + sign)) == len(
            unicodedata.normalize("NFC", before)
        )
        if clusters and (unicodedata.category(sign)[0] == "M" or composes):
            clusters[-1] = (clusters[-1][0] + sign, clusters[-1][1], end)
        else:
            clusters.append((sign, start, end))
    return [(unicodedata.normalize("NFC", text), start, end) for text, start, end in clusters]


ENDS = ".!?;:\n$\u3002\uff01\uff1f\uff1a\uff1b\u2026\u0964\u061f"
UNSPACED = [
    (0x3041, 0x30FA),
    (0x30FC, 0x30FC),
    (0x3400, 0x9FFF),
    (0x0E01, 0x0E4E),
    (0x1000, 0x109F),
    (0x20000, 0x3FFFF),
]


def oracle_words(characters: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """(word, first byte, byte behind it); a boundary is the entry ("", i, i)."""
    clusters, words, current = oracle_clusters(characters), [], None
    text = "".join(c for c, _, _ in clusters)
    at = 0
    skip = 0
    for cluster, start, end in clusters:
        place, at = at, at + len(cluster)
        sign = {"\u2019": "'", "\u2018": "'", "\u0130": "i", "\u02bc": "'"}.get(cluster[0], cluster[0])
        marker = re.match(r"<think>|</think>|<\|[^|<>\n]*\|>", text[place:].lower())
        if marker:
            skip = max(skip, place + len(marker[0]))
            words += ([current] if current else []) + [("", start, start)]
            current = None
        if place < skip:
            continue
        if sign.isalnum() or sign == "'":
            lower = (sign.lower() + cluster[1:]).replace("\u03c2", "\u03c3")
            alone = any(low <= ord(sign) <= high for low, high in UNSPACED)
            if current and alone:
                words.append(current)
                current = None
            current = (current[0] + lower, current[1], end) if current else (lower, start, end)
            if alone:
                words.append(current)
                current = None
            continue
        if cluster in ("\u200c", "\u200d") and (
            current or (words and words[-1][2] == start and words[-1][0])
        ):
            if current:
                current = (current[0] + cluster, current[1], end)
            else:
                words[-1] = (words[-1][0] + cluster, words[-1][1], end)
            continue
        if current:
            words.append(current)
            current = None
        if sign in ENDS or (sign == "\\" and text[place + 1 : place + 2] in tuple("()[]")):
            words.append(("", start, start))
        line_start = place == 0 or text[place - 1] == "\n"
        if line_start and text[place : place + 2] == "##" and text[place + 2 : place + 3] in (" ", "\t"):
            words.append(("##", start, start + 2))
    return words + ([current] if current else [])


def oracle_row(pieces: list[bytes | None], ids: list[int], mask: list[int], eos: int) -> list[bool]:
    chunks, ended = [], False
    for i, keep in zip(ids, mask, strict=True):
        ended = ended or (keep and i == eos)
        has_text = keep and not ended and 0 <= i < len(pieces) and pieces[i] is not None
        chunks.append(pieces[i] if has_text else None)
    data = b"".join(b"\n" if chunk is None else chunk for chunk in chunks)
    words = oracle_words(oracle_characters(data))
    planning_bytes = set()
    for gram in LEXICON.grams:
        parts = gram.split()
        for k in range(len(words) - len(parts) + 1):
            if [w[0] for w in words[k : k + len(parts)]] == parts:
                planning_bytes |= set(range(words[k][1], words[k + len(parts) - 1][2]))
    flags, at = [], 0
    for chunk in chunks:
        size = 1 if chunk is None else len(chunk)
        flags.append(chunk is not None and any(b in planning_bytes for b in range(at, at + size)))
        at += size
    return flags


# ------------------------------------------------------------------ property tests

FRAGMENTS = [
    *GRAMS,
    "so",
    "So,",
    "WE",
    "need",
    "to",
    "find",
    "is",
    "caf\u00e9",
    "\u03c0",
    "let\u2019s",
]
FRAGMENTS += [
    " ",
    " ",
    ", ",
    "-",
    ".",
    "\n",
    "\n## ",
    "##",
    "#",
    "\\(",
    "\\",
    "(",
    "$",
    "'",
    "\u2019",
]
FRAGMENTS += [
    "\u4e2d",
    "\U0001f914",
    "\u0130",
    "I",
    "\u2264",
    ": ",
    "_",
    "\u0301",
    "\ufffd",
    "<so>",
    "\t",
    "e\u0301",
    "cafe\u0301",
    "\u8ba9\u6211",
    "\u8ba9",
    "\u6211",
    "\u3002",
    "\u2026",
    "\u0e23\u0e39\u0e49",
    "\u092e\u0948\u0902",
    "\u1100\u1173",
    "\uadf8",
    "<think>",
    "</think>",
    "<|x|>",
]
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join) | st.text(max_size=12)


def cut_at_random(kind: str, data: bytes, rng: random.Random) -> list[int]:
    """A tokenisation of the bytes that no tokenizer would choose."""
    ids, i = [], 0
    while i < len(data):
        n = rng.randint(1, 9)
        while (piece := IDS[kind].get(data[i : i + n])) is None:
            n -= 1
        ids.append(piece)
        i += max(1, len(data[i : i + n]))
    return ids


@st.composite
def rows(draw, kind: str) -> list[tuple[int, int]]:
    """One row of (id, mask): text cut at random, with strange ids and gaps thrown in."""
    rng = random.Random(draw(st.integers(0, 1 << 30)))
    n_ids = len(PIECES[kind])
    row = [(i, 1) for i in cut_at_random(kind, draw(TEXTS).encode(errors="replace"), rng)]
    for _ in range(rng.choice([0, 0, 1, 3])):
        special = spell(kind, rng.choice(SPECIAL))[0]
        odd = rng.choice([(special, 1), (rng.randrange(n_ids + 3), 1), (rng.randrange(n_ids), 0)])
        row.insert(rng.randint(0, len(row)), odd)
    return row


@kinds
@fuzz(100)
@given(st.data())
def test_the_tagger_equals_the_oracle(kind, data):
    batch = data.draw(st.lists(rows(kind), min_size=1, max_size=4))
    width = max(map(len, batch)) + data.draw(st.integers(0, 2))
    batch = [row + [(spell(kind, "so")[0], 0)] * (width - len(row)) for row in batch]
    ids = [[i for i, _ in row] for row in batch]
    mask = [[keep for _, keep in row] for row in batch]
    shape = (len(batch), width)
    tensors = [torch.tensor(x, dtype=torch.long).reshape(shape) for x in (ids, mask)]
    got = TAGGERS[kind](*tensors)
    eos = TOKENIZERS[kind].eos_token_id
    expected = [oracle_row(PIECES[kind], *row, eos) for row in zip(ids, mask, strict=True)]
    assert got.tolist() == expected
    by_find = SpanTagger(lambda text: [m[:2] for m in LEXICON.find(text)], TOKENIZERS[kind])
    assert by_find(*tensors).tolist() == expected


@kinds
@fuzz(50)
@given(TEXTS)
def test_the_bytes_of_an_encoding_are_the_text(kind, text):
    text = text.encode(errors="replace").decode()
    ids = TOKENIZERS[kind].encode(text, add_special_tokens=False)
    if not set(SPECIAL) & set(TOKENIZERS[kind].convert_ids_to_tokens(ids)):
        assert b"".join(PIECES[kind][i] for i in ids).decode() == text


# ------------------------------------------------------------------ hand cases


@kinds
def test_whole_words_across_signs_and_capitals(kind):
    assert marked(kind, "So, we NEED, to? also") == "So__we NEED, to______"
    assert marked(kind, "wait - \u201cno\u201d wait. no") == "wait - \u201cno____________"
    assert marked(kind, "Let\u2019s sos") == "Let\u2019s____"
    assert marked(kind, "i\\(so\\)") == "i__so__"


@kinds
@pytest.mark.parametrize("sign", [".", "!", "?", ";", ":", "\n", "$", r"\(", r"\)", r"\[", r"\]"])
def test_no_match_crosses_a_boundary(kind, sign):
    assert marked(kind, f"wait {sign} no") == "_" * (8 + len(sign))
    assert marked(kind, f"wait {sign[:-1]} no") == f"wait {sign[:-1]} no"  # a lone backslash


@kinds
def test_overlapping_matches_are_joined(kind):
    assert marked(kind, "x we need to find y") == "__we need to find__"
    assert marked(kind, "so so so") == "so so so"


@kinds
def test_heading_marks(kind):
    assert marked(kind, "## Step 1\n### Step\n ## Step\n##  Step") == "## Step" + "_" * 21 + "##  Step"


def test_a_token_is_planning_when_it_overlaps_a_match():
    ids = spell("byte-level", " we", " need", " to", ".")
    assert len(ids) == 4
    assert tag("byte-level", ids) == [True, True, True, False]
    inside = spell("byte-level", "Wa", "it", ",", " ", "no", "!")
    assert tag("byte-level", inside) == [True] * (len(inside) - 1) + [False]


@kinds
def test_a_character_split_over_tokens(kind):
    ids = spell(kind, b"l", b"e", b"t", b"\xe2", b"\x80", b"\x99", b"s", b" ", b"\xcf", b"\x80", b" ")
    assert tag(kind, ids) == [True] * 7 + [False] * 4
    assert tag(kind, spell(kind, b"\xcf", b"\x80", b" ", b"s", b"o")) == [True] * 5


@kinds
def test_invalid_bytes_are_transparent_and_move_nothing(kind):
    ids = spell(kind, b"\xff", b"\xe2", b"\x80", b"s", b"o", b"\xf0", b"\x9f", b" ", b"i")
    assert tag(kind, ids) == [False] * 3 + [True] * 2 + [False] * 3 + [True]


@kinds
def test_special_tokens_cut_and_are_never_planning(kind):
    row = spell(kind, b"s", "<sep>", b"o", b" ", b"s", b"o", "<sep>", b"s", b"o")
    assert tag(kind, row) == [False] * 4 + [True] * 2 + [False] + [True] * 2
    # "so so" would span the special token if it had no text
    lexicon = Lexicon.from_grams(["so so"])
    assert not any(tag(kind, spell(kind, b"s", b"o", b" ", "<sep>", b"s", b"o"), lexicon=lexicon))


@kinds
def test_nothing_from_the_first_eos_on(kind):
    row = spell(kind, b"s", b"o", "<eos>", b"s", b"o", "<eos>", b"i")
    assert tag(kind, row) == [True, True] + [False] * 5
    # an EOS that the mask leaves out ends nothing
    assert tag(kind, row, [1, 1, 0, 1, 1, 1, 1]) == [True, True, False, True, True, False, False]


@kinds
def test_what_the_mask_leaves_out_is_never_planning_and_cuts(kind):
    row = spell(kind, b"s", b"o", b"i", b"s", b"o")
    assert tag(kind, row, [1, 1, 0, 1, 1]) == [True, True, False, True, True]
    assert tag(kind, row, [0, 0, 0, 0, 0]) == [False] * 5
    assert tag(kind, [-100, *spell(kind, b"i"), -100], [0, 1, 0]) == [False, True, False]


@kinds
def test_rows_do_not_touch_and_blocks_do_not_matter(kind, monkeypatch):
    rows_ids = [spell(kind, b"s"), spell(kind, b"o")] + [spell(kind, b"i")] * 5
    ids = torch.tensor(rows_ids)  # (7, 1)
    expected = [[False]] * 2 + [[True]] * 5
    assert TAGGERS[kind](ids, torch.ones_like(ids)).tolist() == expected
    monkeypatch.setattr("hicra.planning.tagger.BLOCK", 6)
    assert TAGGERS[kind](ids, torch.ones_like(ids)).tolist() == expected


@kinds
def test_ids_without_a_token_cut(kind):
    beyond = len(PIECES[kind]) + 5
    assert tag(kind, [*spell(kind, b"s"), beyond, *spell(kind, b"o")]) == [False] * 3


@kinds
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0)])
def test_empty_batches(kind, shape):
    mask = TAGGERS[kind](torch.zeros(shape, dtype=torch.long), torch.ones(shape))
    assert mask.shape == shape
    assert mask.dtype == torch.bool


@kinds
def test_the_mask_is_ordinary_memory_and_integer_types_do_not_matter(kind):
    ids = torch.tensor([spell(kind, b"s", b"o", b".")], dtype=torch.int32)
    mask = TAGGERS[kind](ids, torch.ones(ids.shape, dtype=torch.bool))
    assert mask.is_contiguous()
    assert (mask.dtype, mask.device) == (torch.bool, ids.device)
    mask[0, 2] = True  # writable
    assert mask.tolist() == [[True] * 3]


@pytest.mark.parametrize("shapes", [((3,), (3,)), ((2, 3), (2, 4)), ((2, 3), (3,)), ((1, 2, 3),) * 2])
def test_other_shapes_are_refused(shapes):
    ids, mask = (torch.ones(shape, dtype=torch.long) for shape in shapes)
    with pytest.raises(ValueError, match="must be \\(B, T\\)"):
        TAGGERS["byte-level"](ids, mask)


def test_ids_that_are_no_integers_are_refused():
    with pytest.raises(ValueError, match="integers"):
        TAGGERS["byte-level"](torch.ones(1, 2), torch.ones(1, 2))


@kinds
def test_every_token_has_its_bytes(kind):
    pieces = PIECES[kind]
    assert {bytes([b]) for b in range(256)} <= set(pieces)
    vocabulary = TOKENIZERS[kind].get_vocab()
    assert [pieces[vocabulary[token]] for token in SPECIAL] == [None] * 3
    assert pieces[vocabulary["<so>"]] == b"<so>"


def test_another_kind_of_tokenizer_is_refused():
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "so": 1}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    for tokenizer in (PreTrainedTokenizerFast(tokenizer_object=backend), object()):
        with pytest.raises(ValueError, match="byte-level BPE or SentencePiece"):
            token_bytes(tokenizer)


@kinds
def test_span_tagger_marks_what_it_is_given(kind):
    seen = []

    def find(text):
        seen.append(text)
        return [(1, 3), (3, 3), (4, 5)]

    row = spell(kind, b"a", b"\xcf", b"\x80", b"b", "<sep>", b"\xff", "<eos>", b"c")
    ids = torch.tensor([row])
    mask = SpanTagger(find, TOKENIZERS[kind])(ids, torch.ones_like(ids))
    assert seen == ["a\u03c0b\n\ufffd"]
    assert mask.tolist() == [[False, True, True, True, False, True, False, False]]


def test_span_tagger_refuses_spans_outside_the_text():
    ids = torch.tensor([spell("byte-level", b"s", b"o")])
    for span in ((0, 3), (-1, 1), (2, 1)):
        with pytest.raises(ValueError, match="outside its text of 2"):
            SpanTagger(lambda text, span=span: [span], TOKENIZERS["byte-level"])(ids, ids >= 0)
