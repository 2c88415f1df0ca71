"""The second world's figure and page: what they show, and what is not there yet."""

import json
import shutil

import pandas as pd
import pytest
from hicra.study.figures.families import PANELS, PARTS, arm_table, build_page, equation_effects, load_values

from hicra.errors import HicraError
from hicra.files import data_root
from hicra.study.experiments import FAMILIES
from hicra.study.figures import families

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
    labels = [t.get_text() for t in ax.get_yticklabels()]
    points = [line for line in ax.lines if line.get_marker() == "o"]
    return {labels[round(line.get_ydata()[0])]: line.get_xdata()[0] for line in points}


def test_each_arm_is_drawn_against_grpo_and_the_parts_add_up():
    arms = {"grpo": 0.0, "hicra": 0.5, "scaled": 0.2, "yoked": 0.1, "easy-grpo": 9.0, "placebo": -0.3}
    *panels, last = equation_effects(_values(arms), WORLD, list(FAMILIES)).axes
    for ax in panels:
        assert _points(ax) == pytest.approx({"hicra": 0.5, "scaled": 0.2, "yoked": 0.1, "placebo": -0.3})
    parts = _points(last)
    assert list(parts) == list(PARTS)
    *single, whole = parts.values()
    assert sum(single) == pytest.approx(whole) == pytest.approx(0.5)


def test_a_point_of_two_seeds_is_hollow_and_without_a_whisker():
    full, few = (_values({"grpo": 0.0, "hicra": 1.0}, seeds) for seeds in ((1, 2, 3), (1, 2)))
    for values, n_lines in ((full, 3), (few, 2)):  # point, whisker, zero
        ax = equation_effects(values, WORLD, list(FAMILIES)).axes[0]
        assert len(ax.lines) == n_lines


def test_arms_keep_the_order_of_the_conditions_and_their_seeds():
    table = arm_table(_values({"placebo": 1.0, "grpo": 0.0, "hicra": 2.0}, (1, 2)), list(FAMILIES))
    assert table["arm"].tolist() == ["grpo", "hicra", "placebo"]
    assert table["seeds"].tolist() == [2, 2, 2]
    assert table["tokens"].tolist() == [0.015, 2.015, 1.015]


def test_without_runs_or_a_baseline_it_says_so(tmp_path):
    with pytest.raises(HicraError, match="no finished run in"):
        load_values(tmp_path)
    with pytest.raises(HicraError, match="no run of arm 'grpo'"):
        equation_effects(_values({"hicra": 1.0}), WORLD, ["hicra"])


def test_the_page_repeats_byte_for_byte_and_tells_what_is_missing(tmp_path, monkeypatch):
    values = _values({"grpo": 0.0, "hicra": 0.5})
    needed = [
        c.get("quantity", "mean_reward")
        for c in families.load_claims(data_root() / "families/claims.yaml").claims
    ]
    values = values.assign(**{q: values["mean_reward"] for q in needed if q not in values})
    monkeypatch.setattr(families, "load_values", lambda records: (values, WORLD))
    pages = []
    for folder in ("one", "two"):
        written = build_page(
            "records", "pilots", data_root() / "families/claims.yaml", tmp_path / folder, FAMILIES
        )
        pages.append({path.name: path.read_bytes() for path in written})
    assert pages[0] == pages[1]
    assert "3 of 10 seeds have been run" in pages[0]["README.md"].decode()


def test_worlds_are_loaded_apart_and_the_larger_one_is_named(tmp_path, root):
    for pilot in sorted((root / "data/families/pilots").iterdir())[:3]:
        shutil.copytree(pilot, tmp_path / pilot.name)
    manifest = tmp_path / "grpo-seed906" / "manifest.json"
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**told, "world": "even", "condition": "even-grpo"}))
    values, world = load_values(tmp_path)
    assert world == told["world"]
    assert set(values.index) == {("grpo", 904), ("grpo", 905), ("even-grpo", 906)}
    assert values["mean_reward"].notna().all()
