"""HicraMixin through TRL's own door: what the loss does with credit, and what is refused or mentioned first."""

import subprocess
import sys
import warnings
from types import SimpleNamespace

from hicra.study.policy import unsloth_models  # noqa: F401  (before TRL)

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from trl import DPOTrainer, GRPOConfig, GRPOTrainer, RLOOTrainer
from trl.experimental.a2po import A2POTrainer
from trl.experimental.async_grpo import AsyncGRPOTrainer
from trl.experimental.gmpo import GMPOTrainer

from hicra import Lexicon, PlanningTagger
from hicra.batches import cut_padding, own_tokens, positions_are_relative, taggable
from hicra.errors import HicraError
from hicra.files import data_root
from hicra.study.profiles import get_profile
from hicra.study.record.run_folder import RunFolder
from hicra.study.training.recorder import Recorder
from hicra.study.training.reward import VerifiedAnswer
from hicra.study.training.study_trainer import StudyMixin
from hicra.trainer import HicraMixin

pytestmark = pytest.mark.filterwarnings("default")
TOKEN_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo")
PROMPTS = ["What is 2 times 3?", "Go."]  # two lengths: the second is padded
LEXICON = Lexicon.from_grams(["let us try", "we know that"])
COMPLETIONS = [  # two groups of two, one right and one wrong in each
    " let us try 2 and 3. so 6",
    " we know that it is so",
    " so",
    " we see. let us try to see that it is 5",
]
REWARDS = [1.0, 0.0, 1.0, 0.0]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(data_root() / "families/base", padding_side="left")


STUDY = ("plan", "observed_tagger", "statistics", "reward", "recorder")  # what StudyMixin takes


def tiny_model(tokenizer):
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **size, **ids, bos_token_id=None))


def rollouts(completions, env_masks=None):
    """TRL's interface for rollouts made elsewhere: always these completions, with an end each."""

    def rollout(prompts, trainer):
        tokenizer = trainer.processing_class
        ids = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in completions]
        made = {"prompt_ids": tokenizer(prompts)["input_ids"], "completion_ids": ids, "logprobs": None}
        return made | ({"env_mask": env_masks(tokenizer)} if env_masks else {})

    return rollout


class Watched:
    """Below the mixin: keeps the log-probabilities of each loss, for their gradients, and the scored batch."""

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if found[0].requires_grad:
            found[0].retain_grad()
            self.logps = found[0]
        return found

    def _compute_loss(self, model, inputs):
        self.inputs = inputs
        return super()._compute_loss(model, inputs)


class Plain(Watched, GRPOTrainer):
    """GRPO."""


class Hicra(HicraMixin, Watched, GRPOTrainer):
    """HICRA."""


def make(cls, tokenizer, out, *, completions=COMPLETIONS, env_masks=None, extra=None, model=None, **config):
    study = {name: config.pop(name) for name in STUDY if name in config}
    arguments = GRPOConfig(
        **{
            "output_dir": str(out),
            "per_device_train_batch_size": 4,
            "num_generations": 2,
            "max_completion_length": 32,
            "max_steps": 1,
            "scale_rewards": "none",
            "shuffle_dataset": False,
            "save_strategy": "no",
            "report_to": [],
            "use_cpu": True,
            "bf16": False,
            "disable_tqdm": True,
            "gradient_checkpointing": False,
            **config,
        }
    )
    mine = {"planning_tagger": PlanningTagger(LEXICON, tokenizer)}
    mine |= study or {"alpha": 0.5}
    return cls(
        model=model or tiny_model(tokenizer),
        processing_class=tokenizer,
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": p, "answer": "6", "problem": ""} for p in PROMPTS]),
        **({} if study else {"reward_funcs": lambda completions, **_: REWARDS}),
        rollout_func=rollouts(completions, env_masks),
        **(mine if issubclass(cls, HicraMixin) else {}),
        **(extra or {}),
    )


def step(cls, tokenizer, out, **options):
    trainer = make(cls, tokenizer, out, **options)
    torch.manual_seed(0)  # of the shuffle
    trainer.train()
    return trainer


# --- the loss's door ---


@pytest.mark.parametrize("old", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("loss", TOKEN_LOSSES)
def test_credit_reaches_each_token_s_gradient(tokenizer, tmp_path, loss, old):
    """Relative to GRPO exactly 1.5 in a success and 0.5 in a failure on planning tokens, and 1 elsewhere."""
    options = {"loss_type": loss, "num_iterations": 2} if old else {"loss_type": loss}
    if loss == "cispo":
        options["epsilon_high"] = 5.0
    plain, hicra = (step(cls, tokenizer, tmp_path, **options) for cls in (Plain, Hicra))
    kept = plain.inputs["completion_mask"].bool()  # (B, T)
    assert torch.equal(plain.inputs["completion_ids"], hicra.inputs["completion_ids"])
    planning = PlanningTagger(LEXICON, tokenizer)(plain.inputs["completion_ids"], kept)
    positive = plain.inputs["advantages"][:, None] > 0
    wanted = torch.where(planning, torch.where(positive, 1.5, 0.5), 1.0)  # (B, T)
    ratio = hicra.logps.grad / plain.logps.grad
    torch.testing.assert_close(ratio[kept], wanted[kept], rtol=1e-5, atol=0)
    for sign in (positive, ~positive):
        assert (planning & sign).any()
        assert (kept & ~planning & sign).any()


@pytest.mark.parametrize("loss", TOKEN_LOSSES)
def test_a_loss_that_weighs_sequences_is_refused_by_its_setting(tokenizer, tmp_path, loss):
    with pytest.raises(HicraError, match=r"importance_sampling_level='sequence'.*='token'"):
        make(Hicra, tokenizer, tmp_path, loss_type=loss, importance_sampling_level="sequence")


def test_a_loss_of_sequences_would_be_plain_grpo(tokenizer, tmp_path):
    """What is refused above: the gradient is the same on planning and on execution tokens."""

    class Unchecked(Hicra):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.importance_sampling_level = "sequence"

    with pytest.raises(HicraError, match=r"Unchecked \(loss_type='dapo'\) does not weigh each token"):
        step(Unchecked, tokenizer, tmp_path)


class Averaged(GRPOTrainer):
    """Someone's loss: it takes (B, T) advantages and makes one of each row."""

    def _compute_loss(self, model, inputs):
        if inputs["advantages"].ndim > 1:
            inputs = {**inputs, "advantages": inputs["advantages"].mean(1)}
        return super()._compute_loss(model, inputs)


class Halved(GRPOTrainer):
    """Someone's loss that still weighs tokens."""

    def _compute_loss(self, model, inputs):
        return super()._compute_loss(model, inputs) / 2


class Aside(GRPOTrainer):
    """Someone's loss that scores the tokens by itself."""

    def _compute_loss(self, model, inputs):
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        return model(ids).logits.mean() + 0 * inputs["advantages"].sum()


def test_a_loss_of_one_s_own_is_tried_at_the_first_step(tokenizer, tmp_path):
    with pytest.raises(HicraError, match="does not weigh each token by its own advantage"):
        step(type("Mine", (HicraMixin, Averaged), {}), tokenizer, tmp_path)
    assert step(type("Mine", (HicraMixin, Halved), {}), tokenizer, tmp_path).state.global_step == 1
    with pytest.warns(UserWarning, match="was not checked"):
        step(type("Mine", (HicraMixin, Aside), {}), tokenizer, tmp_path)


def test_the_trial_of_the_loss_leaves_no_trace(tokenizer, tmp_path, monkeypatch):
    options = {"use_adaptive_entropy": True, "entropy_coef": 0.01}
    tried = step(Hicra, tokenizer, tmp_path, **options)
    monkeypatch.setattr("hicra.trainer.check_loss", lambda *_: None)
    untried = step(Hicra, tokenizer, tmp_path, **options)
    assert vars(tried).keys() == vars(untried).keys()
    for one, two in zip(tried.state.log_history, untried.state.log_history, strict=True):
        assert {k: v for k, v in one.items() if "time" not in k and "second" not in k} == {
            k: v for k, v in two.items() if "time" not in k and "second" not in k
        }
    assert tried.entropy_coef == untried.entropy_coef


@pytest.mark.parametrize("parent", [RLOOTrainer, DPOTrainer, A2POTrainer, AsyncGRPOTrainer, GMPOTrainer])
def test_another_trainer_is_refused_when_the_class_is_made(parent):
    with pytest.raises(
        HicraError, match=rf"Mine\(HicraMixin, {parent.__name__}\).*\(HicraMixin, GRPOTrainer\)"
    ) as raised:
        type("Mine", (HicraMixin, parent), {})
    assert "\n" not in str(raised.value)


def test_the_mixin_must_stand_before_the_trainer():
    with pytest.raises(HicraError, match=r"Mine\(GRPOTrainer, HicraMixin\)"):
        type("Mine", (GRPOTrainer, HicraMixin), {})
    type("Part", (HicraMixin,), {})  # a mixin on top of it is no trainer yet


# --- what is mentioned ---


def _said(record, words):
    return [str(w.message) for w in record if words in str(w.message)]


def test_a_lexicon_that_matches_nothing_is_mentioned_once(tokenizer, tmp_path):
    completions = [" so 6", " so 5", " so 1", " so 2"]
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        step(Hicra, tokenizer, tmp_path, completions=completions, max_steps=2)
    [said] = _said(record, "planning token")
    assert "of the first 4 completions" in said
    assert "build_lexicon" in said
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        step(Hicra, tokenizer, tmp_path)
    assert _said(record, "planning token") == []


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"scale_rewards": "group"}, "scale_rewards='group'"),
        ({"scale_rewards": True}, "scale_rewards='group'"),
        ({"scale_rewards": "batch"}, "scale_rewards='batch'"),
        (
            {"multi_objective_aggregation": "normalize_then_sum"},
            "multi_objective_aggregation='normalize_then_sum'",
        ),
        ({"scale_rewards": False}, None),
        ({}, None),
    ],
)
def test_division_by_a_standard_deviation_is_mentioned_once(tokenizer, tmp_path, setting, said):
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        step(Hicra, tokenizer, tmp_path, **setting)
    found = _said(record, "standard deviation")
    assert len(found) == (said is not None)
    assert said is None or found[0].startswith(said)


# --- tokens that a tool wrote ---

TOOL = ["we know", " that it is 7", " so"]  # the middle one is a tool's: it completes the policy's gram


def _turns(tokenizer, parts, tools, ends=()):
    """Ids and TRL's mask of a completion made of parts, those in `tools` written by a tool; `ends` end a turn."""
    ids, mask = [], []
    for i, part in enumerate(parts):
        new = tokenizer(part)["input_ids"] + [tokenizer.eos_token_id] * (i in ends)
        ids, mask = ids + new, mask + [int(i not in tools)] * len(new)
    return ids, mask


def _batch(ids, mask):
    ids, mask = torch.tensor([ids]), torch.tensor([mask])  # (1, T)
    return {"completion_ids": ids, "completion_mask": torch.ones_like(ids), "tool_mask": mask}


def _tag(tokenizer, batch):
    tagger = PlanningTagger(LEXICON, tokenizer)
    return tagger(batch["completion_ids"], taggable(batch, tokenizer.eos_token_id))[0].tolist()


def test_a_tool_s_text_does_not_complete_a_gram(tokenizer):
    ids, mask = _turns(tokenizer, TOOL, tools=[1])
    assert not any(_tag(tokenizer, _batch(ids, mask)))
    assert any(_tag(tokenizer, _batch(ids, [1] * len(ids))))  # the same written by the policy
    # Nor does the policy's text on both sides make one across it, and a gram of the tool's own is none.
    assert not any(_tag(tokenizer, _batch(*_turns(tokenizer, ["we know", " x", " that"], tools=[1]))))
    assert not any(_tag(tokenizer, _batch(*_turns(tokenizer, ["so", " we know that", " so"], tools=[1]))))


def test_an_end_before_a_tool_s_answer_ends_a_turn_and_no_more(tokenizer):
    ids, mask = _turns(
        tokenizer, ["let us try", " 7", " we know that", " let us try"], tools=[1], ends=[0, 2]
    )
    planning = _tag(tokenizer, _batch(ids, mask))
    lengths = [len(tokenizer(part)["input_ids"]) for part in ("let us try", " 7", " we know that")]
    second = lengths[0] + 1 + lengths[1]
    assert all(planning[: lengths[0]])
    assert not any(planning[lengths[0] : second])
    assert all(planning[second : second + lengths[2]])
    assert not any(planning[second + lengths[2] :])  # behind the last end


def _env_masks(tokenizer):
    """The second word of each completion's gram is a tool's."""
    masks = []
    for text in COMPLETIONS:
        ids = tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]
        masks.append([0 if 0 < i < 3 else 1 for i in range(len(ids))])
    return masks


def test_the_trainer_gives_no_credit_to_a_gram_that_a_tool_completed(tokenizer, tmp_path):
    trainer = step(Hicra, tokenizer, tmp_path, env_masks=_env_masks)
    plain = step(Plain, tokenizer, tmp_path, env_masks=_env_masks)
    own = own_tokens(plain.inputs)
    assert (~own & plain.inputs["completion_mask"].bool()).any()
    planning = PlanningTagger(LEXICON, tokenizer)(plain.inputs["completion_ids"], own)
    assert planning.any()
    changed = (trainer.inputs["advantages"] != plain.inputs["advantages"][:, None]) & own
    assert torch.equal(changed, planning & own)


class Study(StudyMixin, Watched, GRPOTrainer):
    """The study's trainer."""


def test_the_record_counts_the_policy_s_tokens_alone(tokenizer, tmp_path):
    run = RunFolder(tmp_path / "run")
    run.open({"arm": "hicra", "steps": 1}, condition="hicra")
    recorder = Recorder(run)
    recorder.close_step = lambda *args, **kwargs: None
    reward = VerifiedAnswer(group_size=2, ends=[tokenizer.eos_token_id], prefilled_think=False, explain=None)
    trainer = make(
        Study,
        tokenizer,
        tmp_path,
        env_masks=_env_masks,
        plan=SimpleNamespace(
            profile=get_profile("families", alpha=0.5, rollouts_kept=4), arm="hicra", observed=LEXICON
        ),
        observed_tagger=PlanningTagger(LEXICON, tokenizer),
        statistics=lambda model, batch: [torch.ones_like(batch["completion_ids"]).float()] * 2,
        reward=reward,
        recorder=recorder,
    )
    trainer.train()
    n_own = sum(map(sum, _env_masks(tokenizer)))
    row = recorder.row
    assert row["length_sum"] == n_own == row["n_planning"] + row["n_execution"]
    assert row["grams"] == {
        "let us try": 1
    }  # of the last completion, whose gram stands behind the tool's tokens
    kept = run.read("rollouts.jsonl")
    assert [len(r["tokens"]) for r in kept] == [sum(mask) for mask in _env_masks(tokenizer)]
    assert all(len(r["planning"]) == len(r["logp"]) == len(r["tokens"]) for r in kept)


# --- padding ---


def _padded_batch(model, tokenizer):
    """Two rows of a wider step: prompts with 5 columns too many, completions with 4."""
    draw = torch.Generator().manual_seed(0)
    pad, n_prompt, n_completion = tokenizer.pad_token_id, 11, 10
    prompts = torch.randint(5, 600, (2, n_prompt), generator=draw)
    completions = torch.randint(5, 600, (2, n_completion), generator=draw)
    prompt_mask, completion_mask = torch.zeros_like(prompts), torch.zeros_like(completions)
    for row, (p, c) in enumerate([(6, 3), (2, 6)]):
        prompt_mask[row, n_prompt - p :], completion_mask[row, :c] = 1, 1
    ratio = 0.95 + torch.rand(2, n_completion, generator=draw) / 10
    return {
        "prompt_ids": prompts.where(prompt_mask.bool(), pad),
        "prompt_mask": prompt_mask,
        "completion_ids": completions.where(completion_mask.bool(), pad),
        "completion_mask": completion_mask,
        "advantages": torch.randn(2, n_completion, generator=draw),
        "num_items_in_batch": completion_mask.sum(),
        "old_per_token_logps": -6.4 - torch.rand(2, n_completion, generator=draw) / 10,
        "tool_mask": torch.randint(0, 2, (2, n_completion), generator=draw),
        "importance_sampling_ratio": ratio.where(completion_mask.bool(), 1.0),
    }


@pytest.mark.parametrize("loss", TOKEN_LOSSES)
@pytest.mark.parametrize("left_out", ["", "old_per_token_logps", "tool_mask"])
def test_a_micro_batch_is_computed_without_the_step_s_padding(tokenizer, tmp_path, loss, left_out):
    trainer = make(Hicra, tokenizer, tmp_path, loss_type=loss, epsilon_high=5.0)
    trainer._first_loss, trainer.current_gradient_accumulation_steps = False, 1
    batch = _padded_batch(trainer.model, tokenizer)
    batch.pop(left_out, None)
    results = []
    for compute in (trainer._compute_loss, trainer.compute_loss):
        trainer.model.zero_grad()
        value = compute(trainer.model, dict(batch))
        value.backward()
        results.append((value.detach(), {n: p.grad.clone() for n, p in trainer.model.named_parameters()}))
    assert trainer.inputs["prompt_ids"].shape == (2, 6)
    assert trainer.inputs["completion_ids"].shape == (2, 6)
    (whole, wanted), (cut, found) = results
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-7)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-7)
    assert max(g.abs().max() for g in wanted.values()) > 1e-4


def test_the_cut_keeps_multiples_and_what_it_does_not_know(tokenizer):
    batch = _padded_batch(None, tokenizer)
    cut = cut_padding(batch, prompts=True, multiple=4)
    assert (cut["prompt_ids"].shape[1], cut["completion_ids"].shape[1]) == (8, 8)
    whole = cut_padding({**batch, "my_token_weights": torch.ones(2, 10)}, prompts=True)
    assert whole["completion_ids"].shape[1] == 10
    assert cut_padding(batch, prompts=False)["prompt_ids"].shape[1] == 11
    empty = {**batch, "completion_mask": torch.zeros_like(batch["completion_mask"])}  # all were truncated
    assert cut_padding(empty, prompts=True)["completion_ids"].shape[1] == 10
    ids = torch.arange(21).expand(2, -1)
    cut = cut_padding({**batch, "token_type_ids": ids}, prompts=True)["token_type_ids"]
    assert cut[0].tolist() == list(range(5, 17))


def test_old_log_probabilities_packed_by_unsloth_are_cut_with_their_rows(tokenizer):
    from hicra.credit import align_to_packed

    batch = _padded_batch(None, tokenizer)
    left_pad = (batch["prompt_mask"] == 0).sum(1)  # 5 and 9; the step's longest had no padding
    values = batch["old_per_token_logps"]
    packed = {**batch, "old_per_token_logps": align_to_packed(values, left_pad, 10 + 10)}  # m = 10
    cut = cut_padding(packed, prompts=True)
    wanted = align_to_packed(values[:, :6], left_pad - 5, 6 + 10 - 5)
    kept = align_to_packed(batch["completion_mask"][:, :6], left_pad - 5, 6 + 10 - 5).bool()
    assert torch.equal(cut["old_per_token_logps"][kept], wanted[kept])
    assert cut["old_per_token_logps"].shape == wanted.shape


def test_prompts_keep_their_padding_where_positions_are_learned(tokenizer):
    assert positions_are_relative(tiny_model(tokenizer))
    assert not positions_are_relative(
        GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9))
    )
    longer = tiny_model(tokenizer)
    longer.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0}
    assert not positions_are_relative(longer)


# --- a machine without a GPU ---

WITHOUT_UNSLOTH = """
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import GRPOConfig, GRPOTrainer
from hicra import Lexicon, PlanningTagger
from hicra.files import data_root
from hicra.trainer import HicraMixin

class HicraTrainer(HicraMixin, GRPOTrainer):
    pass

print("MADE")
tokenizer = AutoTokenizer.from_pretrained(data_root() / "families/base", padding_side="left")
size = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
HicraTrainer(
    model=LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **size)), processing_class=tokenizer,
    args=GRPOConfig("OUT", use_cpu=True, bf16=False, report_to=[], scale_rewards="none"),
    train_dataset=Dataset.from_list([{"prompt": "Go."}] * 8), reward_funcs=lambda completions, **_: [0.0] * 8,
    planning_tagger=PlanningTagger(Lexicon.load("listing1"), tokenizer),
)
print("TRAINER")
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has TRL's own loss")
@pytest.mark.parametrize("first", ["", "import unsloth\n"], ids=["without unsloth", "after unsloth"])
def test_a_loss_that_cannot_run_here_is_told_before_anything_is_trained(root, tmp_path, first):
    done = subprocess.run(
        [sys.executable, "-c", first + WITHOUT_UNSLOTH.replace("OUT", str(tmp_path / "out"))],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "MADE" in done.stdout
    told = "write `import unsloth` above the first import of trl"
    if first:
        assert done.returncode == 0, done.stderr[-2000:]
        assert told not in done.stderr
        return
    assert done.returncode == 1
    assert done.stderr.count(told) == 2  # when the class is made, and in the last line, by which it ends
    assert told in done.stderr.splitlines()[-1]
    assert "TRAINER" not in done.stdout
    assert not (tmp_path / "out").exists()
