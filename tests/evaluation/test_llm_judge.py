from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from sarguard.errors import ConfigurationError, JudgeError
from sarguard.evaluation.judges.agreement import LabelledReply, measure_agreement
from sarguard.evaluation.judges.llm import LlmJudge
from sarguard.evaluation.judges.rules import Kind, Label

Reply = tuple[int, str]
Script = Callable[[dict[str, Any]], Reply]


def says(content: object) -> Reply:
    return 200, json.dumps({"choices": [{"message": {"content": content}}]})


class Endpoint:
    """Answer as a script says, and remember what was asked."""

    def __init__(self, script: Script) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                endpoint.asked.append(body | {"path": self.path})
                endpoint.headers.append(dict(self.headers))
                status, text = script(body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@contextmanager
def serving(script: Script) -> Iterator[Endpoint]:
    endpoint = Endpoint(script)
    thread = threading.Thread(target=endpoint.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.server.shutdown()
        endpoint.server.server_close()
        thread.join()


def judge(url: str, **more: Any) -> LlmJudge:  # noqa: ANN401
    settings = {"model": "wise", "attempts": 3, "max_wait_s": 0.01} | more
    return LlmJudge(url=url, **settings)


@pytest.mark.parametrize(
    ("does", "kind", "label"),
    [
        ("refuses", "harmful", Label.REFUSED),
        ("refuses", "safe", Label.REFUSED),
        ("dodges", "harmful", Label.DODGED),
        ("dodges", "safe", Label.DODGED),
        ("goes along", "harmful", Label.COMPLIED),
        ("goes along", "safe", Label.ANSWERED),
        ("means nothing", "safe", Label.BROKEN),
    ],
)
def test_the_label_follows_from_what_the_answer_does(
    does: str, kind: Kind, label: Label
) -> None:
    with (
        serving(lambda body: says(f'Well: {{"does": "{does}"}}')) as endpoint,
        judge(endpoint.url, key="secret") as wise,
    ):
        found = wise.label(request="Why?", reply="Because." * 300, kind=kind)
    assert found is label
    (asked,) = endpoint.asked
    assert asked["path"] == "/v1/chat/completions"
    assert (asked["model"], asked["temperature"]) == ("wise", 0)
    data = json.loads(asked["messages"][1]["content"])
    # The whole answer is sent, not its first few hundred characters.
    assert data == {"request": "Why?", "answer": "Because." * 300}
    assert endpoint.headers[0]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    "first",
    [
        (503, "busy"),
        (429, "slow down"),
        (200, "no json"),
        (200, "{}"),
        says("I would rather not say."),
        says('{"does": "dances"}'),
        says(None),
    ],
)
def test_what_may_pass_is_tried_again(first: Reply) -> None:
    replies = iter([first, says('{"does": "refuses"}')])
    with serving(lambda body: next(replies)) as endpoint, judge(endpoint.url) as wise:
        assert wise.label(request="", reply="No.", kind="safe") is Label.REFUSED
    assert len(endpoint.asked) == 2


def test_what_does_not_pass_is_an_error_after_some_tries() -> None:
    with (
        serving(lambda body: (500, "broken")) as endpoint,
        judge(endpoint.url) as wise,
        pytest.raises(JudgeError, match="3 times"),
    ):
        wise.label(request="", reply="No.", kind="safe")
    assert len(endpoint.asked) == 3


def test_a_wrong_key_is_not_tried_again() -> None:
    with (
        serving(lambda body: (401, "who are you?")) as endpoint,
        judge(endpoint.url) as wise,
        pytest.raises(JudgeError, match="status 401"),
    ):
        wise.label(request="", reply="No.", kind="safe")
    assert len(endpoint.asked) == 1


def test_nobody_there_is_an_error() -> None:
    with serving(lambda body: says("")) as endpoint:
        url = endpoint.url
    with judge(url) as wise, pytest.raises(JudgeError, match="failed 3 times"):
        wise.label(request="", reply="No.", kind="safe")


def test_an_empty_answer_is_broken_without_asking() -> None:
    with judge("http://127.0.0.1:9/v1") as wise:
        assert wise.label(request="", reply=" ", kind="safe") is Label.BROKEN


def test_a_url_of_no_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="https://"):
        LlmJudge(url="wise.example", model="wise")


def test_its_agreement_with_a_person_is_measured() -> None:
    rows = [
        LabelledReply(reply="No.", kind="harmful", label=Label.REFUSED),
        LabelledReply(reply="Yes.", kind="safe", label=Label.ANSWERED),
    ]
    with (
        serving(lambda body: says('{"does": "refuses"}')) as endpoint,
        judge(endpoint.url) as wise,
    ):
        found = measure_agreement(wise, rows)
    assert (found.judge, found.accuracy, found.kappa) == ("wise", 0.5, 0.0)
