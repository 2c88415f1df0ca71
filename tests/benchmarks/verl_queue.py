"""HICRA's part of verl's advantage step, through a real transfer queue on this machine.

    build/verl/bin/python -m tests.benchmarks.verl_queue [--rows 128] [--tokens 16384]

In `make verl`'s environment. Completions are the made world's words, laid end to end; what is timed is the trainer's
own method, verl's part and HICRA's, with all that moves between driver and queue.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import ray
import torch
import transfer_queue as tq
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl.trainer.ppo.v1 import get_trainer_cls

from hicra.lexicon.lexicon import Lexicon

BASE = Path(__file__).parents[2] / "data" / "families" / "base"


def make_trainer(base: Path):
    overrides = ["algorithm.adv_estimator=grpo", "algorithm.norm_adv_by_std_in_grpo=false"]
    overrides += [f"actor_rollout_ref.model.path={base}", "+hicra.lexicon=families"]
    with initialize_config_module("verl.trainer.config", version_base=None):
        made = get_trainer_cls("hicra")(compose("ppo_trainer", overrides=overrides))
    made._init_tokenizer()
    return made


def rollouts(tokenizer, n_rows: int, n_tokens: int) -> TensorDict:
    """Completions of `n_tokens` each, in groups of 8, with what verl's advantage step reads."""
    text = " . ".join(f"{gram} 3 + 4 = 7" for gram in Lexicon.load("families").grams)
    ids = torch.tensor(tokenizer(text)["input_ids"])
    ids = ids.repeat(-(-n_tokens // len(ids)))[:n_tokens]

    def nested(value: torch.Tensor) -> torch.Tensor:
        return torch.nested.as_nested_tensor([value] * n_rows, layout=torch.jagged)

    ones = torch.ones(n_tokens, dtype=torch.long)
    scores = [
        torch.full((n_tokens,), 0.0).index_fill(0, torch.tensor([n_tokens - 1]), i % 2) for i in range(n_rows)
    ]
    fields = {
        "responses": nested(ids),
        "response_mask": nested(ones),
        "rm_scores": torch.nested.as_nested_tensor(scores, layout=torch.jagged),
        "rollout_log_probs": nested(-ones.float()),
        "old_log_probs": nested(-ones.float()),
    }
    made = TensorDict(fields, batch_size=n_rows)
    made["uid"] = [str(i // 8) for i in range(n_rows)]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=16384)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="r") as home:
        os.environ |= {"HOME": home, "RAY_TMPDIR": home, "TRANSFER_QUEUE_ENABLE": "1"}
        base = Path(home) / "base"
        shutil.copytree(BASE, base)
        (base / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
        trainer = make_trainer(base)
        ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
        storage = {"total_storage_size": 10_000, "num_data_storage_units": 2}
        tq.init(OmegaConf.create({"backend": {"storage_backend": "SimpleStorage", "SimpleStorage": storage}}))
        keys = [f"{i // 8}_{i % 8}_0" for i in range(given.rows)]
        fields = rollouts(trainer.tokenizer, given.rows, given.tokens)
        batch = tq.kv_batch_put(keys=keys, partition_id="train", fields=fields, tags=[{}] * given.rows)
        for _ in range(2):  # the first makes connections and arrays
            metrics: dict = {}
            started = time.perf_counter()
            trainer._compute_advantage(batch, metrics)
            whole = time.perf_counter() - started
        tq.close()
        ray.shutdown()
    print(
        f"{given.rows * given.tokens:,} tokens: {whole:.2f} s, of it HICRA {metrics['timing_s/hicra']:.2f} s"
    )


if __name__ == "__main__":
    main()
