"""Dynamics in a trainer's own logs: the numbers are the batch's, and training is not changed."""

from functools import partial
from pathlib import Path

from hicra.study.policy.base_models import load_base

import pytest
import torch
from datasets import Dataset
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trl import GRPOTrainer

from hicra import Lexicon, PlanningTagger
from hicra.dynamics.entropy import rarefied_entropy, shannon_entropy
from hicra.dynamics.live import DynamicsMixin
from hicra.study.profiles import get_profile
from hicra.study.training.plan import plan_run
from hicra.study.training.run import grpo_config
from hicra.trainer import HicraMixin

pytestmark = pytest.mark.filterwarnings("default")
SMALL = {"steps": 1, "prompts_per_step": 2, "group_size": 4, "max_completion_length": 40}


def by_length(completions, **_):
    return [float(len(text) % 7) for text in completions]


class Watched(DynamicsMixin, GRPOTrainer):
    """Keeps the batch that its metrics are of."""

    def _generate_and_score_completions(self, inputs):
        self.batch = super()._generate_and_score_completions(inputs)
        return self.batch


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trainer without and one with the mixin, after a step; the second wrote TensorBoard files too."""
    profile = get_profile("families", **SMALL)
    found = {}
    for name, trainer_class in (
        ("plain", GRPOTrainer),
        ("watched", partial(Watched, dynamics_lexicon="families", match_to=5, token_metrics=True)),
    ):
        model, tokenizer = load_base(profile, lora_rank=0, seed=0)
        args = grpo_config(profile, "grpo", 0, tmp_path_factory.mktemp(name))
        args.report_to = ["tensorboard"] if name == "watched" else []
        found[name] = trainer_class(
            model=model,
            processing_class=tokenizer,
            args=args,
            train_dataset=Dataset.from_list([task.row() for task in plan_run(profile, "grpo", 0).tasks]),
            reward_funcs=by_length,
        )
        found[name].train()
    return found


def test_the_logged_numbers_are_those_of_the_batch(trained):
    logged, batch = trained["watched"].state.log_history[0], trained["watched"].batch
    lexicon, tokenizer = Lexicon.load("families"), trained["watched"].processing_class
    mask = batch["completion_mask"].bool()
    planning = PlanningTagger(lexicon, tokenizer)(batch["completion_ids"], mask)
    assert logged["dynamics/planning_share"] == pytest.approx(planning.sum().item() / mask.sum().item())
    texts = tokenizer.batch_decode(batch["completion_ids"], skip_special_tokens=True)
    grams = [match.gram for text in texts for match in lexicon.find(text)]
    counts = [grams.count(gram) for gram in set(grams)]
    assert logged["dynamics/occurrences"] == len(grams) > 5
    assert logged["dynamics/semantic_entropy"] == pytest.approx(shannon_entropy(counts))
    assert logged["dynamics/semantic_entropy_matched"] == pytest.approx(rarefied_entropy(counts, 5))
    for kind in ("planning", "execution"):
        assert logged[f"dynamics/perplexity_{kind}"] >= 1
        assert logged[f"dynamics/entropy_{kind}"] > 0
    assert logged["dynamics/token_metrics_seconds"] > 0


def test_tensorboard_s_files_hold_them(trained):
    [folder] = Path(trained["watched"].args.output_dir).glob("runs/*")
    written = EventAccumulator(str(folder)).Reload()
    logged = {k: v for k, v in trained["watched"].state.log_history[0].items() if k.startswith("dynamics/")}
    assert len(logged) == 9
    for name, value in logged.items():
        [scalar] = written.Scalars(f"train/{name}")
        assert (scalar.step, scalar.value) == (1, pytest.approx(value))


def test_watching_changes_nothing(trained):
    plain, watched = (trained[name] for name in ("plain", "watched"))
    for name in ("loss", "grad_norm", "reward", "completions/mean_length"):
        assert plain.state.log_history[0][name] == watched.state.log_history[0][name]
    for one, other in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_beside_hicra_the_lexicon_is_the_credit_s(trained, tmp_path):
    profile, tokenizer = get_profile("families", **SMALL), trained["plain"].processing_class
    model = trained["plain"].model

    class Both(DynamicsMixin, HicraMixin, GRPOTrainer):
        pass

    make = partial(
        Both,
        model=model,
        processing_class=tokenizer,
        args=grpo_config(profile, "hicra", 0, tmp_path),
        train_dataset=trained["plain"].train_dataset,
        reward_funcs=by_length,
        planning_tagger=PlanningTagger(Lexicon.load("families"), tokenizer),
    )
    assert make().gram_finder.lexicon == Lexicon.load("families")
    assert make(dynamics_lexicon="listing1").gram_finder.lexicon == Lexicon.load("listing1")


def test_what_a_tool_wrote_is_not_counted(trained):
    watched, lexicon = trained["watched"], Lexicon.load("families")
    ids = watched.processing_class(f"{lexicon.grams[0]}\n", return_tensors="pt")["input_ids"].repeat(
        1, 2
    )  # (1, T)
    mask = torch.ones_like(ids)
    tool = mask.clone()
    tool[:, ids.shape[1] // 2 :] = 0
    watched.token_metrics = False
    both = watched._dynamics({"completion_ids": ids, "completion_mask": mask})
    own = watched._dynamics({"completion_ids": ids, "completion_mask": mask, "tool_mask": tool})
    assert (both["occurrences"], own["occurrences"]) == (2, 1)
    assert both["planning_share"] == own["planning_share"] > 0
