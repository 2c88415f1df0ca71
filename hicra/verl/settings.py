"""What `hicra:` in verl's configuration may say, and recipes under which HICRA would be something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from hicra.credit import ARMS, check_alpha
from hicra.errors import HicraError

# Arms that look at one completion at a time. verl knows groups by `uid` and reorders rows, so what needs
# adjacent groups does not carry over; next-token entropies are not there when advantages are made.
ROW_ARMS = ("hicra", "grpo", "symmetric")
SEQUENCE_LOSSES = ("gspo", "geo_mean")  # one ratio a completion; tests/test_verl.py tries every loss of verl


@dataclass(frozen=True)
class Settings:
    """The keys of `hicra:`.

    `lexicon` is the name of a shipped lexicon, or a file at the same path on every node. `divide_by_std=true`
    says that advantages divided by their group's standard deviation are meant, which is not the paper's.
    """

    lexicon: str
    alpha: float = 0.2
    arm: str = "hicra"
    divide_by_std: bool = False


def read_settings(config: Mapping) -> Settings:
    """The settings in verl's whole configuration (a DictConfig, or dicts), and a check of the recipe around.

    Raises HicraError, which names the key and the remedy, for a setting that is missing, unknown or out of
    range, and for a recipe that is not GRPO with one ratio a token.
    """
    given = dict(config.get("hicra") or {})
    known = [field.name for field in fields(Settings)]
    if unknown := sorted(set(given) - set(known)):
        raise HicraError(f"hicra.{unknown[0]} is not a setting; there are {', '.join(known)}")
    if not given.get("lexicon"):
        raise HicraError(
            "hicra.lexicon is missing; name a shipped lexicon or a file: +hicra.lexicon=listing1"
        )
    settings = Settings(**given)
    if not isinstance(settings.alpha, int | float):
        raise HicraError(f"hicra.alpha={settings.alpha!r} is not a number; the paper's is 0.2")
    try:
        check_alpha(settings.alpha)
    except ValueError as error:
        raise HicraError(f"hicra.{error}") from error
    _check_arm(settings.arm)
    _check_recipe(config, settings)
    return settings


def _check_arm(arm: str) -> None:
    if arm in ROW_ARMS:
        return
    known = "needs its group beside it, entropies or other settings, which verl does not give"
    why = known if arm in ARMS else "is unknown"
    raise HicraError(f"hicra.arm={arm!r} {why}; choose one of {', '.join(ROW_ARMS)}")


def _check_recipe(config: Mapping, settings: Settings) -> None:
    algorithm, actor = config["algorithm"], config["actor_rollout_ref"]["actor"]
    if (estimator := str(algorithm["adv_estimator"])) != "grpo":
        raise HicraError(
            f"algorithm.adv_estimator={estimator}: HICRA changes GRPO's advantage; "
            "set algorithm.adv_estimator=grpo"
        )
    if algorithm.get("norm_adv_by_std_in_grpo", True) and not settings.divide_by_std:
        raise HicraError(
            "algorithm.norm_adv_by_std_in_grpo=true (verl's default) divides advantages by a standard "
            "deviation, which the paper does not do; set it to false, or +hicra.divide_by_std=true if meant"
        )
    if (loss := actor["policy_loss"]["loss_mode"]) in SEQUENCE_LOSSES:
        raise HicraError(
            f"actor_rollout_ref.actor.policy_loss.loss_mode={loss} has one ratio a completion, so credit for "
            "tokens would be lost; set it to vanilla"
        )
