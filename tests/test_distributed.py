"""Data parallel: two processes with gloo train on the advantages that one process would, to the same gradient."""

import os
import subprocess
import sys

import torch


def _advantages(root, out, processes):
    """Per-token advantages of each completion, in order, from `processes` processes."""
    out.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    command += [str(processes), "-m", "tests.distributed", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return [row for rank in range(processes) for row in torch.load(out / f"{rank}.pt", weights_only=True)]


def test_two_processes_give_the_advantages_of_one(root, tmp_path):
    one, two = (_advantages(root, tmp_path / str(n), n) for n in (1, 2))
    assert len(one) == len(two) == 12
    for single, double in zip(one, two, strict=True):
        torch.testing.assert_close(single, double, rtol=0, atol=0)
    # What is taken over the whole batch, such as the most uncertain tokens, sees all of it in its order.
    masks = [
        torch.load(tmp_path / n / f"mask{rank}.pt", weights_only=True)
        for n, rank in (("1", 0), ("2", 0), ("2", 1))
    ]
    assert all(torch.equal(masks[0], mask) for mask in masks)
    # The middle group lies on both processes, and it does teach: its rewards differ.
    middle = [row[0].item() for row in two[4:8]]
    assert len(set(middle)) > 1
    assert any(len(row.unique()) > 1 for row in two)  # planning tokens are credited differently
    # And the gradient, all of whose rows went through a pass of the study's own on either process.
    one, first, second = (
        torch.load(tmp_path / n / f"gradient{zero}.pt", weights_only=True)
        for n, zero in (("1", 1), ("2", 1), ("2", 0))
    )
    assert torch.equal(first, second)
    assert (first - one).norm() <= 1e-5 * one.norm() > 0
