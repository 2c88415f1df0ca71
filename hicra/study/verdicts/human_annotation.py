"""The paper's human validation (Table 2), to repeat: are Strategic Grams judged strategic by people?

Items are Strategic Grams and other n-grams of the same length in their context, drawn blind and shuffled.
Answers are rows of a JSON Lines file; each names its annotator, so that others add theirs to it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from hicra.errors import HicraError
from hicra.files import canonical, iter_jsonl, sha256, write_atomic
from hicra.lexicon.lexicon import Lexicon
from hicra.words import segments

CONTEXT = 120  # characters shown on each side
QUESTION = (
    "Does the marked phrase steer the solution (plan, branch, look back), rather than carry out a step?"
)
ANSWERS = ("strategic", "not strategic")


class Item(NamedTuple):
    """A phrase in context; `kind` ("gram" or "other") is not shown to the annotator."""

    id: str
    kind: str
    phrase: str
    before: str
    after: str


def draw_items(lexicon: Lexicon, texts: Sequence[str], n: int, seed: int = 0) -> list[Item]:
    """`n` Strategic Grams and `n` other n-grams from `texts`, each phrase once, shuffled.

    The others have as many words as the grams and share no word with a match. Raises ValueError where
    the texts hold fewer than `n` different phrases of either kind.
    """
    rng = random.Random(seed)
    found: dict[str, dict[str, list[Item]]] = {"gram": {}, "other": {}}
    for text in texts:
        for kind, phrase, start, end in _phrases(lexicon, text, rng):
            found[kind].setdefault(phrase, []).append(_item(kind, text, start, end))
    items = []
    for kind, name in (("gram", "Strategic Grams"), ("other", "other n-grams")):
        by_phrase = found[kind]
        if len(by_phrase) < n:
            raise HicraError(
                f"the texts hold {len(by_phrase)} different {name}, fewer than n={n}; give more texts"
            )
        items += [rng.choice(by_phrase[phrase]) for phrase in rng.sample(sorted(by_phrase), n)]
    rng.shuffle(items)
    return items


def _phrases(lexicon: Lexicon, text: str, rng: random.Random) -> Iterator[tuple[str, str, int, int]]:
    """(kind, phrase, start, end) of every match, and of every n-gram that shares no word with one."""
    matches = lexicon.find(text)
    yield from (("gram", m.gram, m.start, m.end) for m in matches)
    size = rng.choice([m.gram.count(" ") + 1 for m in matches]) if matches else 3
    for run in segments(text):
        for i in range(len(run) - size + 1):
            start, end = run[i].start, run[i + size - 1].end
            if not any(m.start < end and m.end > start for m in matches):
                yield "other", " ".join(w.text for w in run[i : i + size]), start, end


def judged_by_truth(
    lexicon: Lexicon, texts: Sequence[str], true_spans: Callable[[str], Sequence], seed: int = 0
) -> pd.DataFrame:
    """Table 2 with the world's own truth as the judge: per kind, phrases and the share that is strategic.

    `true_spans(text)` gives the (start, end, ...) of planning in `text`. A phrase is strategic where most of
    its occurrences lie within one of them for more than half of their characters.
    """
    rng, votes = random.Random(seed), {}
    for text in texts:
        spans = [span[:2] for span in true_spans(text)]
        for kind, phrase, start, end in _phrases(lexicon, text, rng):
            inside = max((min(end, e) - max(start, s) for s, e in spans), default=0)
            votes.setdefault((kind, phrase), []).append(2 * inside > end - start)
    rows = [(kind, 2 * sum(said) > len(said)) for (kind, _), said in votes.items()]
    table = pd.DataFrame(rows, columns=["kind", "strategic"]).groupby("kind")
    return table.agg(phrases=("strategic", "size"), strategic=("strategic", "mean")).reset_index()


def _item(kind: str, text: str, start: int, end: int) -> Item:
    before, phrase, after = text[max(0, start - CONTEXT) : start], text[start:end], text[end : end + CONTEXT]
    return Item(sha256(f"{before}\0{phrase}\0{after}")[:16], kind, phrase, before, after)


def item_html(item: Item) -> str:
    """The phrase marked in its context; the text is escaped."""
    return (
        '<p style="white-space: pre-wrap; max-width: 46em">'
        f"…{escape(item.before)}<mark><b>{escape(item.phrase)}</b></mark>{escape(item.after)}…</p>"
    )


def save_answer(path: Path | str, item: Item, annotator: str, strategic: bool) -> None:
    """Add or replace one annotator's answer to one item. Raises ValueError for an empty name."""
    if not annotator.strip():
        raise HicraError("the annotator has no name; agreement needs to know whose answer it is")
    row = {**item._asdict(), "annotator": annotator.strip(), "strategic": strategic}
    key = (item.id, row["annotator"])
    rows = [r for r in read_answers(path) if (r["id"], r["annotator"]) != key]
    write_atomic(Path(path), "".join(canonical(r) + "\n" for r in [*rows, row]))


def read_answers(path: Path | str) -> list[dict]:
    """All answers of a file; none where there is no file yet."""
    return [row for _, row in iter_jsonl(path)] if Path(path).exists() else []


def form(items: Sequence[Item], path: Path | str, annotator: str):
    """An ipywidgets form that asks about each item not yet answered by `annotator`, and saves at once."""
    import ipywidgets as widgets

    answered = {r["id"] for r in read_answers(path) if r["annotator"] == annotator.strip()}
    waiting = [item for item in items if item.id not in answered]
    page, count = widgets.HTML(), widgets.Label()
    buttons = [widgets.Button(description=name) for name in ANSWERS]

    def show() -> None:
        count.value = f"{len(items) - len(waiting)} of {len(items)} answered"
        page.value = item_html(waiting[0]) if waiting else "<p>All answered. Thank you.</p>"
        for button in buttons:
            button.disabled = not waiting

    def answer(button) -> None:
        save_answer(path, waiting.pop(0), annotator, button.description == ANSWERS[0])
        show()

    for button in buttons:
        button.on_click(answer)
    show()
    return widgets.VBox([widgets.Label(QUESTION), page, widgets.HBox(buttons), count])


def agreement(rows: Sequence[dict]) -> pd.DataFrame:
    """Per kind: items, annotators, share that the majority calls strategic, mean pairwise Cohen's kappa.

    A tie is no majority and counts as not strategic; kappa is over the items a pair shares, NaN for one
    annotator. Empty where there are no answers.
    """
    from sklearn.metrics import cohen_kappa_score

    if not rows:
        return pd.DataFrame(columns=["kind", "items", "annotators", "strategic", "kappa"])
    answers = pd.DataFrame(rows)
    wide = answers.pivot_table(index=["kind", "id"], columns="annotator", values="strategic", aggfunc="last")
    kappas = []
    for a, b in combinations(wide.columns, 2):
        shared = wide[[a, b]].dropna().astype(int)
        if len(shared):
            kappas.append(cohen_kappa_score(shared[a], shared[b], labels=[0, 1]))
    majority = wide.astype(float).mean(axis=1) > 0.5
    table = majority.groupby("kind").agg(items="size", strategic="mean").reset_index()
    kappa = sum(kappas) / len(kappas) if kappas else float("nan")
    return table.assign(annotators=wide.shape[1], kappa=kappa)[
        ["kind", "items", "annotators", "strategic", "kappa"]
    ]
