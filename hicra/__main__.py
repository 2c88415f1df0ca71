"""The command line: `python -m hicra COMMAND`. `--help` of each command names its options."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def _overrides(text: str) -> dict:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("give a JSON object, such as '{\"steps\": 20}'")
    return value


def _parser() -> argparse.ArgumentParser:
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

    lexicon = commands.add_parser("lexicon", help="build a lexicon from the base policy's solutions")
    lexicon.add_argument("--out", type=Path, required=True, help="such as data/lexicons/sandbox.json")

    for command in (study, train, lexicon):
        command.add_argument("--profile", default="sandbox")
        command.add_argument("--overrides", type=_overrides, default={}, metavar="JSON")

    base = commands.add_parser("sandbox-base", help="train the sandbox's base policies")
    base.add_argument("--out", type=Path, default=Path("data/sandbox"))

    calibration = commands.add_parser("calibrate", help="GRPO on three seeds of the sandbox")
    calibration.add_argument("--runs", type=Path, default=Path("runs"))
    calibration.add_argument("--out", type=Path, default=Path("data/sandbox/calibration.csv"))
    return parser


def _lexicon(options) -> None:
    from hicra.profiles import get_profile
    from hicra.rollouts import base_rollouts, lexicon_of

    profile = get_profile(options.profile, **options.overrides)
    lexicon = lexicon_of(base_rollouts(profile, profile.lexicon_rollouts, seed=0), profile, options.out.stem)
    lexicon.save(options.out)
    print(f"{len(lexicon)} Strategic Grams in {options.out}")


def _calibrate(options) -> None:
    from hicra.calibration import calibrate

    print(calibrate(options.runs, options.out, report=print).to_string(index=False))


def _study(options) -> None:
    from hicra.profiles import get_profile
    from hicra.study import STUDY, run_study

    get_profile(options.profile, **options.overrides)
    run_study(
        options.profile,
        runs=options.runs,
        figures=options.figures,
        overrides=options.overrides,
        only=tuple(options.only or STUDY),
    )


def _train(options) -> None:
    from hicra.profiles import get_profile
    from hicra.training import train

    train(get_profile(options.profile, **options.overrides), options.arm, options.seed, options.out)


def _sandbox_base(options) -> None:
    from hicra.base_policy import train_base

    train_base(options.out)


COMMANDS = {
    "study": _study,
    "train": _train,
    "lexicon": _lexicon,
    "sandbox-base": _sandbox_base,
    "calibrate": _calibrate,
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; what a user can mend is one line on stderr and exit code 2."""
    options = _parser().parse_args(arguments)
    command = COMMANDS[options.command]
    try:
        command(options)
    except (ValueError, FileNotFoundError) as error:
        print(f"hicra: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
