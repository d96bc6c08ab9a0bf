"""Responses clients in front of upstreams that speak the format themselves: requests and events
pass through, and a deployment of another format takes over where one breaks."""

import json
from pathlib import Path
from typing import Any

import pytest

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer, Script, Step
from tests.gateway.test_fallback import REST, TEXT, routed
from tests.support.raw_upstream import RawUpstream
from tests.support.responses_order import Told, check_response
from tests.support.transcripts import openai_responses as wire
from tests.support.wire import Answer, ask

Json = dict[str, Any]

PATH = "/v1/responses"
SAME: Json = {"dialect": "openai-responses"}
_WORDS = SCRIPTS["happy"].steps[:-3]


async def asked(legato: Any, *, stream: bool = True, **more: Any) -> Answer:
    body = {"model": "public", "input": "Hello", "stream": stream} | more
    return await ask(legato.port, legato.key, body, path=PATH)


async def test_a_request_goes_as_it_came(tmp_path: Path, scripted: MockServer) -> None:
    given = {
        "input": [
            {"role": "user", "content": [{"type": "input_video", "x": [1, 2.50]}]},
            {"type": "item_reference", "id": "rs_1"},
        ],
        "tools": [{"type": "web_search_preview"}, {"type": "custom", "name": "patch"}],
        "tool_choice": {"type": "web_search_preview"},
        "include": ["reasoning.encrypted_content"],
        "nobody_knows": {"a": None},
    }
    async with routed(tmp_path, scripted, ["happy"], deploy={"happy": SAME}) as legato:
        answer = await asked(legato, **given)
        assert Told(answer.body).text == TEXT
        sent = scripted.requests[-1].request
        assert sent == {"model": "happy", "stream": True} | given


async def test_what_another_format_has_no_words_for_is_refused(
    tmp_path: Path, scripted: MockServer
) -> None:
    async with routed(tmp_path, scripted, ["happy"]) as legato:
        tools = {"tools": [{"type": "web_search"}], "tool_choice": "required"}
        answer = await asked(legato, **tools)
        assert answer.status == 400
        assert answer.json["error"]["param"] == "tool_choice"
        assert "web_search" in answer.json["error"]["message"]
        assert scripted.requests == []


async def test_reasoning_that_the_upstream_does_not_know_is_left_out(tmp_path: Path) -> None:
    """OpenAI refuses an item of reasoning that it has not made, or has not stored: the model was
    changed in mid-session. That is no failure of the deployment either."""
    transcript = wire.TRANSCRIPTS["text"]
    head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
    error = {"message": "Item with id 'rs_1' not found. Remove it.", "param": "input"}
    refusal = json.dumps({"error": error | {"type": "invalid_request_error"}}).encode()

    def play(request: Json) -> bytes:
        if any(each.get("type") == "reasoning" for each in request["input"]):
            return head % (b"404 Not Found", b"application/json", len(refusal)) + refusal
        return head % (b"200 OK", b"text/event-stream", len(transcript)) + transcript

    upstream, scripted = RawUpstream(), MockServer({})
    upstream.responses["u"] = play
    deploy = {"u": SAME | {"base_url": f"{await upstream.start()}/u/v1"}}
    thought = {"type": "summary_text", "text": "Hm."}
    given = [
        {"role": "user", "content": "One"},
        {"type": "reasoning", "id": "rs_1", "summary": [thought]},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three"},
    ]
    async with routed(tmp_path, scripted, ["u"], deploy=deploy) as legato:
        answer = await asked(legato, input=given)
        (row,) = await legato.rows()
    await scripted.stop()
    await upstream.stop()
    assert Told(answer.body, checks=False).text == "Once upon a time."
    assert upstream.requests["u"][-1]["input"] == [given[0], *given[2:]]
    assert (row["stripped_reasoning"], row["outcome"]) == (1, "complete")
    assert row["attempts"] == 1


async def test_events_come_as_they_came(tmp_path: Path) -> None:
    """But for the response's id and model, and what is said of storing it."""
    # OpenAI's server says null before the end; its published schema has no such value.
    transcript = wire.TRANSCRIPTS["thinking"].replace(b', "usage": null', b"")
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
    upstream = RawUpstream()
    upstream.responses["u"] = head % len(transcript) + transcript
    deploy = {"u": SAME | {"base_url": f"{await upstream.start()}/u/v1"}}
    scripted = MockServer({})
    async with routed(tmp_path, scripted, ["u"], deploy=deploy) as legato:
        answer = await asked(legato)
    await scripted.stop()
    await upstream.stop()
    theirs = [json.loads(each.split(b"data: ")[1]) for each in transcript.split(b"\n\n")[:-1]]
    ours = Told(answer.body).events
    first = ours[0]["response"]["id"]
    assert first.startswith("resp_")
    for number, event in enumerate(theirs):
        event["sequence_number"] = number
        if "response" in event:
            event["response"] |= {"id": first, "model": "public", "store": False}
    assert ours == theirs


@pytest.mark.parametrize("name", ["cut", "no-finish", "error-in-band", "stall", "failed-inside"])
async def test_a_failure_is_one(tmp_path: Path, scripted: MockServer, name: str) -> None:
    async with routed(tmp_path, scripted, [name], deploy={name: SAME}) as legato:
        answer = await asked(legato)
        told = Told(answer.body)
        assert told.has_open
        assert told.error is not None
        assert told.error["code"] == "server_error"
        assert told.text == TEXT
        (row,) = await legato.rows()
        assert row["outcome"] == "failed"
        assert (await asked(legato, stream=False)).status in (502, 504)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("begins", ["text", "thought"])
async def test_a_deployment_of_another_format_goes_on(
    tmp_path: Path, scripted: MockServer, stream: bool, begins: str
) -> None:
    """With the item that is open, its id and its indices."""
    steps = [*_WORDS, Step(cut=True)]
    if begins == "thought":
        steps = [Step(think="Hm."), *steps]
    scripted.scripts |= {"broken": Script(steps=steps), "rest": REST}
    deploy = {"broken": SAME, "rest": {"continue": "prefill"}}
    async with routed(tmp_path, scripted, ["broken", "rest"], deploy=deploy) as legato:
        answer = await asked(legato, stream=stream)
        if stream:
            told = Told(answer.body)
            assert told.text == TEXT + " And on."
            assert told.kinds.count("created") == 1
            response = told.response
        else:
            response = check_response(answer.json)
        assert response["output"][-1]["content"][0]["text"] == TEXT + " And on."
        (row,) = await legato.rows()
        assert row["outcome"] == "complete"


@pytest.mark.parametrize("stream", [True, False])
async def test_before_the_first_token_another_answers(
    tmp_path: Path, scripted: MockServer, stream: bool
) -> None:
    deploy = {"error-first": SAME, "happy": {"dialect": "openai"}}
    async with routed(tmp_path, scripted, ["error-first", "happy"], deploy=deploy) as legato:
        answer = await asked(legato, stream=stream)
        response = Told(answer.body).response if stream else check_response(answer.json)
        assert response["output"][0]["content"][0]["text"] == TEXT


async def test_heartbeats_come_before(tmp_path: Path, scripted: MockServer) -> None:
    flags: Json = {"streams.gate_seconds": 0.02, "streams.heartbeat_seconds": 0.03}
    deploy = {"late-token": SAME | {"first_token_seconds": 5.0}}
    async with routed(tmp_path, scripted, ["late-token"], deploy=deploy, **flags) as legato:
        told = Told((await asked(legato)).body)
        assert told.text == TEXT
        assert told.kinds.count("created") == 1
        assert told.kinds.count("in_progress") > 2
