"""Messages over broken upstreams: an error and never an end, a continuation in the same block, a
line that is kept alive, one row of the ledger each."""

import json
from pathlib import Path
from typing import Any

import anthropic
import pytest

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from legato.mock.steps import Script, Step
from tests.conftest import Running, serving, settings_for
from tests.gateway.test_fallback import routed
from tests.support.messages_order import MessagesBody, frames

Json = dict[str, Any]

DIALECTS = ("openai", "anthropic")
TEXT = "Once upon a time, there was a stream."
CUT = "The upstream closed the connection. Try again later."
BROKEN: dict[str, str] = {
    "cut": "overloaded_error",
    "reset": "overloaded_error",
    "stall": "overloaded_error",
    "no-finish": "overloaded_error",
    "bad-json": "overloaded_error",
    "error-in-band": "overloaded_error",
    "cut-thought": "overloaded_error",
    "cut-call": "overloaded_error",
}
CALL: Json = {"index": 0, "id": "call_1", "type": "function"}
OWN = {
    "cut-thought": Script(steps=[Step(think="Let me"), Step(cut=True)]),
    "cut-call": Script(
        steps=[
            Step(tool={**CALL, "function": {"name": "sum", "arguments": ""}}),
            Step(tool={"index": 0, "function": {"arguments": '{"a": 1,'}}),
            Step(cut=True),
        ]
    ),
    "too-long-numbers": Script(
        status=400,
        body='{"error": {"message": "This model\'s maximum context length is 4096 tokens. However,'
        ' you requested 5000 tokens.", "code": "context_length_exceeded"}}',
    ),
    "rest": Script(steps=[Step(say=" And on."), Step(finish="stop"), Step(done=True)]),
}
ALL = SCRIPTS | OWN


def request(model: str, *, stream: bool = True) -> Json:
    said = [{"role": "user", "content": "Hello"}]
    return {"model": model, "max_tokens": 100, "stream": stream, "messages": said}


async def post(legato: Running, model: str, *, stream: bool = True) -> tuple[int, Any, bytes]:
    """(status, headers, body)."""
    async with legato.client() as client:
        answer = await client.post("/v1/messages", json=request(model, stream=stream))
    return answer.status_code, answer.headers, answer.content


def settings(tmp_path: Path, base: str, dialect: str) -> Any:
    url = base.removesuffix("/v1") if dialect == "anthropic" else base
    deploy = {"dialect": dialect, "first_token_seconds": 0.5, "stall_seconds": 0.3}
    return settings_for(tmp_path, url, ALL, deploy=deploy)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_nothing_ends_an_answer_that_broke(
    tmp_path: Path, scripted: MockServer, dialect: str
) -> None:
    scripted.scripts.update(OWN)
    base = await scripted.start()
    async with serving(settings(tmp_path, base, dialect)) as legato:
        for number, (name, kind) in enumerate(BROKEN.items()):
            status, headers, content = await post(legato, name)
            assert status == 200, name
            assert headers["content-type"].startswith("text/event-stream")
            body = MessagesBody(content)
            assert body.error is not None, name
            assert body.error["type"] == kind, name
            assert body.error["message"].endswith("Try again later."), name
            assert body.open is not None, f"{name}: the block that broke was closed"
            assert len(await legato.rows()) == 2 * number + 1
            status, _, content = await post(legato, name, stream=False)
            assert status in (504, 529), name
            assert json.loads(content)["error"]["type"] in ("overloaded_error", "timeout_error")
            rows = await legato.rows()
            assert len(rows) == 2 * number + 2
            assert {row["outcome"] for row in rows} == {"failed"}


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_whole_answer_with_a_broken_call_is_a_failure(
    tmp_path: Path, scripted: MockServer, dialect: str
) -> None:
    """Its client gets an error, and so says the ledger."""
    broken = {**CALL, "function": {"name": "sum", "arguments": '{"a":'}}
    steps = [Step(tool=broken), Step(finish="tool_calls"), Step(done=True)]
    scripted.scripts["broken-call"] = ALL["broken-call"] = Script(steps=steps)
    base = await scripted.start()
    async with serving(settings(tmp_path, base, dialect)) as legato:
        status, _, content = await post(legato, "broken-call", stream=False)
        assert (status, json.loads(content)["error"]["type"]) == (529, "overloaded_error")
        (row,) = await legato.rows()
        assert (row["outcome"], row["error"]) == ("failed", "upstream_malformed")


STATUSES: dict[str, tuple[int, str, str | None]] = {
    "400": (400, "invalid_request_error", None),
    "401": (500, "api_error", None),
    "429": (429, "rate_limit_error", None),
    "500": (529, "overloaded_error", None),
    "503": (529, "overloaded_error", None),
    "empty": (529, "overloaded_error", None),
    "stall-early": (504, "timeout_error", None),
    "too-long-numbers": (
        400,
        "invalid_request_error",
        "prompt is too long: 5000 tokens > 4096 maximum",
    ),
}


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_before_the_first_event_has_a_status(
    tmp_path: Path, scripted: MockServer, stream: bool
) -> None:
    scripted.scripts.update(OWN)
    base = await scripted.start()
    async with serving(settings(tmp_path, base, "openai")) as legato:
        for name, (status, kind, message) in STATUSES.items():
            got, headers, content = await post(legato, name, stream=stream)
            body = json.loads(content)
            assert (got, body["error"]["type"]) == (status, kind), name
            assert body["type"] == "error"
            assert body["request_id"] == headers["x-request-id"]
            if message is not None:
                assert body["error"]["message"] == message
            assert ("retry-after" in headers) is (got == 429)


HALF = [*SCRIPTS["happy"].steps[:4], Step(cut=True)]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("first", DIALECTS)
async def test_another_deployment_goes_on_in_the_same_block(
    tmp_path: Path, scripted: MockServer, first: str, stream: bool
) -> None:
    """Also where the first one's events were relayed, and the second speaks another format."""
    scripted.scripts |= {"half": Script(steps=HALF), "rest": OWN["rest"]}
    deploy = {"half": {"dialect": first}, "rest": {"continue": "prefill"}}
    async with routed(tmp_path, scripted, ["half", "rest"], deploy=deploy) as legato:
        status, _, content = await post(legato, "public", stream=stream)
        assert status == 200
        message = MessagesBody(content).message if stream else json.loads(content)
        assert message["content"] == [{"type": "text", "text": "Once upon a time And on."}]
        assert message["stop_reason"] == "end_turn"
        assert message["model"] == "public"
        assert message["usage"]["output_tokens"] > 0
        if stream:
            assert MessagesBody(content).types.count("message_start") == 1
        row = (await legato.rows())[-1]
        assert row["continuations"] == 1


async def test_a_fallback_answers_in_another_format(tmp_path: Path, scripted: MockServer) -> None:
    deploy = {"cut-early": {"dialect": "anthropic"}}
    async with routed(tmp_path, scripted, ["cut-early", "happy"], deploy=deploy) as legato:
        for stream in (True, False):
            _, _, content = await post(legato, "public", stream=stream)
            message = MessagesBody(content).message if stream else json.loads(content)
            assert message["content"] == [{"type": "text", "text": TEXT}]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_pings_keep_a_silent_line_open(
    tmp_path: Path, scripted: MockServer, dialect: str
) -> None:
    """Also before the first event of the upstream: then a start goes before them."""
    scripted.scripts["late"] = Script(steps=[Step(wait=0.5), *SCRIPTS["happy"].steps])
    base = await scripted.start()
    url = base.removesuffix("/v1") if dialect == "anthropic" else base
    more: Any = {"streams.gate_seconds": 0.1, "streams.heartbeat_seconds": 0.1}
    for heartbeat in ("comment", "chunk"):
        (tmp_path / heartbeat).mkdir()
        kept = settings_for(
            tmp_path / heartbeat,
            url,
            ["late"],
            deploy={"dialect": dialect},
            **more,
            **{"streams.heartbeat": heartbeat},
        )
        async with serving(kept) as legato:
            _, _, content = await post(legato, "late")
            kinds = [kind for kind, _ in frames(content)]
            assert kinds[:2] == ["message_start", "ping"]
            body = MessagesBody(content)
            assert body.content == [{"type": "text", "text": TEXT}]
            assert body.message["usage"]["input_tokens"] == 4
            options: Any = {"base_url": legato.url, "api_key": legato.key, "max_retries": 0}
            async with anthropic.AsyncAnthropic(**options) as sdk:
                wanted: Any = request("late")
                del wanted["stream"]
                async with sdk.messages.stream(**wanted) as stream:
                    assert await stream.get_final_text() == TEXT
