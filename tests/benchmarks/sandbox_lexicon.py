"""Why the paper's recipe stays below F1 0.8 in the sandbox: `python -m tests.benchmarks.sandbox_lexicon`.

The recipe on 2,000 worked solutions (correct ones), scored per token on 400 others: with other settings,
and in worlds with less boilerplate. Two seeds of the clustering each.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from functools import lru_cache

from hicra.study.policy.rollouts import Rollout, score_on_true_spans

import numpy as np
import pandas as pd

from hicra.lexicon.build import build_lexicon, minilm
from hicra.study.problems import sandbox
from hicra.study.profiles import get_profile

FEWER_CONNECTIVES = ("",) * 6 + ("so we get", "this gives us", "then we have", "and next")
SHORT_CONCLUSIONS = ("So", "Answer:", "Which gives us", "That leaves")


@contextmanager
def world(**changes):
    """The sandbox with other phrases while worked solutions are written."""
    before = {name: getattr(sandbox, name) for name in changes}
    vars(sandbox).update(changes)
    try:
        yield
    finally:
        vars(sandbox).update(before)


def rollouts(n: int, seed: int) -> list[Rollout]:
    rng = random.Random(seed)
    pairs = [(p, sandbox.worked_solution(p, rng)) for p in sandbox.problems(n, seed)]
    return [Rollout(p.prompt, w.text, w.correct) for p, w in pairs]


def main() -> None:
    encode = minilm()
    one = lru_cache(None)(lambda text: encode([text])[0])

    def encoder(texts: list[str]) -> np.ndarray:
        return np.stack([one(text) for text in texts])

    profile, rows = get_profile("sandbox"), []
    chosen = {"n_clusters": profile.lexicon_clusters, "min_df": profile.lexicon_min_df}
    cases = [
        ("as it is", {}, chosen),
        ("as it is, 30 clusters", {}, {**chosen, "n_clusters": 30}),
        ("as it is, HDBSCAN", {}, {"min_df": profile.lexicon_min_df, "clustering": "hdbscan"}),
        ("as it is, least DF 1 %", {}, {"n_clusters": profile.lexicon_clusters}),
        ("fewer connectives", {"CONNECTIVES": FEWER_CONNECTIVES}, chosen),
        (
            "fewer connectives, short conclusions",
            {"CONNECTIVES": FEWER_CONNECTIVES, "CONCLUSIONS": SHORT_CONCLUSIONS},
            chosen,
        ),
    ]
    for name, changes, settings in cases:
        with world(**changes):
            corpus, unseen = rollouts(2000, 1), rollouts(400, 2)
        for seed in (0, 1):
            texts = [r.text for r in corpus if r.correct]
            lexicon = build_lexicon(texts, encoder=encoder, seed=seed, **settings)
            score = score_on_true_spans(lexicon, unseen, profile)
            rows.append({"world and recipe": name, "seed": seed, **score._asdict()})
    print(pd.DataFrame(rows).round(2).to_csv(sep="|", index=False))


if __name__ == "__main__":
    main()
