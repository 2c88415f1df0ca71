"""What a gram does (deduction, branching, backtracing, checking, setting up), by a small table of seeds.

The first three kinds are the paper's; checking and setting up are ours. The other table holds what a
solution does when it does not steer. Both were written by hand, none of it taken from labelled sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

STEERING = {
    "deduction": (
        "we can use the fact that",
        "the key is to realize",
        "this suggests that",
        "so the question becomes",
        "if i can show that",
        "that would help me find",
    ),
    "branching": (
        "alternatively",
        "maybe",
        "perhaps",
        "another way",
        "a different approach",
        "what if",
        "another possibility is",
        "let's try something else",
        "is there a simpler way",
        "suppose we try this instead",
        "maybe i can use a different method",
        "or maybe it is",
    ),
    "backtracing": (
        "wait",
        "hold on",
        "that's not right",
        "i made a mistake",
        "that doesn't work",
        "i'm confused",
        "let me go back",
        "let me reconsider",
        "this doesn't make sense",
        "that can't be right",
        "i'm not sure about this",
        "but that contradicts the condition",
    ),
    "checking": (
        "check",
        "verify",
        "double check",
        "confirm",
        "make sure",
        "is that correct",
        "that matches what i found earlier",
        "let me plug it back in",
        "yes that is right",
        "so it works",
        "does it satisfy the condition",
        "the same result as before",
    ),
    "setting up": (
        "let's start",
        "first i need to",
        "the next step is",
        "to find this i need",
        "let me think about",
        "break it down step by step",
        "my goal is",
        "how should i approach this",
        "i'll begin with",
        "now let's consider",
        "to solve this i need to figure out",
        "let's see if i can",
    ),
}
OTHER = {
    "stating": (
        "therefore",
        "so the answer is",
        "the total is",
        "so we have",
        "this gives us",
        "which is equal to",
        "as a result",
        "so now the expression becomes",
        "this means that there are",
        "the final answer is",
        "so that's a total of",
        "is the same as",
    ),
    "computing": (
        "multiply both sides by",
        "divided by",
        "plus",
        "equals",
        "substituting into the equation",
        "which simplifies to",
        "square root of",
        "adding these together gives",
        "calculate the sum",
        "times",
        "so x equals",
        "subtract from both sides",
    ),
    "restating": (
        "the problem says that",
        "the question asks for",
        "we are given that",
        "each person has",
        "he lives on the",
        "it says",
        "mentioned in the problem",
        "according to the statement",
        "let a be the number of",
        "there are three people",
        "the rules are that",
        "if the first one is",
    ),
    "recalling": (
        "i remember that",
        "i recall that",
        "the formula for the area is",
        "by definition",
        "usually",
        "in general",
        "the theorem states that",
        "is known as",
        "is called",
        "people like",
        "sounds like",
        "a number is prime if",
    ),
}


def similarity(
    vectors: np.ndarray, encoder: Callable[[list[str]], np.ndarray], seeds: Mapping[str, tuple[str, ...]]
) -> np.ndarray:
    """Cosine of each unit vector (N, D) with the nearest seed of each kind, (N, K)."""
    return np.stack([(vectors @ encoder(list(texts)).T).max(axis=1) for texts in seeds.values()], axis=1)


def nearness(vectors: np.ndarray, encoder: Callable[[list[str]], np.ndarray]) -> np.ndarray:
    """How much nearer each vector is to a seed that steers than to any that does not, (N,) cosines."""
    near = [similarity(vectors, encoder, seeds).max(axis=1) for seeds in (STEERING, OTHER)]
    return near[0] - near[1]


def kinds_of_clusters(
    vectors: np.ndarray, labels: np.ndarray, encoder: Callable[[list[str]], np.ndarray]
) -> list[str]:
    """The kind of each cluster: the one that its members (labels (N,) from 0) are nearest to on average."""
    near = similarity(vectors, encoder, STEERING)  # (N, K)
    members = labels == np.arange(labels.max() + 1)[:, None]  # (C, N)
    names = list(STEERING)
    return [names[k] for k in ((members @ near) / members.sum(axis=1, keepdims=True)).argmax(axis=1)]
