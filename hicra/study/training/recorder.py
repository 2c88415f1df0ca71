"""The writer of a run's record: a row a step, evaluations, and a few rollouts."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence

from hicra.study.record.run_folder import RunError, RunFolder
from hicra.study.training.guard import UpdateGuard
from hicra.study.training.reward import Graded


class Recorder:
    """Writes the record of one run into `folder`.

    A step is sampled before it is trained on: `open_step` takes what describes its rollouts, `close_step` the
    numbers of its update, and writes the whole row.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.guard, self.clock = folder, UpdateGuard(), time.monotonic()
        self.row: dict = {}
        self.graded: Graded | None = None

    def open_step(self, row: dict, graded: Graded, rollouts: Sequence[dict], notice: str = "") -> None:
        """Take the row of a step's rollouts, and keep some of them."""
        self.row, self.graded = row, graded
        for rollout in rollouts:
            self.folder.append("rollouts.jsonl", rollout)
        if notice:
            self.folder.add_notice(notice)

    def close_step(self, logs: Mapping, *, skipped: bool = False) -> None:
        """Write the step's row, with the trainer's loss, gradient norm and learning rate.

        `skipped`: a loss scale made no update. Raises RunError for an update that is not finite.
        """
        now = time.monotonic()
        trained = {k: float(logs[k]) for k in ("loss", "grad_norm", "learning_rate")}
        if wrong := self.guard.wrong(trained, skipped=skipped):
            self._stop(trained, wrong)
        if skipped:
            trained |= {"grad_norm": None, "skipped": True}
        self.folder.append("steps.jsonl", {**self.row, **trained, "seconds": now - self.clock})
        self.clock = now

    def add_evaluation(self, step: int, result: dict) -> None:
        self.folder.append("evals.jsonl", {"step": step, **result})

    def _stop(self, trained: Mapping[str, float], wrong: Sequence[str]) -> None:
        """Keep the rollouts of a step whose update is not finite, and end the run."""
        kept = zip(self.graded.prompts, self.graded.texts, self.graded.rewards.tolist(), strict=True)
        rows = [{"prompt": p, "completion": c, "reward": r} for p, c, r in kept]
        report = {"step": self.row["step"], **{k: str(v) for k, v in trained.items()}, "rollouts": rows}
        self.folder.keep("diverged.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        told = ", ".join(f"{name} {trained[name]}" for name in wrong)
        raise RunError(
            f"step {self.row['step']} of {self.folder.path} gave {told}; its rollouts are in diverged.json. "
            "Lower learning_rate or max_grad_norm, and delete the folder to run anew"
        )
