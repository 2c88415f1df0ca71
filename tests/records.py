"""Run records with known values, for tests of what is made from them."""

from hicra.lexicon.lexicon import Lexicon
from hicra.study.record.run_folder import RunFolder

GRAMS = Lexicon.load("families").grams[:3]
STEPS = 20  # as few as have an early and a late window


def step_row(step, *, up=0.0):
    """4 completions in 2 groups. Step s: execution NLL falls by 0.01 a step, reward grows by 0.01."""
    return {
        "step": step,
        "n_completions": 4,
        "n_groups": 2,
        "n_zero_variance_groups": 1,
        "n_solved_groups": 1,
        "n_clipped": 0,
        "n_no_planning": 0,
        "n_credit_changed": 5,
        "reasons": {"right": 2, "wrong": 2},
        "errors": {"planning": 2},
        "length_sum": 40 + step,
        "reward_sum": 2 + 0.04 * step + 4 * up,
        "n_planning": 10,
        "n_execution": 30,
        "nll_planning": 10.0,
        "nll_execution": 30 * (1 - 0.01 * step),
        "entropy_planning": 12.0,
        "entropy_execution": 6.0,
        "n_high_entropy": 12,
        "n_high_entropy_planning": 6,
        "grams": {GRAMS[0]: 4, GRAMS[1]: 2 + step, GRAMS[2]: 1},
        "followers": {GRAMS[0]: [1, 1]},
        "loss": 0.0,
        "grad_norm": 0.1,
        "learning_rate": 1e-4,
        "seconds": 2.0,
        "group_successes": [0, 1],
        "group_planning": [5, 5],
        "plans": {"total/total": 2, "cost/hint+limit": 2},
        "plans_right": {"total/total": 1},
        "neutral": {"so we get": 3, "from here": 1},
        "looks": 1,
    }


def rollout_row(step, completion="aba"):
    tokens = ["a", "b", "a"]
    marks = {"planning": [1, 0, 0], "logp": [-0.1] * 3, "entropy": [0.1, 0.9, 0.2]}
    told = {"step": step, "prompt": "p", "completion": completion, "reason": "right", "error": None}
    return {**told, "tokens": tokens, **marks}


def write_record(root, arm, seed, *, accuracy=0.5, settings=None, completion="aba"):
    """A finished run of STEPS steps, evaluated at 0 (0.4) and at the end (`accuracy`)."""
    run = RunFolder(root / f"{arm}-seed{seed}")
    own = {"arm": arm, "seed": seed, "steps": STEPS, "lexicon": "families", "lexicon_sha256": "x"}
    own |= {"problem_set": "families", "alpha": 0.2}
    run.open(settings or own, condition=arm, world="families: a test, not a language model")
    run.begin("transformers", resumed=False)
    for step in range(STEPS):
        run.append("steps.jsonl", step_row(step, up=accuracy - 0.5))
        run.append("rollouts.jsonl", rollout_row(step, completion))
    for step, value in ((0, 0.4), (STEPS, accuracy)):
        right = [1] * round(200 * value) + [0] * round(200 * (1 - value))
        errors = {"planning": 25, "execution": 25}
        row = {"accuracy": value, "n": 200, "mean_length": 10.0, "pass_at_8": None, "errors": errors}
        run.append("evals.jsonl", {"step": step, **row, "right": right})
    run.finish(wall_seconds=100.0)
    return run
