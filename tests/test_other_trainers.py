"""docs/other_trainers.md: its snippets on stand-ins of the other projects' classes, and credit with torch alone."""

import asyncio
import re
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

PROGRAM = """
import sys, torch
before = set(sys.modules)
import hicra.credit
a, mask = torch.tensor([0.5, -0.5]), torch.tensor([[True, False]] * 2)
print({m.split(".")[0] for m in set(sys.modules) - before} - sys.stdlib_module_names,
      hicra.credit.hicra_advantages(a, mask, 0.2).tolist())
"""


def test_credit_needs_torch_and_nothing_else(root):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=root, capture_output=True, text=True, check=True
    )
    loaded, found = done.stdout.split("} ")
    assert loaded == "{'hicra'"
    torch.testing.assert_close(torch.tensor(eval(found)), torch.tensor([[0.6, 0.5], [-0.4, -0.5]]))


@pytest.fixture(scope="module")
def snippets(root):
    found = re.findall(r"```python\n(.*?)```", (root / "docs" / "other_trainers.md").read_text(), re.DOTALL)
    return [snippet.replace("Qwen/Qwen3-4B-Base", str(root / "data/families/base")) for snippet in found]


@pytest.fixture
def names(snippets):
    """What the first snippet defines, with a tagger that marks token 7."""
    made: dict = {}
    exec(snippets[0], made)
    made["tagger"] = lambda ids, mask: (ids == 7) & mask.bool()
    return made


# Two completions, (B, T) with one token of padding, their masks, and what HICRA makes of A = 0.5 and -0.5.
IDS, MASK = [[7, 3, 7], [7, 3, 0]], [[1, 1, 1], [1, 1, 0]]
WANTED = torch.tensor([[0.6, 0.5, 0.6], [-0.4, -0.5, 0.0]])
PLAIN = torch.tensor([[0.5, 0.5, 0.5], [-0.5, -0.5, 0.0]])


def _stand_in(monkeypatch, name, **members):
    """A module of this name, with the packages above it."""
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        module = ModuleType(".".join(parts[:i]))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        if i > 1:
            setattr(sys.modules[".".join(parts[: i - 1])], parts[i - 1], module)
    vars(module).update(members)
    return module


def test_the_tagger_of_the_page_is_real(snippets):
    made: dict = {}
    exec(snippets[0], made)
    mask = torch.ones(1, 3, dtype=torch.long)
    assert made["tagger"](torch.tensor([[5, 6, 7]]), mask).shape == (1, 3)


def test_prime_rl(snippets, names):
    exec(snippets[1], names)
    rollouts = [
        {
            "reward": reward,
            "trajectory": [{"tokens": {"completion_ids": ids[:n], "completion_mask": mask[:n]}}],
        }
        for reward, ids, mask, n in zip([1.0, 0.0], IDS, MASK, [3, 2], strict=True)
    ]
    found = names["hicra_group"](SimpleNamespace(rollouts=rollouts))
    assert [len(row) for row in found] == [3, 2]
    for row, wanted in zip(found, WANTED, strict=True):
        torch.testing.assert_close(torch.tensor(row), wanted[: len(row)])


def test_verifiers(snippets, names, monkeypatch):
    class Orchestrator:
        async def generate_batch(self, batch_id):
            micro = SimpleNamespace(
                input_ids=[[7, *ids] for ids in IDS],
                loss_mask=[[0, *mask] for mask in MASK],
                advantages=[[0.5] * 4, [-0.5] * 4],
            )
            return SimpleNamespace(microbatches=[[micro]])

    _stand_in(monkeypatch, "verifiers.rl.trainer.orchestrator", Orchestrator=Orchestrator)
    exec(snippets[2], names)
    [[micro]] = asyncio.run(Orchestrator().generate_batch(0)).microbatches
    torch.testing.assert_close(torch.tensor(micro.advantages)[:, 1:], WANTED)
    assert torch.tensor(micro.advantages)[:, 0].eq(0).all()  # the prompt


def test_openrlhf(snippets, names, monkeypatch):
    class RemoteExperienceMaker:
        def compute_advantages_and_returns(self, experiences, **kwargs):
            for made in experiences:
                made.advantages = PLAIN.clone()
            return experiences

    module = _stand_in(
        monkeypatch, "openrlhf.trainer.ppo_trainer", RemoteExperienceMaker=RemoteExperienceMaker
    )
    exec(snippets[3], names)
    made = SimpleNamespace(
        sequences=torch.tensor([[7, *ids] for ids in IDS]), action_mask=torch.tensor(MASK).bool()
    )
    module.RemoteExperienceMaker().compute_advantages_and_returns([made])
    torch.testing.assert_close(made.advantages, WANTED)


def test_skyrl(snippets, names, monkeypatch):
    class RayPPOTrainer:
        def compute_advantages_and_returns(self, data):
            return {**data, "advantages": PLAIN.clone()}

    _stand_in(monkeypatch, "skyrl.train.trainer", RayPPOTrainer=RayPPOTrainer)
    exec(snippets[4], names)
    data = {"sequences": torch.tensor([[7, *ids] for ids in IDS]), "response_mask": torch.tensor(MASK)}
    found = names["HicraTrainer"]().compute_advantages_and_returns(data)
    torch.testing.assert_close(found["advantages"], WANTED)
