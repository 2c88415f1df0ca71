"""The lexicons of the families' world: by construction, by the paper's recipe, and a placebo.

`families` holds the world's planning phrases and, as such lists do, some words that plan nothing: the
connectives of three words. So what it marks wrongly is known. The recipe's own lexicons (two seeds of the
clustering) are made from the base policy's correct solutions, and the placebo from these as well.
"""

from __future__ import annotations

from hicra.study.policy.rollouts import base_rollouts, lexicon_of

from hicra.lexicon.lexicon import Lexicon
from hicra.lexicon.placebo import placebo_lexicon
from hicra.study.problems.families import ANNOUNCEMENTS, FRAMES, LONG_CONNECTIVES, SECOND_LOOKS, WORDINGS
from hicra.study.profiles import Profile

NAME = "families"


def constructed() -> Lexicon:
    """Every planning phrase of the world, and the connectives of three words."""
    plans = [f"{frame} {wording}" for frame in FRAMES for wording in WORDINGS]
    facts = {
        "recipe": "by construction: the world's planning phrases, and neutral connectives of three words",
        "source": "hicra/study/problems/families.py; made by this project, Apache-2.0",
    }
    grams = [*plans, *ANNOUNCEMENTS, *SECOND_LOOKS, *LONG_CONNECTIVES]
    return Lexicon.from_grams(grams, NAME, provenance=facts)


def families_lexicons(profile: Profile) -> list[Lexicon]:
    """All four, from `profile.lexicon_rollouts` solutions of its base policy."""
    main, rollouts = constructed(), base_rollouts(profile, profile.lexicon_rollouts, seed=0)
    recipes = [lexicon_of(rollouts, profile, f"{NAME}-recipe{seed}", seed) for seed in (0, 1)]
    correct = (r.text for r in rollouts if r.correct)
    placebo = placebo_lexicon(main, correct, seed=0, name=f"{NAME}-placebo", at_chance=True)
    return [main, *recipes, placebo]
