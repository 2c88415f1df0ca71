"""What HICRA's equation does: the formulas of docs/equation.md, each beside a Monte Carlo that tests it.

`hicra equation` prints the note's tables in seconds. The Monte Carlo samples groups from policies that are
small enough to enumerate, and lets the study's own arms (`hicra.credit`) assign the credit.

Symbols: a = alpha, G = group size, v = a group's mean reward, V = a prompt's success rate, w = weight of
planning tokens, p = P(planning | state), s = planning's share of the squared gradient. Rewards are 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from hicra.credit import ARMS, Rollouts
from hicra.dynamics.step_table import effective_weight

COMPLETIONS, REPEATS = 24_000, 20  # a Monte Carlo's; its standard errors come from the repeats


class Toy(NamedTuple):
    """All Y completions, of T tokens, that a softmax policy with D logits can give to one prompt."""

    chances: np.ndarray  # (Y,)
    scores: np.ndarray  # (Y, T, D) gradients of log pi(token | state)
    planning: np.ndarray  # (Y, T) bool
    success: np.ndarray  # (Y,) chance of reward 1

    @property
    def rate(self) -> float:
        """The prompt's success rate V."""
        return float(self.chances @ self.success)


def two_tokens(rate: float, *, by_place: bool = False, seed: int = 0) -> Toy:
    """Two tokens, the second drawn in a state of its own for each of the first's four choices.

    Two of the first token's choices and one of the second's three are planning; `by_place` marks the first
    token whatever was drawn. Success is random for each completion and near `rate` in the mean.
    """
    rng = np.random.default_rng(seed)
    first, second = _softmax(rng.normal(size=4)), _softmax(rng.normal(size=(4, 3)))
    a, b = np.divmod(np.arange(12), 3)  # (Y,), (Y,)
    chances = first[a] * second[a, b]  # (Y,)
    scores = np.zeros((12, 2, 16))  # (Y, T, D)
    scores[:, 0, :4] = np.eye(4)[a] - first
    own_state = np.eye(4)[a][:, :, None] * (np.eye(3)[b] - second[a])[:, None]  # (Y, 4, 3)
    scores[:, 1, 4:] = own_state.reshape(12, 12)
    drawn = np.stack((a < 2, b == 0), axis=1)  # (Y, T)
    luck = rng.random(12)  # (Y,)
    success = np.clip(luck + rate - chances @ luck, 0.02, 0.98)  # (Y,)
    return Toy(chances, scores, np.array([[True, False]] * 12) if by_place else drawn, success)


def one_choice(rate: float, p: float, cost: float) -> Toy:
    """One token, planning with chance `p`, by which success is less likely by `cost`; V is `rate`."""
    scores = np.array([1 - p, -p])[:, None, None]  # (Y, T, D) of the logit of p
    success = np.array([rate - (1 - p) * cost, rate + p * cost])  # (Y,)
    return Toy(np.array([p, 1 - p]), scores, np.array([[True], [False]]), success)


class Parts(NamedTuple):
    """GRPO's expected gradient (D,) by the tokens that carry it, and the bonus of HICRA."""

    execution: np.ndarray
    planning: np.ndarray
    bonus: np.ndarray  # per unit of alpha


def parts(toy: Toy, group_size: int) -> Parts:
    """By enumeration, a completion's own reward being part of its group's mean."""
    own = 1 - 1 / group_size

    def mean(value: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.einsum("y,yt,ytd->d", toy.chances * value, mask, toy.scores)

    gain = own * (toy.success - toy.rate)  # (Y,)
    adoption = mean(np.ones(len(toy.chances)), toy.planning)  # (D,) gradient of P(planning), over all states
    bonus = 2 * own * toy.rate * (1 - toy.rate) * adoption  # (D,)
    return Parts(mean(gain, ~toy.planning), mean(gain, toy.planning), bonus)


def planning_factor(alpha: float, rate: float) -> float:
    """What HICRA and `scaled` multiply a prompt's planning gradient by, in expectation."""
    return 1 + alpha * (1 - 2 * rate)


def expected_gradient(toy: Toy, alpha: float, group_size: int) -> np.ndarray:
    """HICRA's expected gradient (D,)."""
    execution, planning, bonus = parts(toy, group_size)
    return execution + planning_factor(alpha, toy.rate) * planning + alpha * bonus


class Sampled(NamedTuple):
    """A quantity as repeated sampling gives it, with the standard error of its mean."""

    mean: np.ndarray  # (D,)
    error: np.ndarray  # (D,)

    @classmethod
    def of(cls, repeats: np.ndarray) -> Sampled:
        """From values (REPEATS, D)."""
        return cls(repeats.mean(0), repeats.std(0, ddof=1) / math.sqrt(len(repeats)))

    def chi2(self, expected: np.ndarray) -> float:
        """Mean squared deviation from `expected` in standard errors: 1 where `expected` is right."""
        return float((((self.mean - expected) / self.error) ** 2).mean())


def sampled_gradients(toy: Toy, arm: str, alpha: float, group_size: int) -> np.ndarray:
    """The gradient of an arm's credit over sampled groups, (REPEATS, D)."""
    rng, found = np.random.default_rng(1), []
    for _ in range(REPEATS):
        drawn = rng.choice(len(toy.chances), size=COMPLETIONS, p=toy.chances)  # (B,)
        reward = torch.from_numpy((rng.random(len(drawn)) < toy.success[drawn]).astype(float))  # (B,)
        credit = ARMS[arm](
            rollouts(reward, torch.from_numpy(toy.planning[drawn]), group_size), alpha
        )  # (B, T)
        total = [np.bincount(drawn, column, len(toy.chances)) for column in credit.T.numpy()]  # (T, Y)
        found.append(np.einsum("ty,ytd->d", total, toy.scores) / COMPLETIONS)
    return np.array(found)


def rollouts(rewards: torch.Tensor, planning: torch.Tensor, group_size: int) -> Rollouts:
    """Rewards (B,) and masks (B, T) as the arms take them, with GRPO's advantages."""
    groups = rewards.view(-1, group_size)  # (B / G, G)
    return Rollouts(
        advantages=(groups - groups.mean(1, keepdim=True)).flatten(),  # (B,)
        planning_mask=planning,
        completion_mask=torch.ones_like(planning),
        entropies=torch.zeros(planning.shape, dtype=rewards.dtype),
        rewards=rewards,
        group_size=group_size,
    )


def break_even(alpha: float, rate: float, p: float) -> float:
    """The loss of success at which HICRA neither spreads nor drops a phrase that is taken with chance `p`."""
    return 2 * alpha * rate * (1 - rate) / (p + (1 - p) * planning_factor(alpha, rate))


def sampled_break_even(alpha: float, rate: float, p: float, group_size: int = 8) -> Sampled:
    """The same by sampling (1,): the loss at which the gradient, which is linear in it, is nil."""
    largest = min(rate / (1 - p), (1 - rate) / p, 0.6)  # that leaves chances between 0 and 1
    free, dear = (
        sampled_gradients(one_choice(rate, p, cost), "hicra", alpha, group_size) for cost in (0.0, largest)
    )
    return Sampled.of(free / (free - dear).mean() * largest)


def sampled_scaled(alpha: float, group_size: int, rate: float) -> tuple[Sampled, Sampled]:
    """What the arm `scaled` multiplies the planning gradient by: with G/(G-2), and without it."""
    toy = two_tokens(rate)
    execution, planning, _ = parts(toy, group_size)

    def multiple(strength: float) -> Sampled:
        gradients = sampled_gradients(toy, "scaled", strength, group_size) - execution  # (REPEATS, D)
        return Sampled.of((gradients @ planning / (planning @ planning))[:, None])

    return multiple(alpha), multiple(alpha * (group_size - 2) / group_size)


def adam_gain(weight: float, share: float) -> tuple[float, float]:
    """How much faster planning and execution move under Adam in parameters that they share.

    `weight` multiplies the planning gradient, whose share of the squared gradient is `share` at weight 1.
    """
    norm = math.sqrt(weight**2 * share + 1 - share)
    return weight / norm, 1 / norm


def sampled_adam_gain(
    weight: float, share: float, *, size: int = 16_384, steps: int = 300
) -> tuple[float, float]:
    """The same by running Adam on noisy gradients, the ways moved compared with those at weight 1.

    Planning and execution pull at `size` parameters in directions of their own, each with a tenth of its
    noise. Where `share` is 1 the parameters are planning's own.
    """
    draw = torch.Generator().manual_seed(0)
    ways = torch.randint(0, 2, (2, size), generator=draw) * 2.0 - 1  # (2, D) of planning and of execution
    noise = torch.tensor([share, 1 - share]).sqrt()[:, None]  # (2, 1)
    both = torch.zeros(2, size)  # (2, D) parameters at weight 1 and at `weight`
    adam = torch.optim.Adam([both], lr=1.0, betas=(0.9, 0.99))
    for _ in range(steps):
        planning, execution = noise * (0.1 * ways + torch.randn(2, size, generator=draw))  # (D,), (D,)
        both.grad = -torch.stack((planning + execution, weight * planning + execution))  # (2, D)
        adam.step()
    plain, moved = both @ ways.T  # (2,), (2,) along planning and execution
    gained = (moved / plain).tolist()
    return gained[0], gained[1] if share < 1 else math.nan


def sampled_effective_weight(alpha: float, group_size: int) -> tuple[float, float, float]:
    """Effective weight over hard, even and easy prompts: exact, as a record gives it, and by the mean V."""
    rates, tokens = np.array([0.05, 0.2, 0.6, 0.9]), np.array([9, 6, 4, 4])  # hard problems plan more
    spread = tokens * rates * (1 - rates)
    successes = np.random.default_rng(2).binomial(group_size, rates, size=(10_000, 4))
    row = {
        "step": 0,
        "n_completions": successes.size * group_size,
        "n_groups": successes.size,
        "group_successes": successes.ravel().tolist(),
        "group_planning": np.tile(tokens * group_size, len(successes)).tolist(),
    }
    exact = 1 + alpha * float((spread * (1 - 2 * rates)).sum() / spread.sum())
    return exact, effective_weight([row], alpha), planning_factor(alpha, float(rates.mean()))


# --- the note's tables -----------------------------------------------------------------------------


def tables() -> Iterator[str]:
    """The tables of docs/equation.md in Markdown, in its order."""
    yield _table("marks | G | a | V | with the bonus | without", _expectation_rows())
    yield _table("a | V | p | formula | sampled", _break_even_rows())
    yield _table("G | 1 + a(1 - 2V) | `scaled` | without G/(G-2)", _scaled_rows())
    yield _table("w | s | planning | sampled | execution | sampled", _adam_rows())
    yield _table("a | G | exact | from a record | from the mean V", _weight_rows())


def _table(head: str, rows: Iterator[tuple]) -> str:
    columns = head.split(" | ")
    lines = [columns, ["---"] * len(columns), *([str(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _expectation_rows() -> Iterator[tuple]:
    cases = [(False, 8, 0.2, 0.25), (False, 2, 0.9, 0.3), (False, 8, 0.9, 0.5), (False, 64, 0.9, 0.8)]
    for by_place, size, alpha, rate in [*cases, (True, 8, 0.9, 0.5)]:
        toy = two_tokens(rate, by_place=by_place)
        found = Sampled.of(sampled_gradients(toy, "hicra", alpha, size))
        expected = expected_gradient(toy, alpha, size)
        without = expected - alpha * parts(toy, size).bonus
        chi2 = f"{found.chi2(expected):.1f}", f"{found.chi2(without):.1f}"
        yield "by place" if by_place else "by token", size, alpha, f"{toy.rate:.2f}", *chi2


def _break_even_rows() -> Iterator[tuple]:
    for alpha, rate, p in (
        (0.2, 0.5, 0.5),
        (0.2, 0.2, 0.5),
        (0.2, 0.8, 0.2),
        (0.9, 0.5, 0.5),
        (0.9, 0.2, 0.2),
    ):
        yield alpha, rate, p, f"{break_even(alpha, rate, p):.3f}", _told(sampled_break_even(alpha, rate, p))


def _scaled_rows() -> Iterator[tuple]:
    for size in (4, 8, 32):
        formula = planning_factor(0.9, two_tokens(0.25).rate)
        yield size, f"{formula:.3f}", *map(_told, sampled_scaled(0.9, size, 0.25))


def _adam_rows() -> Iterator[tuple]:
    for weight, share in ((2, 0.2), (2, 0.5), (4, 0.5), (16, 0.5), (4, 1.0)):
        formula, found = adam_gain(weight, share), sampled_adam_gain(weight, share)
        told = [f"{value:.2f}" for pair in zip(formula, found, strict=True) for value in pair]
        yield weight, share, *(told if share < 1 else [*told[:2], "", ""])


def _weight_rows() -> Iterator[tuple]:
    for alpha, size in ((0.2, 8), (0.9, 8), (0.9, 4)):
        yield alpha, size, *(f"{value:.3f}" for value in sampled_effective_weight(alpha, size))


def _told(found: Sampled) -> str:
    return f"{found.mean[0]:.3f} ± {found.error[0]:.3f}"


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return powers / powers.sum(-1, keepdims=True)
