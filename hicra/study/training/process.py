"""A process of a run: it ends with the process that asked for it, and those that share a run end for certain.

`python -m hicra.study.training.process JSON` is what hicra.study.launch starts, by itself or, where several
processes share the run, by torch's launcher.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from hicra.errors import HicraError
from hicra.study.record.run_folder import RunError

WATCH_SECONDS = 1.0
# As `accelerate launch` says it.
SHARDED = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")


def main() -> None:
    """Make the run that the command line's JSON names (see hicra.study.launch.start)."""
    asked = json.loads(sys.argv[1])
    end_with(asked["launcher"])  # before the imports, which take seconds
    from hicra.study.profiles import get_profile
    from hicra.study.training.plan import plan_run
    from hicra.study.training.run import train

    try:
        profile = get_profile(asked["profile"], asked["overrides"])
        train(plan_run(profile, asked["arm"], asked["seed"], asked["condition"]), asked["folder"])
    except HicraError as error:
        sys.exit(f"hicra: {error}")


def end_with(launcher: int) -> None:
    """End this process when the process `launcher` has ended, however that came, or its own parent has.

    Polled, which every system allows: a process that was killed, or lost its terminal, cannot tell anyone.
    """
    threading.Thread(target=_watch, args=(launcher, os.getppid()), daemon=True).start()


def _watch(launcher: int, parent: int) -> None:
    try:
        asking = psutil.Process(launcher)  # knows it from a later process with its number
        while asking.is_running() and asking.status() != psutil.STATUS_ZOMBIE and os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
    except psutil.NoSuchProcess:
        pass
    print("hicra: the process that started this run has ended, so it ends too", file=sys.stderr, flush=True)
    os._exit(1)


def check_share(processes: int) -> None:
    """Raise RunError unless this is one of so many processes of one machine, each with the whole policy.

    The first of them evaluates and writes the run's folder, which the others read, while they wait for it:
    with sharded parameters that would need them all, and on other machines there may be no such folder.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != processes:
        raise RunError(
            f"{world} processes were started for a run with processes={processes}; "
            "start runs by hicra.study.launch or notebooks, or set processes"
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    if here != world:
        raise RunError(
            f"{here} of the run's {world} processes are on this machine, and a run has one machine: set "
            f"processes to {here}, or train on several with verl (docs/verl.md)"
        )
    for name in SHARDED:
        if os.environ.get(name, "").lower() == "true":
            raise RunError(
                f"{name}=true shards the policy, and a run's first process evaluates it alone; unset it, or "
                "train what does not fit one GPU with verl (docs/verl.md)"
            )


@contextmanager
def certain_end(shared: bool) -> Iterator[None]:
    """Where processes share a run, end this one when the `with` does, without running destructors.

    A DDP reducer's destructor may join gloo's worker thread while it holds the interpreter's lock, for which
    that thread waits to release the tensor of a barrier: neither goes on. Everything is on disk by then.
    """
    if not shared:
        yield
        return
    code = 1
    try:
        yield
        code = 0
    except HicraError as error:
        print(f"hicra: {error}", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()  # loggers send what they hold, workers are ended
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
