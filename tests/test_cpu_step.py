"""The study's own sampler and pass inside TRL's trainer: TRL's loss, gradients and metrics, and its doors."""

import inspect
from contextlib import nullcontext
from unittest import mock

from hicra.study.policy import float32_products, llama_sampler
from hicra.study.policy.causal_attention import causal_attention
from hicra.study.policy.float32_products import linear_precision, products

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from trl import GRPOTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from hicra.study.profiles import get_profile
from hicra.study.record.run_folder import RunFolder
from hicra.study.training import cpu_step, run
from hicra.study.training.cpu_step import CpuStepMixin
from hicra.study.training.plan import plan_run

pytestmark = pytest.mark.filterwarnings("default")
SMALL = {
    "steps": 2,
    "prompts_per_step": 4,
    "group_size": 4,
    "max_completion_length": 48,
    "learning_rate": 1e-3,
}


def _trainer(folder, arm="hicra", **overrides):
    plan = plan_run(get_profile("families", **SMALL, **overrides), arm, 0)
    record = RunFolder(folder / "run")
    record.open(plan.settings, condition=arm)
    trainer = run._make_trainer(plan, record)
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    trainer.model.train()
    if overrides.get("lora_rank"):
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
    return trainer


def _batches(trainer):
    """The micro-batches of one step."""
    inputs = next(iter(trainer.get_train_dataloader()))
    torch.manual_seed(0)
    first = trainer._prepare_inputs(inputs)
    return trainer._buffered_inputs or [first]


def _aside():
    """Everything by TRL."""
    return mock.patch.object(CpuStepMixin, "training_pass", "trl")


def _own():
    """By the products of training_step."""
    return products(linear_precision())


def _step(trainer, batches, how):
    """Losses and gradients of the micro-batches together, and what TRL logs of them."""
    trainer.model.zero_grad()
    trainer._metrics["train"].clear()
    with how, trainer.compute_loss_context_manager():
        losses = []
        for batch in batches:
            loss = trainer.compute_loss(trainer.model, batch)
            loss.backward()
            losses.append(loss.item())
    gradients = [p.grad.flatten() for p in trainer.model.parameters() if p.requires_grad]
    logged = {name: values for name, values in trainer._metrics["train"].items() if name != "step_time"}
    return losses, torch.cat(gradients), logged


CASES = [
    ("hicra", {}),
    ("grpo", {"rows_per_pass": 4}),
    ("hicra", {"temperature": 0.7, "rows_per_pass": 2}),
    ("hicra", {"lora_rank": 4}),
    ("entropy_reg", {"entropy_coef": 0.3}),
    ("entropy_reg", {"entropy_coef": 0.3, "rows_per_pass": 4, "lora_rank": 4}),
    ("hicra", {"kl_beta": 0.1, "lora_rank": 4}),
    ("grpo", {"kl_beta": 0.1}),
]


@pytest.mark.parametrize(("arm", "overrides"), CASES)
def test_loss_gradient_and_metrics_are_those_of_trls_pass(tmp_path, arm, overrides):
    trainer = _trainer(tmp_path, arm, **overrides)
    assert (trainer.sampler, trainer.training_pass) == ("own", "own")
    batches = _batches(trainer)
    assert any((batch["advantages"] == 0).all(1).any() for batch in batches)  # rows without a gradient
    assert len({int(n) for batch in batches for n in batch["prompt_mask"].sum(1)}) > 1
    with mock.patch.object(cpu_step, "per_token", wraps=cpu_step.per_token) as own:
        losses, gradient, logged = _step(trainer, batches, _own())
    assert own.called
    wanted_losses, wanted, wanted_logged = _step(trainer, batches, _aside())
    assert (gradient - wanted).norm() <= 1e-5 * wanted.norm()
    assert losses == pytest.approx(wanted_losses, rel=1e-5, abs=1e-7)
    assert logged.keys() == wanted_logged.keys()
    assert "entropy" in logged
    for name, values in logged.items():
        assert values == pytest.approx(wanted_logged[name], rel=1e-5, abs=1e-6), name


def test_what_the_loss_sees_is_trls_on_every_token(tmp_path):
    trainer = _trainer(tmp_path)
    [batch] = _batches(trainer)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    args = (trainer.model, ids, mask, batch["completion_ids"].shape[1])
    with torch.no_grad():
        own = trainer._get_per_token_logps_and_entropies(*args, compute_entropy=True)
        with _aside():
            wanted = trainer._get_per_token_logps_and_entropies(*args, compute_entropy=True)
    for found, values in zip(own, wanted, strict=True):
        if values is not None:
            torch.testing.assert_close(found, values, rtol=0, atol=1e-5)
    for name, values in zip(cpu_step.SAMPLED, wanted, strict=False):
        torch.testing.assert_close(batch[name], values, rtol=0, atol=1e-5)  # the sampler's
    assert own[0].shape == batch["completion_ids"].shape


def _skipped(trainer, batch):
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    trainer._inputs = batch
    return trainer._without_gradient(mask, batch["completion_ids"].shape[1])[0]


def test_rows_without_advantage_are_left_out_where_nothing_else_acts_on_them(tmp_path):
    trainer = _trainer(tmp_path)
    [batch] = _batches(trainer)
    flat = (batch["advantages"] == 0).all(1)
    assert flat.any()
    assert not flat.all()
    for advantages in (batch["advantages"], batch["advantages"][:, 0]):  # (B, T), and TRL's own (B,)
        assert torch.equal(_skipped(trainer, {**batch, "advantages": advantages}), flat)
    for name, value in (("beta", 0.1), ("_entropy_bonus_enabled", True)):
        with mock.patch.object(trainer, name, value):
            assert not _skipped(trainer, batch).any()
    assert not _skipped(trainer, {**batch, "old_per_token_logps": batch["advantages"]}).any()
    assert not _skipped(trainer, {k: v for k, v in batch.items() if k not in cpu_step.SAMPLED}).any()
    with torch.no_grad():
        assert not _skipped(trainer, batch).any()
    nothing = {**batch, "advantages": torch.zeros_like(batch["advantages"])}
    assert (~_skipped(trainer, nothing)).sum() == 1
    _, gradient, _ = _step(trainer, [nothing], _own())
    assert not gradient.any()  # and there is one, of every parameter


def test_settings_that_the_sampler_does_not_follow_leave_the_sampling_to_trl(tmp_path):
    trainer = _trainer(tmp_path)
    trainer.generation_config.min_p = 0.1
    assert (trainer.sampler, trainer.training_pass) == ("transformers", "own")
    with mock.patch.object(llama_sampler, "sample", side_effect=AssertionError):
        [batch] = _batches(trainer)
    assert not set(cpu_step.SAMPLED) & set(batch)
    losses, gradient, _ = _step(trainer, [batch], _own())
    wanted_losses, wanted, _ = _step(trainer, [batch], _aside())
    assert losses == pytest.approx(wanted_losses, rel=1e-5, abs=1e-7)
    assert (gradient - wanted).norm() <= 1e-5 * wanted.norm()


def test_the_pass_is_trls_where_its_rule_says(tmp_path):
    trainer = _trainer(tmp_path)
    for name in ("bf16", "fp16"):
        with mock.patch.object(trainer.args, name, True):
            assert trainer.training_pass == "trl"
    with mock.patch.object(trainer, "max_completion_length", 4096):
        assert trainer.training_pass == "trl"
    trainer.model.gradient_checkpointing_enable()
    assert trainer.training_pass == "trl"


# What is overridden, with what TRL hands to it; and where TRL calls it.
DOORS = {
    "_generate_single_turn": (
        "self prompt_ids images multimodal_fields num_generations has_tool_images",
        GRPOTrainer._generate,
        "self._generate_single_turn(\n                prompt_ids, images, multimodal_fields, num_generations\n",
    ),
    "_get_per_token_logps_and_entropies": (
        "self model input_ids attention_mask logits_to_keep batch_size compute_entropy compute_aux_loss "
        "pixel_values image_grid_thw num_images pixel_attention_mask spatial_shapes num_tiles image_sizes "
        "token_type_ids mm_token_type_ids image_position_ids",
        GRPOTrainer._compute_loss,
        "per_token_logps, entropies, aux_loss = self._get_per_token_logps_and_entropies(",
    ),
}


@pytest.mark.parametrize("name", DOORS)
def test_trls_doors_are_where_they_were(name):
    parameters, caller, call = DOORS[name]
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == parameters.split()
    assert call in inspect.getsource(caller)


@pytest.mark.parametrize("half", [False, True])
def test_attention_by_products_is_the_models_on_rows_padded_on_the_right(half):
    torch.manual_seed(0)
    size = {"vocab_size": 30, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**size, num_attention_heads=6, num_key_value_heads=2))
    # Of the collator that makes the warm start's batches.
    rows = [
        {"input_ids": [3, 4, 5, 6, 7], "labels": [3, 4, 5, 6, 7]},
        {"input_ids": [8, 9], "labels": [8, 9]},
    ]
    batch = DataCollatorForLanguageModeling(pad_token_id=0)(rows)
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0]]
    found = []
    for how in (nullcontext(), causal_attention(model)):
        model.zero_grad()
        with how, torch.autocast("cpu", torch.bfloat16, enabled=half):  # as a warm start's
            loss = model(**batch).loss
        loss.backward()
        found.append([loss, *(p.grad for p in model.parameters())])
    assert model.config._attn_implementation == "sdpa"
    for own, wanted in zip(*found[::-1], strict=True):
        if half:
            assert (own - wanted).norm() <= 0.02 * wanted.norm()
        else:
            torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-7)


def test_products_are_fast_only_where_they_are_32_bit():
    assert linear_precision() in ("medium", "highest")
    left, right = torch.randn(2, 512, 512, generator=torch.Generator().manual_seed(1))
    wanted = left.double() @ right.double()
    with products(linear_precision()):
        assert (left @ right - wanted).norm() <= 1e-6 * wanted.norm()
    assert torch.get_float32_matmul_precision() == "highest"
    with mock.patch.object(float32_products, "EXACT", 1e-12):  # as where they are bfloat16
        assert linear_precision.__wrapped__() == "highest"


def test_on_a_gpu_sampling_is_our_own_and_the_pass_trls(tmp_path):
    trainer = _trainer(tmp_path, "grpo")
    with mock.patch.object(cpu_step, "sampled_by", return_value="own on cuda"):
        found = trainer.sampler, trainer.training_pass, trainer.float32_products
        assert found == ("own on cuda", "trl", "highest")
        assert set(cpu_step.SAMPLED) <= set(_batches(trainer)[0])
