"""Solutions sampled from a base policy: the corpus of the lexicon, and what to score it on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from hicra.study.policy.base_models import base_folder, load_base

import torch

from hicra.lexicon.build import build_lexicon
from hicra.lexicon.lexicon import Lexicon
from hicra.planning.scores import TokenScore, token_scores
from hicra.planning.tagger import PlanningTagger, SpanTagger
from hicra.study.problems.grading import grade
from hicra.study.problems.prompts import training_tasks
from hicra.study.problems.worlds import WORLDS
from hicra.study.profiles import Profile
from hicra.study.sources import set_title


class Rollout(NamedTuple):
    prompt: str
    text: str
    correct: bool


def base_rollouts(profile: Profile, n: int, seed: int) -> list[Rollout]:
    """`n` solutions of training problems by the profile's base policy at its sampling temperature."""
    from hicra.study.policy import generation

    model, tokenizer = load_base(profile, lora_rank=0, seed=seed, trained=False)
    generate = generation.text_generator(
        model,
        tokenizer,
        max_new_tokens=profile.max_completion_length,
        temperature=profile.temperature,
        seed=seed,
    )
    chosen = training_tasks(profile, n, seed)
    texts = generate([p.prompt for p in chosen])
    grades = grade(texts, [p.answer for p in chosen], prefilled_think=profile.prefilled_think)
    return [Rollout(p.prompt, t, g.reward > 0) for p, t, g in zip(chosen, texts, grades, strict=True)]


def sampler_of(profile: Profile) -> str:
    """What would sample in a run of the profile on this machine, as RunFolder.sampler says it."""
    from hicra.study.policy.llama_sampler import sampled_by

    if profile.vllm:
        return "vllm"
    model, _ = load_base(profile, lora_rank=profile.lora_rank, seed=0)
    return sampled_by(model)


def lexicon_of(rollouts: Sequence[Rollout], profile: Profile, name: str, seed: int = 0) -> Lexicon:
    """The paper's recipe on the correct ones of `rollouts`, with the profile's settings."""
    return build_lexicon(
        (r.text for r in rollouts if r.correct),
        n_clusters=profile.lexicon_clusters,
        min_df=profile.lexicon_min_df,
        seed=seed,
        name=name,
        source=(
            f"correct solutions by {profile.base} of {len(rollouts)} "
            f"{set_title(profile.problem_set)} problems; "
            "made by this project, Apache-2.0"
        ),
    )


def score_on_true_spans(lexicon: Lexicon, rollouts: Sequence[Rollout], profile: Profile) -> TokenScore:
    """Token precision, recall and F1 of the lexicon's planning mask against the world's own.

    Not a number where the problems are not made: nobody knows their true spans.
    """
    world = WORLDS.get(profile.problem_set)
    if world is None:
        return TokenScore(math.nan, math.nan, math.nan, marked=0, true=0)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_folder(profile))
    tokenizer.padding_side = "right"
    batch = tokenizer([r.text for r in rollouts], return_tensors="pt", padding=True)
    ids, mask = batch["input_ids"], batch["attention_mask"]  # (B, T)
    truth = SpanTagger(lambda text: [s[:2] for s in world.true_spans(text)], tokenizer)(ids, mask)
    found: torch.Tensor = PlanningTagger(lexicon, tokenizer)(ids, mask)  # (B, T)
    return token_scores(found, truth)
