"""Words, their offsets and what separates them (method: word, transparent sign, boundary)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hicra.words import HEADING, Word, fold, in_word, normalise, segments

EVERY_CHARACTER = "".join(map(chr, range(0x110000)))


def texts(text: str) -> list[list[str]]:
    return [[word.text for word in run] for run in segments(text)]


def test_words_are_folded_and_keep_their_offsets_in_the_original():
    assert segments("So, LET’S go") == [
        [Word("so", 0, 2), Word("let's", 4, 9), Word("go", 10, 12)],
    ]


@pytest.mark.parametrize("sign", [",", '"', "“", "-", "—", "(", "*", "_", "\t", "\r", "#", "\\", "…"])
def test_other_signs_are_transparent(sign):
    assert texts(f"step{sign} by{sign}step") == [["step", "by", "step"]]


@pytest.mark.parametrize("sign", [".", "!", "?", ";", ":", "\n", "$", r"\(", r"\)", r"\[", r"\]"])
def test_boundaries_cut(sign):
    assert texts(f"wait{sign}no") == [["wait"], ["no"]]
    assert texts(f"{sign}{sign}wait{sign}") == [["wait"]]


def test_apostrophes_and_digits_belong_to_words_and_decimals_are_cut():
    assert texts("'so' it's 12a ½ f'") == [["'so'", "it's", "12a", "½", "f'"]]
    assert texts("3.14") == [["3"], ["14"]]


def test_a_combining_mark_separates_and_a_composed_letter_does_not():
    assert texts("cafe\u0301s") == [["cafe", "s"]]
    assert texts("CAFÉS") == [["cafés"]]


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


def test_the_pattern_and_in_word_agree_on_every_character():
    found = "".join(word.text for run in segments(EVERY_CHARACTER) for word in run)
    assert found == "".join(filter(in_word, fold(EVERY_CHARACTER)))


@given(st.text(alphabet="aB'’İΣé\u0301 ,.#\n\\($", max_size=40))
def test_segments_hold_exactly_the_word_characters(text):
    words = [word for run in segments(text) for word in run]
    inside = {i for word in words if word.text != HEADING for i in range(word.start, word.end)}
    assert inside == {i for i, sign in enumerate(fold(text)) if in_word(sign)}
    assert all(fold(text[w.start : w.end]) == w.text for w in words)
    assert [w.start for w in words] == sorted({w.start for w in words})


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
