"""What tests share. No test downloads anything."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HICRA_CACHE", str(Path(__file__).parent.parent / ".pytest_cache" / "hicra"))

import hicra.study.policy.unsloth_models  # noqa: E402, F401  (before transformers, whichever file is first)

ROOT = Path(__file__).parent.parent
# Test files that train, execute notebooks, build environments or fight hostile input: `make quick` leaves
# them out, `make test` does not and begins with them, the longest first, so that its two processes end together.
SLOW = (
    "test_study",
    "test_smollm2",
    "test_training",
    "test_endings",
    "test_gallery",
    "test_generated_trainer",
    "test_committed_gallery",
    "test_colab",
    "test_preflight",
    "test_parity",
    "test_distributed",
    "test_engine",
    "test_evaluation",
    "test_install",
    "test_hostile",
    "test_cpu_step",
    "test_packing",
    "test_gpu",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)
    place = {name: i for i, name in enumerate(SLOW)}
    items.sort(key=lambda item: place.get(item.path.stem, len(SLOW)))


# The smallest study that still does everything.
SMOKE = {
    "steps": 2,
    "seeds": [0],
    "prompts_per_step": 4,
    "group_size": 4,
    "eval_problems": 16,
    "eval_every": 1,
    "checkpoint_every": 1,
    "warmup_steps": 1,
    "lexicon_rollouts": 192,
}


@pytest.fixture
def smoke():
    return dict(SMOKE)


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def shared():
    """Real traces and benchmarks, beside the project where there are any."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder.relative_to(ROOT.parent)} beside the project")
    return folder
