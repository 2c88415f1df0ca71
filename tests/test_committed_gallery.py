"""What is committed in figures/ is what the committed run records give; the README quotes it."""

import pandas as pd

from hicra.study.experiments import CONDITIONS, DECIDING
from hicra.study.figures import style
from hicra.study.figures.gallery import build_gallery
from hicra.study.record.run_folder import run_folders
from hicra.study.verdicts.claims import CONTRADICTED, REPLICATED, UNDECIDED, verdict_counts


def test_figures_and_tables_are_those_of_the_records(root, tmp_path, monkeypatch):
    monkeypatch.setenv("HICRA_CACHE", str(tmp_path / "cache"))  # read them, whatever was kept before
    # PNG and PDF hold the same picture, but compressed by the machine's library: drawing them shows nothing.
    monkeypatch.setattr(style, "METADATA", {"svg": style.METADATA["svg"]})
    data = root / "data/families"
    made = build_gallery(
        data / "records",
        data / "claims.yaml",
        tmp_path / "figures",
        pilots=data / "pilots",
        order=tuple(CONDITIONS),
        models=[root / "data/smollm2"],
    )
    _compare(made, root / "figures")


def _compare(files, folder):
    for made in files:
        committed = folder / made.name
        kinds = (".svg", ".pdf", ".png") if made.suffix == ".svg" else (made.suffix,)
        missing = [kind for kind in kinds if not committed.with_suffix(kind).exists()]
        assert not missing, f"{made.stem} is missing as {missing}: make figures"
        assert committed.read_bytes() == made.read_bytes(), f"{made.name} is another: make figures"


def test_no_pilot_decides(root):
    data = root / "data" / "families"
    seeds = {name: {run.seed for run in run_folders(data / name)} for name in ("pilots", "records")}
    assert seeds["pilots"] <= set(range(900, 910))
    assert seeds["records"] <= set(DECIDING)
    assert {run.seed for run in run_folders(root / "data/smollm2")} <= set(range(10, 15))


SIGNS = {REPLICATED: "✔", CONTRADICTED: "✘", UNDECIDED: "?"}
QUOTED = {
    "strategies-diversify": "1.032 [0.981, 1.083]",
    "strategies-explore": "-1.701 [-1.770, -1.633]",
    "errors-are-strategic": "-0.623 [-0.667, -0.578]",
    "hicra-learns-more": "0.005 [-0.001, 0.011]",
    "hicra-learns-more-strongly": "-0.105 [-0.131, -0.078]",
    "asymmetry": "-0.011 [-0.019, -0.004]",
    "hard-prompts": "0.012 [0.001, 0.024]",
    "hicra-ends-higher": "-0.000 [-0.021, 0.020]",
    "hicra-more-diverse": "-0.615 [-0.725, -0.506]",
    "hicra-beats-placebo": "0.014 [0.004, 0.024]",
    "neutral-words-rise": "2.352 [2.065, 2.640]",
    "length-rises": "10.513 [7.678, 13.349]",
}


def test_the_readme_quotes_the_verdicts(root):
    readme = (root / "README.md").read_text()
    verdicts = pd.read_csv(root / "figures" / "verdicts.csv").set_index("id")
    for name, quoted in QUOTED.items():
        row = verdicts.loc[name]
        assert quoted in readme
        assert quoted == f"{row.ours:.3f} [{row.low:.3f}, {row.high:.3f}]"
        [line] = [line for line in readme.splitlines() if quoted in line]
        assert line.startswith(f"| {SIGNS[row.verdict]} |")
    judged = verdicts[verdicts["ours"].notna()]
    assert (judged["low"] < judged["high"]).all()  # ten seeds that agree to the digit measure nothing
    replicated, contradicted, undecided, untested = verdict_counts(verdicts).values()
    assert (
        f"Of {len(verdicts)} claims {replicated} are replicated, {contradicted} contradicted, "
        f"{undecided} undecided and {untested} not tested"
    ) in readme
