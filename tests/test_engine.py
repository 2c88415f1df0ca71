"""The study's own statistics of a batch, however it is cut into passes and positions."""

import pytest
import torch

from hicra import engine

from transformers import LlamaConfig, LlamaForCausalLM  # isort: skip  (after Unsloth)

pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.parametrize(("rows", "positions"), [(64, 512), (2, 512), (3, 2), (1, 1)])
def test_log_probabilities_and_entropies_by_definition(monkeypatch, rows, positions):
    monkeypatch.setattr(engine, "POSITIONS", positions)
    torch.manual_seed(0)
    size = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**size, num_attention_heads=2)).eval()
    prompt, completion = torch.randint(0, 11, (5, 3)), torch.randint(0, 11, (5, 4))
    batch = {
        "prompt_ids": prompt,
        "prompt_mask": torch.ones_like(prompt),
        "completion_ids": completion,
        "completion_mask": torch.ones_like(completion),
    }
    logps, entropies = engine.token_statistics(model, batch, temperature=0.7, rows=rows)
    with torch.no_grad():
        logits = model(torch.cat([prompt, completion], 1)).logits / 0.7
    for row in range(5):
        for t in range(4):
            p = logits[row, 3 + t - 1].softmax(-1)
            torch.testing.assert_close(logps[row, t], p[completion[row, t]].log())
            torch.testing.assert_close(entropies[row, t], -(p * p.log()).sum())
