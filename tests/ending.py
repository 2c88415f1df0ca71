"""The end of a run that two processes share, without the run: a model wrapped for gloo, an update, a barrier.

    RANK=0 python -m tests.ending STORE      and RANK=1 beside it

With a second argument `plain` it ends as Python does, by destructors, over which the two may hang.
"""

import os
import sys

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from hicra.study.training.process import certain_end


def main(shared: bool) -> None:
    with certain_end(shared):
        store = distributed.FileStore(sys.argv[1], 2)
        distributed.init_process_group("gloo", store=store, rank=int(os.environ["RANK"]), world_size=2)
        model = DistributedDataParallel(torch.nn.Linear(8, 8))
        model(torch.randn(4, 8)).sum().backward()
        for _ in range(20):
            distributed.barrier()
    distributed.destroy_process_group()
    del model


if __name__ == "__main__":
    torch.set_num_threads(1)
    main("plain" not in sys.argv)
