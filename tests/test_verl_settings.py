"""HICRA in verl, the part that needs no verl: settings, refusals, and credit on verl's tensors."""

from pathlib import Path

import pytest
import torch

from hicra.credit import ARMS
from hicra.errors import HicraError, MissingExtraError
from hicra.verl.credit import token_credit
from hicra.verl.settings import ROW_ARMS, Settings, read_settings


@pytest.fixture
def root():  # `make verl` has no conftest
    return Path(__file__).parent.parent


def _config(hicra=None, *, estimator="grpo", std=False, loss="vanilla"):
    return {
        "hicra": {"lexicon": "listing1", **(hicra or {})},
        "algorithm": {"adv_estimator": estimator, "norm_adv_by_std_in_grpo": std},
        "actor_rollout_ref": {"actor": {"policy_loss": {"loss_mode": loss}}},
    }


def test_settings_have_the_papers_defaults():
    assert read_settings(_config()) == Settings("listing1", 0.2, "hicra", False)
    assert read_settings(_config({"divide_by_std": True}, std=True)).divide_by_std


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**_config(), "hicra": None}, r"hicra\.lexicon is missing.*\+hicra\.lexicon=listing1"),
        (
            _config({"alhpa": 0.2}),
            r"hicra\.alhpa is not a setting; there are lexicon, alpha, arm, divide_by_std",
        ),
        (_config({"alpha": 1.5}), r"hicra\.alpha=1\.5 must lie in \[0, 1\)"),
        (_config({"alpha": "much"}), r"hicra\.alpha='much' is not a number"),
        (
            _config({"arm": "released"}),
            r"hicra\.arm='released' needs its group beside it.*choose one of hicra, grpo, symm",
        ),
        (
            _config({"arm": "high_entropy"}),
            r"hicra\.arm='high_entropy' needs its group beside it, entropies",
        ),
        (_config({"arm": "hirca"}), r"hicra\.arm='hirca' is unknown; choose one of hicra, grpo, symmetric"),
        (_config(estimator="gae"), r"algorithm\.adv_estimator=gae: .*set algorithm\.adv_estimator=grpo"),
        (_config(estimator="grpo_passk"), r"algorithm\.adv_estimator=grpo_passk"),
        (
            _config(std=True),
            r"norm_adv_by_std_in_grpo=true .*set it to false, or \+hicra\.divide_by_std=true",
        ),
        (_config(loss="gspo"), r"policy_loss\.loss_mode=gspo has one ratio a completion.*set it to vanilla"),
        (_config(loss="geo_mean"), r"policy_loss\.loss_mode=geo_mean"),
    ],
)
def test_what_would_be_something_else_is_refused_by_name(config, message):
    with pytest.raises(HicraError, match=message):
        read_settings(config)


def test_credit_by_hand():
    """Completions of 3, 2 and 1 tokens; the second row's last token was taken out of the mask."""
    plain = torch.tensor([[0.5, 0.5, 0.5], [-0.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
    planning = torch.tensor([[True, False, True], [True, True, False], [True, False, False]])
    found = token_credit(plain, planning, alpha=0.2)
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.5, 0.6], [-0.4, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    symmetric = token_credit(plain, planning, alpha=0.2, arm="symmetric")
    assert symmetric[1].tolist() == pytest.approx([-0.6, 0.0, 0.0])


@pytest.mark.parametrize("arm", ROW_ARMS)
def test_an_arm_that_is_allowed_relies_on_no_order_of_rows(arm):
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(8, 1, generator=generator) * (torch.rand(8, 5, generator=generator) < 0.8)
    planning, order = torch.rand(8, 5, generator=generator) < 0.5, torch.randperm(8, generator=generator)
    found = token_credit(plain, planning, alpha=0.5, arm=arm)
    assert torch.equal(token_credit(plain[order], planning[order], alpha=0.5, arm=arm), found[order])
    assert arm == "grpo" or not torch.equal(found, plain)
    assert torch.equal(token_credit(plain, planning, alpha=0.0, arm=arm), plain)


def test_every_arm_that_is_allowed_exists():
    assert set(ROW_ARMS) <= set(ARMS)


def test_the_lock_holds_what_make_verl_tests_with(root):
    def read(name):
        lines = (root / "requirements" / name).read_text().splitlines()
        return [line.split(" ;")[0] for line in lines if "==" in line]

    pins, locked = read("verl-tests.in"), read("verl.txt")
    assert set(pins) - set(locked) == {pin for pin in pins if pin.startswith("torch==")}  # installed first
    version = next(pin.split("==")[1] for pin in pins if pin.startswith("verl=="))
    assert f">={version}," in (root / "requirements" / "verl.in").read_text()


def test_without_verl_its_extra_is_named():
    try:
        import verl  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(MissingExtraError, match=r"pip install 'hicra\[verl\]'"):
            import hicra.verl.trainer  # noqa: F401
    else:
        pytest.skip("verl is installed here")
