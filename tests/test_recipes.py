"""docs/recipes/verl_data.py: problem sets as verl reads them. The recipe itself is tested by tests/test_verl.py."""

import json
import subprocess
import sys

import pandas as pd


def test_problem_sets_become_verls_columns(root, tmp_path):
    sets = {
        "train": [("What is 1 + 1?", "2"), ("What is 2 + 3?", "5")],
        "bench": [("what is 2 + 3 ?", "5")],
    }
    for name, rows in sets.items():
        lines = [json.dumps({"problem": problem, "answer": answer}) for problem, answer in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    command = [sys.executable, "docs/recipes/verl_data.py", tmp_path / "out"]
    command += ["--train", tmp_path / "train.jsonl", "--benchmarks", tmp_path / "bench.jsonl"]
    environment = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    said = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "removed 1 of 2 training problems in a benchmark" in said
    train, bench = (pd.read_parquet(tmp_path / "out" / f"{name}.parquet") for name in ("train", "bench"))
    [row] = train.to_dict("records")
    assert row["data_source"] == "math"
    assert [turn["role"] for turn in row["prompt"]] == ["system", "user"]
    assert row["prompt"][1]["content"] == "What is 1 + 1?"
    assert row["reward_model"] == {"style": "rule", "ground_truth": "2"}
    assert row["extra_info"] == {"index": 0, "source": "train.jsonl:1"}
    assert bench["data_source"].tolist() == ["bench"]
