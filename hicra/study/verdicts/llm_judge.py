"""A language model as judge of why a completion failed (paper, Fig. 3).

For models and problems without exact labels. The judge is any model behind the OpenAI-compatible chat
interface; vLLM's server offers one on this machine. Before its labels are used, its agreement with
the exact labels of made problems' failures is measured, and below KAPPA it is not trusted.

The paper asks for one of four causes and reports planning against the rest. Its prompt is not printed
here: causes and wording are ours.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
from sklearn.metrics import cohen_kappa_score

from hicra.errors import HicraError
from hicra.study.problems.prompts import training_tasks
from hicra.study.profiles import recorded_profile
from hicra.study.record.run_folder import RunFolder

CAUSES = {
    "planning": "the approach could not have led to the answer, or was abandoned before its end",
    "execution": "the approach would have worked, but a step was computed or copied wrongly",
    "understanding": "the problem was misread: a quantity, a condition or the question itself",
    "form": "the result is right, but it is not stated in the box as asked",
}
UNCLEAR = "unclear"
KAPPA = 0.6  # the least agreement with exact labels; fixed before any judge was tried
KEY = "OPENAI_API_KEY"
QUESTION = """A solution to a problem is wrong. Find the first thing that went wrong, and name its cause.

{causes}

Problem:
{problem}

Correct answer: {answer}

Solution:
{completion}

Reply with one word, the name of the cause."""


class JudgeError(HicraError):
    """The judge could not be asked; the message names the address and the remedy."""


class Failed(NamedTuple):
    """A wrong completion, with what is needed to judge it."""

    problem: str
    answer: str
    completion: str


class Agreement(NamedTuple):
    """Planning against the rest, judge against exact labels; `unclear` replies count as wrong."""

    n: int
    accuracy: float
    kappa: float
    unclear: int

    @property
    def trusted(self) -> bool:
        return self.kappa >= KAPPA


def judge(
    failures: Sequence[Failed],
    *,
    model: str,
    base_url: str = "http://127.0.0.1:8000/v1",
    workers: int = 8,
    timeout: float = 60.0,
) -> list[str]:
    """The cause of each failure, in order: a key of CAUSES, or UNCLEAR where the reply names none.

    The key, if the server wants one, is read from the environment variable OPENAI_API_KEY. Raises
    JudgeError where the server cannot be reached or refuses.
    """
    key = os.environ.get(KEY)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = httpx.HTTPTransport(retries=3)
    with (
        httpx.Client(base_url=base_url, headers=headers, timeout=timeout, transport=transport) as client,
        ThreadPoolExecutor(workers) as pool,
    ):
        return list(pool.map(lambda failed: read_cause(_ask(client, model, failed)), failures))


def _ask(client: httpx.Client, model: str, failed: Failed) -> str:
    causes = "\n".join(f"- {name}: {meaning}" for name, meaning in CAUSES.items())
    text = QUESTION.format(causes=causes, **failed._asdict())
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 16,
    }
    try:
        reply = client.post("chat/completions", json=body)
        if reply.is_error:
            raise JudgeError(f"{client.base_url} refused with {reply.status_code}: {_reason(reply)}")
        return _text(reply.json()["choices"][0]["message"]["content"])
    except (httpx.HTTPError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, JudgeError):
            raise
        raise JudgeError(
            f"no judgement from {client.base_url} ({type(error).__name__}: {error}); serve a model there, "
            f"such as `python -m vllm.entrypoints.openai.api_server --model {model}`, or name another address"
        ) from error


def _reason(reply: httpx.Response) -> str:
    """The server's own words; OpenAI-compatible servers put them into error.message."""
    try:
        found = reply.json()
        error = found.get("error", found)
        return (
            str(error.get("message") or error.get("detail") or error)
            if isinstance(error, dict)
            else str(error)
        )
    except (ValueError, AttributeError):
        return reply.text.strip()[:500] or "without a word"


def _text(content) -> str:
    """A reply's text, which some servers give in parts; a refusal has none."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = [part if isinstance(part, str) else part["text"] for part in content if part]
    return "".join(parts)


def read_cause(reply: str) -> str:
    """The one cause that a reply names; UNCLEAR for none or several."""
    named = [cause for cause in CAUSES if cause in reply.lower()]
    return named[0] if len(named) == 1 else UNCLEAR


def judge_records(folders: Sequence[Path], *, model: str, base_url: str) -> str:
    """One sentence: how far the judge agrees with the exact labels of the failures in run folders."""
    failures, exact = [], []
    for folder in folders:
        run = RunFolder(folder)
        settings = run.manifest()["settings"]
        profile = recorded_profile(settings)
        n = settings["steps"] * settings["prompts_per_step"]
        answers = {task.prompt: task.answer for task in training_tasks(profile, n, settings["seed"])}
        for row in run.read("rollouts.jsonl"):
            if row["error"]:
                failures.append(Failed(row["prompt"], answers[row["prompt"]], row["completion"]))
                exact.append(row["error"])
    found = agreement(judge(failures, model=model, base_url=base_url), exact)
    verdict = "trusted" if found.trusted else "not to be trusted"
    counts = f"accuracy {found.accuracy:.2f}, kappa {found.kappa:.2f}, {found.unclear} unclear"
    return f"{model} on {found.n} failures: {counts}: {verdict}"


def agreement(judged: Sequence[str], exact: Sequence[str]) -> Agreement:
    """Judged causes against exact kinds ("planning" or "execution") of the same failures.

    Raises ValueError for none, or for lists of different lengths.
    """
    if not judged or len(judged) != len(exact):
        raise HicraError(f"{len(judged)} judgements for {len(exact)} exact labels; give one each")
    # An unclear reply must not agree by chance, so it is a class of its own.
    ours = [cause if cause == UNCLEAR else str(cause == "planning") for cause in judged]
    true = [str(kind == "planning") for kind in exact]
    right = sum(a == b for a, b in zip(ours, true, strict=True)) / len(true)
    kappa = float(cohen_kappa_score(ours, true)) if len({*ours, *true}) > 1 else float(ours == true)
    return Agreement(len(true), right, kappa, list(judged).count(UNCLEAR))
