"""The command line: `python -m hicra COMMAND`. `--help` of each command names its options."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hicra.arguments import make_parser


def _lexicon(options) -> None:
    from hicra.lexicon.build import build_lexicon
    from hicra.lexicon.corpus import Corpus

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
    from hicra.files import write_atomic
    from hicra.lexicon.labelled_sentences import STEERING, classes_table, score_table
    from hicra.lexicon.lexicon import Lexicon

    lexicons = [Lexicon.load(name) for name in options.lexicons]
    planning = frozenset(options.planning or STEERING)
    table = score_table(lexicons, options.labels, planning)
    print(table.to_string(index=False))
    if options.out:
        write_atomic(options.out, table.to_csv(index=False))
    if options.classes:
        print(classes_table(lexicons, options.labels, planning).to_string(index=False))


def _cards(options) -> None:
    from hicra.lexicon.lexicon import Lexicon, card, shipped

    print("# Lexicons\n\n" + "\n".join(card(Lexicon.load(name)) for name in shipped()), end="")


def _sandbox_lexicon(options) -> None:
    from hicra.study.policy.rollouts import base_rollouts, lexicon_of

    from hicra.lexicon.placebo import placebo_lexicon
    from hicra.study.profiles import get_profile

    profile = get_profile(options.profile, **options.overrides)
    rollouts = base_rollouts(profile, profile.lexicon_rollouts, seed=0)
    lexicon = lexicon_of(rollouts, profile, options.out.stem)
    texts = (r.text for r in rollouts if r.correct)
    placebo = placebo_lexicon(lexicon, texts, seed=0, name=f"{options.out.stem}-placebo")
    for made, path in ((lexicon, options.out), (placebo, options.out.with_stem(placebo.name))):
        made.save(path)
        print(f"{len(made)} grams in {path}")


def _experiments(options) -> None:
    from hicra.study.experiments import CONDITIONS, run_experiments

    sandbox = options.profile == "sandbox"
    place = "experiments" if sandbox else options.profile
    run_experiments(
        options.runs or Path("runs") / place,
        options.records or Path("data") / place,
        tuple(options.conditions or (CONDITIONS if sandbox else ("grpo", "hicra"))),
        profile=options.profile,
        report=_every(30),
        workers=options.workers,
        **options.overrides,
    )


def _preflight(options) -> None:
    from hicra.study.training.preflight import preflight

    from hicra.study.profiles import get_profile

    for check in preflight(get_profile(options.profile, **options.overrides)):
        print(f"{check.verdict:4} {check.name}: {check.found} {check.remedy}".rstrip())


def _benchmarks(options) -> None:
    from hicra.study.policy.evaluation import score_run

    for folder in options.folders:
        table = score_run(folder, use_vllm=options.vllm, **options.overrides)
        print(f"{folder}\n{table.to_string(index=False)}")


def _publish(options) -> None:
    from hicra.study.policy.model_card import publish

    print(publish(options.folder, options.to, merge=options.merge))


def _judge(options) -> None:
    from hicra.study.problems.prompts import training_tasks
    from hicra.study.profiles import get_profile
    from hicra.study.record.run_folder import RunFolder
    from hicra.study.verdicts.llm_judge import Failed, agreement, judge

    failures, exact = [], []
    for folder in options.records:
        run = RunFolder(folder)
        settings = run.manifest()["settings"]
        profile = get_profile(settings["name"], problem_set=settings["problem_set"])
        n = settings["steps"] * settings["prompts_per_step"]
        answers = {task.prompt: task.answer for task in training_tasks(profile, n, settings["seed"])}
        for row in run.read("rollouts.jsonl"):
            if row["error"]:
                failures.append(Failed(row["prompt"], answers[row["prompt"]], row["completion"]))
                exact.append(row["error"])
    found = agreement(judge(failures, model=options.model, base_url=options.base_url), exact)
    verdict = "trusted" if found.trusted else "not to be trusted"
    print(
        f"{options.model} on {found.n} failures: accuracy {found.accuracy:.2f}, kappa {found.kappa:.2f}, "
        f"{found.unclear} unclear: {verdict}"
    )


def _figures(options) -> None:
    from hicra.study.experiments import CONDITIONS
    from hicra.study.figures.gallery import build_gallery

    written = build_gallery(
        options.records, options.claims, options.out, tuple(CONDITIONS), models=options.models
    )
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
    from hicra.study.calibration import calibrate

    print(calibrate(options.runs, options.out, report=print).to_string(index=False))


def _study(options) -> None:
    from hicra.study.notebooks import STUDY, run_study
    from hicra.study.profiles import get_profile

    get_profile(options.profile, **options.overrides)
    run_study(
        options.profile,
        runs=options.runs,
        figures=options.figures,
        overrides=options.overrides,
        only=tuple(options.only or STUDY),
    )


def _train(options) -> None:
    from hicra.study.profiles import get_profile
    from hicra.study.training.run import train

    train(get_profile(options.profile, **options.overrides), options.arm, options.seed, options.out)


def _sandbox_base(options) -> None:
    from hicra.study.policy.sandbox_pretraining import train_base

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
    "judge": _judge,
    "preflight": _preflight,
    "benchmarks": _benchmarks,
    "publish": _publish,
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; what a user can mend is one line on stderr and exit code 2."""
    options = make_parser().parse_args(arguments)
    command = COMMANDS[options.command]
    try:
        command(options)
    except (ValueError, FileNotFoundError, ConnectionError) as error:
        print(f"hicra: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    # An exception, not a silent end: what runs side by side is then ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
