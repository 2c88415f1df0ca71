"""Figures of the controls: the numbers are read back out of what was drawn."""

import numpy as np
import pandas as pd
import pytest

from hicra.study.figures import arm_comparisons as figures
from hicra.study.figures.style import seed_counts
from tests.test_figures import WORLD, _line, _texts, make

ARMS = ("grpo", "hicra", "oracle")


@pytest.fixture
def frames():
    frame, evals = make(arms=ARMS)
    return frame.assign(token_entropy=0.5, group_solved=0.9), evals


def test_curves_draw_one_panel_a_quantity_and_one_line_an_arm(frames):
    columns = ("semantic_entropy", "accuracy", "token_entropy")
    figure = figures.curves(*frames, WORLD, columns=columns, arms=ARMS, title="All")
    assert [ax.get_ylabel() for ax in figure.axes] == [figures.CURVES[c] for c in columns]
    entropy, accuracy, tokens = figure.axes
    np.testing.assert_allclose(_line(entropy, "GRPO"), [5.01, 5.11, 5.21])  # seeds 0.02 apart
    np.testing.assert_allclose(_line(tokens, "GRPO"), [0.5] * 3)
    assert WORLD in _texts(figure)


def test_final_accuracies_are_paired_by_seed():
    index = pd.MultiIndex.from_product([("grpo", "hicra"), (0, 1, 2)], names=["arm", "seed"])
    values = pd.DataFrame({"final_accuracy": [0.4, 0.5, 0.6, 0.5, 0.6, 0.7]}, index=index)
    figure = figures.final_accuracies(values, WORLD, arms=("grpo", "hicra"))
    level, gap = figure.axes

    def drawn(ax, row):  # an arm's points, then the diamond of its mean
        lines = [line.get_xydata() for line in ax.lines]  # (n, 2) each
        return [xy[:, 0] for xy in lines if len(xy) and (np.floor(xy[:, 1]) == row).all()]

    np.testing.assert_allclose(drawn(level, 1)[0], [0.5, 0.6, 0.7])
    np.testing.assert_allclose(drawn(level, 1)[1], [0.6])
    np.testing.assert_allclose(drawn(gap, 1)[0], [0.1] * 3)
    assert [t.get_text() for t in level.get_yticklabels()] == ["GRPO", "HICRA"]
    assert all("share" in ax.get_xlabel() for ax in figure.axes)


def test_the_grid_has_a_row_an_arm(frames):
    figure = figures.grid(*frames, WORLD, arms=("grpo", "hicra"))
    panels = [ax for ax in figure.axes if ax.get_ylabel().endswith("perplexity / first (ratio)")]
    assert [ax.get_ylabel().split("\n")[0] for ax in panels] == ["GRPO", "HICRA"]
    np.testing.assert_allclose(_line(panels[0], "planning"), [1, 0.75, 0.5])
    entropies = [ax for ax in figure.axes if ax.get_ylabel().startswith("token entropy")]
    np.testing.assert_allclose(_line(entropies[1], "planning"), [1.31] * 3)
    assert entropies[0].get_ylim() == entropies[1].get_ylim()  # rows are to be compared


def test_lexicon_sensitivity_draws_measure_and_credit(frames):
    frame, _ = make(arms=("hicra", "drop30"))
    rows = [(s, seed, d, 0.1 * s + 0.01 * d) for s in range(3) for seed in (0, 1) for d in range(3)]
    measured = pd.DataFrame(rows, columns=["step", "seed", "draw", "semantic_entropy_change"])
    figure = figures.lexicon_sensitivity(frame, measured, WORLD, arms=("hicra", "drop30"))
    left, right = figure.axes
    np.testing.assert_allclose(_line(left, "all grams"), [0, 0.1, 0.2])
    np.testing.assert_allclose(_line(left, "70 % of the grams"), [0.01, 0.11, 0.21])
    np.testing.assert_allclose(_line(left, "_draw"), [0.02, 0.12, 0.22])
    np.testing.assert_allclose(_line(right, "HICRA, 30 %"), [0, 0.1, 0.2])
    assert WORLD in _texts(figure)


def test_a_share_s_axis_ends_at_one(frames):
    frame, evals = frames
    frame = frame.assign(group_solved=[0.97, 1.0, 1.0] * (len(frame) // 3))
    figure = figures.curves(frame, evals, WORLD, columns=("group_solved",), arms=ARMS, title="t")
    assert figure.axes[0].get_ylim()[1] <= 1.01


def test_frequencies_are_shares_by_rank():
    counts = {"tokens": {"a": 1, "b": 3}, "Strategic Grams": {"x y z": 2, "x y w": 2}}
    [ax] = figures.frequencies(counts, WORLD).axes
    np.testing.assert_allclose(_line(ax, "tokens"), [0.75, 0.25])
    np.testing.assert_allclose(_line(ax, "Strategic Grams"), [0.5, 0.5])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_the_boundary_has_a_panel_a_base(frames):
    _, evals = make(arms=("grpo", "hicra", "weak-grpo", "weak-hicra"))
    evals.loc[evals["arm"].str.startswith("weak"), "accuracy"] -= 0.4
    pairs = {"base": ("grpo", "hicra"), "weak": ("weak-grpo", "weak-hicra")}
    figure = figures.boundary(evals, WORLD, pairs=pairs)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["base", "weak"]
    np.testing.assert_allclose(_line(figure.axes[0], "GRPO"), [0.41, 0.61])
    np.testing.assert_allclose(_line(figure.axes[1], "HICRA, weak"), [0.01, 0.21])
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    for ax in figure.axes:
        (low, high), drawn = ax.get_ylim(), np.concatenate([line.get_ydata() for line in ax.lines])
        assert low < drawn.min() < drawn.max() < high


@pytest.mark.parametrize("name", ["curves", "grid", "boundary"])
def test_an_arm_that_was_not_run_is_named(frames, name):
    call = {
        "curves": lambda: figures.curves(*frames, WORLD, columns=["length"], arms=["gated"], title="t"),
        "grid": lambda: figures.grid(*frames, WORLD, arms=["gated"]),
        "boundary": lambda: figures.boundary(frames[1], WORLD, pairs={"b": ("grpo", "gated")}),
    }
    with pytest.raises(ValueError, match="no run of arm .'gated'."):
        call[name]()


def test_seeds_are_told_once_where_they_are_the_same():
    rows = [{"arm": arm, "seed": seed} for arm in ("grpo", "hicra", "gated") for seed in (0, 1)]
    assert seed_counts(pd.DataFrame(rows)) == "n = 2 for every arm"
    assert seed_counts(pd.DataFrame(rows[:-1])) == "Gated n = 1, GRPO n = 2, HICRA n = 2"
