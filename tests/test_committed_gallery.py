"""What is committed in figures/ is what the committed run records give; the README quotes it."""

import re

import pandas as pd
import pytest

from hicra.study.experiments import CONDITIONS
from hicra.study.figures.gallery import build_gallery


def test_figures_and_tables_are_those_of_the_records(root, tmp_path):
    data = root / "data"
    models = [data / "smollm2"]
    for made in build_gallery(
        data / "experiments", data / "claims.yaml", tmp_path, tuple(CONDITIONS), models
    ):
        committed = root / "figures" / made.name
        assert committed.exists(), f"{made.name} is missing: make figures"
        if made.suffix != ".png":  # the same picture; its bytes depend on the compression library
            assert committed.read_bytes() == made.read_bytes(), f"{made.name} is another: make figures"


QUOTED = {
    "hicra-beats-grpo": "-0.002 [-0.027, 0.022]",
    "hicra-beats-high-entropy": "-0.014 [-0.029, 0.002]",
    "hicra-beats-placebo": "-0.014 [-0.037, 0.008]",
    "errors-are-strategic": "-0.239 [-0.297, -0.181]",
    "semantic-entropy-rises": "-0.127 [-0.212, -0.043]",
    "hicra-beats-strong-bonus": "0.081 [0.047, 0.115]",
    "boundary": "-0.023 [-0.051, 0.005]",
}


def test_the_readme_quotes_the_verdicts(root):
    readme = (root / "README.md").read_text()
    verdicts = pd.read_csv(root / "figures" / "verdicts.csv").set_index("id")
    for name, quoted in QUOTED.items():
        row = verdicts.loc[name]
        assert quoted in readme
        numbers = [float(x) for x in re.findall(r"-?[0-9.]+", quoted)]
        assert numbers == pytest.approx([row.ours, row.low, row.high], abs=6e-4)  # both are rounded
    opposite = (verdicts["note"] == "the opposite was found").sum()
    counts = verdicts["verdict"].value_counts()
    undecided = counts["not replicated"] - opposite
    assert (
        f"Of {len(verdicts)} claims {counts['replicated']} are replicated, {opposite} contradicted, "
        f"{undecided} undecided and {counts['not tested here']} not tested"
    ) in readme
