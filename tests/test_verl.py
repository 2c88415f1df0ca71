"""HICRA in verl itself: its groups, its transfer queue, its losses, and two steps on a cluster of two nodes.

`make verl` runs this in an environment of its own; in the study's there is no verl.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("verl", reason="verl's pins differ from the study's: make verl")

import numpy as np
import pandas as pd
import ray
import torch
import transfer_queue as tq
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from ray.cluster_utils import Cluster
from verl import DataProto
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils.config import omega_conf_to_dataclass, validate_config
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from hicra.errors import HicraError
from hicra.verl.credit import token_credit
from hicra.verl.reward import compute_score
from hicra.verl.settings import SEQUENCE_LOSSES, read_settings
from hicra.verl.trainer import HicraTrainer

ROOT = Path(__file__).parent.parent
GRPO = ["algorithm.adv_estimator=grpo", "algorithm.norm_adv_by_std_in_grpo=false"]
TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


@pytest.fixture(scope="module")
def home():
    """A home folder of Ray's own; its path is short, for Ray's sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="r") as folder, pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "RAY_TMPDIR"):
            patch.setenv(name, folder)
        patch.setenv("TRANSFER_QUEUE_ENABLE", "1")
        yield Path(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The made world's policy with a chat template, which verl asks for."""
    folder = tmp_path_factory.mktemp("base") / "base"
    shutil.copytree(ROOT / "data" / "families" / "base", folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def _config(*overrides):
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=[*GRPO, *overrides])


@pytest.fixture(scope="module")
def trainer(base):
    """The trainer as verl makes it, before it starts workers."""
    made = get_trainer_cls("hicra")(
        _config(
            f"actor_rollout_ref.model.path={base}", "+hicra.lexicon=families", "actor_rollout_ref.rollout.n=2"
        )
    )
    made._init_tokenizer()
    return made


@pytest.fixture
def completions(trainer):
    """Four completions of two prompts, interleaved as verl's balancing leaves them, with their rewards."""
    gram = trainer.gram_finder.lexicon.grams[0]
    texts = [f"{gram} 3 + 4 = 7", "3 + 4 = 8", f"3 = 3 . {gram}", "7"]
    ids = [trainer.tokenizer(text)["input_ids"] for text in texts]
    return ids, [1.0, 0.0, 0.0, 0.0], ["a", "b", "a", "b"]


def _padded(rows, dtype):
    tensors = [torch.tensor(row, dtype=dtype) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)  # (B, T)


def test_the_trainer_is_verls_own_for_its_mode(trainer):
    assert get_trainer_cls("hicra") is HicraTrainer
    assert trainer.trainer_mode == "sync"


def test_on_a_dataproto_with_interleaved_groups(trainer, completions):
    """Group "a" has rewards 1 and 0: 0.5 becomes 0.6, -0.5 becomes -0.4, on planning tokens; "b" has none."""
    ids, rewards, uids = completions
    mask = _padded([[1] * len(row) for row in ids], torch.long)  # (B, T)
    scores = _padded([[0.0] * (len(row) - 1) + [r] for row, r in zip(ids, rewards, strict=True)], torch.float)
    data = DataProto.from_dict(
        tensors={"responses": _padded(ids, torch.long), "response_mask": mask, "token_level_rewards": scores},
        non_tensors={"uid": np.array(uids, dtype=object)},
    )
    data = compute_advantage(data, adv_estimator="grpo", norm_adv_by_std_in_grpo=False)
    planning = trainer.tagger(data.batch["responses"], mask)  # (B, T)
    found = token_credit(data.batch["advantages"], planning, alpha=0.2)  # (B, T)
    own = mask.bool()
    wanted = torch.tensor([0.5, 0.0, -0.5, 0.0])[:, None] + planning * torch.tensor([0.1, 0, 0.1, 0])[:, None]
    torch.testing.assert_close(found, wanted * own)
    assert [row.any().item() for row in planning] == [True, False, True, False]
    assert not (planning | ~own)[0].all()


@pytest.mark.usefixtures("home")
def test_through_a_real_transfer_queue(trainer, completions):
    """The step of the trainer, with a tool's tokens, a row that verl added, and keys in any order."""
    ids, rewards, uids = completions
    masks = [[1] * len(row) for row in ids]
    masks[1][:2] = [0, 0]  # what a tool wrote
    ids, masks, rewards, uids = [*ids, [2]], [*masks, [0]], [*rewards, 0.0], [*uids, "pad"]
    fields = [
        {
            "uid": uid,
            "prompts": torch.tensor([1, 2]),
            "responses": torch.tensor(row),
            "response_mask": torch.tensor(mask),
            "rm_scores": torch.tensor([0.0] * (len(row) - 1) + [reward]),
        }
        for uid, row, mask, reward in zip(uids, ids, masks, rewards, strict=True)
    ]
    keys = [f"{uid}_{i}_0" for i, uid in enumerate(uids)]
    metrics = {}
    ray.init(num_cpus=8, include_dashboard=False, object_store_memory=2**28)
    try:
        storage = {"total_storage_size": 100, "num_data_storage_units": 2}
        tq.init(OmegaConf.create({"backend": {"storage_backend": "SimpleStorage", "SimpleStorage": storage}}))
        batch = tq.kv_batch_put(
            keys=keys, partition_id="train", fields=list_of_dict_to_tensordict(fields), tags=[{}] * len(keys)
        )
        trainer._compute_advantage(batch, metrics)
        order = [3, 0, 4, 2, 1]
        back = tq.kv_batch_get(
            keys=[keys[i] for i in order], partition_id="train", select_fields=["advantages"]
        )
        found = back.to_padded_tensor()["advantages"][torch.tensor(order).argsort()]  # (B, T)
    finally:
        tq.close()
        ray.shutdown()
    own = _padded(masks, torch.bool)  # (B, T)
    planning = trainer.tagger(_padded(ids, torch.long), own)  # (B, T)
    plain = torch.tensor([0.5, 0.0, -0.5, 0.0, 0.0])[:, None] * own
    assert torch.equal(found, token_credit(plain, planning, alpha=0.2))
    changed = planning[[0, 2]].sum().item()
    assert metrics["hicra/changed_share"] == changed / own.sum().item() > 0
    assert metrics["hicra/planning_share"] == planning.sum().item() / own.sum().item()
    assert metrics["hicra/occurrences"] >= 2
    assert metrics["hicra/semantic_entropy"] >= 0


@pytest.mark.parametrize("name", sorted(set(POLICY_LOSS_REGISTRY) - {"bypass_mode"}))
def test_which_losses_have_a_ratio_of_each_token(name):
    """Two tokens of one completion: raising the first's advantage must leave the second's gradient alone.

    And a change of the second's log-probability must leave the first's gradient alone, where ratios are 1 or not.
    """
    actor = _config(
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1",
        "actor_rollout_ref.actor.policy_loss.dro_beta=1.0",
    ).actor_rollout_ref.actor
    actor = omega_conf_to_dataclass(actor)

    def gradient(advantages, logps):
        now, old = torch.tensor([logps], requires_grad=True), torch.tensor([[-1.0, -1.0]])
        loss, _ = POLICY_LOSS_REGISTRY[name](
            old, now, torch.tensor([advantages]), torch.ones(1, 2), loss_agg_mode="token-mean", config=actor
        )
        return torch.autograd.grad(loss, now)[0][0]

    plain = gradient([1.0, 1.0], [-0.99, -0.98])
    raised, moved = gradient([1.2, 1.0], [-0.99, -0.98]), gradient([1.0, 1.0], [-0.99, -0.95])
    by_token = (
        torch.isclose(raised[1], plain[1]) and torch.isclose(moved[0], plain[0]) and raised[0] != plain[0]
    )
    assert bool(by_token) == (name not in SEQUENCE_LOSSES)


def test_verls_own_defaults_are_refused_by_name():
    with pytest.raises(HicraError, match="algorithm.norm_adv_by_std_in_grpo=true"):
        HicraTrainer(_config("+hicra.lexicon=listing1", "algorithm.norm_adv_by_std_in_grpo=true"))
    with pytest.raises(HicraError, match="hicra.lexicon is missing"):
        HicraTrainer(_config())
    with pytest.raises(HicraError, match="listing2"):
        HicraTrainer(_config("+hicra.lexicon=listing2"))


def _recipe(arm):
    """The configuration that the documented command trains with."""
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "--config-dir", "docs/recipes"]
    command += ["--config-name", "verl_qwen3_4b", f"hicra.arm={arm}", "--cfg", "job"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return OmegaConf.create(done.stdout[done.stdout.index("actor_rollout_ref:") :])


def test_the_recipe_is_one_that_verl_and_hicra_accept():
    made = {arm: _recipe(arm) for arm in ("hicra", "grpo")}
    for arm, config in made.items():
        assert read_settings(config).arm == arm
        for nodes in (1, 2):
            config.trainer.nnodes = nodes
            validate_config(config, use_reference_policy=False, use_critic=False)
    lines = [OmegaConf.to_yaml(config).splitlines() for config in made.values()]
    differ = [pair for pair in zip(*lines, strict=True) if len(set(pair)) > 1]
    assert differ == [("  arm: hicra", "  arm: grpo")]


def test_the_recipes_reward_is_one_for_the_right_box():
    answers = {r"so \boxed{\frac12}": 1.0, r"\boxed{3}": 0.0, "0.5": 0.0}
    found = {text: compute_score("math", text, r"\frac{1}{2}") for text in answers}
    assert found == answers


# What turns any recipe into two steps that a CPU can make; `cpu` is the stand-ins' rollout engine.
TWO_STEPS = """
    trainer.v1.trainer_mode=hicra +hicra.lexicon=families +hicra.alpha=0.2
    trainer.nnodes=2 trainer.n_gpus_per_node=1 trainer.device=cpu trainer.logger=[file]
    trainer.total_training_steps=2 trainer.val_before_train=false trainer.resume_mode=disable
    data.train_batch_size=4 data.max_prompt_length=64 data.max_response_length=24 data.dataloader_num_workers=0
    actor_rollout_ref.model.use_remove_padding=false
    +actor_rollout_ref.model.override_config.attn_implementation=sdpa
    actor_rollout_ref.actor.strategy=fsdp2 actor_rollout_ref.actor.optim.lr=1e-3
    actor_rollout_ref.actor.ppo_mini_batch_size=4 actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4
    actor_rollout_ref.actor.use_torch_compile=false actor_rollout_ref.actor.fsdp_config.use_torch_compile=false
    actor_rollout_ref.rollout.name=cpu actor_rollout_ref.rollout.n=2
    actor_rollout_ref.rollout.tensor_model_parallel_size=1 actor_rollout_ref.rollout.agent.num_workers=2
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4 actor_rollout_ref.rollout.free_cache_engine=false
    reward.num_workers=1 reward.custom_reward_function.name=compute_score
    reward.custom_reward_function.path=pkg://tests.verl_stand_ins
    transfer_queue.backend.SimpleStorage.num_data_storage_units=2
"""
NODE = {
    "num_cpus": 8,
    "num_gpus": 1,
    "object_store_memory": 2**28,
}  # so they say; with fewer CPUs the queue hangs


@pytest.fixture
def two_nodes(home, monkeypatch, tmp_path):
    """The address of a Ray cluster of two nodes of this host, whose workers load the stand-ins."""
    for name, value in {
        "PYTHONPATH": str(ROOT),
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": "tests.verl_stand_ins",
        "VERL_FILE_LOGGER_PATH": str(tmp_path / "metrics.jsonl"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        cluster.add_node(**NODE)
        yield cluster.address
    finally:
        cluster.shutdown()


def _sums(path):
    rows = [
        {
            "data_source": "sums",
            "prompt": [{"role": "user", "content": f"{i} + {i + 1} = ?"}],
            "reward_model": {"style": "rule", "ground_truth": str(2 * i + 1)},
            "extra_info": {"index": i},
        }
        for i in range(8)
    ]
    pd.DataFrame(rows).to_parquet(path)
    return path


def test_two_steps_on_two_nodes(base, two_nodes, tmp_path):
    """verl's own command, found by its plugin: FSDP over both nodes, agent and reward loops, queue, weight sync."""
    sums = _sums(tmp_path / "sums.parquet")
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *GRPO, *TWO_STEPS.split()]
    command += [f"data.train_files={sums}", f"data.val_files={sums}", f"actor_rollout_ref.model.path={base}"]
    command += [f"trainer.default_local_dir={tmp_path}", f"+ray_kwargs.ray_init.address={two_nodes}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=840, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    steps = [data for line in lines if "hicra/planning_share" in (data := json.loads(line)["data"])]
    assert len(steps) == 2
    for step in steps:
        assert 0 < step["hicra/changed_share"] <= step["hicra/planning_share"] < 1
        assert step["hicra/semantic_entropy"] >= 0
        # What the actor was given, alpha |A| more than verl's own, which stays behind as returns.
        assert step["critic/advantages/mean"] > step["critic/returns/mean"]
        assert step["actor/grad_norm"] > 0
        assert step["timing_s/hicra"] < step["timing_s/step"]
        assert (
            step["training/off_policy/trajectory_staleness_worst/max"] == 0
        )  # sampled with the last weights
