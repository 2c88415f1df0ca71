"""Placebo lexicons (paper, Table 1): random n-grams that cover as much text as a real lexicon.

HICRA with a placebo tells whether it matters *which* tokens are credited, or only that some are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from hicra.errors import HicraError
from hicra.lexicon.lexicon import Lexicon
from hicra.words import segments

# Words. Two-word n-grams join the 3 to 5 of the recipe: without them no placebo of a made world's lexicon of
# any size covers as much text.
LENGTHS = (2, 3, 4, 5)
POWERS = (1, 2, 3, 4)
MISS = 0.02  # how far, relatively, the coverage may stay below the real one

Position = tuple[int, int]  # (solution, word)


def placebo_lexicon(
    lexicon: Lexicon, texts: Iterable[str], *, seed: int, name: str, at_chance: bool = False
) -> Lexicon:
    """As many random n-grams of `texts` as `lexicon` has, none of them its own, covering as many words.

    n-grams are drawn in proportion to a power of their frequency, the least whole one that gives the
    coverage; one that would cover more than the real lexicon does is passed over. With `at_chance` so is one
    that would make the real lexicon's share of the covered words larger than it is in all of the text:
    otherwise parts of frequent planning phrases may make up much of the placebo. Raises ValueError where
    `texts` cannot give so many n-grams, or such coverage.
    """
    places: dict[str, set[Position]] = defaultdict(set)
    counts: Counter[str] = Counter()
    texts, own, covered_by_it = list(texts), set(lexicon.grams), set[Position]()
    lengths = {len(gram.split()) for gram in own}
    for gram, words in _ngrams(texts, sorted(lengths.union(LENGTHS))):
        if gram in own:
            covered_by_it.update(words)
        elif len(words) in LENGTHS:
            places[gram].update(words)
            counts[gram] += 1
    target, others = len(covered_by_it), sorted(places)
    shared = target * target // _n_words(texts) if at_chance else target
    frequencies = np.array([counts[gram] for gram in others], dtype=float)
    for power in POWERS:
        order = _draw(frequencies**power, seed)
        chosen, covered = _fill(
            [others[i] for i in order], places, len(lexicon), target, covered_by_it, shared
        )
        if len(chosen) == len(lexicon) and covered >= (1 - MISS) * target:
            break
    else:
        raise HicraError(
            f"a placebo of {len(chosen)} n-grams on {covered} words is all the texts give; "
            f"{lexicon.name} has {len(lexicon)} on {target}: give more texts"
        )
    facts = {
        "recipe": "random n-grams of matched number and coverage (paper, Table 1)",
        "source": "n-grams of the solutions given; made by this project, Apache-2.0",
        "settings": {
            "matched_to": lexicon.name,
            "matched_sha256": lexicon.sha256,
            "seed": seed,
            "power": power,
            "at_chance": at_chance,
        },
        "counts": {"covered_words": covered, "covered_by_the_real_one": target},
    }
    return Lexicon.from_grams(chosen, name, provenance=facts)


def _n_words(texts: Iterable[str]) -> int:
    return sum(len(run) for text in texts for run in segments(text))


def _draw(weights: np.ndarray, seed: int) -> np.ndarray:
    """The order of a weighted draw without replacement: by exponential waiting times."""
    return np.argsort(np.random.default_rng(seed).exponential(size=len(weights)) / weights, kind="stable")


def _fill(
    grams: list[str],
    places: dict[str, set[Position]],
    n: int,
    target: int,
    real: set[Position],
    shared: int,
) -> tuple[list[str], int]:
    """The first `n` grams that together cover at most `target` words, at most `shared` of them in `real`, and
    how many they cover."""
    chosen: list[str] = []
    covered: set[Position] = set()
    n_shared = 0
    for gram in grams:
        new = places[gram] - covered
        more = len(new & real)
        if len(covered) + len(new) <= target and n_shared + more <= shared:
            chosen.append(gram)
            covered |= new
            n_shared += more
        if len(chosen) == n:
            break
    return chosen, len(covered)


def _ngrams(texts: Iterable[str], lengths: Iterable[int]):
    """(gram, the words it covers) for every n-gram of every text; none crosses a boundary."""
    for number, text in enumerate(texts):
        first = 0
        for run in segments(text):
            for n in lengths:
                for i in range(len(run) - n + 1):
                    gram = " ".join(word.text for word in run[i : i + n])
                    yield gram, [(number, first + i + k) for k in range(n)]
            first += len(run)
