"""The gallery: every figure the records can answer, the same bytes again, tables that follow from them."""

import json
import shutil

import pandas as pd
import pytest

from hicra.cli import main
from hicra.dynamics.entropy import shannon_entropy
from hicra.errors import HicraError
from hicra.lexicon.lexicon import Lexicon
from hicra.study.experiments import CONDITIONS
from hicra.study.figures import catalogue, gallery, tables
from hicra.study.figures.style import ARMS, ELSEWHERE
from hicra.study.record.run_folder import RunError, RunFolder
from hicra.study.record.run_tables import measured_with_parts
from hicra.study.verdicts.intervals import judged_interval
from tests.records import GRAMS, STEPS, write_record

ORDER = ("grpo", "hicra", "placebo", "easy-grpo", "easy-hicra")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("records")
    for seed in (10, 11):
        for i, arm in enumerate(ORDER):
            write_record(root, arm, seed, accuracy=0.5 + 0.1 * i + 0.01 * (seed - 10))
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A language model's records, two seeds of two arms, and claims."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    for arm, accuracy in (("grpo", 0.5), ("hicra", 0.53)):
        for seed in (0, 1):
            write_record(folder, arm, seed, accuracy=accuracy + seed / 100)
    (folder / "claims.yaml").write_text(MODEL_CLAIMS)
    return folder


MODEL_CLAIMS = """
seeds: 2
questions: {hicra: "Is HICRA better?"}
claims:
- {id: ends-higher, question: hicra, claim: It ends higher, where: a test, figures: [], paper: not reported,
   quantity: final_accuracy, unit: share, of: {hicra: 1, grpo: -1}, rule: {above: 0}}
- {id: more, question: hicra, claim: With more seeds, where: a test, figures: [], paper: not reported, seeds: 3,
   quantity: final_accuracy, unit: share, of: {hicra: 1, grpo: -1}, rule: {above: 0}}
"""


@pytest.fixture(scope="module")
def built(records, model, root, tmp_path_factory):
    """The gallery of `records` and `model`, and the files that were made."""
    out = tmp_path_factory.mktemp("gallery")
    return out, _build(records, root, out, models=[model])


def _build(records, root, out, **options):
    data = root / "data/families"
    return gallery.build_gallery(
        records, data / "claims.yaml", out, pilots=data / "pilots", order=ORDER, **options
    )


def test_the_gallery_repeats_byte_for_byte(records, model, root, built, tmp_path, monkeypatch):
    monkeypatch.setenv("HICRA_CACHE", str(tmp_path / "cache"))
    (out, first), second = built, _build(records, root, tmp_path / "again", models=[model])
    names = [path.name for path in first]
    for number in (1, 2, 3, 4, 9, 10, 11, 12):
        assert any(name.startswith(f"fig{number:02d}_") and name.endswith(".svg") for name in names)
    assert not any(name.startswith(("fig05", "fig07", "fig08")) for name in names)  # those arms were not run
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name
    page = (out / "README.md").read_text()
    assert "10 runs of the main world" in page
    assert "**Of 54 claims: 0 replicated, 0 contradicted, 0 undecided, 54 not tested here.**" in page
    assert "not a language model" in page
    assert all(f"({name})" in page for name in names if name.endswith((".png", ".pdf", ".csv")))
    parts = ["\n## Figures", "\n## Tables", "\n## Verdicts"]
    assert sorted(parts, key=page.index) == parts  # figures first, the long table last
    assert "`python -m hicra experiments --conditions hicra drop30`" not in page  # not run, not shown
    assert "made by `python -m hicra experiments --conditions grpo hicra`" in page
    assert "[Fig. 4, as measured here](fig04_hicra_vs_grpo.png)" in page
    traces = (out / "fig13_traces.html").read_text()
    assert "<h1>hicra-seed10, first and last kept rollout. families: a test" in traces


def test_table_1_holds_accuracies_and_paired_differences(built):
    out, _ = built
    table = pd.read_csv(out / "table1_accuracy.csv").set_index("arm")
    assert table.loc["HICRA", ["seeds", "accuracy", "minus GRPO"]].tolist() == [2, 0.605, 0.1]
    # the paper's six benchmarks, Qwen2.5-7B-Base: 253.4 / 6 against 230.7 / 6, rounded once
    assert table.loc["HICRA", ["paper", "paper minus GRPO"]].tolist() == [0.422, 0.038]
    page = (out / "README.md").read_text()
    assert table.loc["GRPO", "paper"] == table["paper"].round(3)["GRPO"] == 0.385  # wherever it is printed
    assert "| GRPO | 2 | 0.505 | " in page
    assert " | 0.385 | " in page
    assert "| HICRA | 2 | 0.605 |" in page
    assert "| GRPO | 2 | 0.505 |" in page
    assert table.loc["HICRA, easier start", "minus GRPO"] == pytest.approx(0.1)
    assert table.loc["Base, before training", ["accuracy", "paper"]].tolist() == [0.4, 0.274]
    assert ((table["low"] >= 0) & (table["high"] <= 1)).all()  # Student's t over two seeds passes both
    assert pd.isna(table.loc["GRPO", "minus GRPO"])
    verdicts = pd.read_csv(out / "verdicts.csv")
    assert "2 of 10 seeds have been run" in set(verdicts["note"])


def test_arms_stand_in_the_given_order(records):
    assert catalogue.load_experiments(records, ORDER).arms == ORDER
    assert catalogue.load_experiments(records, ORDER[::-1]).arms == ORDER[::-1]
    assert catalogue.load_experiments(records).arms == ORDER  # the study's own order
    assert set(CONDITIONS) - set(ARMS) == {name for name in CONDITIONS if name.startswith(ELSEWHERE)}


def test_each_figure_stands_under_its_claim_with_its_answer(records):
    data = catalogue.load_experiments(records, ORDER)
    told = catalogue.Told(data.values)
    answers = {name: drawing.answer(told) for name, drawing in catalogue.drawings(data).items()}
    assert answers["fig04_hicra_vs_grpo"].startswith("HICRA minus GRPO at the end: 0.100 (0.100 to 0.100) in")
    # Tokens: only a (24 of 36) and b. Grams: four, 2 + step and one of each of three.
    assert answers["fig10_frequencies"] == (
        "The ten most frequent make up 100% of all tokens and 100% of all Strategic Grams."
    )
    assert all(answer.endswith(".") for answer in answers.values())
    # Twelve steps are too few for the correlations of the compass.
    assert [name for name, answer in answers.items() if "no value" in answer] == ["fig11_compass"]


def test_a_figure_is_judged_by_the_claims_that_name_it():
    verdicts = pd.DataFrame(
        [
            ("A", ["Fig. 4", "Table 1"], "undecided"),
            ("B", ["Fig. 4"], "contradicted"),
            ("C", ["Fig. 4"], "not tested here"),
            ("D", ["Fig. 14"], "replicated"),
        ],
        columns=["claim", "figures", "verdict"],
    )
    drawing = catalogue.Drawing("Fig. 4", "HICRA wins", ("grpo",), lambda: None, lambda told: "It is 1.")
    page = gallery._page("fig04", drawing, None, verdicts)
    assert "The paper: HICRA wins.\n\nHere: **1 contradicted, 1 undecided.** It is 1.\n\n![Fig. 4" in page
    assert "- A: **undecided**\n- B: **contradicted**\n\n" in page
    assert "C" not in page.split("[SVG]")[0].replace("HICRA", "")
    assert "replicated" not in page


def test_occurrences_are_summed_over_runs(records):
    runs = catalogue.load_experiments(records, ORDER).runs
    counts = catalogue.occurrences([run for run in runs if run.path.name.startswith("grpo")])
    assert counts["tokens"] == {"a": 2 * 2 * STEPS, "b": 2 * STEPS}
    assert counts["Strategic Grams"][GRAMS[0]] == 2 * 4 * STEPS


def test_what_records_come_to_is_kept_until_one_of_them_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("HICRA_CACHE", str(tmp_path / "cache"))
    folder, lexicon = tmp_path / "records", tmp_path / "own.json"
    Lexicon.from_grams(GRAMS).save(lexicon)
    settings = {"steps": STEPS, "lexicon": str(lexicon), "lexicon_sha256": "x", "alpha": 0.2}
    settings |= {"problem_set": "families"}
    for arm, seed in (("grpo", 10), ("hicra", 10)):
        write_record(folder, arm, seed, settings={"arm": arm, "seed": seed, **settings})
    first = catalogue.load_experiments(folder)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "read", None)
        again = catalogue.load_experiments(folder)
    pd.testing.assert_frame_equal(first.values, again.values, check_exact=True)
    pd.testing.assert_frame_equal(first.study.steps, again.study.steps, check_exact=True)
    write_record(folder, "hicra", 11, settings={"arm": "hicra", "seed": 11, **settings})
    assert len(catalogue.load_experiments(folder).values) == 3
    assert (catalogue.load_experiments(folder).study.steps["cluster_entropy"] > 0).all()
    Lexicon.from_grams(GRAMS, clusters=dict.fromkeys(GRAMS, 0)).save(lexicon)
    assert (catalogue.load_experiments(folder).study.steps["cluster_entropy"] == 0).all()
    (folder / "hicra-seed11/steps.jsonl.bz2").write_bytes(b"edited")
    with pytest.raises(RunError, match="steps.jsonl.bz2 was changed after the run"):
        catalogue.load_experiments(folder)


def test_where_nothing_can_be_kept_records_are_read_with_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HICRA_CACHE", str(tmp_path / "file"))
    write_record(tmp_path / "records", "grpo", 10)
    with pytest.warns(UserWarning, match="file/records cannot be written, so records are read anew"):
        assert catalogue.load_experiments(tmp_path / "records").arms == ("grpo",)


def test_table_2_judges_by_the_worlds_truth(tmp_path):
    # The lexicon's one gram is the plan; seven other words are another phrase.
    text = "Let us add the numbers in order. One and two and three and four."
    write_record(tmp_path, "grpo", 10, completion=text)
    data = catalogue.load_experiments(tmp_path)
    table = tables.strategic_table(data.completions("grpo"), data.lexicon).set_index("kind")
    assert table["phrases"].to_dict() == {"gram": len(Lexicon.load("families").find(text)), "other": 1}
    assert table["strategic"].to_dict() == {"gram": 1.0, "other": 0.0}
    assert table["paper"].to_dict() == {"gram": 0.86, "other": 0.12}
    assert tables.strategic_table(data.completions("hicra"), data.lexicon).empty


def test_verdicts_are_quoted_in_their_unit_and_to_the_digits_that_tell():
    row = pd.Series({"ours": 0.0003, "low": -0.0003, "high": 0.0009, "unit": "nats"})
    assert tables.measured(row) == "+0.0003 [-0.0003, +0.0009] nats"
    row["high"] = 0.02
    assert tables.measured(row) == "+0.000 [-0.000, +0.020] nats"
    assert tables.measured(pd.Series({"ours": None, "low": None, "high": None, "unit": None})) == ""


def test_numbers_are_told_with_the_interval_of_verdicts():
    values = pd.Series([0.1, 0.2, 0.3, 0.4, 0.5])
    low, high = judged_interval(values)[1:3]
    assert tables.spoken(values) == f"0.300 ({low:.3f} to {high:.3f})"
    assert tables.spoken(values[:1]) == "0.100 (one seed)"
    assert tables.spoken(values[:0]) == "(no value)"


def test_parts_of_the_lexicon_measure_the_same_runs(records):
    runs = [run for run in catalogue.load_experiments(records, ORDER).runs if "hicra-seed" in run.path.name]
    table = measured_with_parts(runs[:1], share=0.3, draws=5)
    whole = table[table["draw"] == 0].set_index("step")
    assert sorted(table["draw"].unique()) == [0, 1, 2, 3, 4, 5]
    counts = [4, 2, 1]  # of the first step's three grams
    assert whole.loc[0, "semantic_entropy"] == pytest.approx(shannon_entropy(counts))
    assert (whole.loc[0, "semantic_entropy_change"], len(whole)) == (0, STEPS)
    fewer = table[(table["step"] == 0) & (table["semantic_entropy"] < shannon_entropy(counts) - 1e-9)]
    assert len(fewer) > 0  # a draw that misses one of the three


def test_a_language_model_has_a_section_and_figures_of_its_own(built):
    out, made = built
    assert len(made) == len(set(made)) == len(list(out.iterdir()))
    assert {"tiny_fig02_two_phase.svg", "tiny_fig04_hicra_vs_grpo.png"} <= {path.name for path in made}
    page = (out / "README.md").read_text()
    assert "From 4 run records in `data/tiny`" in page
    assert (
        "**Of 2 claims: 1 replicated, 0 contradicted, 0 undecided, 1 not tested here.** By the rules" in page
    )
    verdicts = pd.read_csv(out / "tiny_verdicts.csv").set_index("id")
    assert verdicts.loc["ends-higher", "ours"] == pytest.approx(0.03)
    assert all(f"({p.name})" in page for p in made if p.name.startswith("tiny"))


def test_learning_is_shown_over_problems_and_paired(model):
    answers = catalogue.load_experiments(model).answers()
    assert list(answers) == ["arm", "seed", "step", "problem", "share"]
    table = tables.learning_table(answers[answers["seed"] == 0]).set_index(["arm", "accuracy"])
    assert table["share"].to_dict() == pytest.approx(
        {
            ("GRPO", "before"): 0.4,
            ("GRPO", "after"): 0.5,
            ("GRPO", "gain"): 0.1,
            ("HICRA", "before"): 0.4,
            ("HICRA", "after"): 0.53,
            ("HICRA", "gain"): 0.13,
            ("HICRA", "minus GRPO, after"): 0.03,
        }
    )
    assert set(table["problems"]) == {200}
    # 20 of 200 problems were gained, none lost: the half-width of the mean of twenty ones among zeros.
    half = 1.972 * (0.1 * 0.9 / 199) ** 0.5
    gain = table.loc[("GRPO", "gain")]
    assert [gain["low"], gain["high"]] == pytest.approx([0.1 - half, 0.1 + half], abs=1e-4)


def test_accuracies_over_problems_stay_within_0_and_1():
    # One of 20 problems right, then 19: Student's t would pass 0 and 1.
    rows = [("grpo", 0, s, p, float(p < right)) for s, right in ((0, 1), (9, 19)) for p in range(20)]
    answers = pd.DataFrame(rows, columns=["arm", "seed", "step", "problem", "share"])
    table = tables.learning_table(answers).set_index("accuracy")
    assert 0 <= table.loc["before", "low"] < 0.05 < table.loc["before", "high"]
    assert table.loc["after", "low"] < 0.95 < table.loc["after", "high"] <= 1


def test_no_record_is_an_error_and_writes_nothing(root, tmp_path, capsys):
    with pytest.raises(RunError, match="no finished run"):
        _build(tmp_path / "none", root, tmp_path / "out")
    assert main(["figures", "--records", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "make experiments" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_worlds_are_loaded_apart_and_the_larger_one_is_drawn(tmp_path, root):
    for pilot in sorted((root / "data/families/pilots").iterdir())[:3]:
        shutil.copytree(pilot, tmp_path / pilot.name)
    manifest = tmp_path / "grpo-seed906" / "manifest.json"
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**told, "world": "even", "condition": "even-grpo"}))
    data = catalogue.load_experiments(tmp_path)
    assert data.study.world == told["world"]
    assert {run.seed for run in data.runs} == {904, 905}
    assert set(data.values.index) == {("grpo", 904), ("grpo", 905), ("even-grpo", 906)}
    assert data.values["mean_reward"].notna().all()


def test_runs_on_problems_that_are_read_answer_no_claim(root, tmp_path):
    settings = {"arm": "grpo", "seed": 0, "lexicon": "families", "lexicon_sha256": "x", "alpha": 0.2}
    write_record(tmp_path / "own", "grpo", 0, settings={**settings, "problem_set": "gsm8k-train"})
    with pytest.raises(HicraError, match="are not made.*give the folder by --models"):
        _build(tmp_path / "own", root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write_record(tmp_path / "alone", "hicra", 0)  # made problems, but nothing to compare with
    models = [tmp_path / "own", tmp_path / "alone"]
    _build(root / "data/families/pilots", root, tmp_path / "out", models=models)
    assert not (tmp_path / "out/alone_effects.svg").exists()
    page = (tmp_path / "out/README.md").read_text()
    assert "run records in `data/own`. No verdict rests on them." in page
    assert not (tmp_path / "out/own_verdicts.csv").exists()
