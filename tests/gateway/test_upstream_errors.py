"""What the errors of upstreams do to a call: which credential and which deployment is asked next,
and what the client and the ledger get."""

import json
from pathlib import Path
from typing import Any

import pytest

from legato.mock.server import MockServer, Script, Step
from tests.conftest import serving, settings_for
from tests.gateway.test_fallback import TEXT, played, routed
from tests.gateway.test_retries import failing
from tests.support.raw_upstream import FAULTS
from tests.support.wire import Answer, ask, chat

BOTH = pytest.mark.parametrize("stream", [True, False])


def body_of(name: str) -> str:
    """The body of a whole HTTP response in a file."""
    return (FAULTS / "upstreams" / name).read_text().partition("\n\n")[2]


def text_of(answer: Answer, *, stream: bool) -> str:
    return answer.text() if stream else answer.json["choices"][0]["message"]["content"]


def event(value: Any) -> Script:
    """A stream whose first event is `value`."""
    return Script(steps=[Step(raw=f"data: {json.dumps(value)}\n\n"), Step(done=True)])


KEY_REFUSED = {
    "a list with a 400": failing(400, body_of("error-in-list-key.raw")),
    "a list in the first event": event(json.loads(body_of("error-in-list-key.raw"))),
    "words inside a 400": failing(
        400,
        json.dumps(
            {
                "error": {
                    "message": "Provider returned error",
                    "metadata": {"raw": '{"error":{"message":"Invalid API key."}}'},
                }
            }
        ),
    ),
    "MiniMax's": event({"base_resp": {"status_code": 1004, "status_msg": "login fail"}}),
}


@BOTH
@pytest.mark.parametrize("case", KEY_REFUSED)
async def test_where_a_key_is_refused_the_next_key_is_asked_and_then_the_next_deployment(
    tmp_path: Path, scripted: MockServer, case: str, stream: bool
) -> None:
    scripted.scripts["refuses"] = KEY_REFUSED[case]
    keys = {"refuses": {"api_keys": ["one", "two"]}}
    async with routed(tmp_path, scripted, ["refuses", "happy"], deploy=keys) as legato:
        for number in (1, 2):
            answer = await ask(legato.port, legato.key, chat("public", stream=stream))
            assert answer.status == 200
            assert text_of(answer, stream=stream) == TEXT
            assert played(scripted) == ["refuses", "refuses", "happy"] * number
            used = [each.headers.get("authorization") for each in scripted.requests[-3:]]
            assert sorted(used[:2], key=str) == ["Bearer one", "Bearer two"]
            assert used[2] is None
        rows = await legato.rows()
        assert [row["errors"] for row in rows] == ["upstream_401,"] * 2


@BOTH
async def test_where_no_key_is_taken_the_client_learns_no_more_than_that(
    tmp_path: Path, scripted: MockServer, stream: bool
) -> None:
    scripted.scripts["refuses"] = KEY_REFUSED["a list with a 400"]
    async with routed(tmp_path, scripted, ["refuses"]) as legato:
        for _ in range(2):
            answer = await ask(legato.port, legato.key, chat("public", stream=stream))
            assert answer.status == 502
            assert answer.error is not None
            assert answer.error["code"] == "upstream_401"
            assert answer.error["message"] == "The upstream does not take our key (401)."


@BOTH
async def test_a_rate_limit_in_the_first_event_makes_room_for_the_next_key(
    tmp_path: Path, scripted: MockServer, stream: bool
) -> None:
    scripted.scripts["busy"] = event({"error": {"message": "Slow down.", "code": 429}})
    keys = {"busy": {"api_keys": ["one", "two"]}}
    route = {"attempts": 2}
    async with routed(tmp_path, scripted, ["busy", "happy"], deploy=keys, route=route) as legato:
        answer = await ask(legato.port, legato.key, chat("public", stream=stream))
        assert text_of(answer, stream=stream) == TEXT
        assert played(scripted) == ["busy", "busy", "happy"]
        used = [each.headers.get("authorization") for each in scripted.requests]
        assert used == ["Bearer one", "Bearer two", None]


@BOTH
async def test_too_long_in_any_words_goes_to_a_deployment_with_a_longer_context(
    tmp_path: Path, scripted: MockServer, stream: bool
) -> None:
    lengths = {"short": 4096, "tools": 2048, "happy": 131072}
    deploy = {name: {"context_length": length} for name, length in lengths.items()}
    scripted.scripts["short"] = failing(400, "{}")
    async with routed(tmp_path, scripted, lengths, deploy=deploy) as legato:
        for words in json.loads((FAULTS / "too-long.json").read_text()):
            body = json.dumps({"error": {"message": words}})
            for script in (failing(400, body), event({"detail": words})):
                scripted.scripts["short"] = script
                scripted.requests.clear()
                answer = await ask(legato.port, legato.key, chat("public", stream=stream))
                assert text_of(answer, stream=stream) == TEXT, words
                assert played(scripted) == ["short", "happy"], words


NO_MODEL = {"error": {"message": "The model `m` does not exist.", "code": "model_not_found"}}


@BOTH
@pytest.mark.parametrize(
    "script", [failing(400, json.dumps(NO_MODEL)), event(NO_MODEL)], ids=["a 400", "an event"]
)
async def test_a_model_that_an_upstream_does_not_have_is_asked_of_another(
    tmp_path: Path, scripted: MockServer, script: Script, stream: bool
) -> None:
    """It is our configuration that names it, and not the client."""
    scripted.scripts["lacks"] = script
    async with routed(tmp_path, scripted, ["lacks", "happy"]) as legato:
        answer = await ask(legato.port, legato.key, chat("public", stream=stream))
        assert text_of(answer, stream=stream) == TEXT
        assert played(scripted) == ["lacks", "happy"]
        (row,) = await legato.rows()
        assert row["errors"] == "upstream_404,"


# In each dialect

HELLO: dict[str, str] = {
    "anthropic": 'data: {"type":"content_block_delta","index":0,'
    '"delta":{"type":"text_delta","text":"Hello"}}\n\n',
    "gemini": 'data: {"candidates":[{"content":{"parts":[{"text":"Hello"}]}}]}\n\n',
    "ollama": '{"message":{"role":"assistant","content":"Hello"},"done":false}\n',
    "openai": 'data: {"choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n',
}
FAILURES: dict[str, Any] = {
    "detail": {"detail": "worker died"},
    "base_resp": {"base_resp": {"status_code": 1000, "status_msg": "worker died"}},
    "code, message": {"code": "13, 01", "message": "worker died"},
    "list": [{"error": {"message": "worker died"}}],
}


@pytest.mark.parametrize("case", FAILURES)
@pytest.mark.parametrize("dialect", HELLO)
async def test_words_of_a_failure_reach_the_client(
    tmp_path: Path, scripted: MockServer, dialect: str, case: str
) -> None:
    """As the first event, in mid-stream, and as a whole body; streamed and not, asked twice."""
    data = json.dumps(FAILURES[case])
    frame = f"{data}\n" if dialect == "ollama" else f"data: {data}\n\n"
    scripted.scripts["first"] = Script(steps=[Step(raw=frame)])
    scripted.scripts["later"] = Script(steps=[Step(raw=HELLO[dialect]), Step(raw=frame)])
    scripted.scripts["body"] = Script(headers={"content-type": "application/json"}, body=data)
    names = ("first", "later", "body")
    base = (await scripted.start()).removesuffix("" if dialect == "openai" else "/v1")
    terms = {"dialect": dialect}
    async with serving(settings_for(tmp_path, base, names, deploy=terms)) as legato:
        for name in names * 2:
            for stream in (True, False):
                answer = await ask(legato.port, legato.key, chat(name, stream=stream))
                is_framed = stream and name == "later"
                assert answer.status == (200 if is_framed else 502)
                if is_framed:
                    assert answer.text() == "Hello"
                    assert not answer.done
                assert answer.error is not None
                assert answer.error["message"] == "worker died. Try again later."
                assert answer.error["type"] == "upstream_error"
        for row in await legato.rows():
            assert "," not in row["errors"]
            assert row["error"] == row["errors"]
            assert row["outcome"] == "failed"
