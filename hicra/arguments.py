"""What the command line takes: one parser a command, no work."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path


def _overrides(text: str) -> dict:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("give a JSON object, such as '{\"steps\": 20}'")
    return value


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hicra", description="The HICRA study.")
    commands = parser.add_subparsers(dest="command", required=True)

    study = commands.add_parser("study", help="run the numbered notebooks")
    study.add_argument("--figures", type=Path, default=Path("figures"))
    study.add_argument("--only", nargs="+", metavar="NOTEBOOK", help="such as 04_figures")
    study.add_argument("--runs", type=Path, default=Path("runs"))

    train = commands.add_parser("train", help="train one arm and seed")
    train.add_argument("--arm", required=True)
    train.add_argument("--seed", type=int, required=True)
    train.add_argument("--out", type=Path, required=True, help="the run's folder")

    own = commands.add_parser(
        "sandbox-lexicon", help="the paper's recipe on the base policy's solutions, and its placebo"
    )
    own.add_argument("--out", type=Path, default=Path("data/lexicons/sandbox.json"))

    ready = commands.add_parser("preflight", help="is this machine ready for a profile")

    for command in (study, train, own, ready):
        command.add_argument("--profile", default="sandbox")
        command.add_argument("--overrides", type=_overrides, default={}, metavar="JSON")
    _add_runs(commands)
    _add_records(commands)
    _add_lexicon(commands)
    _add_score(commands)
    return parser


def _add_runs(commands) -> None:
    scored = commands.add_parser("benchmarks", help="score finished runs on their benchmarks")
    scored.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="run folders")
    scored.add_argument("--vllm", action="store_true", help="generate by vLLM, where it is installed")
    scored.add_argument("--overrides", type=_overrides, default={}, metavar="JSON")

    published = commands.add_parser("publish", help="push a finished run's policy and card to the Hub")
    published.add_argument("folder", type=Path, metavar="RUN")
    published.add_argument("--to", required=True, metavar="OWNER/NAME")
    published.add_argument("--merge", action="store_true", help="the whole model instead of the adapter")

    base = commands.add_parser("sandbox-base", help="train the sandbox's base policies")
    base.add_argument("--out", type=Path, default=Path("data/sandbox"))

    calibration = commands.add_parser("calibrate", help="GRPO on three seeds of the sandbox")
    calibration.add_argument("--runs", type=Path, default=Path("runs"))
    calibration.add_argument("--out", type=Path, default=Path("data/sandbox/calibration.csv"))

    experiments = commands.add_parser("experiments", help="make the runs that are missing")
    experiments.add_argument("--profile", default="sandbox")
    experiments.add_argument(
        "--conditions", nargs="+", metavar="NAME", help="default: all; of another profile grpo and hicra"
    )
    experiments.add_argument("--runs", type=Path, help="those under way; runs/experiments or runs/PROFILE")
    experiments.add_argument("--records", type=Path, help="finished ones; data/experiments or data/PROFILE")
    experiments.add_argument("--workers", type=int, default=os.cpu_count(), help="runs side by side")
    experiments.add_argument("--overrides", type=_overrides, default={}, metavar="JSON")


def _add_records(commands) -> None:
    judge = commands.add_parser("judge", help="an LLM judge against the exact labels of sandbox failures")
    judge.add_argument("--records", type=Path, nargs="+", required=True, metavar="RUN", help="run folders")
    judge.add_argument("--model", required=True, help="as the server names it")
    judge.add_argument("--base-url", default="http://127.0.0.1:8000/v1", help="an OpenAI-compatible server")

    figures = commands.add_parser("figures", help="every figure and verdict from the experiments' records")
    figures.add_argument("--records", type=Path, default=Path("data/experiments"))
    figures.add_argument("--models", type=Path, nargs="*", default=[Path("data/smollm2")], metavar="FOLDER")
    figures.add_argument("--claims", type=Path, default=Path("data/claims.yaml"))
    figures.add_argument("--out", type=Path, default=Path("figures"))
    commands.add_parser("cards", help="print the cards of the shipped lexicons")


def _add_lexicon(commands) -> None:
    lexicon = commands.add_parser("lexicon", help="build a lexicon from a corpus of solutions")
    source = {"nargs": "+", "metavar": "SOURCE", "help": "JSON Lines file, hub:owner/name, or run folder"}
    lexicon.add_argument("--solutions", required=True, **source)
    lexicon.add_argument("--background", **source)
    lexicon.add_argument("--out", type=Path, required=True)
    lexicon.add_argument("--preset", default="paper", help="paper, or hicra with --background")
    lexicon.add_argument("--text-field", default="response")
    lexicon.add_argument("--correct-field", help="without it every solution is taken as correct")
    lexicon.add_argument(
        "--one-per", metavar="FIELD", help="keep one solution for each value, such as question"
    )
    lexicon.add_argument(
        "--after", default="", metavar="MARK", help="cut the text up to this, such as <think>"
    )
    lexicon.add_argument("--any-answer", action="store_true", help="keep solutions without a boxed answer")
    lexicon.add_argument("--clustering", default="kmeans", help="kmeans or hdbscan")
    lexicon.add_argument("--n-clusters", type=int)
    lexicon.add_argument("--min-df", type=int, help="solutions that must hold an n-gram")
    lexicon.add_argument("--seed", type=int, default=0)
    lexicon.add_argument("--source", default="", help="where the solutions come from, and their licence")


def _add_score(commands) -> None:
    score = commands.add_parser("score-lexicon", help="score lexicons on labelled sentences")
    score.add_argument("lexicons", nargs="+", metavar="LEXICON", help="a shipped name or a file")
    score.add_argument("--labels", type=Path, required=True)
    score.add_argument("--planning", nargs="+", metavar="LABEL", help="labels that count as planning")
    score.add_argument("--out", type=Path, help="write the table as CSV as well")
    score.add_argument("--classes", action="store_true", help="print the share marked of every label too")
