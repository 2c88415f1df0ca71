"""The study's own statistics of a batch, however it is cut into passes and positions."""

from hicra.study.policy import generation, unsloth_models

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from hicra.dynamics.token_statistics import token_statistics
from hicra.files import data_root
from hicra.study.problems.prompts import held_out_tasks
from hicra.study.profiles import get_profile

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def policy():
    return unsloth_models.load_policy(data_root() / "sandbox/base", lora_rank=0, seed=0)


def test_sampling_does_not_hang_on_the_tokenizer_s_side(policy):
    # Unsloth turns the tokenizer to the right when training begins, and prompts differ in length.
    model, tokenizer = policy
    prompts = [task.prompt for task in held_out_tasks(get_profile("sandbox", eval_problems=16))]
    generate = generation.policy_generator(model, tokenizer, max_new_tokens=8, temperature=1.0, seed=0)
    texts = {}
    for side in ("left", "right"):
        tokenizer.padding_side = side
        texts[side] = generate(prompts)
    tokenizer.padding_side = "left"
    assert texts["left"] == texts["right"]
    assert len({len(tokenizer(p)["input_ids"]) for p in prompts}) > 1


def test_sampling_leaves_the_global_generator_alone(policy):
    generate = generation.text_generator(*policy, max_new_tokens=4, temperature=1.0, seed=3)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = generate(["Problem: What is 2 times 3?\nSolution:"])
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(5)
    assert generate(["Problem: What is 2 times 3?\nSolution:"]) == first


def test_nothing_that_came_with_a_model_bends_its_samples(tmp_path, policy):
    model, tokenizer = policy
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    bent = GenerationConfig(do_sample=True, repetition_penalty=1.3, min_p=0.2, eos_token_id=1, pad_token_id=0)
    bent.save_pretrained(tmp_path)
    plain, _ = unsloth_models.load_policy(tmp_path, lora_rank=0, seed=0)
    kept = plain.generation_config
    assert (kept.repetition_penalty, kept.min_p, kept.eos_token_id, kept.pad_token_id) == (None, None, 1, 0)


def test_long_completions_are_sampled_in_smaller_batches(policy, monkeypatch):
    model, tokenizer = policy
    assert generation.rows_at_once(model, 256) == 256
    row = generation.cache_bytes(model.config, 4) * 100
    monkeypatch.setattr(generation, "CACHE_BYTES", 3 * row)
    assert generation.rows_at_once(model, 100) == 3
    assert generation.rows_at_once(model, 10**9) == 1
    generate = generation.text_generator(model, tokenizer, max_new_tokens=4, temperature=0.0, seed=0)
    assert len(generate(["Problem: What is 2 times 3?\nSolution:"] * 7)) == 7


def test_scores_of_other_positions_are_refused():
    class Cut(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            cut = torch.zeros(len(input_ids), input_ids.shape[1] - 1, 5)
            return type("Output", (), {"logits": cut})

    ids = torch.zeros(2, 3, dtype=torch.long)
    batch = dict.fromkeys(("prompt_ids", "prompt_mask", "completion_ids", "completion_mask"), ids)
    with pytest.raises(ValueError, match="6 tokens were scored as 5: .*max_prompt_length"):
        token_statistics(Cut(), batch, temperature=1.0)


@pytest.mark.parametrize(("rows", "positions"), [(64, 512), (2, 512), (3, 2), (1, 1)])
def test_log_probabilities_and_entropies_by_definition(monkeypatch, rows, positions):
    monkeypatch.setattr("hicra.dynamics.token_statistics.POSITIONS", positions)
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
    logps, entropies = token_statistics(model, batch, temperature=0.7, rows=rows)
    with torch.no_grad():
        logits = model(torch.cat([prompt, completion], 1)).logits / 0.7
    for row in range(5):
        for t in range(4):
            p = logits[row, 3 + t - 1].softmax(-1)
            torch.testing.assert_close(logps[row, t], p[completion[row, t]].log())
            torch.testing.assert_close(entropies[row, t], -(p * p.log()).sum())
