"""Placebo lexicons: as many grams, as much text, none of the real ones."""

import random

import pytest

from hicra.lexicon.lexicon import Lexicon
from hicra.lexicon.placebo import placebo_lexicon
from hicra.study.problems.families import problems, worked_solution
from hicra.words import segments


@pytest.fixture(scope="module")
def texts():
    rng = random.Random(0)
    return [worked_solution(p, rng).text for p in problems(300, 0)]


@pytest.fixture(scope="module")
def lexicon():
    return Lexicon.from_grams(
        [
            "let us add",
            "we should",
            "so we get",
            "the limit of",
            "let us keep the limit",
            "absent from all",
        ]
    )


def _covered(lexicon, texts):
    return len(_words(lexicon, texts))


def _words(lexicon, texts):
    spans = [(i, m.start, m.end) for i, text in enumerate(texts) for m in lexicon.find(text)]
    words = [(i, w.start) for i, text in enumerate(texts) for run in segments(text) for w in run]
    held = {(i, at) for i, start, end in spans for at in range(start, end)}
    return {word for word in words if word in held}


def test_size_and_coverage_are_matched(texts, lexicon):
    placebo = placebo_lexicon(lexicon, texts, seed=0, name="p")
    assert len(placebo) == len(lexicon)
    assert not set(placebo.grams) & set(lexicon.grams)
    real, ours = _covered(lexicon, texts), _covered(placebo, texts)
    assert 0.98 * real <= ours <= real
    assert placebo.provenance["counts"] == {"covered_words": ours, "covered_by_the_real_one": real}


def test_at_chance_it_holds_as_much_of_the_real_one_as_all_of_the_text():
    rng, real = random.Random(0), Lexicon.load("families")
    texts = [worked_solution(p, rng).text for p in problems(300, 0)]
    words = _words(real, texts)
    chance = len(words) / sum(len(run) for text in texts for run in segments(text))
    for fair in (True, False):
        covered = _words(placebo_lexicon(real, texts, seed=0, name="p", at_chance=fair), texts)
        assert len(covered) == pytest.approx(len(words), rel=0.02)
        assert (len(covered & words) / len(covered) <= chance) == fair


def test_grams_longer_than_the_placebos_count_as_covered(texts):
    long = Lexicon.from_grams(
        ["remember that there is a limit", "so we get", "absent", "absent too", "not there"]
    )
    found = placebo_lexicon(long, texts, seed=0, name="p")
    assert found.provenance["counts"]["covered_by_the_real_one"] == _covered(long, texts)


def test_the_draw_repeats_and_depends_on_the_seed(texts, lexicon):
    one, two = (placebo_lexicon(lexicon, texts, seed=0, name="p").sha256 for _ in range(2))
    assert one == two != placebo_lexicon(lexicon, texts, seed=1, name="p").sha256


def test_texts_that_cannot_give_it_are_refused(lexicon):
    with pytest.raises(ValueError, match="give more texts"):
        placebo_lexicon(lexicon, ["We know that all."], seed=0, name="p")


def test_the_shipped_placebo_matches_the_shipped_lexicon():
    placebo, lexicon = Lexicon.load("families-placebo"), Lexicon.load("families")
    assert placebo.provenance["settings"]["matched_sha256"] == lexicon.sha256
    assert len(placebo) == len(lexicon)
