"""The judge: asked over HTTP, read strictly, measured against exact labels."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from hicra.cli import main
from hicra.study.verdicts.llm_judge import (
    CAUSES,
    UNCLEAR,
    Failed,
    JudgeError,
    _ask,
    agreement,
    judge,
    read_cause,
)

FAILURES = [Failed("What is 2 plus 2?", "4", f"It is {n}.") for n in range(20)]


@pytest.fixture
def server():
    """Answers "Planning." where the completion's number is even; keeps what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers.get("Authorization"), body))
            text = body["messages"][0]["content"]
            number = int(text.split("It is ")[1].split(".")[0])
            cause = "Planning." if number % 2 == 0 else "execution"
            reply = {"choices": [{"message": {"content": cause}}]} if number < 100 else {"error": "no"}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(reply).encode())

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/v1", asked
    http.shutdown()
    http.server_close()


def test_every_failure_gets_its_own_cause_in_order(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    url, asked = server
    causes = judge(FAILURES, model="m", base_url=url)
    assert causes == ["planning", "execution"] * 10
    path, key, body = asked[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert (body["model"], body["temperature"]) == ("m", 0)
    question = body["messages"][0]["content"]
    assert "Correct answer: 4" in question
    assert all(f"- {name}: {meaning}" in question for name, meaning in CAUSES.items())


def test_a_server_that_is_not_there_or_refuses_is_named(server):
    with pytest.raises(
        JudgeError, match=r"127.0.0.1:1/v1/ .*ConnectError.*vllm.entrypoints.openai.api_server --model m"
    ):
        judge(FAILURES[:1], model="m", base_url="http://127.0.0.1:1/v1")
    with pytest.raises(JudgeError, match="KeyError"):
        judge([Failed("p", "4", "It is 100.")], model="m", base_url=server[0])


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (
            400,
            {"error": {"message": "max_tokens is not supported"}},
            "refused with 400: max_tokens is not supported",
        ),
        (404, {"detail": "no model m"}, "refused with 404: no model m"),
        (401, {"error": "bad key"}, "refused with 401: bad key"),
        (500, "plain words", "refused with 500: plain words"),
        (200, {"choices": []}, "IndexError"),
        (200, {"choices": [{"message": {"content": 7}}]}, "TypeError"),
        (200, {"choices": [{"message": {"content": [{"image": 1}]}}]}, "KeyError"),
        (200, [], "TypeError"),
    ],
)
def test_the_servers_own_reason_is_shown(status, body, message):
    text = body if isinstance(body, str) else json.dumps(body)
    client = httpx.Client(
        base_url="http://judge/v1", transport=httpx.MockTransport(lambda _: httpx.Response(status, text=text))
    )
    with pytest.raises(JudgeError, match=message):
        _ask(client, "m", FAILURES[0])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([{"type": "text", "text": "plan"}, {"type": "text", "text": "ning"}], "planning"),
        (["planning"], "planning"),
        (None, ""),
    ],
)
def test_content_in_parts_is_put_together(content, said):
    reply = {"choices": [{"message": {"content": content}}]}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=reply))
    assert _ask(httpx.Client(base_url="http://judge/v1", transport=transport), "m", FAILURES[0]) == said


@pytest.mark.parametrize(
    ("reply", "cause"),
    [("planning", "planning"), ("**Form**", "form"), ("planning or execution", UNCLEAR), ("", UNCLEAR)],
)
def test_a_reply_is_never_guessed(reply, cause):
    assert read_cause(reply) == cause


def test_agreement_by_hand():
    # 4 failures: right, right, wrong, unclear. Chance: judge P 2/4, E 1/4; truth P 2/4, E 2/4 -> 3/8.
    found = agreement(
        ["planning", "form", "planning", UNCLEAR], ["planning", "execution", "execution", "planning"]
    )
    assert (found.n, found.accuracy, found.unclear) == (4, 0.5, 1)
    assert found.kappa == pytest.approx((0.5 - 3 / 8) / (1 - 3 / 8))
    assert not found.trusted
    assert agreement(["planning", "execution"] * 5, ["planning", "execution"] * 5).trusted
    with pytest.raises(ValueError, match="1 judgements for 2"):
        agreement(["form"], ["planning", "execution"])


def test_the_command_measures_a_judge_on_failures_of_made_problems(monkeypatch, capsys, root):
    monkeypatch.setattr("hicra.study.verdicts.llm_judge._ask", lambda client, model, failed: "planning")
    run = str(root / "data/families/pilots/grpo-seed904")
    assert main(["judge", "--records", run, "--model", "parrot"]) == 0
    out = capsys.readouterr().out
    assert "parrot on " in out
    assert "kappa 0.00, 0 unclear: not to be trusted" in out
