"""The study's own sampler: its values are the model's, its draws follow them, and it knows what it does not do."""

from hicra.study.policy import generation, llama_sampler, unsloth_models
from hicra.study.policy.llama_sampler import draw, refusal, sample, sampled_by

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from scipy.stats import chisquare
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from hicra.dynamics.token_statistics import token_statistics
from hicra.errors import HicraError
from hicra.files import data_root
from hicra.study.problems.prompts import held_out_tasks
from hicra.study.profiles import get_profile

pytestmark = pytest.mark.filterwarnings("default")
END, PAD = 1, 0
PLAUSIBLE = 1e-3  # p-value under which a fixed seed would have to be unlucky


@pytest.fixture(scope="module")
def policy():
    return unsloth_models.load_policy(data_root() / "families/base", lora_rank=0, seed=0)


@pytest.fixture(scope="module")
def prompts(policy):
    """Token ids of six problems, of several lengths."""
    tasks = held_out_tasks(get_profile("families", eval_problems=6))
    return policy[1]([task.prompt for task in tasks])["input_ids"]


def _tiny(**more):
    """A random Llama of SmolLM2's shape, smaller: grouped heads, layers deep enough for errors to add up."""
    torch.manual_seed(0)
    size = {"vocab_size": 130, "hidden_size": 72, "intermediate_size": 192, "num_hidden_layers": 6}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "initializer_range": 0.2}
    special = {"eos_token_id": END, "pad_token_id": PAD}
    return LlamaForCausalLM(LlamaConfig(**size, **heads, **special, **more)).eval()


def _adapted(targets=unsloth_models.LORA_TARGETS, **more):
    """The same with an adapter that changes something."""
    model = get_peft_model(_tiny(), LoraConfig(r=4, target_modules=targets, lora_dropout=0.0, **more))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def _batch(prompts, found):
    """What TRL makes of prompts and completions."""
    width = max(map(len, prompts))
    return {
        "prompt_ids": torch.tensor([[PAD] * (width - len(p)) + list(p) for p in prompts]),
        "prompt_mask": torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
        "completion_ids": found.ids,
        "completion_mask": found.mask.long(),
    }


def _sample(model, prompts, n=96, temperature=1.0, ends=(END,), seed=0):
    torch.manual_seed(seed)
    return sample(model, prompts, max_new_tokens=n, temperature=temperature, ends=ends, pad=PAD)


# Logits, and their errors, are divided by the temperature. What is sampled at 1.5 is so unlikely that a pass in
# 32 bits is itself 2e-5 off one in 64.
@pytest.mark.parametrize(("temperature", "error"), [(1.0, 1e-5), (0.6, 1e-5 / 0.6), (1.5, 5e-5)])
def test_values_are_those_of_a_pass(policy, prompts, temperature, error):
    groups = [p for p in prompts for _ in range(4)]
    found = _sample(policy[0], groups, temperature=temperature)
    assert len({len(p) for p in prompts}) > 1  # left padding is among it
    assert len(found.mask.sum(1).unique()) > 5  # rows ended at different times
    wanted = token_statistics(policy[0], _batch(groups, found), temperature=temperature)
    for values, expected in zip((found.logps, found.entropies), wanted, strict=True):
        torch.testing.assert_close(values[found.mask], expected[found.mask], rtol=0, atol=error)


@pytest.mark.parametrize(
    "make", [_tiny, _adapted, lambda: _adapted(use_rslora=True), lambda: _adapted(["q_proj"])]
)
def test_grouped_heads_and_adapters(make):
    model, prompts = make(), [[5, 6, 7], [8, 9], [8, 9], [10]]
    found = _sample(model, prompts, n=40)
    wanted = token_statistics(model, _batch(prompts, found), temperature=1.0)
    for values, expected in zip((found.logps, found.entropies), wanted, strict=True):
        torch.testing.assert_close(values[found.mask], expected[found.mask], rtol=0, atol=5e-5)


@pytest.mark.parametrize("prompts", [[[5, 6, 7], [8, 9], [8, 9], [10]], [[5, 6]] * 3])
def test_what_a_gpu_replays_gives_the_same(prompts, monkeypatch):
    """Without the graph itself, which needs a GPU (check "sampler" of tests.gpu); its first call is made twice."""
    model, acts = _adapted(), []
    wanted = _sample(model, prompts, n=40, temperature=0)

    def recorded(act, device):
        result = act().clone()
        acts.append(device)
        return lambda: result.copy_(act())  # one tensor, filled anew

    monkeypatch.setattr(llama_sampler, "recorded", recorded)
    monkeypatch.setattr(llama_sampler, "_Network", llama_sampler._GraphNetwork)
    found = _sample(model, prompts, n=40, temperature=0)
    assert acts == [torch.device("cpu")]
    assert found.token_ids() == wanted.token_ids()
    for values, expected in zip(found[2:], wanted[2:], strict=True):
        torch.testing.assert_close(values, expected, rtol=0, atol=5e-5)
    drawn = _sample(model, prompts * 20, n=40)  # rows end at different times
    statistics = token_statistics(model, _batch(prompts * 20, drawn), temperature=1.0)
    for values, expected in zip(drawn[2:], statistics, strict=True):
        torch.testing.assert_close(values[drawn.mask], expected[drawn.mask], rtol=0, atol=5e-5)


def test_the_most_probable_tokens_are_those_of_generate(policy, prompts):
    greedy = GenerationConfig(max_new_tokens=40, do_sample=False, eos_token_id=END, pad_token_id=PAD)
    wanted = generation._by_generate(policy[0], greedy, prompts)
    found = _sample(policy[0], prompts, n=40, temperature=0)
    assert torch.equal(found.ids, wanted)


def test_a_row_alone_is_as_in_a_batch(policy, prompts):
    together = _sample(policy[0], prompts, temperature=0)
    for row, prompt in enumerate(prompts):
        alone = _sample(policy[0], [prompt], temperature=0)
        own = together.mask[row]
        assert alone.token_ids()[0] == together.token_ids()[row]
        for one, many in ((alone.logps, together.logps), (alone.entropies, together.entropies)):
            torch.testing.assert_close(one[0], many[row, own], rtol=0, atol=1e-5)


def _tested(counts, chances):
    """The p-value of counts (V,) under chances (V,); what is expected less than 5 times is one cell."""
    expected = chances.double() / chances.double().sum() * counts.sum()
    rare = expected < 5
    cells = [torch.cat([v[~rare], v[rare].sum()[None]]).numpy() for v in (counts.double(), expected)]
    assert len(cells[0]) > 3
    return chisquare(*cells).pvalue


def test_first_tokens_follow_the_model():
    model, prompt, n = _tiny(), [5, 6, 7], 20_000
    with torch.no_grad():
        chances = (model(torch.tensor([prompt])).logits[0, -1] / 0.8).softmax(-1)  # (V,)
    found = _sample(model, [prompt] * n, n=1, temperature=0.8)
    assert _tested(found.ids[:, 0].bincount(minlength=len(chances)), chances) > PLAUSIBLE


@pytest.mark.parametrize("size", [3, 64, 65, 640, 1000])
def test_draws_follow_their_chances(size):
    torch.manual_seed(size)
    chances = (2 * torch.randn(size)).softmax(-1)
    chances[1::5] = 0  # these must never come
    found = draw(chances.expand(40_000, size).contiguous()).bincount(minlength=size)
    assert len(found) == size
    assert not found[chances == 0].any()
    if size > 3:
        assert _tested(found[chances > 0], chances[chances > 0]) > PLAUSIBLE


def test_surprise_is_entropy_on_average(policy, prompts):
    found = _sample(policy[0], [p for p in prompts for _ in range(100)])
    excess = (-found.logps - found.entropies)[found.mask].double()  # mean 0 after every prefix
    assert len(excess) > 20_000
    assert abs(excess.sum() / excess.square().sum().sqrt()) < 3
    biased = (-found.logps - 0.97 * found.entropies)[found.mask].double()  # 3 % would be seen
    assert abs(biased.sum() / biased.square().sum().sqrt()) > 3


def test_ends_and_the_length_limit():
    model, prompts = _tiny(), [[5, 6]] * 300
    likely = int(_sample(model, [[5, 6]], n=1, temperature=0).ids)
    ends = (likely, 3)
    found, whole = _sample(model, prompts, n=12, ends=ends), _sample(model, prompts, n=12, ends=())
    assert whole.mask.all()
    assert whole.ids.shape == (300, 12)
    assert {1, 12} <= set(found.mask.sum(1).tolist())
    for ids, own in zip(found.ids, found.token_ids(), strict=True):
        assert not set(ends) & set(own[:-1])
        assert len(own) == 12 or own[-1] in ends
        assert (ids[len(own) :] == PAD).all()
    assert not found.logps[~found.mask].any()
    assert not found.entropies[~found.mask].any()
    assert _sample(model, prompts, n=1).ids.shape == (300, 1)
    assert _sample(model, [[5, 6]] * 2, n=12, temperature=0, ends=ends).ids.tolist() == [[likely]] * 2


def test_values_can_be_trained_on(policy, prompts):
    found = _sample(policy[0], prompts, n=4)  # inference mode must not reach what autograd saves
    weight = torch.ones((), requires_grad=True)
    (weight * found.logps * found.entropies).sum().backward()
    assert weight.grad


MISTRAL = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
MISTRAL |= {"num_attention_heads": 2, "num_key_value_heads": 2}
SCALED = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
REFUSED = [
    (lambda: MistralForCausalLM(MistralConfig(**MISTRAL)), "MistralForCausalLM is not LlamaForCausalLM"),
    (lambda: _tiny().bfloat16(), "torch.bfloat16 on cpu"),
    (lambda: _tiny().to("meta"), "torch.float32 on meta"),
    (lambda: _tiny(rope_parameters=SCALED), "rope"),
    (lambda: _tiny(hidden_act="gelu"), "activation"),
    (lambda: _tiny(attention_bias=True), "linear map"),
    (lambda: _tiny(mlp_bias=True), "linear map"),
    (lambda: _tiny(attention_dropout=0.1), "dropout"),
    (lambda: _adapted(use_dora=True), "linear map"),
    (lambda: _adapted(bias="lora_only", lora_bias=True), "linear map"),
    (lambda: _adapted(["lm_head"]), "head"),
    (lambda: _adapted(["embed_tokens"]), "embedding"),
    (lambda: _adapted(modules_to_save=["norm"]), "norm"),
    (lambda: get_peft_model(_tiny(), LoraConfig(lora_dropout=0.1, target_modules=["q_proj"])), "linear map"),
    (lambda: get_peft_model(_tiny(), PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=2)), "adapter"),
]


@pytest.mark.parametrize(("make", "reason"), REFUSED)
def test_what_is_not_known_is_left_to_generate(make, reason):
    assert reason in refusal(make())


def test_adapters_that_are_off_are_left_to_generate():
    model = _adapted()
    assert refusal(model) == ""
    with model.disable_adapter():
        assert "linear map" in refusal(model)
    model.merge_adapter()
    assert "linear map" in refusal(model)


SETTINGS = [
    ({"top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "min_p": None}, ""),
    ({"max_new_tokens": 4, "do_sample": True, "temperature": 0.5}, ""),
    ({"top_k": 20}, "top_k"),
    ({"top_p": 0.9}, "top_p"),
    ({"min_p": 0.1}, "min_p"),
    ({"repetition_penalty": 1.1}, "repetition_penalty"),
    ({"suppress_tokens": [3]}, "suppress_tokens"),
    ({"num_beams": 4}, "num_beams"),
]


@pytest.mark.parametrize(("settings", "reason"), SETTINGS)
def test_settings_that_are_not_followed_are_left_to_generate(settings, reason):
    model = _tiny()
    for found in (refusal(model, GenerationConfig(**settings)), _refused_with_its_own(model, settings)):
        assert reason in found
        assert bool(found) == bool(reason)


def _refused_with_its_own(model, settings):
    model.generation_config = GenerationConfig(**settings)
    return refusal(model)


def test_completions_of_text_come_in_the_order_of_their_prompts(policy, monkeypatch):
    options = {"max_new_tokens": 48, "temperature": 0.0, "seed": 0}
    texts = [task.prompt for task in held_out_tasks(get_profile("families", eval_problems=7))]
    own = generation.text_generator(*policy, **options)(texts)
    monkeypatch.setattr(llama_sampler, "refusal", lambda *given: "asked to")
    assert generation.text_generator(*policy, **options)(texts) == own
    monkeypatch.undo()
    row = generation.cache_bytes(policy[0].config, 4) * 120
    monkeypatch.setattr(generation, "CACHE_BYTES", 3 * row)
    assert generation.text_generator(*policy, **options)(texts) == own


def test_the_sampler_is_named_by_its_device(monkeypatch):
    assert sampled_by(_tiny()) == "own"
    assert sampled_by(_tiny().bfloat16()) == "transformers"
    monkeypatch.setattr(llama_sampler, "refusal", lambda *given: "")
    assert sampled_by(_tiny().to("meta")) == "own on meta"


def test_nothing_to_sample_is_named():
    for prompts, n in (([], 5), ([[5]], 0)):
        with pytest.raises(HicraError, match=f"{len(prompts)} prompts, {n} new tokens: give at least one"):
            _sample(_tiny(), prompts, n=n)
