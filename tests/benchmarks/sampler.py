"""Do the study's own samples follow the model? `python -m tests.benchmarks.sampler --seeds 20`, minutes.

First tokens of 16 prompts: a chi-square test for each prompt and seed, whose p-values should be uniform. Whole
completions: surprise minus entropy has mean 0 after every prefix, so their sum over a million tokens, divided
by the root of its squares, should look like a standard normal draw.
"""

from __future__ import annotations

import argparse
import itertools

from hicra.study.policy import unsloth_models
from hicra.study.policy.llama_sampler import sample

import numpy as np
import torch
from scipy.stats import chisquare, kstest

from hicra.files import data_root
from hicra.study.problems.prompts import training_tasks
from hicra.study.profiles import get_profile

DRAWS, ROWS = 500, 64  # of a prompt: first tokens, whole completions
RARE = 5  # expected counts below this go into one cell


def p_value(counts: np.ndarray, chances: np.ndarray) -> float:
    """Of counts (V,) under chances (V,); not a number where fewer than two cells are left."""
    expected = chances / chances.sum() * counts.sum()
    common = expected >= RARE
    cells = [[*v[common], v[~common].sum()] for v in (counts, expected)]
    if cells[1][-1] < RARE:  # what is left of it joins the rarest of the others
        rarest = int(np.argmin(cells[1][:-1])) if common.any() else 0
        for column in cells:
            column[rarest] += column.pop()
    return chisquare(*cells).pvalue if len(cells[0]) > 1 else np.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    profile = get_profile("families")
    model, tokenizer = unsloth_models.load_policy(data_root() / profile.base, lora_rank=0, seed=0)
    prompts = tokenizer([task.prompt for task in training_tasks(profile, 16, seed=0)])["input_ids"]
    common = {"temperature": 1.0, "ends": [tokenizer.eos_token_id], "pad": tokenizer.pad_token_id}
    with torch.no_grad():
        chances = [model(torch.tensor([p])).logits[0, -1].double().softmax(-1).numpy() for p in prompts]
    first, excess = [], []
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        found = sample(model, [p for p in prompts for _ in range(DRAWS)], max_new_tokens=1, **common)
        for ids, wanted in zip(found.ids[:, 0].split(DRAWS), chances, strict=True):
            first.append(p_value(ids.bincount(minlength=len(wanted)).numpy().astype(float), wanted))
        rows = list(itertools.chain.from_iterable([p] * ROWS for p in prompts))
        whole = sample(model, rows, max_new_tokens=profile.max_completion_length, **common)
        excess.append((-whole.logps - whole.entropies)[whole.mask].double())
    p = np.array([value for value in first if not np.isnan(value)])
    uniform = kstest(p, "uniform").pvalue
    print(f"first tokens: {len(p)} tests, {np.mean(p < 0.05):.3f} below 0.05, uniform with p = {uniform:.2f}")
    every = torch.cat(excess)
    z = float(every.sum() / every.square().sum().sqrt())
    print(f"surprise minus entropy: {len(every):,} tokens, z = {z:.2f}")


if __name__ == "__main__":
    main()
