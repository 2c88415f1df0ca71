"""verl's synchronous trainer with HICRA's credit: `trainer.v1.trainer_mode=hicra`, in any GRPO recipe.

What this reaches into verl for, and nothing else of the project does: the trainer's `_init_tokenizer` and
`_compute_advantage`, the name of its mode, and the fields `responses`, `response_mask` and `advantages` of
its transfer queue.
"""

from __future__ import annotations

import time

import torch

from hicra.batches import own_tokens, taggable
from hicra.dynamics.live import occurrences_in, strategic_diversity
from hicra.dynamics.occurrences import GramFinder
from hicra.errors import HicraError, MissingExtraError
from hicra.lexicon.lexicon import Lexicon
from hicra.planning.tagger import PlanningTagger
from hicra.trainer_checks import warn_of_plain_grpo
from hicra.verl.credit import token_credit
from hicra.verl.settings import read_settings

try:
    import transfer_queue as tq
    from omegaconf import open_dict
    from tensordict import TensorDict
    from transfer_queue import KVBatchMeta
    from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
    from verl.workers.utils.padding import response_to_nested
except ModuleNotFoundError as error:
    raise MissingExtraError("hicra.verl", str(error.name), "verl") from error
from torch import Tensor

for _name in ("_init_tokenizer", "_compute_advantage"):
    if not hasattr(PPOTrainerSync, _name):  # else the trainer would be plain GRPO without a word
        raise HicraError(
            f"this verl has no PPOTrainerSync.{_name}: pip install 'hicra[verl]' brings one that has"
        )


@register_trainer("hicra")
class HicraTrainer(PPOTrainerSync):
    """verl's GRPO with HICRA's credit (paper, section 4). Settings: `hicra.verl.settings.Settings`.

    The only change is that, once verl has made its advantages, those of planning tokens are raised by
    alpha * |A|. Beside verl's own metrics, each step logs

    | metric                         | definition                                                    | unit  |
    |--------------------------------|---------------------------------------------------------------|-------|
    | hicra/planning_share           | planning tokens among the tokens that the policy wrote        | share |
    | hicra/changed_share            | those whose credit is not GRPO's                              | share |
    | hicra/occurrences              | occurrences of Strategic Grams                                | count |
    | hicra/semantic_entropy         | plug-in entropy of their frequencies                          | bits  |
    | hicra/semantic_entropy_matched | the same, expected of 256 occurrences                         | bits  |
    | timing_s/hicra                 | what all this took, transfers included; within verl's `adv`   | s     |

    Raises HicraError, before a worker starts, for settings or a recipe that would not be HICRA. Warns, once,
    of completions without a planning token.
    """

    def __init__(self, config) -> None:
        self.hicra = read_settings(config)
        self.gram_finder = GramFinder(Lexicon.load(self.hicra.lexicon))
        self._first_step = True
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"  # verl asks for the mode by this name
        super().__init__(config)

    def _init_tokenizer(self) -> None:
        super()._init_tokenizer()
        self.tagger = PlanningTagger(self.gram_finder.lexicon, self.tokenizer)

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        started = time.perf_counter()
        completions = self._completions(batch)
        seen = taggable(completions, self.tokenizer.eos_token_id)  # (B, T)
        planning = self.tagger(completions["completion_ids"], seen)  # (B, T)
        spent = time.perf_counter() - started
        batch = super()._compute_advantage(batch, metrics)
        started = time.perf_counter()
        nested = self._get(batch, "advantages")["advantages"]
        plain = nested.to_padded_tensor(0.0)  # (B, T)
        credited = token_credit(plain, planning, alpha=self.hicra.alpha, arm=self.hicra.arm)  # (B, T)
        fields = TensorDict({"advantages": response_to_nested(credited, nested)}, batch_size=len(batch))
        batch = tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)
        metrics.update(self._metrics(completions, planning, credited != plain))
        metrics["timing_s/hicra"] = spent + time.perf_counter() - started
        return batch

    def _completions(self, batch: KVBatchMeta) -> dict[str, Tensor]:
        """The completions as a batch of `hicra.batches`.

        Read before verl's part, which may take tokens out of the mask again (rejection sampling).
        """
        data = self._get(batch, "responses", "response_mask")
        lengths, data = data["responses"].offsets().diff(), data.to_padded_tensor()  # (B,)
        ids, own = data["responses"], data["response_mask"].bool()  # (B, T)
        # Rows that verl adds to even out its batches have no token of the policy.
        written = (torch.arange(ids.shape[1]) < lengths[:, None]) & own.any(1, keepdim=True)  # (B, T)
        completions = {"completion_ids": ids, "completion_mask": written}
        return completions if torch.equal(own, written) else {**completions, "tool_mask": own}

    def _get(self, batch: KVBatchMeta, *fields: str) -> TensorDict:
        return tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(fields))

    def _metrics(self, completions: dict[str, Tensor], planning: Tensor, changed: Tensor) -> dict[str, float]:
        own = own_tokens(completions)  # (B, T)
        n_own, n_planning = int(own.sum()), int(planning.sum())
        if self._first_step:
            self._first_step = False
            warn_of_plain_grpo(n_planning, n_own, int(own.any(1).sum()))
        found = {
            "planning_share": n_planning / max(n_own, 1),
            "changed_share": int(changed.sum()) / max(n_own, 1),
        }
        found |= strategic_diversity(occurrences_in(completions, self.gram_finder, self.tokenizer))
        return {f"hicra/{name}": value for name, value in found.items()}
