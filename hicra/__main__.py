"""The command line: `python -m hicra COMMAND`. `--help` of each command names its options."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
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

    own = commands.add_parser(
        "sandbox-lexicon", help="the paper's recipe on the base policy's solutions, and its placebo"
    )
    own.add_argument("--out", type=Path, default=Path("data/lexicons/sandbox.json"))

    ready = commands.add_parser("preflight", help="is this machine ready for a profile")

    for command in (study, train, own, ready):
        command.add_argument("--profile", default="sandbox")
        command.add_argument("--overrides", type=_overrides, default={}, metavar="JSON")

    base = commands.add_parser("sandbox-base", help="train the sandbox's base policies")
    base.add_argument("--out", type=Path, default=Path("data/sandbox"))

    calibration = commands.add_parser("calibrate", help="GRPO on three seeds of the sandbox")
    calibration.add_argument("--runs", type=Path, default=Path("runs"))
    calibration.add_argument("--out", type=Path, default=Path("data/sandbox/calibration.csv"))

    experiments = commands.add_parser("experiments", help="make the sandbox's runs that are missing")
    experiments.add_argument("--conditions", nargs="+", metavar="NAME", help="default: all of them")
    experiments.add_argument("--runs", type=Path, default=Path("runs/experiments"), help="runs under way")
    experiments.add_argument("--records", type=Path, default=Path("data/experiments"), help="finished ones")
    experiments.add_argument("--workers", type=int, default=os.cpu_count(), help="runs side by side")
    experiments.add_argument("--overrides", type=_overrides, default={}, metavar="JSON")

    figures = commands.add_parser("figures", help="every figure and verdict from the experiments' records")
    figures.add_argument("--records", type=Path, default=Path("data/experiments"))
    figures.add_argument("--claims", type=Path, default=Path("data/claims.yaml"))
    figures.add_argument("--out", type=Path, default=Path("figures"))
    commands.add_parser("cards", help="print the cards of the shipped lexicons")
    _add_lexicon(commands)
    _add_score(commands)
    return parser


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


def _lexicon(options) -> None:
    from hicra.corpus import Corpus
    from hicra.strategic_grams import build_lexicon

    corpus = Corpus(
        options.solutions,
        text=options.text_field,
        correct=options.correct_field,
        one_per=options.one_per,
        boxed_only=not options.any_answer,
        after=options.after,
    )
    short = options.background and Corpus(options.background, text=options.text_field, boxed_only=False)
    lexicon = build_lexicon(
        corpus,
        preset=options.preset,
        background=short,
        clustering=options.clustering,
        n_clusters=options.n_clusters,
        min_df=options.min_df,
        seed=options.seed,
        name=options.out.stem,
        source=options.source or ", ".join(Path(s).name for s in options.solutions),
    )
    dropped = {"solutions": dict(corpus.dropped), **({"background": dict(short.dropped)} if short else {})}
    replace(lexicon, provenance={**lexicon.provenance, "dropped": dropped}).save(options.out)
    for name, counts in dropped.items():
        print(f"{name} dropped:", ", ".join(f"{n} {reason}" for reason, n in counts.items()) or "none")
    print(f"{len(lexicon)} Strategic Grams from {corpus.kept} solutions in {options.out}")


def _score(options) -> None:
    from hicra.lexicon import Lexicon
    from hicra.runs import write_atomic
    from hicra.sentences import STEERING, classes_table, score_table

    lexicons = [Lexicon.load(name) for name in options.lexicons]
    planning = frozenset(options.planning or STEERING)
    table = score_table(lexicons, options.labels, planning)
    print(table.to_string(index=False))
    if options.out:
        write_atomic(options.out, table.to_csv(index=False))
    if options.classes:
        print(classes_table(lexicons, options.labels, planning).to_string(index=False))


def _cards(options) -> None:
    from hicra.lexicon import Lexicon, card, shipped

    print("# Lexicons\n\n" + "\n".join(card(Lexicon.load(name)) for name in shipped()), end="")


def _sandbox_lexicon(options) -> None:
    from hicra.placebo import placebo_lexicon
    from hicra.profiles import get_profile
    from hicra.rollouts import base_rollouts, lexicon_of

    profile = get_profile(options.profile, **options.overrides)
    rollouts = base_rollouts(profile, profile.lexicon_rollouts, seed=0)
    lexicon = lexicon_of(rollouts, profile, options.out.stem)
    texts = (r.text for r in rollouts if r.correct)
    placebo = placebo_lexicon(lexicon, texts, seed=0, name=f"{options.out.stem}-placebo")
    for made, path in ((lexicon, options.out), (placebo, options.out.with_stem(placebo.name))):
        made.save(path)
        print(f"{len(made)} grams in {path}")


def _experiments(options) -> None:
    from hicra.experiments import CONDITIONS, run_experiments

    run_experiments(
        options.runs,
        options.records,
        tuple(options.conditions or CONDITIONS),
        report=_every(30),
        workers=options.workers,
        **options.overrides,
    )


def _preflight(options) -> None:
    from hicra.preflight import preflight
    from hicra.profiles import get_profile

    for check in preflight(get_profile(options.profile, **options.overrides)):
        print(f"{check.verdict:4} {check.name}: {check.found} {check.remedy}".rstrip())


def _figures(options) -> None:
    from hicra.experiments import CONDITIONS
    from hicra.gallery import build_gallery

    written = build_gallery(options.records, options.claims, options.out, tuple(CONDITIONS))
    print(f"{len(written)} files in {options.out}")


def _every(seconds: float) -> Callable[[str], None]:
    """Print a line unless it is a status line that follows another too soon."""
    last = -math.inf

    def report(line: str) -> None:
        nonlocal last
        now = time.monotonic()
        if "/" not in line or now - last >= seconds:
            print(line, flush=True)
            last = now

    return report


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
    "score-lexicon": _score,
    "cards": _cards,
    "sandbox-lexicon": _sandbox_lexicon,
    "sandbox-base": _sandbox_base,
    "calibrate": _calibrate,
    "experiments": _experiments,
    "figures": _figures,
    "preflight": _preflight,
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
    # An exception, not a silent end: what runs side by side is then ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
