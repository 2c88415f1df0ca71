"""The paper's dynamics in a trainer's own logs, without any credit: `class Mine(DynamicsMixin, GRPOTrainer)`.

What is logged goes where TRL's `report_to` says, TensorBoard, W&B or trackio, for any reward function:

| metric                            | definition                                              | unit       |
|-----------------------------------|---------------------------------------------------------|------------|
| dynamics/planning_share           | planning tokens among completion tokens                 | share      |
| dynamics/occurrences              | occurrences of Strategic Grams                          | count      |
| dynamics/semantic_entropy         | plug-in entropy of their frequencies                    | bits       |
| dynamics/semantic_entropy_matched | the same, expected of `match_to` occurrences            | bits       |
| dynamics/perplexity_x             | of planning, execution tokens; with `token_metrics`     | 1          |
| dynamics/entropy_x                | their mean next-token entropy; with `token_metrics`     | nats/token |
| dynamics/token_metrics_seconds    | what those four took: a forward pass over the batch     | s          |
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hicra.batches import own_texts, own_tokens, taggable
from hicra.dynamics.entropy import rarefied_entropy, shannon_entropy
from hicra.dynamics.occurrences import GramFinder, blocks
from hicra.dynamics.step_table import perplexity
from hicra.dynamics.token_statistics import token_statistics
from hicra.lexicon.lexicon import Lexicon
from hicra.planning.tagger import PlanningTagger

MATCH_TO = 256  # occurrences


class DynamicsMixin:
    """A GRPOTrainer that logs the strategic dynamics of every step's completions, and changes nothing.

    `dynamics_lexicon` is a lexicon, the name of a shipped one, or a file; by default that of HICRA's
    `planning_tagger` where the trainer has one, else "general". The matched entropy is always that of
    `match_to` occurrences, so that steps and runs compare; steps with fewer do not log it. `token_metrics`
    adds perplexity and entropy by class, for a forward pass over the batch each step.

        class MyTrainer(DynamicsMixin, GRPOTrainer): ...
        class MyHicraTrainer(DynamicsMixin, HicraMixin, GRPOTrainer): ...
    """

    # What TRL's GRPOTrainer brings.
    accelerator: Any
    model: Any
    processing_class: Any
    temperature: float
    _metrics: Any

    def __init__(
        self,
        *args,
        dynamics_lexicon: Lexicon | str | None = None,
        match_to: int = MATCH_TO,
        token_metrics: bool = False,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        credited: PlanningTagger | None = kwargs.get("planning_tagger")
        chosen = dynamics_lexicon or (credited.lexicon if credited else "general")
        lexicon = chosen if isinstance(chosen, Lexicon) else Lexicon.load(chosen)
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        self.match_to, self.token_metrics = match_to, token_metrics
        self.gram_finder, self._dynamics_tagger = GramFinder(lexicon), PlanningTagger(lexicon, tokenizer)
        self._dynamics_tokenizer: Any = tokenizer

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name, value in self._dynamics(batch).items():
            metrics[f"dynamics/{name}"].append(value)
        return batch

    def _dynamics(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """The metrics of one generated batch, over all processes."""
        done = own_tokens(batch)  # (B, T)
        seen = taggable(batch, self._dynamics_tokenizer.eos_token_id)  # (B, T)
        planning = self._dynamics_tagger(batch["completion_ids"], seen)  # (B, T)
        grams = occurrences_in(batch, self.gram_finder, self._dynamics_tokenizer)  # (K,)
        own = torch.tensor([*grams, int(planning.sum()), int(done.sum())])
        *counts, n_planning, n = self._summed(own).round().long().tolist()
        metrics = {"planning_share": n_planning / max(n, 1), **strategic_diversity(counts, self.match_to)}
        return metrics | (self._by_class(batch, planning, done) if self.token_metrics else {})

    def token_statistics(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Log-probability and next-token entropy (nats) of every completion token, both (B, T)."""
        return token_statistics(self.model, batch, temperature=self.temperature)

    def _by_class(self, batch: dict[str, Tensor], planning: Tensor, done: Tensor) -> dict[str, float]:
        started = time.perf_counter()
        logps, entropies = self.token_statistics(batch)  # (B, T), (B, T)
        metrics: dict[str, float] = {}
        for name, chosen in (("planning", planning), ("execution", done & ~planning)):
            own = torch.stack([chosen.sum(), -logps[chosen].sum(), entropies[chosen].sum()])
            n, nll, entropy = self._summed(own).tolist()
            if n:
                metrics |= {f"perplexity_{name}": perplexity(nll, n), f"entropy_{name}": entropy / n}
        return metrics | {"token_metrics_seconds": time.perf_counter() - started}

    def _summed(self, values: Tensor) -> Tensor:
        """The sums over all processes, (N,) float64 on the CPU."""
        values = values.double().to(self.accelerator.device)
        return self.accelerator.reduce(values, reduction="sum").cpu()


def occurrences_in(batch: dict[str, Tensor], finder: GramFinder, tokenizer) -> np.ndarray:
    """Occurrences of each of the K grams of the finder's lexicon in a batch of completions, (K,)."""
    own = own_tokens(batch)  # (B, T)
    rows = [ids[mask].tolist() for ids, mask in zip(batch["completion_ids"], own, strict=True)]
    texts = own_texts(batch, tokenizer.batch_decode(rows, skip_special_tokens=True), tokenizer)
    counts = np.zeros(len(finder.lexicon), int)  # (K,)
    for block in blocks(texts):
        counts += np.bincount(finder(block).gram, minlength=counts.size)
    return counts


def strategic_diversity(counts: Sequence[int] | np.ndarray, match_to: int = MATCH_TO) -> dict[str, float]:
    """Occurrences, and their entropies in bits where there are enough of them, of a step's counts (K,)."""
    n = int(sum(counts))
    metrics = {"occurrences": float(n)}
    if n:
        metrics["semantic_entropy"] = shannon_entropy(counts)
    if n >= match_to:
        metrics["semantic_entropy_matched"] = rarefied_entropy(counts, match_to)
    return metrics
