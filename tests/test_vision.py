"""Batches with pictures: a tiny Idefics3 trained, scored, recorded and resumed by the study's own parts."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from hicra.study.policy import generation, unsloth_models

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from PIL import Image
from transformers import AutoTokenizer, Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from trl import GRPOTrainer

from hicra import Lexicon
from hicra.batches import cut_padding, some_rows
from hicra.dynamics.token_statistics import token_statistics
from hicra.files import data_root
from hicra.planning.tagger import SpanTagger
from hicra.study.profiles import get_profile
from hicra.study.record.run_folder import RunError, RunFolder
from hicra.study.training.messages import plain_text
from hicra.study.training.recorder import Recorder
from hicra.study.training.reward import VerifiedAnswer, _check_groups
from hicra.study.training.run import grpo_config
from hicra.study.training.study_trainer import RecordCallback, StudyMixin
from hicra.trainer import HicraMixin

pytestmark = pytest.mark.filterwarnings("default")
TEMPLATE = (
    "{% for m in messages %}{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>"
    "{% else %}Problem: {{ p['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}\nSolution:{% endif %}"
)
PICTURES = ("pixel_values", "pixel_attention_mask", "num_images")
QUESTIONS = ("What is A?", "What is A times B, and which is the larger of the two?")  # two lengths


@pytest.fixture(scope="module", autouse=True)
def _no_torchvision():
    """transformers asks for torchvision before it hands out this class, which does not use it."""
    with pytest.MonkeyPatch.context() as patch:
        name = "Idefics3ImageProcessorPil"
        patch.setitem(vars(transformers.models.idefics3), name, Idefics3ImageProcessorPil)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a vision-language model of two layers and its processor, with random weights."""
    tokenizer = AutoTokenizer.from_pretrained(data_root() / "families/base")
    tokens = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**size, "model_type": "llama", "vocab_size": len(tokenizer), "num_key_value_heads": 2}
    text |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    config = Idefics3Config(
        text_config=text,
        vision_config={**size, "image_size": 64, "patch_size": 8},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Idefics3ForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    edge = {"longest_edge": 64}
    pictures = Idefics3ImageProcessorPil(do_image_splitting=False, size=edge, max_image_size=edge)
    folder = tmp_path_factory.mktemp("idefics3")
    model.save_pretrained(folder)
    Idefics3Processor(pictures, tokenizer, image_seq_len=16, chat_template=TEMPLATE).save_pretrained(folder)
    return folder


def _picture(seed, size):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def _rows(n):
    return [
        {
            "prompt": [{"role": "user", "content": QUESTIONS[i % 2]}],
            "images": [_picture(i, (32, 48)), _picture(100 + i, (64, 64))][: 1 + i % 2],
            "answer": "7",
            "problem": "",
        }
        for i in range(n)
    ]


class Thirds(VerifiedAnswer):
    """Rewards a third of all completions, whatever they say: an untrained model is never right."""

    def __call__(self, *args, completion_ids, **columns):
        super().__call__(*args, completion_ids=completion_ids, **columns)
        rewards = [float(i % 3 == 0) for i in range(len(completion_ids))]
        self.graded = self.graded._replace(rewards=torch.tensor(rewards))
        return rewards


class Keeping(StudyMixin, GRPOTrainer):
    """The study's trainer; keeps the last scored batch."""

    def credit(self, batch):
        self.batch = dict(batch)
        return super().credit(batch)

    def their_statistics(self):
        """TRL's own log-probabilities and entropies of that batch."""
        batch = self.batch
        with torch.no_grad():
            return self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
                torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
                batch["completion_ids"].shape[1],
                compute_entropy=True,
                **{name: batch[name] for name in PICTURES},
            )[:2]


def _trainer(base, out, rows_per_pass=4):
    profile = get_profile(
        "families",
        steps=2,
        prompts_per_step=2,
        group_size=4,
        max_completion_length=12,
        rows_per_pass=rows_per_pass,
        checkpoint_every=1,
        warmup_steps=0,
        rollouts_kept=2,
    )
    model, processor = unsloth_models.load_policy(base, lora_rank=0, seed=0)
    run = RunFolder(out)
    if not run.path.exists():
        run.open({"arm": "hicra", "steps": 2}, condition="hicra")
    recorder, lexicon = Recorder(run), Lexicon.from_grams(["the"])
    tagger = SpanTagger(lambda text: [(0, len(text) // 2)], processor.tokenizer)  # some of any completion
    return Keeping(
        model=model,
        processing_class=processor,
        args=grpo_config(
            profile, "hicra", 0, run.path / "checkpoints", never=unsloth_models.picture_tokens(model)
        ),
        train_dataset=Dataset.from_list(_rows(4)),
        callbacks=[RecordCallback(recorder, dict, every=100)],
        plan=SimpleNamespace(profile=profile, arm="hicra", observed=lexicon),
        planning_tagger=tagger,
        observed_tagger=tagger,
        statistics=partial(token_statistics, temperature=1.0, rows=3),
        reward=Thirds(
            group_size=4, ends=[processor.tokenizer.eos_token_id], prefilled_think=False, explain=None
        ),
        recorder=recorder,
    )


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    trainer = _trainer(base, tmp_path_factory.mktemp("runs") / "whole")
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    return trainer, before


def _numbers(trainer):
    rows = trainer.recorder.folder.read("steps.jsonl")
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_two_steps_train_both_halves_of_the_model(trained):
    trainer, before = trained
    changed = {name for name, w in trainer.model.named_parameters() if not torch.equal(w, before[name])}
    assert any("vision" in name for name in changed)
    assert any("text_model.layers" in name for name in changed)
    rows = _numbers(trainer)
    assert [(row["step"], row["n_completions"], row["n_groups"]) for row in rows] == [(0, 8, 2), (1, 8, 2)]
    assert all(row["grad_norm"] > 0 and row["n_credit_changed"] > 0 for row in rows)


def test_prompts_differ_in_length_and_pictures_in_number_and_size(trained):
    batch = trained[0].batch
    assert len(set(batch["prompt_mask"].sum(1).tolist())) == 2  # so the shorter ones are padded on the left
    assert batch["num_images"] == [1] * 4 + [2] * 4
    assert not batch["pixel_attention_mask"].all()  # there is no second picture
    assert {picture.size for row in _rows(2) for picture in row["images"]} == {(48, 32), (64, 64)}


def test_statistics_see_the_pictures(trained):
    trainer, _ = trained
    done, (theirs, their_entropies) = trainer.batch["completion_mask"].bool(), trainer.their_statistics()
    for rows in (8, 3, 1):
        logps, entropies = token_statistics(trainer.model, trainer.batch, temperature=1.0, rows=rows)
        torch.testing.assert_close(logps[done], theirs[done], rtol=0, atol=2e-5)
        torch.testing.assert_close(entropies[done], their_entropies[done], rtol=0, atol=2e-5)
    blind = {k: v for k, v in trainer.batch.items() if k not in PICTURES}
    logps, _ = token_statistics(trainer.model, blind, temperature=1.0)
    assert (logps - theirs)[done].abs().max() > 0.01  # what leaving the pictures out would give


def test_a_part_of_a_batch_has_its_own_pictures(trained):
    batch = trained[0].batch
    part = some_rows(batch, slice(4, 6))
    assert torch.equal(part["pixel_values"], batch["pixel_values"][4:6])
    assert part["num_images"] == [2, 2]
    cut = cut_padding(part, prompts=True)
    assert cut["prompt_mask"].all(1).any()
    assert torch.equal(cut["pixel_values"], part["pixel_values"])


def test_the_record_holds_texts_and_hashes_of_pictures(trained):
    rows = trained[0].recorder.folder.read("rollouts.jsonl")
    assert len(rows) == 4
    for row in rows:
        assert row["prompt"].startswith("<image ")
        assert row["prompt"].endswith(QUESTIONS[0])
        assert isinstance(row["completion"], str)
    json.dumps(rows)


def test_equal_pictures_have_one_text_and_other_pictures_another():
    one, same, other = _picture(0, (8, 8)), _picture(0, (8, 8)), _picture(0, (4, 16))
    prompts = [
        [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "Q"}]}]
        for picture in (one, same, other)
    ]
    texts = [plain_text(prompt) for prompt in prompts]
    assert texts[0] == texts[1] != texts[2]
    assert one.tobytes() == other.tobytes()  # the same bytes in another shape


def test_groups_of_other_pictures_are_still_refused(trained):
    prompts = [
        plain_text([{"role": "user", "content": [{"type": "image", "image": _picture(i, (8, 8))}]}])
        for i in range(4)
    ]
    with pytest.raises(RunError, match="parts of groups"):
        _check_groups(prompts, 4)


def test_no_completion_draws_a_picture_s_token(trained):
    trainer, _ = trained
    [token] = unsloth_models.picture_tokens(trainer.model)
    assert trainer.args.generation_kwargs == {"suppress_tokens": [token]}
    assert trainer.model.config.image_token_id == token
    assert not (trainer.batch["completion_ids"] == token).any()


def test_micro_batches_of_any_size_give_one_step(base, trained, tmp_path):
    wanted = _numbers(trained[0])[0]
    for rows in (8, 2, 1):
        trainer = _trainer(base, tmp_path / str(rows), rows)
        trainer.args.max_steps = 1
        trainer.train()
        [found] = _numbers(trainer)
        assert found == {
            k: pytest.approx(v, rel=1e-4, abs=1e-6) if isinstance(v, float) else v for k, v in wanted.items()
        }


def test_a_run_goes_on_from_its_checkpoint(base, trained, tmp_path):
    first = _trainer(base, tmp_path / "run")
    first.args.max_steps = 1
    first.train()
    again = _trainer(base, tmp_path / "run")
    again.train(resume_from_checkpoint=str(Path(first.args.output_dir) / "checkpoint-1"))
    assert _numbers(again) == _numbers(trained[0])
    for (name, ours), (_, whole) in zip(
        again.model.named_parameters(), trained[0].model.named_parameters(), strict=True
    ):
        assert torch.equal(ours, whole), name


def test_unsloth_s_loss_gets_advantages_as_they_are_where_it_does_not_pack(trained):
    # unsloth_zoo packs to the left where there are no pixels, and only there.
    class Unsloths:
        def compute_loss(self, model, inputs):
            return inputs["advantages"]

    trainer = type("Mine", (HicraMixin, type("UnslothGRPOTrainer", (Unsloths,), {})), {})
    mine = object.__new__(trainer)
    mine.model, mine.args, mine._first_loss = trained[0].model, trained[0].args, True
    batch = {**trained[0].batch, "advantages": torch.randn(trained[0].batch["completion_ids"].shape)}
    width = int(batch["completion_mask"].sum(1).max())
    assert torch.equal(mine.compute_loss(None, batch), batch["advantages"][:, :width])
    text = {k: v for k, v in batch.items() if k not in PICTURES}
    assert mine.compute_loss(None, text).shape[1] > width


def test_an_adapter_leaves_the_vision_alone(base):
    model, _ = unsloth_models.load_policy(base, lora_rank=2, seed=0)
    adapted = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert adapted
    assert not any("vision" in name for name in adapted)


def test_the_cache_is_counted_by_the_text_half(trained):
    config = trained[0].model.config
    assert generation.cache_bytes(config, 4) == 2 * 2 * 2 * 16 * 4  # keys and values, layers, heads, width
