"""What each arm does, drawn and as a table of means."""

import pandas as pd
import pytest
from matplotlib.text import Text

from hicra.errors import HicraError
from hicra.study.experiments import CONDITIONS
from hicra.study.figures.equation_effects import PANELS, PARTS, arm_table, equation_effects

WORLD = "families: a test, not a language model"


def _values(arms, seeds=(1, 2, 3)):
    """Every quantity of an arm is the arm's number plus a hundredth of the seed's, so differences are exact."""
    columns = (
        *PANELS,
        "mean_reward",
        "final_accuracy_06",
        "final_accuracy_1",
        "strategies",
        "within_families",
    )
    columns = dict.fromkeys((*columns, "marked_connectives", "planning", "tokens", "weight"))
    index = pd.MultiIndex.from_product([arms, seeds], names=["arm", "seed"])
    return pd.DataFrame({c: [arms[arm] + seed / 100 for arm, seed in index] for c in columns}, index=index)


def _points(ax):
    """x of every point by its row's label."""
    labels = [ax.yaxis.get_major_formatter()(y) for y in ax.get_yticks()]  # not all panels show them
    points = [line for line in ax.lines if line.get_marker() == "o"]
    return {labels[round(line.get_ydata()[0])]: line.get_xdata()[0] for line in points}


def test_each_arm_is_drawn_against_grpo_and_the_parts_add_up():
    arms = {"grpo": 0.0, "hicra": 0.5, "scaled": 0.2, "yoked": 0.1, "easy-grpo": 9.0, "placebo": -0.3}
    *panels, last = equation_effects(_values(arms), WORLD, list(CONDITIONS)).axes
    for ax in panels:
        assert _points(ax) == pytest.approx(
            {"HICRA": 0.5, "Scaled": 0.2, "Yoked": 0.1, "Placebo HICRA": -0.3}
        )
    parts = _points(last)
    assert list(parts) == list(PARTS)
    *single, whole = parts.values()
    assert sum(single) == pytest.approx(whole) == pytest.approx(0.5)


def test_a_point_of_two_seeds_is_hollow_and_without_a_whisker():
    full, few = (_values({"grpo": 0.0, "hicra": 1.0}, seeds) for seeds in ((1, 2, 3), (1, 2)))
    for values, n_lines in ((full, 3), (few, 2)):  # point, whisker, zero
        ax = equation_effects(values, WORLD, list(CONDITIONS)).axes[0]
        assert len(ax.lines) == n_lines


def test_arms_keep_the_order_of_the_conditions_and_their_seeds():
    table = arm_table(_values({"placebo": 1.0, "grpo": 0.0, "hicra": 2.0}, (1, 2)), list(CONDITIONS))
    assert table["arm"].tolist() == ["grpo", "hicra", "placebo"]
    assert table["seeds"].tolist() == [2, 2, 2]
    assert table["tokens"].tolist() == [0.015, 2.015, 1.015]


def test_without_a_baseline_it_says_so():
    with pytest.raises(HicraError, match="no run of arm 'grpo'"):
        equation_effects(_values({"hicra": 1.0}), WORLD, ["hicra"])
    with pytest.raises(HicraError, match="no run of an arm beside 'grpo'"):
        equation_effects(_values({"grpo": 1.0}), WORLD, list(CONDITIONS))


def test_a_panel_without_a_value_is_left_out_and_named():
    values = _values({"grpo": 0.0, "hicra": 1.0})
    values[["steps_to_half", "steps_above_half"]] = float("nan")
    figure = equation_effects(values, WORLD, list(CONDITIONS))
    assert [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes] == [
        *("Neutral words", "Planning tokens", "Length"),
        "Gain in parts",
    ]
    told = " ".join(text.get_text() for text in figure.findobj(Text))
    assert "No run tells: Steps to V = 1/2, From there to 0.7." in " ".join(told.split())
