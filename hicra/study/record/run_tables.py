"""Run records -> the two tidy tables that figures and verdicts read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from hicra.dynamics.entropy import shannon_entropy
from hicra.dynamics.step_table import matched_sizes, summarise, summarise_evals
from hicra.lexicon.lexicon import Lexicon
from hicra.study.record.run_folder import RunError, RunFolder, run_folders


class Study(NamedTuple):
    """`steps`: one row per run and step; `evals`: one per run and evaluation; `world`: whose runs."""

    steps: pd.DataFrame
    evals: pd.DataFrame
    world: str


def finished_runs(root: Path | str, conditions: Sequence[str]) -> list[RunFolder]:
    """The finished runs of `conditions` under `root`; RunError names a condition that has none."""
    done, found = [run for run in run_folders(root) if run.finished], []
    for condition in conditions:
        own = [run for run in done if run.condition == condition]
        if not own:
            raise RunError(f"no finished run of {condition!r} in {root}; run its notebook first")
        found += sorted(own, key=lambda run: run.seed)
    return found


def load_study(runs: Sequence[RunFolder]) -> Study:
    """Both tables over `runs`, every entropy matched to one size (`matched_sizes`).

    Raises RunError for runs that are not comparable: of another world, lexicon or sampler.
    """
    _check_samplers(runs)
    manifests = [run.manifest() for run in runs]
    for key in ("world", "lexicon_sha256"):
        values = sorted({m.get(key) or m["settings"][key] for m in manifests})
        if len(values) > 1:
            raise RunError(f"runs of different {key} cannot share a figure: {', '.join(values)}")
    clusters = Lexicon.load(manifests[0]["settings"]["lexicon"]).clusters
    records = [run.read("steps.jsonl") for run in runs]
    sizes = matched_sizes(*records)
    steps, evals = [], []
    for run, rows in zip(runs, records, strict=True):
        who = {"arm": run.condition, "seed": run.seed}
        steps.append(summarise(rows, clusters, sizes=sizes).assign(**who))
        evals.append(summarise_evals(run.read("evals.jsonl")).assign(**who))
    return Study(
        pd.concat(steps, ignore_index=True),
        pd.concat(evals, ignore_index=True),
        manifests[0]["world"],
    )


def _check_samplers(runs: Sequence[RunFolder]) -> None:
    """Runs of one seed share their first draws only where one sampler made them: differences are paired."""
    drawn = {run.sampler: run.path for run in runs}
    if len(drawn) > 1:
        told = ", ".join(f"{sampler!r} (such as {path})" for sampler, path in sorted(drawn.items()))
        raise RunError(f"runs of different samplers cannot be compared: {told}; rerun those of one of them")


def measured_with_parts(runs: Sequence[RunFolder], share: float, draws: int) -> pd.DataFrame:
    """Semantic entropy of `runs` counted with all grams (draw 0), and with random parts of the lexicon.

    Each draw leaves out `share` of the grams, the same for all runs (paper, Fig. 7). Columns: step, seed,
    draw, semantic_entropy (bits, plug-in) and semantic_entropy_change.
    """
    whole = Lexicon.load(runs[0].manifest()["settings"]["lexicon"])
    lexicons = [whole, *(whole.drop(share, draw) for draw in range(1, draws + 1))]
    rows = []
    for run in runs:
        seed, record = run.seed, run.read("steps.jsonl")
        for draw, kept in enumerate(set(lexicon.grams) for lexicon in lexicons):
            entropies = [shannon_entropy(n for g, n in row["grams"].items() if g in kept) for row in record]
            for row, bits in zip(record, entropies, strict=True):
                told = {"step": row["step"], "seed": seed, "draw": draw, "semantic_entropy": bits}
                rows.append({**told, "semantic_entropy_change": bits - entropies[0]})
    return pd.DataFrame(rows)
