"""Unsloth's trainer against plain TRL and PEFT: the same loss and gradients on the same batch.

On a GPU Unsloth has its own trainer, kernels and layout; `make gpu` compares them. Without a GPU the same script
shows that two ways to load the model agree, and that the test can fail.
"""

import pytest
import torch

from hicra.files import data_root
from tests.gpu.steps import engines, gradient_difference

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    if torch.cuda.is_available():
        pytest.skip("on a GPU `make gpu` says more")
    return engines(data_root() / "families/base", tmp_path_factory.mktemp("parity"), "unsloth", "trl")


def test_both_ways_to_load_a_model_give_the_same_steps(found):
    one, two = found
    assert list(one["steps"]) == [(rows, old) for rows in (4, 2, 1) for old in (False, True)]
    for case, step in one["steps"].items():
        other = two["steps"][case]
        assert step["loss"] == pytest.approx(other["loss"], rel=TOLERANCE)
        assert gradient_difference(step["gradients"], other["gradients"]) <= TOLERANCE


def test_passes_of_fewer_rows_give_the_same_step(found):
    whole = found[0]["steps"][4, False]
    for step in found[0]["steps"].values():
        assert step["loss"] == pytest.approx(whole["loss"], rel=TOLERANCE)
        assert gradient_difference(step["gradients"], whole["gradients"]) <= TOLERANCE


def test_other_gradients_would_be_told(found):
    gradients = found[0]["steps"][4, False]["gradients"]
    louder = {name: 1.1 * value for name, value in gradients.items()}
    assert gradient_difference(louder, gradients) == pytest.approx(0.1, rel=1e-4)
    assert gradient_difference(dict(list(gradients.items())[1:]), gradients) == float("inf")


def test_an_entropy_bonus_takes_the_mean_entropy_from_the_loss(found):
    assert found[0]["bonus"] == pytest.approx(-found[0]["entropy"], rel=TOLERANCE)
    assert found[0]["entropy"] > 0.5
