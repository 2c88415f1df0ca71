"""What claims are judged by in the families' world: quantities of a run beside those of `run_quantities`.

"Early" and "late" are a run's first and last WINDOW steps, whose completions are counted together. V is the
mean reward of a step, smoothed over SMOOTH steps. Every step has equally many completions, so plug-in
entropies of strategies are matched for size as they stand.

| quantity | definition | unit |
|---|---|---|
| mean_reward, late_reward | mean reward of the whole run, late | share |
| steps_to_half | log of the steps until V = 1/2 | log |
| steps_above_half | log of the steps from V = 1/2 to V = UPPER | log |
| reached_upper | 1 where V reaches UPPER, else 0: what share of the seeds steps_above_half is of | share |
| strategies_at_half | H(S) over the SMOOTH steps around V = 1/2 | bits |
| final_accuracy_1, final_accuracy_06 | held out, of many samples, at temperature 1 and 0.6 | share |
| weight | effective weight of planning credit over the run, by the factor of `scaled` | 1 |
| planning_gradient | planning's share of the squared gradient, mean over the steps that have it | share |

Late, and with the ending `_change` late minus early:

| quantity | definition | unit |
|---|---|---|
| strategies | H(S), of the strategies S that completions state | bits |
| within_families, specialised | H(S given X), X the problem's family, and I(S; X), which add to H(S) | bits |
| fitting, right_given_fitting | share whose strategy is the family's own; of these, share right | share |
| marked_connectives | log odds of a connective of three words against one of two | log odds |
| long_conclusions | of a conclusion of four words against one of two; `families` marks neither | log odds |
| placebo_connectives | of a connective in which the placebo marks a word against the others | log odds |
| announced_E | share that announces the limit where this is worth E points (+30, +12, -12, -30) | share |
| announced_selectively | mean of announced_E where E is positive minus where it is negative | share |
| looks, tokens | second looks, tokens of a completion | 1 |
| planning | share of planning tokens | share |

A run that does not reach a level, or has no completion of a kind, has no number (NaN) for what needs it, and
leaves the claim's seeds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd

from hicra.dynamics.entropy import shannon_entropy
from hicra.dynamics.step_table import effective_weight
from hicra.errors import HicraError
from hicra.lexicon.lexicon import Lexicon
from hicra.study.problems.families import CONCLUSIONS, FAMILIES, LONG_CONNECTIVES, SHORT_CONNECTIVES
from hicra.study.record.run_folder import RunFolder

WINDOW, SMOOTH = 10, 9  # steps
HALF = 0.5
UPPER = 0.7  # pilots level off between 0.72 and 0.8, where passing a level is chance
CONNECTIVES = LONG_CONNECTIVES + SHORT_CONNECTIVES
LONG_CONCLUSIONS = tuple(phrase for phrase in CONCLUSIONS if len(phrase.split()) > 2)
EFFECTS = {f"{round(100 * f.limit_effect):+d}": f.limit_effect for f in FAMILIES.values()}


def families_quantities(runs: Sequence[RunFolder]) -> pd.DataFrame:
    """One row per arm and seed. Raises HicraError for a run too short for early and late."""
    rows = {(run.condition, run.seed): of_run(run.read("steps.jsonl"), run.manifest()) for run in runs}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["arm", "seed"])


def of_run(steps: Sequence[Mapping], manifest: Mapping) -> dict[str, float]:
    """The quantities of one run, from the rows of `steps.jsonl` and its manifest."""
    if len(steps) < 2 * WINDOW:
        raise HicraError(f"a run of {len(steps)} steps is too short: early and late need {WINDOW} steps each")
    rewards = np.array([row["reward_sum"] / row["n_completions"] for row in steps])  # (steps,)
    half, upper = first_passage(rewards, HALF), first_passage(rewards, UPPER)
    early, late = of_steps(steps[:WINDOW]), of_steps(steps[-WINDOW:])
    return {
        "mean_reward": rewards.mean(),
        "late_reward": rewards[-WINDOW:].mean(),
        "steps_to_half": math.log(half),
        "steps_above_half": math.log(upper - half) if upper > half else math.nan,
        "reached_upper": float(not math.isnan(upper)),
        **late,
        **{f"{name}_change": late[name] - early[name] for name in late},
        "strategies_at_half": _around(steps, half),
        "weight": effective_weight(steps, manifest["settings"]["alpha"]),
        "planning_gradient": _planning_gradient(steps),
        **{f"final_accuracy_{name}": _final(manifest, t) for name, t in (("1", 1.0), ("06", 0.6))},
    }


def first_passage(rewards: np.ndarray, level: float) -> float:
    """The step, between two, at which the smoothed `rewards` (steps,) first reach `level`.

    NaN if they never do, or from the start.
    """
    smooth = np.convolve(rewards, np.ones(SMOOTH) / SMOOTH, mode="valid")  # (steps - SMOOTH + 1,)
    above = np.flatnonzero(smooth >= level)
    if not above.size or not (i := above[0]):
        return math.nan
    return float(i + SMOOTH // 2 - (smooth[i] - level) / (smooth[i] - smooth[i - 1]))


def of_steps(steps: Sequence[Mapping]) -> dict[str, float]:
    """Quantities of a stretch of steps, counted together."""
    plans, right = _added(steps, "plans"), _added(steps, "plans_right")
    neutral, n = _added(steps, "neutral"), sum(row["n_completions"] for row in steps)
    total, given = strategy_entropies(plans)
    fitting = {plan: count for plan, count in plans.items() if strategy_of(plan) == family_of(plan)}
    shares = {name: announced(plans, effect) for name, effect in EFFECTS.items()}
    tokens = sum(row["length_sum"] for row in steps)
    return {
        "strategies": total,
        "within_families": given,
        "specialised": total - given,
        "fitting": sum(fitting.values()) / n,
        "right_given_fitting": _share(sum(right[plan] for plan in fitting), sum(fitting.values())),
        "marked_connectives": log_odds(neutral, LONG_CONNECTIVES, CONNECTIVES),
        "long_conclusions": log_odds(neutral, LONG_CONCLUSIONS, CONCLUSIONS),
        "placebo_connectives": log_odds(neutral, marked_by("families-placebo", CONNECTIVES), CONNECTIVES),
        **{f"announced_{name}": share for name, share in shares.items()},
        "announced_selectively": sum(math.copysign(s, EFFECTS[e]) for e, s in shares.items()) / 2,
        "looks": sum(row["looks"] for row in steps) / n,
        "planning": sum(row["n_planning"] for row in steps) / tokens,
        "tokens": tokens / n,
    }


def log_odds(neutral: Mapping[str, int], chosen: Iterable[str], phrases: Iterable[str]) -> float:
    """Log odds of the `chosen` among `phrases`, 1/2 added to both counts; `neutral` counts in lower case."""
    chosen = set(chosen)
    odds = [0.5, 0.5]
    for phrase in phrases:
        odds[phrase in chosen] += neutral.get(phrase.lower(), 0)
    return math.log(odds[True] / odds[False])


@cache
def marked_by(lexicon: str, phrases: tuple[str, ...]) -> tuple[str, ...]:
    """The phrases in which a lexicon, by name or path, marks at least one word."""
    finder = Lexicon.load(lexicon)
    return tuple(phrase for phrase in phrases if finder.find(phrase))


def strategy_entropies(plans: Mapping[str, int]) -> tuple[float, float]:
    """H(S) and H(S given X), in bits, of counts by "family/strategy", with or without "+limit"."""
    by_family: dict[str, Counter] = {}
    for plan, count in plans.items():
        by_family.setdefault(family_of(plan), Counter())[strategy_of(plan)] += count
    total = sum(by_family.values(), Counter())
    n = total.total()
    given = sum(c.total() / n * shannon_entropy(c.values()) for c in by_family.values())
    return shannon_entropy(total.values()), given


def announced(plans: Mapping[str, int], effect: float) -> float:
    """Share of the completions of families with this effect of the limit that announce it."""
    own = {plan: n for plan, n in plans.items() if FAMILIES[family_of(plan)].limit_effect == effect}
    return _share(sum(n for plan, n in own.items() if plan.endswith("+limit")), sum(own.values()))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def family_of(plan: str) -> str:
    return plan.partition("/")[0]


def strategy_of(plan: str) -> str:
    return plan.partition("/")[2].removesuffix("+limit")


def _added(steps: Sequence[Mapping], name: str) -> Counter:
    return sum((Counter(row[name]) for row in steps), Counter())


def _around(steps: Sequence[Mapping], step: float) -> float:
    if math.isnan(step):
        return math.nan
    first = max(0, round(step) - SMOOTH // 2)
    return strategy_entropies(_added(steps[first : first + SMOOTH], "plans"))[0]


def _planning_gradient(steps: Sequence[Mapping]) -> float:
    norms = [
        (row["grad_norm_planning"], row["grad_norm_execution"])
        for row in steps
        if "grad_norm_planning" in row
    ]
    shares = [p**2 / (p**2 + e**2) for p, e in norms if p or e]
    return float(np.mean(shares)) if shares else math.nan


def _final(manifest: Mapping, temperature: float) -> float:
    found = [row["accuracy"] for row in manifest.get("final", ()) if row["temperature"] == temperature]
    return found[0] if found else math.nan
