"""Drawing items blind, keeping answers, and agreement worked out by hand."""

import pytest

from hicra.lexicon.lexicon import Lexicon
from hicra.study.verdicts.human_annotation import (
    agreement,
    draw_items,
    form,
    item_html,
    judged_by_truth,
    read_answers,
    save_answer,
)

LEXICON = Lexicon.from_grams(["let me check", "wait a minute", "we could instead"])
TEXTS = [
    "Let me check. The sum of two and three is five.",
    "Wait a minute: the product <b>of four</b> and six is large.",
    "We could instead divide ten by two and then go on.",
]


def test_items_are_grams_and_others_in_their_context():
    items = draw_items(LEXICON, TEXTS, 3)
    grams, others = ([i for i in items if i.kind == kind] for kind in ("gram", "other"))
    assert {i.phrase.lower() for i in grams} == set(LEXICON.grams)
    assert len(others) == 3
    for item in items:
        assert item.before + item.phrase + item.after in TEXTS
        assert item.kind not in item_html(item)
    assert all(not LEXICON.find(i.phrase) for i in others)
    assert items == draw_items(LEXICON, TEXTS, 3)
    assert [i.kind for i in items] != sorted(i.kind for i in items)
    with pytest.raises(ValueError, match="3 different Strategic Grams, fewer than n=4"):
        draw_items(LEXICON, TEXTS, 4)


def test_the_worlds_truth_as_the_judge_by_hand():
    texts = [TEXTS[0], TEXTS[0], "Wait a minute: two and three."]

    def truth(text):
        """The whole first gram, and 6 of the second's 13 characters; "two and three" in the last text."""
        return [(0, 12, "plan")] if text.startswith("Let") else [(7, 13, "plan"), (15, 28, "plan")]

    table = judged_by_truth(LEXICON, texts, truth).set_index("kind")
    assert table.loc["gram"].tolist() == [2, 0.5]
    # six 3-grams of "the sum of two and three is five"; "two and three" is planning in one text of three
    assert table.loc["other"].tolist() == [6, 0.0]
    assert judged_by_truth(LEXICON, texts[2:], truth).set_index("kind").loc["other"].tolist() == [1, 1.0]


def test_text_is_escaped():
    shown = [item_html(i) for i in draw_items(LEXICON, TEXTS, 3)]
    assert not any("<b>of" in html for html in shown)


def test_agreement_by_hand(tmp_path):
    path = tmp_path / "answers.jsonl"
    items = draw_items(LEXICON, TEXTS, 2)
    for item in items:
        for name in ("ann", "bob", "cy"):
            save_answer(path, item, name, strategic=False)
            save_answer(path, item, name, strategic=item.kind == "gram")  # the later answer counts
    table = agreement(read_answers(path)).set_index("kind")
    assert table["strategic"].to_dict() == {"gram": 1.0, "other": 0.0}
    assert set(table["kappa"]) == {1.0}
    assert set(table["annotators"]) == {3}
    gram = next(i for i in items if i.kind == "gram")
    for name in ("ann", "bob"):
        save_answer(path, gram, name, strategic=False)
    assert agreement(read_answers(path)).set_index("kind")["strategic"]["gram"] == 0.5
    # ann and bob agree on 4 of 4; ann and cy on 3 of 4, where chance alone gives (1 * 2 + 3 * 2) / 16
    kappa = agreement(read_answers(path))["kappa"][0]
    assert kappa == pytest.approx((1 + 2 * (0.75 - 0.5) / 0.5) / 3)


def test_nothing_answered_and_nobody_named(tmp_path):
    path = tmp_path / "answers.jsonl"
    assert agreement(read_answers(path)).empty
    with pytest.raises(ValueError, match="no name"):
        save_answer(path, draw_items(LEXICON, TEXTS, 1)[0], " ", strategic=True)
    assert not path.exists()


def test_the_form_saves_each_answer_and_goes_on_where_it_was_left(tmp_path):
    path = tmp_path / "answers.jsonl"
    items = draw_items(LEXICON, TEXTS, 2)
    strategic, other = form(items, path, "ann").children[2].children
    strategic.click()
    other.click()
    assert [(r["id"], r["strategic"]) for r in read_answers(path)] == [
        (items[0].id, True),
        (items[1].id, False),
    ]
    again = form(items, path, "ann")
    assert again.children[3].value == "2 of 4 answered"
    for _ in range(2):
        again.children[2].children[0].click()
    assert "All answered" in again.children[1].value
    assert again.children[2].children[0].disabled
