"""The first thing to run on any GPU, at most 30 minutes, as one table: `make gpu`.

    python -m tests.gpu [--no-vllm] [--offline] [--only 0 1 ...] [--out build/gpu]

Each check runs in a process of its own, whose log is OUT/NUMBER.log; the first that fails ends it, and the
command with it. Without a GPU what needs none is run, and the rest is named. The table is also written to
OUT/CARD.csv. What an H200 gave is in NVIDIA-H200.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.gpu import engine, installed, runs, steps
from tests.gpu.card import ROOT, Row, card_memory, card_name

MINUTES = 30


class Check(NamedTuple):
    name: str
    rows: Callable[[argparse.Namespace], Iterator[Row]]
    gpu: float = 0  # GB that a card must have; 0: no card is needed
    vllm: bool = False

    def left_out(self, options, card: float) -> str:
        """Why this check is not run on a machine whose card has so many GB; "" where it is."""
        if card < self.gpu:
            return "needs a GPU" if not card else f"needs {self.gpu:.0f} GB"
        return "--no-vllm" if self.vllm and options.no_vllm else ""


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.one is not None:
        return one(options)
    options.out.mkdir(parents=True, exist_ok=True)
    table, ends = [], time.monotonic() + 60 * MINUTES
    for number, check in enumerate(CHECKS):
        if options.only and number not in options.only:
            continue
        name = f"{number} {check.name}"
        if reason := check.left_out(options, card_memory()):
            table.append((name, Row("left out", reason), 0.0))
        else:
            started = time.monotonic()
            rows = apart(number, options, ends - started)
            table += [(name, row, time.monotonic() - started) for row in rows]
        show(name, table)
        if not table[-1][1].well:
            break
    write(options.out / f"{card_name()}.csv", table)
    return summary(table)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--no-vllm", action="store_true", help="leave out what needs vLLM")
    parser.add_argument(
        "--offline", action="store_true", help="SmolLM2 and the made world for colab's model and data"
    )
    parser.add_argument("--only", type=int, nargs="+", choices=range(len(CHECKS)), help="numbers of checks")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder of table and logs")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # this check, in this process
    options = parser.parse_args(arguments)
    options.out = options.out.absolute()
    return options


def apart(number: int, options, seconds: float) -> list[Row]:
    """The rows of a check in a process of its own; where that fails, its last is one that is not well."""
    found, log = options.out / f"{number}.json", options.out / f"{number}.log"
    found.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.gpu", "--one", str(number), "--out", str(options.out)]
    command += [f"--{name.replace('_', '-')}" for name in ("no_vllm", "offline") if getattr(options, name)]
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return rows_of(number, options, code)


def rows_of(number: int, options, code: int | None) -> list[Row]:
    """What a check that ended with `code` (None: it was ended) has found."""
    found, log = options.out / f"{number}.json", options.out / f"{number}.log"
    rows = [Row(*row) for row in json.loads(found.read_text())] if found.exists() else []
    if code != 0 and all(row.well for row in rows):
        told = "ran out of time" if code is None else f"ended with {code}: {last_line(log)}"
        rows.append(Row(told, f"see {log}", f"ends, within {MINUTES} min of all", well=False))
    return rows


def one(options) -> int:
    """Run a check here, and write its rows as they come, up to the first that is not well."""
    rows: list[Row] = []
    for row in CHECKS[options.one].rows(options):
        rows.append(row)
        (options.out / f"{options.one}.json").write_text(json.dumps(rows))
        if not row.well:
            return 1
    return 0


def show(name: str, table: list) -> None:
    for row in (row for of, row, _ in table if of == name):
        verdict = "ok" if row.well else "FAILED"
        wanted = f"   (wanted: {row.wanted})" if row.wanted else ""
        print(f"{name:16} {verdict:6} {row.what}: {row.found}{wanted}", flush=True)


def summary(table: list) -> int:
    left = [f"{name} ({row.found})" for name, row, _ in table if row.what == "left out"]
    failed = [name for name, row, _ in table if not row.well]
    if left:
        print(f"left out: {', '.join(left)}")
    print(f"{card_name()}: {failed[0] + ' failed' if failed else 'all that was run is well'}")
    return int(bool(failed))


def write(path: Path, table: list) -> None:
    with open(path, "w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(["check", "what", "found", "wanted", "well", "check_seconds"])
        out.writerows([name, *row, round(seconds, 1)] for name, row, seconds in table)


def last_line(log: Path) -> str:
    return next(reversed([line for line in log.read_text(errors="replace").splitlines() if line.strip()]), "")


CHECKS = (
    Check("install", installed.install),
    Check("machine", installed.machine),
    Check("imports", installed.imports),
    Check("configuration", installed.configurations),
    Check("parity", steps.parity),
    Check("recorder", steps.recorder),
    Check("engine", engine.engine, gpu=14, vllm=True),
    Check("runs", runs.runs),
    Check("entropy bonus", steps.entropy_bonus),
    Check("long rows", engine.long_rows, gpu=78),
    Check("benchmarks", runs.benchmarks),
    Check("sampler", steps.sampler),
)


if __name__ == "__main__":
    sys.exit(main())
