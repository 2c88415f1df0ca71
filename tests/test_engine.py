"""The study's own statistics of a batch, however it is cut into passes and positions."""

import inspect
import sys
from pathlib import Path
from types import SimpleNamespace

from hicra.study.policy import generation, unsloth_models

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)
from unsloth_zoo import vllm_utils

from hicra.dynamics.token_statistics import token_statistics
from hicra.files import data_root
from hicra.study.problems.prompts import held_out_tasks
from hicra.study.profiles import get_profile
from hicra.study.training.run import grpo_config
from tests.configs import CONFIGS

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def policy():
    return unsloth_models.load_policy(data_root() / "families/base", lora_rank=0, seed=0)


def test_sampling_does_not_hang_on_the_tokenizer_s_side(policy):
    # Unsloth turns the tokenizer to the right when training begins, and prompts differ in length.
    model, tokenizer = policy
    prompts = [task.prompt for task in held_out_tasks(get_profile("families", eval_problems=16))]
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


def _tokenizer_with_turns():
    tokenizer = AutoTokenizer.from_pretrained(data_root() / "families/base")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (get_profile("paper").prompt_template, "<|im_end|>"),
        ("<|im_start|>{problem}<|im_end|>\n<think>", "<|im_end|>"),
        (get_profile("families").prompt_template, None),
        ("<|im_start|>user {problem}", None),
    ],
)
def test_the_end_of_a_turn_is_read_from_the_template(template, end):
    tokenizer = _tokenizer_with_turns()
    token = unsloth_models.turn_end(tokenizer, template)
    assert (token is None) if end is None else tokenizer.convert_ids_to_tokens(token) == end


def test_completions_end_on_a_turn_s_end_as_on_the_model_s_own(policy):
    model, _ = policy
    tokenizer = _tokenizer_with_turns()
    before = model.generation_config.eos_token_id
    assert unsloth_models.ends(model, tokenizer) == [tokenizer.eos_token_id]
    try:
        unsloth_models.end_on_turns(model, tokenizer, get_profile("families").prompt_template)
        assert model.generation_config.eos_token_id == before  # no such mark
        unsloth_models.end_on_turns(model, tokenizer, get_profile("paper").prompt_template)
        turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert unsloth_models.ends(model, tokenizer) == [tokenizer.eos_token_id, turn]
        step = tokenizer(".", add_special_tokens=False)["input_ids"][-1]  # a token that it does sample
        model.generation_config.eos_token_id = [tokenizer.eos_token_id, step]
        generate = generation.text_generator(
            model, tokenizer, max_new_tokens=40, temperature=1.0, seed=0, special=True
        )
        for text in generate(["Problem: What is 2 times 3?\nSolution:"] * 8):
            kept = text.replace(tokenizer.pad_token, "")
            assert kept.endswith((".", tokenizer.eos_token))
            assert "." not in kept[:-1]
    finally:
        model.generation_config.eos_token_id = before


def test_engines_are_told_the_ends(monkeypatch):
    asked = []
    vllm = SimpleNamespace(SamplingParams=lambda **options: asked.append(options), LLM=lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    model = SimpleNamespace(
        vllm_engine=True,
        generation_config=SimpleNamespace(eos_token_id=[3, 4]),
        load_lora=lambda *_, **__: None,
        fast_generate=lambda *_, **__: [],
    )
    options = {"max_new_tokens": 5, "temperature": 1.0, "seed": 7}
    generation.policy_generator(model, SimpleNamespace(eos_token_id=3), **options)(["a", "b"])
    assert [(o["stop_token_ids"], o["seed"]) for o in asked] == [([3, 4], 7), ([3, 4], 8)]
    config = grpo_config(get_profile("paper"), "grpo", 0, Path("none"), ends=[3, 4])
    assert config.generation_kwargs == {"stop_token_ids": [3, 4]}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"lora_rank": 0}, {"full_finetuning": True}),
        ({"lora_rank": 0, "trained": False}, {"full_finetuning": False}),
        ({"lora_rank": 8}, {"full_finetuning": False}),
        (
            {"lora_rank": 8, "vllm": True, "gpu_memory_utilization": 0.6},
            {"fast_inference": True, "max_lora_rank": 8, "gpu_memory_utilization": 0.6},
        ),
    ],
)
def test_unsloth_is_told_what_is_trained_and_how_much_of_a_card_vllm_has(monkeypatch, given, wanted):
    class Told(Exception):
        pass

    def from_pretrained(*_, **options):
        raise Told(options)

    monkeypatch.setattr(unsloth_models.unsloth.FastLanguageModel, "from_pretrained", from_pretrained)
    with pytest.raises(Told) as told:
        unsloth_models.load_policy(data_root() / "families/base", seed=0, **given)
    [options] = told.value.args
    assert {name: options[name] for name in wanted} == wanted
    assert given.get("vllm", False) == ("gpu_memory_utilization" in options)


@pytest.mark.parametrize(
    ("share", "enough"), [(0.5, False), (get_profile("colab").gpu_memory_utilization, True)]
)
def test_colab_s_share_of_a_t4_lets_all_32_completions_be_sampled_together(monkeypatch, share, enough):
    free, total = 14.1 * 2**30, 14.56 * 2**30  # of a T4, in a process that has begun to use it
    monkeypatch.setattr(vllm_utils, "get_mem_info", lambda: (free, total))
    profile = get_profile("colab")
    *_, cache = vllm_utils.approximate_vllm_memory_usage(
        CONFIGS["colab"],
        max_seq_length=profile.max_length,
        gpu_memory_utilization=share,
        max_lora_rank=profile.lora_rank,
    )
    assert (cache > 4) == enough  # GiB: up to 4 Unsloth samples 16 at once, then 32
    assert "memory_left_for_kv_cache_gb <=  4: max_num_batched_tokens, approx_max_num_seqs = 2048, 16" in (
        inspect.getsource(vllm_utils.load_vllm)
    )


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


def _tiny(kind="llama", **more):
    torch.manual_seed(0)
    size = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    if kind == "gemma2":  # caps its logits, so hidden states times the head are not them
        capped = {"head_dim": 4, "final_logit_softcapping": 0.02, "query_pre_attn_scalar": 4}
        return Gemma2ForCausalLM(Gemma2Config(**size, **heads, **capped, pad_token_id=0, **more))
    return LlamaForCausalLM(LlamaConfig(**size, **heads, **more))


def _uneven():
    """Rows of many lengths: no two parts of it have the same longest prompt and completion."""
    draw = torch.Generator().manual_seed(0)
    ids = {n: torch.randint(1, 11, (5, w), generator=draw) for n, w in (("prompt", 6), ("completion", 7))}
    prompts, completions = torch.tensor([1, 3, 2, 6, 4]), torch.tensor([2, 1, 4, 3, 7])
    return {
        "prompt_ids": ids["prompt"],
        "prompt_mask": (torch.arange(6) >= 6 - prompts[:, None]).long(),
        "completion_ids": ids["completion"],
        "completion_mask": (torch.arange(7) < completions[:, None]).long(),
    }


def _by_row(model, batch, temperature):
    """Log-probabilities and entropies of each row alone, without any padding, from the model's own logits."""
    found = []
    for i in range(len(batch["prompt_ids"])):
        prompt, completion = (
            batch[f"{n}_ids"][i][batch[f"{n}_mask"][i].bool()] for n in ("prompt", "completion")
        )
        with torch.no_grad():
            logits = model(torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
        scores = (logits.float() / temperature).log_softmax(-1)
        found.append((scores.gather(-1, completion[:, None])[:, 0], -(scores.exp() * scores).sum(-1)))
    return found


MODELS = {
    "llama": lambda: _tiny(),
    "tied head": lambda: _tiny(tie_word_embeddings=True),
    "gemma2": lambda: _tiny("gemma2"),
    "adapter": lambda: get_peft_model(
        _tiny(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    ),
}


@pytest.mark.parametrize("rows", [64, 2, 1])
@pytest.mark.parametrize("name", MODELS)
def test_parts_are_cut_to_their_longest_rows_and_stay_exact(name, rows):
    model, batch = MODELS[name]().eval(), _uneven()
    logps, entropies = token_statistics(model, batch, temperature=0.7, rows=rows)
    assert logps.shape == entropies.shape == batch["completion_ids"].shape
    for i, (own_logps, own_entropies) in enumerate(_by_row(model, batch, 0.7)):
        torch.testing.assert_close(logps[i, : len(own_logps)], own_logps)
        torch.testing.assert_close(entropies[i, : len(own_logps)], own_entropies)


def test_the_pass_is_as_wide_as_its_rows_and_never_makes_all_logits():
    model, widths, logits = _tiny(), [], []
    model.model.register_forward_hook(lambda module, args, output: widths.append(output[0].shape[1]))
    model.lm_head.register_forward_hook(lambda module, args, output: logits.append(output.shape[1]))
    token_statistics(model, _uneven(), temperature=1.0, rows=1)
    assert widths == [3, 4, 6, 9, 11]  # prompt and completion
    assert logits == [1] * 5


def test_the_head_multiplies_in_32_bit():
    model = _tiny().to(torch.bfloat16).eval()
    batch = _uneven()
    logps, _ = token_statistics(model, batch, temperature=1.0, rows=1)
    hidden = []
    hook = model.model.register_forward_hook(lambda module, args, output: hidden.append(output[0]))
    _by_row(model, batch, 1.0)
    hook.remove()
    for i, states in enumerate(hidden):
        n, start = int(batch["completion_mask"][i].sum()), int(batch["prompt_mask"][i].sum()) - 1
        scores = (states[0, start : start + n].float() @ model.lm_head.weight.float().T).log_softmax(-1)
        wanted = scores.gather(-1, batch["completion_ids"][i, :n, None])[:, 0]
        torch.testing.assert_close(logps[i, :n], wanted, rtol=1e-5, atol=1e-6)
    assert logps.dtype == torch.float32


def test_the_model_scores_in_evaluation_mode_without_a_cache_and_gets_its_modes_back():
    model = _tiny(attention_dropout=0.5).train()
    model.model.norm.eval()  # a module that someone has frozen
    seen = []
    model.model.register_forward_hook(
        lambda module, args, kwargs, output: seen.append((module.training, kwargs["use_cache"])),
        with_kwargs=True,
    )
    modes = [module.training for module in model.modules()]
    first, again = (token_statistics(model, _uneven(), temperature=1.0)[0] for _ in range(2))
    assert torch.equal(first, again)  # no dropout
    assert seen == [(False, False)] * 2
    assert [module.training for module in model.modules()] == modes


def test_modes_come_back_after_an_error():
    model = _tiny().train()
    with pytest.raises(IndexError):  # an id that the model does not have
        token_statistics(model, {**_uneven(), "completion_ids": torch.full((5, 7), 99)}, temperature=1.0)
    assert model.training
    assert not model.model._forward_hooks
