"""Words, their offsets and what separates them (method: word, transparent sign, boundary)."""

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hicra.words import (
    ALONE,
    BOUNDARY,
    HEADING,
    IN_WORD,
    MARK,
    Word,
    compose,
    fold,
    kind,
    normalise,
    segments,
)

EVERY_CHARACTER = "".join(map(chr, range(0x110000)))


def texts(text: str) -> list[list[str]]:
    return [[word.text for word in run] for run in segments(text)]


def test_words_are_folded_and_keep_their_offsets_in_the_original():
    assert segments("So, LET’S go") == [
        [Word("so", 0, 2), Word("let's", 4, 9), Word("go", 10, 12)],
    ]


@pytest.mark.parametrize(
    "sign", [",", '"', "“", "-", "—", "(", "*", "_", "\t", "\r", "#", "\\", "，", "、", "·"]
)
def test_other_signs_are_transparent(sign):
    assert texts(f"step{sign} by{sign}step") == [["step", "by", "step"]]


ASCII_BOUNDARIES = [
    ".",
    "!",
    "?",
    ";",
    ":",
    "\n",
    "$",
    r"\(",
    r"\)",
    r"\[",
    r"\]",
    "<think>",
    "</THINK>",
    "<|im_end|>",
]
TWINS = ["。", "！", "？", "；", "：", "…", "।", "॥", "؟", "۔", "؛", "።", "‼", "．", "｡", "\u2028", "\u037e"]


@pytest.mark.parametrize("sign", ASCII_BOUNDARIES + TWINS)
def test_boundaries_cut(sign):
    assert texts(f"wait{sign}no") == [["wait"], ["no"]]
    assert texts(f"{sign}{sign}wait{sign}") == [["wait"]]


def test_apostrophes_and_digits_belong_to_words_and_decimals_are_cut():
    assert texts("'so' it's 12a ½ f'") == [["'so'", "it's", "12a", "½", "f'"]]
    assert texts("3.14") == [["3"], ["14"]]


def test_a_combining_mark_belongs_to_its_letter_however_it_was_typed():
    assert texts("cafe\u0301s") == texts("caf\u00e9s") == [["caf\u00e9s"]]
    assert segments("(cafe\u0301s so") == [[Word("caf\u00e9s", 1, 7), Word("so", 8, 10)]]
    assert texts("\u0301a so\u0301\u0323 q\u0301") == [["a", "s\u1ecd\u0301", "q\u0301"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("让我们检查。好", [["让", "我", "们", "检", "查"], ["好"]]),
        ("x等于3吗？", [["x", "等", "于", "3", "吗"]]),
        ("しかし、待って", [["し", "か", "し", "待", "っ", "て"]]),
        ("ステップ", [["ス", "テ", "ッ", "プ"]]),
        ("ลองทำ", [["ล", "อ", "ง", "ท", "ำ"]]),
        ("รู้", [["รู้"]]),
        ("मैं हिन्दी में।", [["मैं", "हिन्दी", "में"]]),
        ("क्\u200dष", [["क्\u200dष"]]),
        ("그러면 확인", [["그러면", "확인"]]),
        ("\u1100\u1173\u1105\u1165", [["그러"]]),
        ("لكن، انتظر؟ نعم", [["لكن", "انتظر"], ["نعم"]]),
        ("שָׁלוֹם לך", [["שָׁלוֹם", "לך"]]),
        ("Ждите, но", [["ждите", "но"]]),
    ],
)
def test_words_of_other_scripts(text, words):
    composed = [[compose(word)[0] for word in run] for run in words]
    assert texts(text) == composed
    for run in segments(text):
        for word in run:
            assert compose(fold(compose(text[word.start : word.end])[0]))[0] == word.text


@pytest.mark.parametrize("apostrophe", "'\u2019\u2018\u201b\u02bc\uff07")
def test_typographic_apostrophes_are_one(apostrophe):
    assert texts(f"Let{apostrophe}s") == [["let's"]]


def test_a_letter_that_grows_in_lower_case_moves_no_offset():
    assert len("İ".lower()) == 2
    assert segments("İİ İs so")[0][-1] == Word("so", 6, 8)
    assert texts("İS ΟΔΟΣ οδος") == [["is", "οδοσ", "οδοσ"]]


def test_heading_mark_is_a_word_only_at_the_start_of_a_line_before_a_blank():
    assert texts("## Step 1: go\n##\tStep 2") == [["##", "step", "1"], ["go"], ["##", "step", "2"]]
    for text in ("a ## step", "### step", "# step", "##step", " ## step", ". ## step", "\r## step"):
        assert all(HEADING not in run for run in texts(text)), text


def test_no_words_no_segments():
    assert segments("") == segments(" .. ,\n$-#") == []


def test_folding_keeps_every_character_in_place_and_is_idempotent():
    folded = fold(EVERY_CHARACTER)
    assert len(folded) == len(EVERY_CHARACTER)
    assert fold(folded) == folded
    assert folded == "".join(map(fold, EVERY_CHARACTER))


def test_kinds_of_ascii_and_of_every_mark():
    assert "".join(c for c in map(chr, range(128)) if kind(c) == BOUNDARY) == "\n!$.:;?"
    assert {c for c in map(chr, range(128)) if kind(c) == IN_WORD} == {
        c for c in map(chr, range(128)) if c.isalnum()
    } | {"'"}
    assert not any(kind(c) in (ALONE, MARK) for c in map(chr, range(128)))
    assert kind("\u0e31") == kind("\u0301") == MARK  # a Thai vowel sign, an acute
    assert kind("\u4e2d") == kind("\u30fc") == ALONE
    assert kind("\u2e80") == 0  # a radical is no letter


@given(st.text(alphabet="aB'’İΣé\u0301 ,.#\n\\($中ท\u0e31।<>|", max_size=40))
def test_words_are_what_the_text_says_at_their_offsets(text):
    words = [word for run in segments(text) for word in run]
    for word in words:
        assert fold(compose(text[word.start : word.end])[0]) == word.text
    assert [w.start for w in words] == sorted({w.start for w in words})
    assert all(a.end <= b.start for a, b in pairwise(words))


@given(
    st.text(max_size=40) | st.text(alphabet="ae\u0301\u0323\u1100\u1161\u11a8\u09c7\u09be가 ", max_size=20)
)
def test_composing_is_nfc_and_its_offsets_lead_back(text):
    composed, starts = compose(text)
    assert composed == unicodedata.normalize("NFC", text)
    assert len(starts) == len(composed) + 1
    assert (starts[0], starts[-1]) == (0, len(text)) or not text
    assert list(starts) == sorted(starts)


@given(st.text(alphabet="aB' ,.#\n\\($<>|", max_size=40))
def test_the_two_ways_through_agree_on_ascii(text):
    with_twin = segments(text + "。é")
    assert with_twin[:-1] == segments(text)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("hmm,", "hmm"),
        ("wait, no", "wait no"),
        ("does this make sense?", "does this make sense"),
        ("Step-by-step", "step by step"),
        ("## step", "## step"),
        ("wait, that’s not right", "wait that's not right"),
    ],
)
def test_entries_are_normalised_like_text(entry, words):
    assert " ".join(normalise(entry)) == words
    assert normalise(words) == normalise(entry)


@pytest.mark.parametrize("entry", ["", " ,", "## ", "?!", "##"])
def test_an_entry_without_words_is_refused(entry):
    with pytest.raises(ValueError, match="no word"):
        normalise(entry)


@pytest.mark.parametrize("entry", ["wait. no", "so\nafter", "let $x$ be"])
def test_an_entry_that_no_text_can_match_is_refused(entry):
    with pytest.raises(ValueError, match="boundary"):
        normalise(entry)
