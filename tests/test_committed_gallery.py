"""What is committed in figures/ is what the committed run records give; the README quotes it."""

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


def test_the_readme_quotes_the_verdicts(root):
    gallery = (root / "figures" / "README.md").read_text().splitlines()
    quoted = [line for line in (root / "README.md").read_text().splitlines() if "replicated**" in line]
    assert len(quoted) >= 5
    assert [line for line in quoted if line not in gallery] == []
