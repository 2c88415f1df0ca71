"""Rollouts scored by a checkpoint: the log-probability and entropy of each of their tokens under it."""

from __future__ import annotations

from typing import Any

from hicra.dynamics.readers import Rollout, RolloutError
from hicra.errors import MissingError, MissingExtraError

ROWS = 8  # scored at once


class Scorer:
    """Fills in the tokens, log-probabilities and entropies (nats) of rollouts, by `model`.

    `model` is a folder or a Hub name of a causal language model, or of an adapter to one. A prompt that is a
    string is taken as it stands, chat messages by the model's template. Completions are tokenized anew: where
    the policy wrote them in other tokens, these are not its own probabilities. `temperature` divides the
    logits. Runs on the GPU where there is one, in fp32 on a CPU.

    Raises MissingError for a model that is not there, RolloutError for rollouts without a prompt or with more
    tokens than the model reads.
    """

    def __init__(self, model: str, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise RolloutError(f"temperature={temperature} must be above 0")
        try:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise MissingExtraError("scoring", "torch", "trl") from error
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = "auto" if device == "cuda" else torch.float32
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
            loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise MissingError(
                f"--score {model}: {reason}; give a checkpoint's folder or Hub name"
            ) from error
        self.model = loaded.to(device)
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        self.temperature, self.device = temperature, device
        self.longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def __call__(self, rollouts: list[Rollout]) -> list[Rollout]:
        """The rollouts, in their order, with `tokens`, `logp` and `entropy`."""
        read = [self._read(rollout) for rollout in rollouts]
        scored = [rollout._replace(tokens=[], logp=[], entropy=[]) for rollout in rollouts]
        order = sorted((i for i in range(len(read)) if read[i][1]), key=lambda i: sum(map(len, read[i][:2])))
        for start in range(0, len(order), ROWS):
            chosen = order[start : start + ROWS]
            values = self._score([read[i][:2] for i in chosen])
            for i, (logp, entropy) in zip(chosen, values, strict=True):
                scored[i] = rollouts[i]._replace(tokens=read[i][2], logp=logp, entropy=entropy)
        return scored

    def _read(self, rollout: Rollout) -> tuple[list[int], list[int], list[str]]:
        """A rollout's prompt and completion as token ids, and the texts of the completion's tokens."""
        where = f"run {rollout.run}, step {rollout.step}"
        if not rollout.prompt:
            raise RolloutError(
                f"{where}: a rollout without a prompt cannot be scored; name it: --prompt-field"
            )
        if isinstance(rollout.prompt, str):
            prompt = self.tokenizer(rollout.prompt)["input_ids"]
        else:
            prompt = self.tokenizer.apply_chat_template(
                rollout.prompt, add_generation_prompt=True, return_dict=True
            )["input_ids"]
        written = self.tokenizer(rollout.text, add_special_tokens=False, return_offsets_mapping=True)
        if self.longest and len(prompt) + len(written["input_ids"]) > self.longest:
            n = len(prompt) + len(written["input_ids"])
            raise RolloutError(
                f"{where}: a rollout has {n} tokens, the model reads {self.longest}; leave it out"
            )
        ends = [0, *(end for _, end in written["offset_mapping"])]
        tokens = [rollout.text[a:b] for a, b in zip(ends, ends[1:], strict=False)]  # no character twice
        return prompt, written["input_ids"], tokens

    def _score(self, rows: list[tuple[list[int], list[int]]]) -> list[tuple[list[float], list[float]]]:
        """Log-probabilities and entropies of each row's completion."""
        from hicra.dynamics.token_statistics import token_statistics

        prompts, completions = zip(*rows, strict=True)
        batch = {}
        for name, ids, side in (("prompt", prompts, "left"), ("completion", completions, "right")):
            padded = self.tokenizer.pad({"input_ids": ids}, padding_side=side, return_tensors="pt")
            batch[f"{name}_ids"] = padded["input_ids"].to(self.device)  # (B, P), (B, T)
            batch[f"{name}_mask"] = padded["attention_mask"].to(self.device)
        logps, entropies = token_statistics(self.model, batch, temperature=self.temperature)  # (B, T) twice
        return [
            (logp[: len(own)].tolist(), entropy[: len(own)].tolist())
            for logp, entropy, own in zip(logps, entropies, completions, strict=True)
        ]
