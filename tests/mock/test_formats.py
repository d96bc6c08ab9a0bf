"""One script in three formats: the same meaning, and events as the vendors' SDKs have them."""

import asyncio
import json
from functools import cache
from pathlib import Path
from typing import Any, get_args

import anthropic
import jsonschema
import openai
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from openai.types.responses import Response, ResponseStreamEvent

from legato.mock.dialects import usages
from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from legato.mock.steps import Script, Step
from tests.support.played import (
    PATHS,
    Json,
    Meaning,
    meaning,
    of_completion,
    of_message,
    of_response,
    play,
)

TEXT = "Once upon a time, there was a stream."
TOKENS = (7, 3, 10)
WHOLE = Meaning(TEXT, finish="stop", tokens=TOKENS)
BROKEN = Meaning(TEXT)
CALLS = (("sum", '{"a": 1, "b": 2}'), ("now", "{}"))
THOUGHT = Meaning(" Forty-two.", "Let me think.", finish="stop")

#: Scripts about the bytes of a stream, whose events are those of `happy`.
FRAMING = ("crlf", "cr", "bom", "gzip", "odd-type", "json-type", "close-framed", "empty-event")

#: What each script means, whatever the format.
MEANINGS: dict[str, Meaning] = {
    **dict.fromkeys(FRAMING, WHOLE),
    **dict.fromkeys(
        (
            *("happy", "role-every-chunk", "role-never", "jumpy", "null-content", "finish-merged"),
            *("usage-early", "usage-with-choices", "usage-in-choice", "unknown-fields"),
            *("late-headers", "late-token", "no-message-stop", "deltas-before-item"),
            *("unknown-events", "ping-storm"),
        ),
        WHOLE,
    ),
    **dict.fromkeys(
        (
            *("cut", "reset", "stall", "bad-json", "no-finish", "no-message-delta", "overloaded"),
            *("error-in-band", "error-then-done", "failed-inside", "failed-beside"),
        ),
        BROKEN,
    ),
    **dict.fromkeys(
        ("cut-early", "stall-early", "empty", "error-first", "bad-json-first"), Meaning()
    ),
    **dict.fromkeys(("no-done", "cut-late", "usage-nowhere"), WHOLE._replace(tokens=None)),
    "thinking": THOUGHT._replace(tokens=(7, 3, 7)),
    "signed-thinking": THOUGHT._replace(tokens=TOKENS),
    "redacted-thinking": THOUGHT._replace(thought="", tokens=TOKENS),
    "reasoning-field": Meaning("Forty-two", "Let me think.", (), "stop", (7, 3, 4)),
    "content-parts": Meaning("Forty-two", "Let me think.", (), "stop", (7, 3, 4)),
    "tools": Meaning("", "", CALLS, "tool_calls", (7, 3, 4)),
    "finish-only": Meaning("", "", (), "stop", (7, 3, 0)),
    "empty-details": WHOLE._replace(tokens=(7, 0, 10)),
    "utf8-split": Meaning("Žluťoučký kůň 🐎👩‍👩‍👧 úpěl", "", (), "stop", (7, 3, 4)),
    "separators": Meaning('a\u2028bc\u2029de\x85fg\\u2028"\n', "", (), "stop", (7, 3, 4)),
}

COMPLETE = [
    name
    for name, means in MEANINGS.items()
    if means.finish and SCRIPTS[name].streams != "always" and name != "cut-late"
]


@pytest.mark.parametrize("script", MEANINGS)
async def test_a_script_means_the_same_in_each_format(mock: MockServer, script: str) -> None:
    played = await asyncio.gather(*(play(mock, script, each, stream=True) for each in PATHS))
    found = [meaning(each, dialect) for each, dialect in zip(played, PATHS, strict=True)]
    assert [understood(script, each) for each in found] == [MEANINGS[script]] * 3
    assert {each.broken for each in played} == {script.startswith(("cut", "reset", "stall"))}


def understood(script: str, found: Meaning) -> Meaning:
    """Messages has usage in every stream; where a script has none it is not compared."""
    return found if usages(SCRIPTS[script]) else found._replace(tokens=None)


#: How an answer that is not streamed is read, by its format.
READ = {"openai": of_completion, "anthropic": of_message, "openai-responses": of_response}


@pytest.mark.parametrize("script", [*COMPLETE, "whole"])
async def test_an_answer_that_is_not_streamed_means_the_same(mock: MockServer, script: str) -> None:
    for dialect, read in READ.items():
        played = await play(mock, script, dialect, stream=script == "whole")
        assert played.status == 200
        found = read(json.loads(played.body.removeprefix(b"\xef\xbb\xbf")))
        assert understood(script, found) == MEANINGS.get(script, WHOLE), dialect


# What the vendors say: their SDKs' types, their order of events


def _by_type(union: Any) -> dict[str, Any]:
    """The models of a union of events by their type."""
    models = get_args(get_args(union)[0])
    return {get_args(each.model_fields["type"].annotation)[0]: each for each in models}


_MESSAGES = _by_type(RawMessageStreamEvent)
_RESPONSES = _by_type(ResponseStreamEvent)

#: OpenAI's published schemas, where they lie beside the repository.
_SCHEMAS = Path(__file__).resolve().parents[3] / "shared" / "schemas"

#: Which events may follow which, but for pings; the rest is a matter of indices.
_ORDER: dict[str, set[str]] = {
    "": {"message_start", "error"},
    "message_start": {"content_block_start", "message_delta", "error"},
    "content_block_start": {"content_block_delta", "content_block_stop"},
    "content_block_delta": {"content_block_delta", "content_block_stop", "error"},
    "content_block_stop": {"content_block_start", "message_delta", "error"},
    "message_delta": {"message_delta", "message_stop", "content_block_start"},
    "message_stop": set(),
    "error": {"message_delta", "content_block_stop", "message_stop"},  # `error-then-done`
}

#: Scripts whose events are not in order, or not the vendor's.
_ODD = {"unknown-events", "deltas-before-item", "no-message-delta", "no-finish"}
_ODD |= {"stall", "stall-early", "bad-json", "bad-json-first", "failed-beside", "empty-details"}
_LEGAL = [name for name in MEANINGS if name not in _ODD and name not in FRAMING]


@pytest.mark.parametrize("script", _LEGAL)
async def test_the_events_are_legal_messages(mock: MockServer, script: str) -> None:
    played = await play(mock, script, "anthropic", stream=True)
    last, index = "", -1
    for event in played.events:
        kind = event["type"]
        if kind == "ping":
            continue
        assert kind in _ORDER[last]
        last = kind
        index += kind == "content_block_start"
        if kind == "error":
            assert set(event["error"]) == {"type", "message"}
            continue
        _MESSAGES[kind].model_validate(event)
        assert event.get("index", index) == index


@pytest.mark.parametrize("script", _LEGAL)
async def test_the_events_are_legal_responses(mock: MockServer, script: str) -> None:
    played = await play(mock, script, "openai-responses", stream=True)
    events = played.events
    assert [each["sequence_number"] for each in events] == list(range(len(events)))
    open_items: dict[int, list[Json]] = {}
    done: list[Json] = []
    for event in events:
        _RESPONSES[event["type"]].model_validate(event)
        assert not faults("ResponseStreamEvent", event)
        index: int = event.get("output_index", -1)
        match event["type"]:
            case "response.output_item.added":
                assert index == len(done)
                assert not open_items
                open_items[index] = [event]
            case "response.output_item.done":
                assert_item(open_items.pop(index), event["item"])
                done.append(event["item"])
            case "response.completed":
                assert event is events[-1] or script == "error-then-done"
                assert event["response"]["output"] == done
            case _ if index >= 0:
                open_items[index].append(event)
            case _:
                pass
    assert MEANINGS[script].finish is None or not open_items


async def test_a_refusal_is_a_message_that_refuses(mock: MockServer) -> None:
    deltas = [Step(delta={"refusal": each}) for each in ("I will", " not.")]
    mock.scripts["refusal"] = Script(steps=[*deltas, *SCRIPTS["happy"].steps[-3:]])
    played = await play(mock, "refusal", "openai-responses", stream=True)
    for event in played.events:
        _RESPONSES[event["type"]].model_validate(event)
        assert not faults("ResponseStreamEvent", event)
    (item,) = played.events[-1]["response"]["output"]
    assert (item["type"], item["role"]) == ("message", "assistant")
    assert item["content"] == [{"type": "refusal", "refusal": "I will not."}]
    whole = await play(mock, "refusal", "openai-responses", stream=False)
    assert whole.json["output"] == [item]


def assert_item(events: list[Json], item: Json) -> None:
    """The events of an item between its first and its last: deltas, and what is the sum of them."""
    assert {each.get("item_id", item["id"]) for each in events} == {item["id"]}
    assert events[0]["item"]["id"] == item["id"]
    names = [each["type"].removeprefix("response.") for each in events[1:]]
    inner = [each for each in names if not each.endswith("delta")]
    parts = {
        "message": ["content_part.added", "output_text.done", "content_part.done"],
        "reasoning": [
            "reasoning_summary_part.added",
            "reasoning_summary_text.done",
            "reasoning_summary_part.done",
        ],
        "function_call": ["function_call_arguments.done"],
    }[item["type"]]
    assert inner == parts or (item["type"] == "reasoning" and not item["summary"] and not inner)
    sums = [each for each in events if each["type"].endswith(("text.done", "arguments.done"))]
    deltas = "".join(each.get("delta") or "" for each in events)
    for each in sums:
        assert each.get("text", each.get("arguments")) == deltas


def faults(name: str, value: Json) -> list[str]:
    """What is wrong with a value by one of OpenAI's schemas, if they are at hand. Of the union of
    all events it asks the schema of this type alone: the whole is slow."""
    validator = _validator(name, str(value.get("type")) if name.endswith("Event") else None)
    return [each.message for each in validator.iter_errors(value)] if validator else []


@cache
def _validator(name: str, kind: str | None) -> Any:
    path = _SCHEMAS / f"{name}.json"
    if not path.is_file():
        return None
    schema = json.loads(path.read_text())
    for title, member in schema["$defs"].items() if kind is not None else ():
        if (member.get("properties") or {}).get("type", {}).get("enum") == [kind]:
            schema = {"$ref": f"#/$defs/{title}", "$defs": schema["$defs"]}
            break
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("script", ["happy", "thinking", "tools", "signed-thinking"])
async def test_the_whole_answer_is_what_the_stream_adds_up_to(
    mock: MockServer, script: str
) -> None:
    messages: Any = [{"role": "user", "content": "Hello"}]
    async with anthropic.AsyncAnthropic(base_url=mock.origin, api_key="k") as client:
        async with client.messages.stream(model=script, max_tokens=9, messages=messages) as stream:
            summed = await stream.get_final_message()
        message = await client.messages.create(model=script, max_tokens=9, messages=messages)
    Message.model_validate(message.to_dict())
    assert [each.to_dict() for each in message.content] == [
        each.to_dict() for each in summed.content
    ]
    assert message.stop_reason == summed.stop_reason
    assert message.usage.output_tokens == summed.usage.output_tokens
    async with openai.AsyncOpenAI(base_url=f"{mock.origin}/v1", api_key="k") as client:
        async with client.responses.stream(model=script, input="Hello") as events:
            final = await events.get_final_response()
        response = await client.responses.create(model=script, input="Hello")
    Response.model_validate(response.to_dict())
    assert not faults("Response", response.to_dict())
    streamed = await play(mock, script, "openai-responses", stream=True)
    assert response.to_dict() == streamed.events[-1]["response"]
    assert (final.output_text, final.usage) == (response.output_text, response.usage)


@pytest.mark.parametrize(
    ("reason", "status", "detail", "stop"),
    [
        ("length", "incomplete", "max_output_tokens", "max_tokens"),
        ("content_filter", "incomplete", "content_filter", "refusal"),
        ("stop", "completed", None, "end_turn"),
    ],
)
async def test_why_an_answer_ended(
    mock: MockServer, reason: str, status: str, detail: str | None, stop: str
) -> None:
    mock.scripts["ends"] = Script(steps=[Step(say="x"), Step(finish=reason), Step(done=True)])
    last = (await play(mock, "ends", "openai-responses", stream=True)).events[-1]
    _RESPONSES[last["type"]].model_validate(last)
    assert last["type"] == f"response.{status}"
    assert (last["response"]["incomplete_details"] or {}).get("reason") == detail
    assert (await play(mock, "ends", "anthropic")).json["stop_reason"] == stop


# Text completions


async def test_text_completions(mock: MockServer) -> None:
    """Streamed and not, as the vendor's SDK has them."""
    async with openai.AsyncOpenAI(base_url=f"{mock.origin}/v1", api_key="any") as client:
        asked = {"model": "happy", "prompt": "Once"}
        whole = await client.completions.create(**asked)
        stream = await client.completions.create(**asked, stream=True)
        chunks = [chunk async for chunk in stream]
    assert whole.object == chunks[0].object == "text_completion"
    assert [(each.text, each.finish_reason) for each in whole.choices] == [(TEXT, "stop")]
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (7, 10)
    assert "".join(each.text for chunk in chunks for each in chunk.choices) == TEXT
