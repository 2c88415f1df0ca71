"""The run's observer: rewards, and per step the sufficient statistics that dynamics/step_table.py reads.

A row of steps.jsonl describes the rollouts that the policy sampled after `step` updates. Sums and
counts are kept, not means, so that any later definition can be computed from them.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable

import torch
from accelerate.utils import gather_object
from torch import Tensor

from hicra.credit import top_share
from hicra.lexicon.lexicon import Lexicon
from hicra.study.problems.grading import grade
from hicra.study.record.run_folder import RunError, RunFolder
from hicra.words import segments

HIGH_ENTROPY = 0.3  # the share of tokens that Fig. 12 calls high-entropy
SKIPS_IN_A_ROW = 10  # updates that a loss scale may skip
FOLLOWING = 3  # words of the procedural n-gram that follows a Strategic Gram


def gram_counts(texts: list[str], lexicon: Lexicon) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Occurrences of each SG, and of the procedural n-gram that follows it, over `texts`.

    A follower is the next three words after an occurrence that ends its planning span: words inside
    another occurrence are not procedural.
    """
    grams, followers = Counter(), defaultdict(Counter)
    for text in texts:
        matches = lexicon.find(text)
        grams.update(m.gram for m in matches)
        words = [w for segment in segments(text) for w in segment]
        for match in matches:
            after = [w for w in words if w.start >= match.end][:FOLLOWING]
            if after and not any(m.start < after[0].end and m.end > after[0].start for m in matches):
                followers[match.gram][" ".join(w.text for w in after)] += 1
    return dict(grams), {g: dict(c) for g, c in followers.items()}


def class_sums(values: Tensor, planning: Tensor, completion: Tensor) -> dict[str, float]:
    """Sums of per-token `values` (B, T) over planning and execution tokens."""
    values = values.double()
    return {
        "planning": values[planning].sum().item(),
        "execution": values[completion & ~planning].sum().item(),
    }


def add_rows(rows: list[dict]) -> dict:
    """One row of a step from its shares, a process each: sums and counts add, also inside of them."""
    total = dict(rows[0])
    for row in rows[1:]:
        for name, value in row.items():
            if isinstance(value, dict):
                total[name] = add_rows([total[name], value]) if name in total else value
            elif value is not None and name != "step":
                total[name] = total.get(name, 0) + value
    return total


class Recorder:
    """Observes one run and writes its record to `folder`.

    `explain(problem, completion)` names the kind of failure, or is None where the world has no
    exact labels. Called as TRL's reward function, it grades completions against the `answer` column.
    """

    __name__ = "verified_answer"  # TRL names rewards by this

    def __init__(
        self,
        folder: RunFolder,
        *,
        lexicon: Lexicon,
        tokenizer,
        temperature: float,
        statistics: Callable,
        prefilled_think: bool = False,
        explain: Callable | None,
        group_size: int,
        rollouts_kept: int,
    ) -> None:
        self.folder, self.lexicon, self.tokenizer = folder, lexicon, tokenizer
        self.temperature, self.statistics, self.explain = temperature, statistics, explain
        self.group_size, self.rollouts_kept = group_size, rollouts_kept
        self.prefilled_think = prefilled_think
        self.row, self.clock, self.skips = None, time.monotonic(), 0

    # --- what the trainer calls, in this order ---

    def __call__(self, prompts, completions, completion_ids, answer, problem, **_) -> list[float]:
        grades = grade(completions, answer, prefilled_think=self.prefilled_think)
        self._check_groups(prompts)
        ended = [ids[-1] == self.tokenizer.eos_token_id for ids in completion_ids]
        self.texts, self.prompts, self.ended = completions, prompts, ended
        self.reasons = [
            "truncated" if g.reason == "no_box" and not e else g.reason
            for g, e in zip(grades, ended, strict=True)
        ]
        self.errors = [
            self.explain(json.loads(p), c) if self.explain and not g.reward else None
            for p, c, g in zip(problem, completions, grades, strict=True)
        ]
        self.rewards = torch.tensor([g.reward for g in grades])  # (B,)
        return self.rewards.tolist()

    def _check_groups(self, prompts) -> None:
        """A group's statistics need all of it in one process, in order."""
        for start in range(0, len(prompts), self.group_size):
            if len({str(p) for p in prompts[start : start + self.group_size]}) != 1:
                raise RunError("a process was given parts of groups; processes must share prompts evenly")

    def score(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy (nats) of every completion token, both (B, T)."""
        return self.statistics(model, batch, temperature=self.temperature)

    def observe(
        self,
        step: int,
        batch: dict[str, Tensor],
        planning: Tensor,
        logps: Tensor,
        entropies: Tensor,
        advantages: Tensor,
    ) -> None:
        """Describe the rollouts of one step; tensors are (B, T), advantages before it were (B,)."""
        done = batch["completion_mask"].bool()  # (B, T)
        high = top_share(entropies, done, HIGH_ENTROPY)  # (B, T)
        grams, followers = gram_counts(self.texts, self.lexicon)
        nll, entropy = class_sums(-logps, planning, done), class_sums(entropies, planning, done)
        groups = self.rewards.view(-1, self.group_size)  # (B/G, G)
        plain = batch["advantages"][:, None].expand_as(advantages)  # (B, T)
        row = {
            "step": step,
            "n_completions": len(self.texts),
            "n_groups": len(groups),
            "n_zero_variance_groups": int((groups.std(1, correction=0) == 0).sum()),
            "n_solved_groups": int((groups > 0).any(1).sum()),
            "n_clipped": self.ended.count(False),
            "n_no_planning": int((~planning.any(1)).sum()),
            "n_credit_changed": int(((advantages != plain) & done).sum()),
            "length_sum": int(done.sum()),
            "reward_sum": self.rewards.sum().item(),
            "reasons": dict(Counter(self.reasons)),
            "errors": dict(Counter(e.kind for e in self.errors if e)) if self.explain else None,
            "n_planning": int(planning.sum()),
            "n_execution": int((done & ~planning).sum()),
            "n_high_entropy": int(high.sum()),
            "n_high_entropy_planning": int((high & planning).sum()),
            "grams": grams,
            "followers": followers,
            **{f"nll_{k}": v for k, v in nll.items()},
            **{f"entropy_{k}": v for k, v in entropy.items()},
        }
        self.row = add_rows(gather_object([row]))
        self._keep_rollouts(step, batch["completion_ids"], done, planning, logps, entropies)

    def warn_if_unchanged(self, arm: str) -> None:
        """Say so where an arm that should change advantages changed none: it would be plain GRPO."""
        row = self.row
        if row["n_credit_changed"] == 0:
            self.folder.add_notice(
                f"{arm} changed no advantage in step {row['step']}: {row['n_planning']} planning tokens, "
                f"{row['n_zero_variance_groups']} of {row['n_groups']} groups without variance. "
                "Check the lexicon and the problems' difficulty"
            )

    def close_step(self, logs: dict, *, skipped: bool = False) -> None:
        """Write the step's row, with the trainer's loss, gradient norm and learning rate.

        `skipped`: in float16 an overflow is met by a smaller loss scale and no update. That is normal now
        and then, but not SKIPS_IN_A_ROW times.
        """
        now = time.monotonic()
        trained = {k: float(logs[k]) for k in ("loss", "grad_norm", "learning_rate")}
        self.skips = self.skips + 1 if skipped else 0
        if skipped and self.skips < SKIPS_IN_A_ROW:
            trained |= {"grad_norm": None, "skipped": True}
        elif not all(map(math.isfinite, trained.values())):
            self._stop(trained)
        self.folder.append("steps.jsonl", {**self.row, **trained, "seconds": now - self.clock})
        self.clock = now

    def add_evaluation(self, step: int, result: dict) -> None:
        self.folder.append("evals.jsonl", {"step": step, **result})

    def _stop(self, trained: dict[str, float]) -> None:
        """Keep the rollouts of a step whose update is not finite, and end the run."""
        kept = zip(self.prompts, self.texts, self.rewards.tolist(), strict=True)
        rows = [{"prompt": p, "completion": c, "reward": r} for p, c, r in kept]
        report = {"step": self.row["step"], **{k: str(v) for k, v in trained.items()}, "rollouts": rows}
        self.folder.keep("diverged.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        wrong = ", ".join(f"{k} {v}" for k, v in trained.items() if not math.isfinite(v))
        raise RunError(
            f"step {self.row['step']} of {self.folder.path} gave {wrong}; its rollouts are in diverged.json. "
            "Lower learning_rate or max_grad_norm, and delete the folder to run anew"
        )

    # --- rollouts for the viewer ---

    def _keep_rollouts(self, step, ids, done, planning, logps, entropies) -> None:
        for i in range(min(self.rollouts_kept, len(ids))):
            n = int(done[i].sum())
            row = {
                "step": step,
                "prompt": self.prompts[i],
                "completion": self.texts[i],
                "reason": self.reasons[i],
                "error": self.errors[i].kind if self.errors[i] else None,
                "tokens": [self.tokenizer.decode([t]) for t in ids[i, :n].tolist()],
                "planning": planning[i, :n].int().tolist(),
                "logp": [round(v, 4) for v in logps[i, :n].tolist()],
                "entropy": [round(v, 4) for v in entropies[i, :n].tolist()],
            }
            self.folder.append("rollouts.jsonl", row)
