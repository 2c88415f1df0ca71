"""Figures: the numbers are read back out of what was drawn, and files do not change."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from hicra.study.figures import run_health, training_curves
from hicra.study.figures.style import ARMS, SHARES, faces, fit, seed_lines
from hicra.study.verdicts.windows import change, smooth, start

WORLD = "families: 1.5 M-parameter Llama, not a language model"


def make(seeds=(0, 1), arms=("grpo", "hicra")):
    """Three steps a run; seeds are 0.02 apart and HICRA lies 0.1 above GRPO unless set below.

    Three steps are all of a run's first five, so their mean is its start.
    """
    steps = []
    for arm in arms:
        for seed in seeds:
            up = 0.02 * seed + (0.1 if arm == "hicra" else 0.0)
            for s in range(3):
                steps.append({"arm": arm, "seed": seed, "step": s} | _step(s, up))
    frame = pd.DataFrame(steps)
    evals = frame.loc[frame["step"] != 1, ["arm", "seed", "step"]].copy()
    evals["accuracy"] = 0.4 + frame["semantic_entropy"] - 5
    evals["error_planning"] = 0.6 - 0.1 * evals["step"]
    evals["error_execution"] = 0.2
    return frame, evals


def _step(s, up):
    return {
        "perplexity_planning": 4 - s + up,
        "perplexity_execution": 2.0,
        "entropy_planning": 1.2 + up,
        "entropy_execution": 0.3 + up,
        "semantic_entropy": 5 + 0.1 * s + up,
        "semantic_entropy_matched": 4 - 0.1 * s + up,
        "length": 40 + s,
        "planning_high_entropy": 0.5 - 0.1 * s + up,
        "high_entropy_planning": 0.3 + 0.1 * s + up,
        "planning_share": 0.45,
        "zero_variance": 0.5 + 0.1 * s,
        "clipped": 0.25,
        "no_planning": 0.125 * s,
        "reason_wrong": 0.5 - 0.1 * s,
        "reason_right": 0.4 + 0.1 * s,
        "reason_no_box": 0.1,
        "error_planning": 0.3 - 0.1 * s,
        "error_execution": 0.2,
        "error_planning_share": (0.3 - 0.1 * s) / (0.5 - 0.1 * s),
    }


def _draw(name, frame, evals):
    function = getattr(training_curves, name, None) or getattr(run_health, name)
    needs_evals = name in ("two_phase", "hicra_vs_grpo", "errors")
    return function(frame, evals, WORLD) if needs_evals else function(frame, WORLD)


FIGURES = ["overview", "two_phase", "hicra_vs_grpo", "entropy_overlap", "reasons", "idle", "errors"]


def _line(ax, label):
    exact = [line for line in ax.lines if line.get_label() == label]
    [line] = exact or [line for line in ax.lines if line.get_label().startswith(label)]
    return np.asarray(line.get_ydata())


def _texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(mpl.text.Text))


def test_the_overview_sets_execution_against_strategy():
    above, below = training_curves.overview(make()[0], WORLD).axes
    np.testing.assert_allclose(_line(above, "execution (start 2.00)"), [1, 1, 1])
    np.testing.assert_allclose(_line(below, "plug-in"), [-0.1, 0, 0.1], atol=1e-12)
    np.testing.assert_allclose(_line(below, "size-matched"), [0.1, 0, -0.1], atol=1e-12)
    above.set_xlim(0, 1)
    assert below.get_xlim() == (0, 1)  # one axis of steps
    assert below.get_position().x0 == above.get_position().x0


def test_few_values_are_marked():
    accuracy = training_curves.hicra_vs_grpo(*make(), WORLD).axes[2]
    marked = {line.get_label(): line.get_marker() for line in accuracy.lines}
    assert (marked["GRPO"], marked["HICRA"]) == ("s", "o")  # they differ on a grey printer
    assert marked["_seed"] == "None"


def test_two_phase_draws_the_frame():
    ratio, entropy, semantic, accuracy, length = training_curves.two_phase(*make(), WORLD).axes
    # 4, 3, 2 over their mean, and 4.02, 3.02, 2.02 over theirs
    expected = [(4 / 3 + 4.02 / 3.02) / 2, 1, (2 / 3 + 2.02 / 3.02) / 2]
    np.testing.assert_allclose(_line(ratio, "planning"), expected)
    np.testing.assert_allclose(_line(ratio, "execution"), [1, 1, 1])
    labels = [text.get_text() for text in ratio.get_legend().get_texts()]
    assert labels == ["planning (start 3.01)", "execution (start 2.00)"]
    np.testing.assert_allclose(_line(entropy, "planning"), [1.21] * 3)  # mean of 1.20 and 1.22
    np.testing.assert_allclose(_line(entropy, "execution"), [0.31] * 3)
    np.testing.assert_allclose(_line(semantic, "plug-in"), [-0.1, 0, 0.1], atol=1e-12)
    np.testing.assert_allclose(_line(semantic, "size-matched"), [0.1, 0, -0.1], atol=1e-12)
    np.testing.assert_allclose(_line(accuracy, "_accuracy"), [0.41, 0.61])
    np.testing.assert_allclose(_line(length, "_length"), [40, 41, 42])


def test_idle_draws_what_teaches_little():
    [ax] = run_health.idle(make()[0], WORLD).axes
    np.testing.assert_allclose(_line(ax, "groups whose"), [0.5, 0.6, 0.7])
    np.testing.assert_allclose(_line(ax, "completions cut"), [0.25] * 3)
    np.testing.assert_allclose(_line(ax, "completions without"), [0, 0.125, 0.25])


def test_hicra_vs_grpo_draws_both_arms_and_their_difference():
    plug_in, matched, accuracy, *gaps = training_curves.hicra_vs_grpo(*make(), WORLD).axes
    np.testing.assert_allclose(_line(plug_in, "GRPO"), [5.01, 5.11, 5.21])
    np.testing.assert_allclose(_line(plug_in, "HICRA"), [5.11, 5.21, 5.31])
    np.testing.assert_allclose(_line(matched, "HICRA"), [4.11, 4.01, 3.91])
    np.testing.assert_allclose(_line(accuracy, "GRPO"), [0.41, 0.61])
    for gap, unit in zip(gaps, ("bits", "bits", "share"), strict=True):
        np.testing.assert_allclose(_line(gap, "HICRA"), 0.1)
        assert gap.get_ylabel() == f"minus GRPO ({unit})"
    seeds = [line.get_ydata()[0] for line in accuracy.lines if line.get_label() == "_seed"]
    np.testing.assert_allclose(seeds, [0.40, 0.42, 0.50, 0.52])


def test_two_seeds_get_a_whisker_and_three_a_band():
    two = training_curves.hicra_vs_grpo(*make(seeds=(0, 1)), WORLD).axes[1]
    [segment] = two.containers[0].lines[2][0].get_segments()
    half = 12.706205 * 0.01  # t with 1 degree of freedom; 3.80 and 3.82 have standard error 0.01
    np.testing.assert_allclose(segment[:, 1], [3.81 - half, 3.81 + half], rtol=1e-6)
    three = training_curves.hicra_vs_grpo(*make(seeds=(0, 1, 2)), WORLD).axes[1]
    band = three.collections[0].get_paths()[0].vertices[:, 1]
    half = 4.302653 * 0.02 / np.sqrt(3)  # t with 2; standard deviation 0.02; from 4.02 down to 3.82
    np.testing.assert_allclose([band.min(), band.max()], [3.82 - half, 4.02 + half], rtol=1e-6)


def test_one_seed_has_no_interval_and_says_so():
    figure = training_curves.hicra_vs_grpo(*make(seeds=(3,)), WORLD)
    assert not figure.axes[0].collections
    assert not figure.axes[0].containers
    assert "Seeds: 1 for each arm; one seed has no interval" in _texts(figure)


def test_entropy_overlap_draws_before_and_after():
    frame, _ = make()
    later = frame.assign(step=frame["step"] + 3, planning_high_entropy=frame["planning_high_entropy"] - 0.2)
    figure = training_curves.entropy_overlap(pd.concat([frame, later]), WORLD)
    planning, high = figure.axes
    heights = [[bar.get_height() for bar in bars] for bars in planning.containers]
    # 0.5, 0.4, 0.3, 0.3, 0.2, 0.1: the first five have mean 0.34, the last five 0.26; seeds are 0.02 apart.
    np.testing.assert_allclose(heights, [[0.35, 0.27], [0.45, 0.37]])
    heights = [[bar.get_height() for bar in bars] for bars in high.containers]
    np.testing.assert_allclose(heights, [[0.39, 0.43], [0.49, 0.53]])
    points = np.concatenate([dots.get_offsets() for dots in planning.collections])
    assert sorted(points[:, 1].round(6)) == [0.26, 0.28, 0.34, 0.36, 0.36, 0.38, 0.44, 0.46]
    assert [_line(ax, "_chance")[0] for ax in (planning, high)] == [0.3, pytest.approx(0.45)]
    assert "the first and the last 5 steps" in _texts(figure).replace("\n", " ")


def test_reasons_stack_to_one_in_a_fixed_order():
    frame, _ = make()
    figure = run_health.reasons(frame, WORLD, arms=["grpo"])
    [ax] = figure.axes
    tops = [area.get_paths()[0].vertices[:, 1].max() for area in ax.collections]
    np.testing.assert_allclose(tops, [0.6, 0.9, 1.0])  # right, then wrong, then no box
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["no_box", "wrong", "right"]
    assert len(run_health.reasons(frame, WORLD).axes) == 2


def test_errors_draw_both_causes():
    causes, share, held_out = training_curves.errors(*make(), WORLD, arm="hicra").axes
    np.testing.assert_allclose(_line(causes, "planning"), [0.3, 0.2, 0.1])
    np.testing.assert_allclose(_line(causes, "execution"), [0.2] * 3)
    np.testing.assert_allclose(_line(share, "planning"), [0.6, 0.5, 1 / 3])
    np.testing.assert_allclose(_line(held_out, "planning"), [0.6, 0.4])
    np.testing.assert_allclose(_line(held_out, "execution,"), [0.2 / 0.4, 0.2 / 0.6])  # of sound plans


def test_no_curve_leaves_its_axis():
    # Of sound plans far more fail in execution than of all: the third curve lies above the other two.
    frame, evals = make(seeds=(0,))
    held_out = training_curves.errors(
        frame, evals.assign(error_planning=0.3, error_execution=0.6), WORLD
    ).axes[2]
    low, high = held_out.get_ylim()
    assert low <= 0.3 < _line(held_out, "execution,").max() < high


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_wears_its_world_and_its_units(name):
    figure = _draw(name, *make())
    assert WORLD in _texts(figure)
    assert "Seeds: 2 for" in _texts(figure)
    labels = [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]
    units = ("(ratio)", "(nats/token)", "(bits)", "(share", "(tokens)", "share of", "bits", "share")
    assert labels
    assert [label for label in labels if not any(unit in label for unit in units)] == []


@pytest.mark.parametrize("name", FIGURES)
def test_type_is_large_enough_and_nothing_runs_off_the_canvas(name):
    check_type_and_place(_draw(name, *make()))


def check_type_and_place(figure):
    """At least 7 points at a page's text width; texts lie on the canvas, and legends within their panels."""
    assert figure.get_figwidth() == 7.2
    FigureCanvasAgg(figure).draw()
    texts = [text for text in figure.findobj(mpl.text.Text) if text.get_visible() and text.get_text().strip()]
    assert [text.get_text() for text in texts if text.get_fontsize() < 7] == []
    ticks = [tick for ax in figure.axes for tick in (*ax.get_xticklabels(), *ax.get_yticklabels())]
    canvas = Bbox.from_bounds(0, 0, *figure.get_size_inches() * figure.dpi)
    off = [text.get_text() for text in texts if text not in ticks and not _within(text, canvas)]
    assert off == []
    legends = [(ax.get_legend(), ax) for ax in figure.axes if ax.get_legend()]
    assert [ax for legend, ax in legends if not _within(legend, ax.get_window_extent())] == []


def _within(artist, box):
    own = artist.get_window_extent()
    return all(box.padded(1).contains(*corner) for corner in (own.min, own.max))


def test_many_steps_are_smoothed_with_the_raw_mean_behind():
    values = np.tile([0.0, 1.0], 10)
    frame = pd.DataFrame({"arm": "grpo", "seed": 0, "step": range(20), "x": values})
    _, ax = plt.subplots()
    seed_lines(ax, frame, "x", label="GRPO", color="k", dashes=())
    plt.close()
    np.testing.assert_allclose(_line(ax, "_raw"), values)
    np.testing.assert_allclose(_line(ax, "GRPO")[2:6], [0.4, 0.6, 0.4, 0.6])  # means of five in a row
    np.testing.assert_allclose(_line(ax, "GRPO")[0], 1 / 3)  # at the end, of the three there are


def test_changes_run_from_the_mean_of_the_first_five_steps():
    rows = [(arm, 0, s, (s if arm == "a" else 10)) for s in range(8) for arm in ("b", "a")]
    frame = pd.DataFrame(rows, columns=["arm", "seed", "step", "x"]).sample(frac=1, random_state=0)
    a = frame["arm"] == "a"
    assert set(start(frame, "x")[a]) == {2.0}
    assert sorted(change(frame, "x")[a]) == [-2, -1, 0, 1, 2, 3, 4, 5]
    assert set(change(frame, "x")[~a]) == {0.0}
    assert smooth(frame, "x")[a & (frame["step"] == 4)].item() == 4


def test_intervals_of_shares_stay_within_0_and_1():
    rows = [("grpo", seed, s, 1.0 - 0.1 * (seed == s % 5)) for seed in range(5) for s in range(20)]
    frame = pd.DataFrame(rows, columns=["arm", "seed", "step", "group_solved"])
    _, ax = plt.subplots()
    seed_lines(ax, frame, "group_solved", label="GRPO", color="k", dashes=())
    fit(ax, share=True)
    plt.close()
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert 0 <= band.min() < band.max() <= 1
    assert ax.get_ylim()[1] <= 1.01
    assert "group_solved" in SHARES


def test_every_arm_has_a_face_of_its_own():
    own = faces([*ARMS, "mine", "yours", *(f"arm{i}" for i in range(20))])
    assert len({face[1:] for face in own.values()}) == len(own)
    mine, yours = (own[name] for name in ("mine", "yours"))
    assert mine.color != yours.color
    assert mine.dashes != yours.dashes  # on a grey printer too
    assert own["hicra"] == ARMS["hicra"]


@pytest.mark.parametrize("name", FIGURES)
def test_files_are_the_same_on_a_second_run(name, tmp_path):
    first = training_curves.save(_draw(name, *make()), tmp_path / "a", name)
    second = training_curves.save(_draw(name, *make()), tmp_path / "b", name)
    assert [path.name for path in first] == [f"{name}.svg", f"{name}.pdf", f"{name}.png"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_drawing_and_saving_leave_no_trace(tmp_path):
    before = dict(mpl.rcParams)
    training_curves.save(_draw("errors", *make()), tmp_path, "errors")
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["errors.pdf", "errors.png", "errors.svg"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    figure = _draw("errors", *make())
    (tmp_path / "errors.svg").write_text("old")

    def fail(stream, **_):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        training_curves.save(figure, tmp_path, "errors")
    assert [path.name for path in tmp_path.iterdir()] == ["errors.svg"]
    assert (tmp_path / "errors.svg").read_text() == "old"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, e: training_curves.two_phase(f.drop(columns="length"), e, WORLD), "no column length"),
        (lambda f, e: training_curves.errors(f, e, WORLD, arm="released"), "no run of arm .'released'."),
        (lambda f, e: training_curves.errors(f.assign(error_planning=np.nan), e, WORLD), "holds no value"),
        (lambda f, e: run_health.reasons(f, "  "), "world is empty"),
        (lambda f, e: run_health.reasons(f[["arm", "seed", "step"]], WORLD), "no column reason_"),
        (
            lambda f, e: training_curves.save(training_curves.errors(f, e, WORLD), "nowhere", "a/b"),
            "name='a/b'",
        ),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(*make())
