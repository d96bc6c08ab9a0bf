"""What the mock plays, and what it means: text, reasoning, calls, the end, usage.

The formats that Legato has a dialect for are read by it. The Responses API is read here, by its
rules and with nothing of the code under test.
"""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import httpx

from legato import dialects
from legato.core import sse
from legato.core.errors import UpstreamError
from legato.core.front import AnswerHead
from legato.core.stream import State, Stream
from legato.fronts.chat_aggregator import ChatAggregator
from legato.mock.server import MockServer

Json = dict[str, Any]

#: The path of each format, by the dialect that reads it.
PATHS = {
    "openai": "/v1/chat/completions",
    "anthropic": "/v1/messages",
    "openai-responses": "/v1/responses",
}

#: A request that every format takes: each ignores the others' members.
ASKED: Json = {
    "messages": [{"role": "user", "content": "Hello"}],
    "input": "Hello",
    "max_tokens": 100,
}

#: Seconds of silence after which a response that stalls is left.
PATIENCE = 0.4


class Played(NamedTuple):
    """A response as it was received; `broken`: the connection ended before it did."""

    status: int
    headers: httpx.Headers
    body: bytes
    broken: bool

    @property
    def json(self) -> Json:
        return json.loads(self.body)

    @property
    def events(self) -> list[Json]:
        """The data of all events as JSON; `event:` lines have to name their type."""
        found: list[Json] = []
        for name, data in sse.Decoder().feed(self.body):
            if data and data != b"[DONE]":
                found.append(json.loads(data))
                assert name.decode() in {"", found[-1].get("type")}
        return found


async def play(server: MockServer, script: str, dialect: str, **request: Any) -> Played:
    """Asks a started server for one response, and reads it to its end, however that comes."""
    url = server.origin + PATHS[dialect]
    body, broken = b"", False
    patience = httpx.Timeout(10, read=PATIENCE if script.startswith("stall") else 10)
    async with (
        httpx.AsyncClient(timeout=patience, verify=False, trust_env=False) as client,
        client.stream("POST", url, json=ASKED | {"model": script} | request) as response,
    ):
        try:
            async for piece in response.aiter_bytes():
                body += piece
        except (httpx.TransportError, httpx.TimeoutException):
            broken = True
    return Played(response.status_code, response.headers, body, broken)


class Meaning(NamedTuple):
    """What a client understands. `finish`: None where the answer failed."""

    text: str = ""
    thought: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    finish: str | None = None
    tokens: tuple[int, int, int] | None = None  # prompt, cached, completion


def meaning(played: Played, dialect: str) -> Meaning:
    """The meaning of a stream."""
    if dialect == "openai-responses":
        return _of_responses(played)
    module = dialects.named(dialect)
    decoder, reader = module.decoder(), module.reader()
    stream, aggregator = Stream(lambda: 0.0, 0.0), ChatAggregator()
    stream.subscribe(aggregator)
    try:
        for name, data in [*decoder.feed(played.body), *decoder.close()]:
            chunk = reader.read(name, data)
            if chunk is not None and not stream.done:
                stream.push(chunk)
        stream.end()
    except UpstreamError as error:
        stream.fail(error)
    answer = json.loads(aggregator.answer(AnswerHead("x", 1, "m")))
    return of_completion(answer, failed=stream.state is not State.COMPLETE)


def of_completion(answer: Json, *, failed: bool = False) -> Meaning:
    """The meaning of a chat completion."""
    message = answer["choices"][0]["message"] if answer["choices"] else {}
    called = [each["function"] for each in message.get("tool_calls") or ()]
    if message.get("function_call"):
        called.append(message["function_call"])
    return Meaning(
        message.get("content") or "",
        message.get("reasoning_content") or message.get("reasoning") or "",
        tuple((each["name"], each["arguments"]) for each in called),
        None if failed else answer["choices"][0]["finish_reason"],
        None if failed else _tokens(answer.get("usage"), "prompt", "completion"),
    )


def of_message(message: Json) -> Meaning:
    """The meaning of an answer of the Messages API that is not streamed."""
    reasons = {"end_turn": "stop", "tool_use": "tool_calls"}
    blocks = message["content"]
    usage = message["usage"]
    cached = usage["cache_read_input_tokens"]
    return Meaning(
        _joined(each["text"] for each in blocks if each["type"] == "text"),
        _joined(each["thinking"] for each in blocks if each["type"] == "thinking"),
        tuple(
            (each["name"], json.dumps(each["input"]))
            for each in blocks
            if each["type"] == "tool_use"
        ),
        reasons.get(message["stop_reason"], message["stop_reason"]),
        (usage["input_tokens"] + cached, cached, usage["output_tokens"]),
    )


def of_response(response: Json) -> Meaning:
    """The meaning of a response object."""
    items = response["output"]
    calls = tuple(
        (each["name"], each["arguments"]) for each in items if each["type"] == "function_call"
    )
    finish = {"completed": "tool_calls" if calls else "stop", "incomplete": "length"}
    return Meaning(
        _joined(part["text"] for item in items for part in item.get("content") or ()),
        _joined(part["text"] for item in items for part in item.get("summary") or ()),
        calls,
        finish.get(response["status"]),
        _tokens(response.get("usage"), "input", "output"),
    )


def _of_responses(played: Played) -> Meaning:
    text, thought = "", ""
    calls: dict[int, list[str]] = {}
    try:
        events = played.events
    except json.JSONDecodeError:
        events = Played(200, played.headers, played.body.partition(b"data: {oops")[0], True).events
    for event in events:
        match event["type"]:
            case "response.output_text.delta":
                text += event["delta"]
            case "response.reasoning_summary_text.delta":
                thought += event["delta"]
            case "response.output_item.added" if event["item"]["type"] == "function_call":
                calls[event["output_index"]] = [event["item"]["name"], ""]
            case "response.function_call_arguments.delta":
                calls[event["output_index"]][1] += event["delta"]
            case "response.completed" | "response.incomplete":
                # Deltas and the complete response have to say the same.
                found = of_response(event["response"])
                assert found[:3] == (text, thought, tuple(map(tuple, calls.values())))
                return found
            case "error" | "response.failed":
                break  # nothing behind it counts
            case _:
                pass
    return Meaning(text, thought, tuple((name, more) for name, more in calls.values()))


def _joined(pieces: Iterable[str]) -> str:
    return "".join(pieces)


def _tokens(usage: Json | None, read: str, written: str) -> tuple[int, int, int] | None:
    if not usage:
        return None
    details = usage.get(f"{read}_tokens_details") or {}
    cached = details.get("cached_tokens") or 0
    return usage[f"{read}_tokens"], cached, usage[f"{written}_tokens"]
