"""Figures of the controls: the numbers are read back out of what was drawn."""

import numpy as np
import pandas as pd
import pytest

from hicra.study.figures import arm_comparisons as figures
from hicra.study.figures.style import seed_counts
from tests.test_figures import WORLD, _line, _texts, check_type_and_place, make

ARMS = ("grpo", "hicra", "oracle")


@pytest.fixture
def frames():
    frame, evals = make(arms=ARMS)
    return frame.assign(token_entropy=0.5, group_solved=0.9), evals


def test_curves_draw_one_row_a_quantity_arms_and_their_differences(frames):
    columns = ("semantic_entropy", "accuracy", "token_entropy")
    figure = figures.curves(*frames, WORLD, columns=columns, arms=ARMS, title="All")
    levels, gaps = figure.axes[::2], figure.axes[1::2]
    assert [ax.get_ylabel() for ax in levels] == [figures.CURVES[c][0] for c in columns]
    assert [ax.get_ylabel() for ax in gaps] == [f"minus GRPO\n({figures.CURVES[c][1]})" for c in columns]
    np.testing.assert_allclose(_line(levels[0], "GRPO"), [5.01, 5.11, 5.21])  # seeds 0.02 apart
    np.testing.assert_allclose(_line(levels[2], "GRPO"), [0.5] * 3)
    np.testing.assert_allclose(_line(gaps[0], "HICRA"), [0.1] * 3)
    np.testing.assert_allclose(_line(gaps[0], "HICRA, true"), [0] * 3)
    np.testing.assert_allclose(_line(gaps[1], "HICRA"), [0.1] * 2)
    assert WORLD in _texts(figure)


def test_differences_are_paired_by_seed(frames):
    # Seed 1 of GRPO is missing: what seed 0 shows is all there is.
    frame, evals = (f[(f["arm"] != "grpo") | (f["seed"] == 0)] for f in frames)
    frame.loc[frame["seed"] == 1, "length"] = 99
    figure = figures.curves(frame, evals, WORLD, columns=["length"], arms=("grpo", "hicra"), title="t")
    np.testing.assert_allclose(_line(figure.axes[1], "HICRA"), [0] * 3)


def test_one_arm_is_no_comparison(frames):
    with pytest.raises(ValueError, match="a comparison needs two"):
        figures.curves(*frames, WORLD, columns=["length"], arms=["grpo"], title="t")


def test_the_compass_draws_each_metric_with_its_correlations(frames):
    table = pd.DataFrame(
        [
            ("token_entropy", "within runs", 0.4, 0.2, 0.6, 5),
            ("token_entropy", "across runs", np.nan, np.nan, np.nan, 0),
            ("step", "within runs", -0.5, np.nan, np.nan, 1),
        ],
        columns=["metric", "asked", "rho", "low", "high", "seeds"],
    )
    figure = figures.compass(*frames, table, WORLD)
    rows = np.array(figure.axes).reshape(5, 3)
    np.testing.assert_allclose(_line(rows[2, 0], "HICRA"), [5.11, 5.21, 5.31])
    np.testing.assert_allclose(_line(rows[2, 1], "HICRA"), [0.1] * 3)
    [[segment]] = [bar.lines[2][0].get_segments() for bar in rows[0, 2].containers]
    np.testing.assert_allclose(segment[:, 0], [0.2, 0.6])
    assert rows[1, 2].containers == []  # a metric without a value
    assert [bar.lines[0].get_xdata()[0] for bar in rows[4, 2].containers] == [-0.5]
    check_type_and_place(figure)


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
    assert drawn(gap, 0) == []  # GRPO minus itself is no finding
    assert [t.get_text() for t in level.get_yticklabels()] == ["GRPO", "HICRA"]
    assert all("share" in ax.get_xlabel() for ax in figure.axes)


def test_the_grid_has_a_column_an_arm(frames):
    figure = figures.grid(*frames, WORLD, arms=("grpo", "hicra"))
    rows = np.array(figure.axes).reshape(5, 2)
    assert [ax.get_title(loc="left") for ax in rows[0]] == ["GRPO", "HICRA"]
    np.testing.assert_allclose(_line(rows[1, 1], "planning"), [1.31] * 3)
    np.testing.assert_allclose(_line(rows[3, 0], "_accuracy"), [0.41, 0.61])
    for row in rows:  # one scale, which holds what is drawn
        assert row[0].get_ylim() == row[1].get_ylim()
        (low, high), lines = row[0].get_ylim(), [line.get_ydata() for ax in row for line in ax.lines]
        assert low < min(map(min, lines))
        assert max(map(max, lines)) < high
    check_type_and_place(figure)


def test_lexicon_sensitivity_draws_measure_and_credit(frames):
    frame, _ = make(arms=("hicra", "drop30"))
    # Every five steps entropy grows by 1, times 1, 2 and 3 for the draws.
    rows = [(s, seed, d, (d + 1) * (s // 5)) for s in range(15) for seed in (0, 1) for d in range(3)]
    measured = pd.DataFrame(rows, columns=["step", "seed", "draw", "semantic_entropy"])
    figure = figures.lexicon_sensitivity(frame, measured, WORLD, arms=("hicra", "drop30"))
    left, middle, right = figure.axes
    for label, times in (("all grams", 1), ("70 % of them", 2), ("_draw", 3)):
        np.testing.assert_allclose(_line(left, label)[[2, 7, 12]], np.array([0, 1, 2]) * times, atol=1e-12)
    np.testing.assert_allclose(_line(middle, "HICRA, 30 %"), [-0.1, 0, 0.1], atol=1e-12)
    np.testing.assert_allclose(_line(right, "HICRA, 30 %"), [0] * 3, atol=1e-12)
    assert WORLD in _texts(figure)
    check_type_and_place(figure)


def test_a_share_s_axis_ends_at_one(frames):
    frame, evals = frames
    frame = frame.assign(group_solved=[0.97, 1.0, 1.0] * (len(frame) // 3))
    figure = figures.curves(frame, evals, WORLD, columns=("group_solved",), arms=ARMS, title="t")
    assert figure.axes[0].get_ylim()[1] <= 1.01
    check_type_and_place(figure)


def test_frequencies_are_shares_by_rank():
    counts = {"tokens": {"a": 1, "b": 3}, "Strategic Grams": {"x y z": 2, "x y w": 2}}
    [ax] = figures.frequencies(counts, WORLD).axes
    np.testing.assert_allclose(_line(ax, "tokens"), [0.75, 0.25])
    np.testing.assert_allclose(_line(ax, "Strategic Grams"), [0.5, 0.5])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


@pytest.mark.parametrize("name", ["curves", "grid"])
def test_an_arm_that_was_not_run_is_named(frames, name):
    call = {
        "curves": lambda: figures.curves(
            *frames, WORLD, columns=["length"], arms=["grpo", "yoked"], title="t"
        ),
        "grid": lambda: figures.grid(*frames, WORLD, arms=["yoked"]),
    }
    with pytest.raises(ValueError, match="no run of arm .'yoked'."):
        call[name]()


def test_seeds_are_told_once_where_they_are_the_same():
    rows = [{"arm": arm, "seed": seed} for arm in ("grpo", "hicra", "yoked") for seed in (0, 1)]
    assert seed_counts(pd.DataFrame(rows)) == "2 for each arm"
    assert seed_counts(pd.DataFrame(rows[:-1])) == "2 for GRPO, 2 for HICRA, 1 for Yoked"
