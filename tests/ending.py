"""The end of a run that two processes share, without the run: a model wrapped for gloo, an update, barriers.

python -m tests.ending TIMES          prints how many of the pairs of processes ended
python -m tests.ending TIMES plain    the same, where they end by destructors, over which some hang
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import psutil
import torch
import torch._dynamo  # what DDP imports, once here instead of in every process
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from hicra.study.training.process import certain_end

PATIENCE = 120  # seconds: what hangs does so for ever, and a loaded machine may be slow


def share(store: Path, rank: int, plain: bool) -> None:
    """What one of two processes does."""
    with certain_end(shared=not plain):
        files = distributed.FileStore(str(store), 2)
        distributed.init_process_group("gloo", store=files, rank=rank, world_size=2)
        model = DistributedDataParallel(torch.nn.Linear(8, 8))
        model(torch.randn(4, 8)).sum().backward()
        for _ in range(20):
            distributed.barrier()
    distributed.destroy_process_group()
    del model
    os._exit(0)


def ended(store: Path, plain: bool) -> bool:
    """Whether both of two new processes end well; those that hang are killed."""
    pids = []
    for rank in (0, 1):
        if not (pid := os.fork()):
            share(store, rank, plain)
        pids.append(pid)
    processes = [psutil.Process(pid) for pid in pids]
    _, hanging = psutil.wait_procs(processes, PATIENCE)
    for process in hanging:
        process.kill()
    psutil.wait_procs(hanging)
    return not hanging and all(process.wait() == 0 for process in processes)


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())  # not one that a forked process removes when it ends
    try:
        print(sum(ended(folder / str(i), "plain" in sys.argv) for i in range(int(sys.argv[1]))))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
