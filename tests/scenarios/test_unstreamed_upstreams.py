"""Deployments with `streams = false`: the upstream gives its answer in one piece, and the client
gets the same stream, or the same answer, as from one that streams."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from legato.mock.steps import Script
from tests.conftest import serving, settings_for
from tests.support.wire import Answer, ask, chat

DIALECTS = ("openai", "anthropic", "gemini", "ollama")
PATHS = {
    "openai": "/v1/chat/completions",
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/whole:generateContent",
    "ollama": "/api/chat",
}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}

#: The same answer in each dialect: `Hello world`, `stop`, 3+2=5.
HELLO: dict[str, dict[str, Any]] = {
    "openai": {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello world"},
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    },
    "anthropic": {
        "id": "msg",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Hello world"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 2},
    },
    "gemini": {
        "candidates": [
            {
                "content": {"role": "model", "parts": [{"text": "Hello world"}]},
                "finishReason": "STOP",
                "index": 0,
            }
        ],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2},
        "responseId": "r1",
    },
    "ollama": {
        "model": "m",
        "message": {"role": "assistant", "content": "Hello world"},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 3,
        "eval_count": 2,
    },
}
ARGUMENTS = '{"city":"Rome"}'
CALLS = [
    {"id": name, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    for name, arguments in (("a", ARGUMENTS), ("b", ARGUMENTS))
]
LOGPROBS = {
    "content": [{"token": "Hm", "logprob": -0.5, "bytes": [72, 109], "top_logprobs": []}],
    "refusal": None,
}

#: An answer with thoughts, text and two calls of one function, in each dialect.
CALLED: dict[str, dict[str, Any]] = {
    "openai": HELLO["openai"]
    | {
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hm",
                    "reasoning_content": "Let me see",
                    "tool_calls": CALLS,
                },
                "finish_reason": "tool_calls",
            }
        ]
    },
    "anthropic": HELLO["anthropic"]
    | {
        "content": [
            {"type": "thinking", "thinking": "Let me see", "signature": "EqQB"},
            {"type": "text", "text": "Hm"},
            {"type": "tool_use", "id": "a", "name": "get_weather", "input": {"city": "Rome"}},
            {"type": "tool_use", "id": "b", "name": "get_weather", "input": {"city": "Rome"}},
        ],
        "stop_reason": "tool_use",
    },
    "gemini": HELLO["gemini"]
    | {
        "candidates": [
            {
                "content": {
                    "parts": [
                        {"text": "Let me see", "thought": True},
                        {"text": "Hm"},
                        {
                            "functionCall": {
                                "id": "a",
                                "name": "get_weather",
                                "args": {"city": "Rome"},
                            }
                        },
                        {
                            "functionCall": {
                                "id": "b",
                                "name": "get_weather",
                                "args": {"city": "Rome"},
                            }
                        },
                    ]
                },
                "finishReason": "STOP",
            }
        ]
    },
    "ollama": HELLO["ollama"]
    | {
        "message": {
            "role": "assistant",
            "content": "Hm",
            "thinking": "Let me see",
            "tool_calls": [
                {"id": "a", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}},
                {"id": "b", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}},
            ],
        }
    },
}

#: What else a message of OpenAI's dialect may have: it reaches the client as it is.
MEMBERS: dict[str, dict[str, Any]] = {
    "a refusal": {"content": None, "refusal": "No."},
    "annotations": {"annotations": [{"type": "url_citation", "url_citation": {"url": "x"}}]},
    "images": {
        "images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    },
    "audio": {"content": None, "audio": {"id": "audio_1", "data": "AAAA", "transcript": "Hm"}},
    "an unknown member": {"x_new": {"a": 1.5}},
    "signed thoughts": {"reasoning_details": [{"type": "reasoning.text", "text": "Hm"}]},
}


class Asked:
    """What a client got, and what the upstream got for it."""

    def __init__(self, answer: Answer, server: MockServer) -> None:
        self.answer = answer
        self.path = server.requests[-1].path
        self.request = server.requests[-1].request
        self.headers = server.requests[-1].headers

    @property
    def message(self) -> dict[str, Any]:
        """Of the first choice, of a stream or not."""
        if self.answer.headers["content-type"] == "application/json":
            choice = self.answer.json["choices"][0]
            return choice["message"] | {"finish_reason": choice["finish_reason"]}
        deltas = self.deltas()
        found: dict[str, Any] = {"finish_reason": self.answer.finishes()[0]}
        for each in deltas:
            for name, value in each.items():
                if name == "tool_calls":
                    _add_calls(found.setdefault(name, []), value)
                elif isinstance(value, str) and name != "role":
                    found[name] = found.get(name, "") + value
                else:
                    found[name] = value
        return found

    def deltas(self, choice: int = 0) -> list[dict[str, Any]]:
        choices = [each for chunk in self.answer.chunks for each in chunk["choices"]]
        return [each["delta"] for each in choices if each["index"] == choice]

    def check(self, choices: int = 1) -> None:
        """A legal answer: of a stream, role once and first, one finish, then `[DONE]`."""
        answer = self.answer
        assert answer.status == 200, answer.body
        if answer.headers["content-type"] == "application/json":
            return
        assert answer.done
        for choice in range(choices):
            deltas = self.deltas(choice)
            assert ["role" in each for each in deltas] == [True, *[False] * (len(deltas) - 1)]
            assert deltas[-1] == {}
            assert len(answer.finishes(choice)) == 1


def _add_calls(calls: list[dict[str, Any]], pieces: list[dict[str, Any]]) -> None:
    for piece in pieces:
        if piece["index"] == len(calls):
            calls.append({name: value for name, value in piece.items() if name != "index"})
        else:
            function = calls[piece["index"]]["function"]
            function["arguments"] += piece["function"]["arguments"]


WAYS: dict[str, dict[str, Any]] = {
    "a stream with usage": {"stream": True, "stream_options": {"include_usage": True}},
    "a stream": {"stream": True},
    "no stream": {},
    "expressly no stream": {"stream": False},
}


async def asked(
    tmp_path: Path,
    scripted: MockServer,
    dialect: str,
    body: Any,
    deploy: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
    **request: Any,
) -> Asked:
    text = body if isinstance(body, str) else json.dumps(body)
    scripted.scripts["whole"] = Script(body=text, headers=headers or {})
    base = await scripted.start()
    if dialect != "openai":
        base = base.removesuffix("/v1")
    settings = settings_for(
        tmp_path,
        base,
        ["whole"],
        deploy={"dialect": dialect, "streams": False} | (deploy or {}),
    )
    async with serving(settings) as legato:
        return Asked(await ask(legato.port, legato.key, chat("whole", **request)), scripted)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_upstream_is_asked_for_one_piece(
    tmp_path: Path, scripted: MockServer, dialect: str, way: str
) -> None:
    got = await asked(tmp_path, scripted, dialect, HELLO[dialect], **WAYS[way])
    got.check()
    assert got.path == PATHS[dialect]
    assert got.headers["accept"] == "application/json"
    assert "stream_options" not in got.request
    assert got.request.get("stream", False) is False
    assert got.message["content"] == "Hello world"
    assert got.message["finish_reason"] == "stop"
    if "stream_options" in WAYS[way]:
        *before, last = got.answer.chunks
        assert all(chunk["usage"] is None for chunk in before)
        assert last["choices"] == []
        assert {name: last["usage"][name] for name in USAGE} == USAGE
    elif not WAYS[way].get("stream"):
        assert {name: got.answer.json["usage"][name] for name in USAGE} == USAGE
    else:
        assert not any(chunk.get("usage") for chunk in got.answer.chunks)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_thoughts_and_calls(
    tmp_path: Path, scripted: MockServer, dialect: str, stream: bool
) -> None:
    tools = [{"type": "function", "function": {"name": "get_weather"}}]
    got = await asked(tmp_path, scripted, dialect, CALLED[dialect], stream=stream, tools=tools)
    got.check()
    message = got.message
    assert (message["content"], message["reasoning_content"]) == ("Hm", "Let me see")
    assert message["tool_calls"] == CALLS
    assert message["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", MEMBERS)
async def test_what_a_message_has_reaches_the_client(
    tmp_path: Path, scripted: MockServer, name: str, stream: bool
) -> None:
    message = {"role": "assistant", "content": "Hm"} | MEMBERS[name]
    choice = {"index": 0, "message": message, "logprobs": LOGPROBS, "finish_reason": "stop"}
    body = HELLO["openai"] | {
        "choices": [choice | {"x_choice": 1}],
        "x_top": [1],
        "service_tier": "flex",
    }
    got = await asked(tmp_path, scripted, "openai", body, stream=stream)
    got.check()
    for member, value in MEMBERS[name].items():
        assert (got.message.get(member) or None) == value
    whole = [got.answer.json] if not stream else got.answer.chunks
    for top, value in (("x_top", [1]), ("service_tier", "flex")):
        assert value in [chunk.get(top) for chunk in whole]
    choices = [each for chunk in whole for each in chunk["choices"]]
    assert 1 in [each.get("x_choice") for each in choices]
    tokens = [each["logprobs"] for each in choices if each.get("logprobs")]
    assert tokens == [LOGPROBS]


@pytest.mark.parametrize("stream", [True, False])
async def test_several_choices(tmp_path: Path, scripted: MockServer, stream: bool) -> None:
    choices = [
        {
            "index": n,
            "message": {"role": "assistant", "content": f"text {n}"},
            "finish_reason": ("stop", "length")[n],
        }
        for n in range(2)
    ]
    got = await asked(
        tmp_path, scripted, "openai", HELLO["openai"] | {"choices": choices}, stream=stream, n=2
    )
    got.check(choices=2)
    if stream:
        assert [got.answer.text(n) for n in range(2)] == ["text 0", "text 1"]
        assert [got.answer.finishes(n) for n in range(2)] == [["stop"], ["length"]]
    else:
        assert [each["message"]["content"] for each in got.answer.json["choices"]] == [
            "text 0",
            "text 1",
        ]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("dialect", ["anthropic", "gemini", "ollama"])
async def test_several_choices_of_several_requests(
    tmp_path: Path, scripted: MockServer, dialect: str, stream: bool
) -> None:
    got = await asked(tmp_path, scripted, dialect, HELLO[dialect], stream=stream, n=3)
    got.check(choices=3)
    assert len(scripted.requests) == 3
    if stream:
        assert [got.answer.text(n) for n in range(3)] == ["Hello world"] * 3
    else:
        assert len(got.answer.json["choices"]) == 3


@pytest.mark.parametrize("stream", [True, False])
async def test_thoughts_between_tags(tmp_path: Path, scripted: MockServer, stream: bool) -> None:
    message = {"role": "assistant", "content": "<think>Let me see</think>Forty-two"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    got = await asked(
        tmp_path,
        scripted,
        "openai",
        HELLO["openai"] | {"choices": [choice]},
        {"reasoning": "think-tags"},
        stream=stream,
    )
    got.check()
    assert got.message["reasoning_content"] == "Let me see"
    assert got.message["content"] == "Forty-two"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_json_over_several_lines(
    tmp_path: Path, scripted: MockServer, dialect: str, stream: bool
) -> None:
    body = json.dumps(HELLO[dialect], indent=2) + "\n"
    got = await asked(tmp_path, scripted, dialect, body, stream=stream)
    got.check()
    assert got.message["content"] == "Hello world"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_answer_may_be_long(tmp_path: Path, scripted: MockServer, dialect: str) -> None:
    text = "Ž" * 600_000
    body = json.dumps(HELLO[dialect]).replace("Hello world", text)
    got = await asked(tmp_path, scripted, dialect, body, stream=True)
    got.check()
    assert got.message["content"] == text


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_that_is_too_long_is_a_failure(
    tmp_path: Path, scripted: MockServer, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("legato.upstreams.response.ANSWER_LIMIT", 1000)
    body = json.dumps(HELLO["openai"]).replace("Hello world", "a" * 1000)
    got = await asked(tmp_path, scripted, "openai", body, stream=stream)
    assert got.answer.status == 502
    assert "too much" in got.answer.json["error"]["message"]


NO_ANSWER: dict[str, tuple[str, str]] = {
    "no finish": (json.dumps(HELLO["openai"]).replace('"stop"', "null"), "without a finish"),
    "cut": (json.dumps(HELLO["openai"])[:-30], "not a stream of events"),
    "something else": ('{"object": "list", "data": []}', "not a stream of events"),
    "an error": ('{"object": "error", "message": "out of memory"}', "out of memory"),
    "nothing": ("", "not a stream of events"),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("case", NO_ANSWER)
async def test_what_is_no_answer_is_the_upstreams_failure(
    tmp_path: Path, scripted: MockServer, case: str, stream: bool
) -> None:
    body, words = NO_ANSWER[case]
    got = await asked(tmp_path, scripted, "openai", body, stream=stream)
    error = got.answer.error
    assert error is not None
    assert words in error["message"]
    assert got.answer.status == 502 or b"[DONE]" not in got.answer.body


async def test_one_that_streams_all_the_same_is_understood(
    tmp_path: Path, scripted: MockServer
) -> None:
    scripted.scripts["happy"] = msgspec.structs.replace(SCRIPTS["happy"], streams="always")
    base = await scripted.start()
    settings = settings_for(tmp_path, base, ["happy"], deploy={"streams": False})
    async with serving(settings) as legato:
        answer = await ask(legato.port, legato.key, chat("happy", stream=True))
    assert answer.done
    assert answer.text() == "Once upon a time, there was a stream."


@pytest.mark.parametrize("stream", [True, False])
async def test_the_whole_answer_has_to_come_within_the_time_to_the_first_token(
    tmp_path: Path, scripted: MockServer, stream: bool
) -> None:
    body = json.dumps(HELLO["openai"])
    scripted.scripts["whole"] = Script(body=body, head_after=30.0)
    settings = settings_for(
        tmp_path,
        await scripted.start(),
        ["whole"],
        deploy={"streams": False, "first_token_seconds": 0.2},
    )
    async with serving(settings) as legato:
        answer = await ask(legato.port, legato.key, chat("whole", stream=stream))
    assert answer.status == 504
    assert answer.json["error"]["code"] == "upstream_first_token_timeout"


async def test_an_upstream_that_refuses_streams_is_never_asked_for_one(tmp_path: Path) -> None:
    """As OpenAI's API answers an organization that is not verified."""
    refusal = {
        "error": {
            "message": "Your organization must be verified to stream this model.",
            "type": "invalid_request_error",
            "param": "stream",
            "code": "unsupported_value",
        }
    }

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        request = json.loads(await reader.readexactly(length))
        streams = bool(request.get("stream"))
        body = json.dumps(refusal if streams else HELLO["openai"]).encode()
        writer.write(
            b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b" % (400 if streams else 200, len(body), body)
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        for streams, status in ((False, 200), (True, 400)):
            folder = tmp_path / str(streams)
            folder.mkdir()
            settings = settings_for(folder, base, ["m"], deploy={"streams": streams})
            async with serving(settings) as legato:
                for way in WAYS.values():
                    answer = await ask(legato.port, legato.key, chat("m", **way))
                    assert answer.status == status
