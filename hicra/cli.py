"""The command line: `hicra COMMAND`, or `python -m hicra COMMAND`.

A command imports what it needs when it runs, so that `hicra --help` answers at once. What a user can mend
(errors.HicraError) is one line on stderr and exit code 2; anything else keeps its traceback.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from hicra.errors import HicraError
from hicra.files import check_file, check_folder, data_root, study_data

PROFILES = "families, smollm2, colab or paper"
ARMS = (
    "grpo, hicra, high_entropy, entropy_reg, symmetric, weighted, yoked, scaled, hicra_all, scaled_all, "
    "fork_mask, entropy_shaped or released"
)
EPILOG = """
Three commands to begin with:

\b
  hicra study                       train GRPO and HICRA in a made world
  hicra preflight --profile colab   is this machine ready for a profile?
  hicra lexicon --solutions mine.jsonl --any-answer --out mine.json
                                    Strategic Grams of your own solutions
"""

app = typer.Typer(
    help="The open reproduction of HICRA: Strategic Grams, planning credit, and the study.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
# Options that several values may follow: --only 01 02 is --only 01 --only 02.
SEVERAL = {"--only", "--conditions", "--models", "--records", "--solutions", "--background", "--planning"}


def _overrides(text: str) -> dict:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise typer.BadParameter("give a JSON object, such as '{\"steps\": 20}'")
    return value


def _file(path: Path | None) -> Path | None:
    """An output file, tried before the work that fills it."""
    if path is not None:
        check_file(path)
    return path


def _folder(path: Path | None) -> Path | None:
    if path is not None:
        check_folder(path)
    return path


Profile = Annotated[str, typer.Option(help=f"{PROFILES}.", show_default=True)]
Overrides = Annotated[
    dict,
    typer.Option(
        parser=_overrides, metavar="JSON", help="Fields of the profile to change.", show_default=False
    ),
]
Runs = Annotated[Path, typer.Option(help="Folder of the runs.", callback=_folder)]
Mirror = Annotated[
    Path | None,
    typer.Option(
        help="Folder on another drive: runs go on from there, and checkpoints and records are copied there.",
        callback=_folder,
    ),
]
On = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="A Ray cluster: local starts one of this machine; auto, HOST:PORT or ray://HOST:10001 use one "
        "that runs. Every node has the same packages and sees the same paths; a shard is a file.",
    ),
]


def _need_clone() -> None:
    """The study's data and notebooks are in the repository, not in the wheel."""
    study_data("families/claims.yaml")


def _mirrored(runs: Path, mirror: Path | None) -> AbstractContextManager:
    """While the `with` lasts, the runs have a mirror in the folder of the same name."""
    from hicra.study.record.mirror import mirrored

    return mirrored(runs, mirror / runs.name) if mirror else nullcontext()


def _spread(on: str | None) -> AbstractContextManager:
    """While the `with` lasts, the cluster that --on names, if any."""
    from hicra.spread import cluster

    return cluster(on) if on else nullcontext()


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"hicra {version('hicra')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


# --- the study -------------------------------------------------------------------------------------


@app.command()
def study(
    profile: Profile = "families",
    overrides: Overrides = "{}",
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NOTEBOOK", help="Notebooks to run, such as 04_figures; all if not given."),
    ] = None,
    runs: Runs = Path("runs"),
    figures: Annotated[Path, typer.Option(help="Folder for figures.", callback=_folder)] = Path("figures"),
    mirror: Mirror = None,
) -> None:
    """Run the notebooks in order; reuses what is done."""
    _need_clone()
    from hicra.study.notebooks import STUDY, run_study
    from hicra.study.profiles import get_profile

    get_profile(profile, **overrides)
    with _mirrored(runs / profile, mirror):
        run_study(profile, runs=runs, figures=figures, overrides=overrides, only=tuple(only or STUDY))


@app.command()
def notebooks() -> None:
    """Put fresh outputs into the committed notebooks."""
    _need_clone()
    from hicra.study.notebooks import publish_notebooks

    publish_notebooks()


@app.command()
def preflight(profile: Profile = "families", overrides: Overrides = "{}") -> None:
    """Is this machine ready for a profile?"""
    _need_clone()
    from hicra.study.training.preflight import checks

    from hicra.study.profiles import get_profile

    for check in checks(get_profile(profile, **overrides)):
        print(f"{check.verdict:4} {check.name}: {check.found} {check.remedy}".rstrip())


@app.command()
def train(
    arm: Annotated[str, typer.Option(help=f"{ARMS}.")],
    seed: Annotated[int, typer.Option(help="Decides problems, their order and every draw.")],
    out: Annotated[Path, typer.Option(help="The run's folder.", callback=_folder)],
    profile: Profile = "families",
    overrides: Overrides = "{}",
) -> None:
    """Train one arm with one seed; resumes.

    An interrupted run goes on from its last checkpoint.
    """
    _need_clone()
    from hicra.study.profiles import get_profile
    from hicra.study.training.plan import plan_run
    from hicra.study.training.run import train as run

    run(plan_run(get_profile(profile, overrides), arm, seed), out)


@app.command()
def experiments(
    profile: Profile = "families",
    conditions: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Conditions to run; all of families, else grpo and hicra."),
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(help="Folder of runs under way; runs/ and the records' place.", callback=_folder),
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(
            help="Folder of finished records; data/families/records or data/PROFILE.",
            callback=_folder,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Runs side by side; without --on, several may share a GPU.",
            show_default="one a core or GPU",
        ),
    ] = None,
    overrides: Overrides = "{}",
    mirror: Mirror = None,
    on: On = None,
) -> None:
    """Make the runs that have no record yet; resumes.

    On a cluster a run has a core or its GPUs of one node, on whose disk it is made (TMPDIR). Every sealed
    checkpoint comes back to --runs at once; there a run whose node was lost goes on from, on another node.
    """
    _need_clone()
    from hicra.study.experiments import CONDITIONS, WORLD, records_of, run_experiments

    runs = runs or Path("runs") / records_of(profile)
    with _spread(on) as spread, _mirrored(runs, mirror):
        run_experiments(
            runs,
            records or data_root() / records_of(profile),
            tuple(conditions or (CONDITIONS if profile == WORLD else ("grpo", "hicra"))),
            profile=profile,
            report=_every(30),
            workers=workers,
            spread=spread,
            **overrides,
        )


@app.command()
def figures(
    records: Annotated[
        Path | None, typer.Option(help="Run records; the committed ones if not given.")
    ] = None,
    models: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Records of other models, each a section of its own; the committed ones beside the "
            "committed records.",
        ),
    ] = None,
    claims: Annotated[
        Path | None, typer.Option(help="Claims with their rules; the study's own if not given.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for figures and tables.", callback=_folder)] = Path(
        "figures"
    ),
) -> None:
    """Draw figures, tables and verdicts from run records.

    No model and no network are needed.
    """
    _need_clone()
    from hicra.study.experiments import CONDITIONS
    from hicra.study.figures.gallery import build_gallery

    written = build_gallery(
        records or study_data("families/records"),
        claims or study_data("families/claims.yaml"),
        out,
        pilots=study_data("families/pilots"),
        order=tuple(CONDITIONS),
        models=[study_data("smollm2")] if models is None and records is None else models or (),
    )
    print(f"{len(written)} files in {out}")


@app.command()
def evaluate(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")],
    vllm: Annotated[bool, typer.Option("--vllm", help="Generate by vLLM.")] = False,
    overrides: Overrides = "{}",
) -> None:
    """Score finished runs on their benchmarks.

    The profile names the benchmarks; the protocol is the paper's.
    """
    from hicra.study.policy.evaluation import score_run

    for folder in folders:
        table = score_run(folder, use_vllm=vllm, **overrides)
        print(f"{folder}\n{table.to_string(index=False)}")


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    to: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Repository on the Hub.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Push the whole model instead of the adapter.")
    ] = False,
) -> None:
    """Push a finished run's policy to the Hub."""
    from hicra.study.policy.model_card import publish as push

    print(push(folder, to, merge=merge))


@app.command()
def equation() -> None:
    """Print the tables of docs/equation.md, by Monte Carlo."""
    from hicra.study.equation import tables

    print("\n".join(tables()))


@app.command()
def judge(
    records: Annotated[
        list[Path], typer.Option(metavar="RUN", help="Run folders whose failures are judged.")
    ],
    model: Annotated[str, typer.Option(help="The model, as the server names it.")],
    base_url: Annotated[str, typer.Option(help="An OpenAI-compatible server.")] = "http://127.0.0.1:8000/v1",
) -> None:
    """Test a language model as judge of failures.

    Its labels are compared with the exact ones of made problems.
    """
    from hicra.study.verdicts.llm_judge import judge_records

    print(judge_records(records, model=model, base_url=base_url))


@app.command("families-base")
def families_base(
    out: Annotated[Path, typer.Option(help="Folder for the base policies.", callback=_folder)] = Path(
        "data/families"
    ),
) -> None:
    """Train the base policy of the families' world."""
    from hicra.study.policy.families_pretraining import train_base

    train_base(out)


@app.command("families-lexicon")
def families_lexicon(
    out: Annotated[Path, typer.Option(help="Folder for the lexicons.", callback=_folder)] = Path(
        "data/lexicons"
    ),
) -> None:
    """Build the lexicons of the families' world, and score them."""
    _need_clone()
    from hicra.study.policy.families_lexicons import families_lexicons
    from hicra.study.policy.rollouts import base_rollouts, score_on_true_spans

    from hicra.study.profiles import get_profile

    profile = get_profile("families")
    unseen = base_rollouts(profile, 512, seed=1)
    for made in families_lexicons(profile):
        made.save(out / f"{made.name}.json")
        score = score_on_true_spans(made, unseen, profile)
        print(
            f"{len(made)} grams in {out / made.name}.json; on tokens of 512 other solutions: precision "
            f"{score.precision:.2f}, recall {score.recall:.2f}, F1 {score.f1:.2f}"
        )


# --- the method ------------------------------------------------------------------------------------


Sources = typer.Option(metavar="SOURCE", help="JSON Lines files, hub:OWNER/NAME, or run folders.")


@app.command()
def measure(
    rollouts: Annotated[
        list[str],
        typer.Argument(
            metavar="ROLLOUTS...",
            help="Folders, JSON Lines, CSV, parquet, or hub:OWNER/NAME@COMMIT; NAME=PATH names a run.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for tables and report.", callback=_folder)],
    lexicon: Annotated[str, typer.Option(help="A shipped name or a file.")] = "general",
    text_field: Annotated[str | None, typer.Option(help="Field of the completion.")] = None,
    step_field: Annotated[str | None, typer.Option(help="Field of the training step.")] = None,
    problem_field: Annotated[str | None, typer.Option(help="Field of the problem or prompt.")] = None,
    reward_field: Annotated[str | None, typer.Option(help="Field of the reward.")] = None,
    correct_field: Annotated[str | None, typer.Option(help="Field that says what is right.")] = None,
    run_field: Annotated[str | None, typer.Option(help="Field of the run.")] = None,
    correct_above: Annotated[
        float | None, typer.Option(help="A completion is right where its reward is above this.")
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A checkpoint that gives token log-probabilities and entropies."),
    ] = None,
    score_temperature: Annotated[float, typer.Option(help="Divides its logits.")] = 1.0,
    prompt_field: Annotated[
        str | None, typer.Option(help="Field of what the model was given, for --score.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Steps pooled into one.")] = 1,
    before: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="FIRST LAST", help="Steps compared; the first quarter if not given."),
    ] = None,
    after: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="FIRST LAST", help="Steps compared; the last quarter if not given."),
    ] = None,
    on: On = None,
) -> None:
    """Measure Strategic Grams in any run's rollouts."""
    from hicra.dynamics.measure import measure as run
    from hicra.dynamics.readers import Fields
    from hicra.dynamics.scoring import Scorer

    names = (text_field, step_field, problem_field, reward_field, correct_field, run_field)
    with _spread(on) as spread:
        found = run(
            rollouts,
            lexicon,
            fields=Fields(*names, correct_above, prompt_field),
            score=Scorer(score, score_temperature) if score else None,
            every=every,
            before=before,
            after=after,
            progress=_every(10, status=bool),
            spread=spread,
        )
    written = found.save(out)
    for note in found.notes:
        print(note)
    print(found.changes.round(4).to_string(index=False))
    print(f"{len(written)} files in {out}; open {out / 'report.html'}")


@app.command()
def lexicon(
    solutions: Annotated[list[str], Sources],
    out: Annotated[Path, typer.Option(help="The lexicon's file.", callback=_file)],
    background: Annotated[
        list[str] | None, typer.Option(metavar="SOURCE", help="Short solutions, for hicra and general.")
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="paper, or hicra or general with --background; general takes each source for a family of "
            "models and reads its thinking, up to </think>."
        ),
    ] = "paper",
    text_field: Annotated[str, typer.Option(help="Field that holds the solution.")] = "response",
    correct_field: Annotated[
        str | None,
        typer.Option(help="Field that says whether it is right; all are taken as right if not given."),
    ] = None,
    correct_above: Annotated[
        float | None,
        typer.Option(
            help="A solution is right where that field is above this, for rewards such as 0.9 or -1."
        ),
    ] = None,
    one_per: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Keep one solution for each value, such as question.")
    ] = None,
    after: Annotated[
        str, typer.Option(metavar="MARK", help="Cut the text up to this, such as <think>.")
    ] = "",
    any_answer: Annotated[
        bool, typer.Option("--any-answer", help="Keep solutions without a boxed answer.")
    ] = False,
    clustering: Annotated[str, typer.Option(help="kmeans or hdbscan.")] = "kmeans",
    n_clusters: Annotated[
        int | None, typer.Option(help="Clusters; a tenth of the n-grams if not given.")
    ] = None,
    min_df: Annotated[
        int | None, typer.Option(help="Solutions that must hold an n-gram; 1 % of them if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the clustering.")] = 0,
    source: Annotated[str, typer.Option(help="Where the solutions come from, and their licence.")] = "",
    on: On = None,
) -> None:
    """Build a lexicon from solutions."""
    from collections import Counter
    from dataclasses import replace

    from hicra.lexicon.build import build_lexicon
    from hicra.lexicon.corpus import Corpus

    families = {Path(s).name: [s] for s in solutions} if preset == "general" else {"": solutions}
    if preset == "general" and len(families) < len(solutions):
        raise HicraError(f"two of the sources {', '.join(solutions)} have the same name; rename one")
    corpora = {
        name: Corpus(
            sources,
            text=text_field,
            correct=correct_field,
            correct_above=correct_above,
            one_per=one_per,
            boxed_only=not any_answer,
            after=after,
            thinking=preset == "general",
        )
        for name, sources in families.items()
    }
    short = background and Corpus(background, text=text_field, boxed_only=False)
    with _spread(on) as spread:
        built = build_lexicon(
            corpora if preset == "general" else corpora[""],
            preset=preset,
            background=short,
            clustering=clustering,
            n_clusters=n_clusters,
            min_df=min_df,
            seed=seed,
            name=out.stem,
            spread=spread,
            source=source or ", ".join(Path(s).name for s in solutions),
        )
    lost = sum((corpus.dropped for corpus in corpora.values()), Counter())
    lost = {"solutions": lost, **({"background": short.dropped} if short else {})}
    dropped = {name: dict(sorted(counts.items())) for name, counts in lost.items()}
    replace(built, provenance={**built.provenance, "dropped": dropped}).save(out)
    for name, counts in dropped.items():
        print(f"{name} dropped:", ", ".join(f"{n} {reason}" for reason, n in counts.items()) or "none")
    print(f"{len(built)} Strategic Grams from {built.provenance['counts']['solutions']} solutions in {out}")


@app.command("score-lexicon")
def score_lexicon(
    lexicons: Annotated[list[str], typer.Argument(metavar="LEXICON...", help="Shipped names or files.")],
    labels: Annotated[Path, typer.Option(help="JSON Lines file of labelled sentences.")],
    planning: Annotated[
        list[str] | None, typer.Option(metavar="LABEL", help="Labels that count as planning.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the table as CSV as well.", callback=_file)] = None,
    classes: Annotated[
        bool, typer.Option("--classes", help="Print the share marked of every label too.")
    ] = False,
    errors: Annotated[
        int,
        typer.Option(
            metavar="N", help="Print the N grams that mark or miss most wrongly, and their sentences."
        ),
    ] = 0,
) -> None:
    """Score lexicons on labelled sentences.

    Prints precision, recall and F1 with intervals.
    """
    from hicra.files import write_atomic
    from hicra.lexicon.labelled_sentences import STEERING, classes_table, errors_text, score_table
    from hicra.lexicon.lexicon import Lexicon

    loaded = [Lexicon.load(name) for name in lexicons]
    wanted = frozenset(planning or STEERING)
    table = score_table(loaded, labels, wanted)
    print(table.to_string(index=False))
    if out:
        write_atomic(out, table.to_csv(index=False))
    if classes:
        print(classes_table(loaded, labels, wanted).to_string(index=False))
    if errors:
        print(errors_text(loaded, labels, errors, wanted))


@app.command()
def cards() -> None:
    """Print the cards of the shipped lexicons."""
    from hicra.lexicon.lexicon import Lexicon, card, shipped

    print("# Lexicons\n\n" + "\n".join(card(Lexicon.load(name)) for name in shipped()), end="")


# --- the program -----------------------------------------------------------------------------------


def _every(seconds: float, status: Callable[[str], bool] = lambda line: "/" in line) -> Callable[[str], None]:
    """Print a line unless it is a status line that follows another too soon."""
    last = -math.inf

    def report(line: str) -> None:
        nonlocal last
        now = time.monotonic()
        if not status(line) or now - last >= seconds:
            print(line, flush=True)
            last = now

    return report


def _repeated(arguments: list[str]) -> list[str]:
    """Arguments with an option before each of its values, where several may follow one."""
    spread, option = [], None
    for i, argument in enumerate(arguments):
        if argument.startswith("-"):
            option = argument if argument in SEVERAL else None
        elif option and arguments[i - 1] != option:
            spread.append(option)
        spread.append(argument)
    return spread


def main(arguments: list[str] | None = None) -> int:
    """Run a command and give its exit code."""
    try:
        app(_repeated(sys.argv[1:] if arguments is None else arguments), prog_name="hicra")
    except HicraError as error:
        print(f"hicra: {error}", file=sys.stderr)
        return 2
    except SystemExit as end:  # how typer returns, also after a wrong option
        return end.code or 0
    return 0


def run() -> None:
    """The program `hicra`."""
    # An exception, not a silent end: what runs side by side is then ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
