"""A client of Messages in front of an upstream of Messages: both get what the other sent, byte for
byte, but for the model's name and the answer's id."""

import json
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import Running, serving, settings_for
from tests.support.messages_order import MessagesBody
from tests.support.raw_upstream import RawUpstream

Json = dict[str, Any]

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Stand where the model's name and the answer's id are put in.
MODEL, IDENTITY = "@MODEL@", "@ID@"
NAMES = ("model", "mod\u00e9l", "Model", "stream", "messages", "id", "x_new", "\u2028", 'q"uote')


def http(body: bytes, kind: bytes = b"text/event-stream", status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
    return head % (status, kind, len(body)) + body


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[RawUpstream]:
    server = RawUpstream()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def legato(
    upstream: RawUpstream, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    url = await upstream.start()
    settings = settings_for(
        tmp_path_factory.mktemp("passed"),
        None,
        deployments=[
            {
                "name": name,
                "dialect": "anthropic",
                "base_url": f"{url}/a",
                "model": "claude-upstream",
                "open_after": 0,
                **more,
            }
            for name, more in (
                ("at-anthropic", {}),
                ("whole", {"streams": False}),
                ("half", {"base_url": f"{url}/half"}),
                ("rest", {"base_url": f"{url}/rest", "continue": "prefill"}),
            )
        ],
        routes=[
            {"model": "public", "deployments": ["at-anthropic"], "attempts": 1},
            {"model": "whole", "deployments": ["whole"], "attempts": 1},
            {"model": "both", "deployments": ["half", "rest"]},
        ],
    )
    async with serving(settings) as running:
        yield running


class Generated:
    """Random JSON in random spelling: spaces, escapes, order and names of members."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)

    def value(self, depth: int = 0) -> Any:
        kind = self.chance.randrange(7 if depth < 3 else 5)
        match kind:
            case 0:
                return self.chance.choice([None, True, False, 0, -1, 1.0, 1e30, 2**53])
            case 5:
                return [self.value(depth + 1) for _ in range(self.chance.randrange(4))]
            case 6:
                names = self.chance.sample(NAMES, self.chance.randrange(4))
                return {name: self.value(depth + 1) for name in names}
            case _:
                return self.text()

    def text(self, most: int = 20) -> str:
        return "".join(
            self.chance.choices('ab \n\t"\\/{}[]:,é🐎\u2029model', k=self.chance.randrange(most))
        )

    def spelt(self, value: Any, *, lines: bool = True) -> str:
        indent = self.chance.choice([None, 1, "\t"]) if lines else None
        separators = self.chance.choice([(",", ":"), (", ", ": "), (" , ", " : ")])
        ascii_only = True if not lines else self.chance.random() < 0.5
        return json.dumps(value, indent=indent, separators=separators, ensure_ascii=ascii_only)

    def shuffled(self, fields: Json) -> Json:
        names = list(fields)
        self.chance.shuffle(names)
        return {name: fields[name] for name in names}

    def request(self) -> str:
        signature = "".join(self.chance.choices("ABCDabcd0123+/", k=self.chance.randrange(20_000)))
        thought = {"type": "thinking", "thinking": self.text(), "signature": signature or "x"}
        said = {"type": "text", "text": self.text() + ".", "x_block": self.value()}
        fields: Json = {
            "model": MODEL,
            "max_tokens": 8,
            "stream": True,
            "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": "hi", "x_message": self.value()},
                {"role": "assistant", "content": [self.shuffled(thought), said]},
                {"role": "user", "content": [{"type": "text", "text": self.text() + "?"}]},
            ],
            "tools": [{"name": "t", "input_schema": {"properties": {"model": self.value()}}}],
            "metadata": {"user_id": self.text(), "model": "inner"},
            "x_unknown": self.value(),
            "x_model": {"model": self.value()},
        }
        text = self.spelt(self.shuffled(fields))
        return self.chance.choice(["", " ", "\n\t"]) + text + self.chance.choice(["", " \n"])

    def answer(self) -> str:
        message = {
            "id": IDENTITY,
            "model": MODEL,
            "type": "message",
            "role": "assistant",
            "content": [],
            "usage": {"input_tokens": 3, "output_tokens": 1, "x_usage": self.value()},
            "x_message": {"id": "inner", "model": "inner", "x": self.value()},
        }
        start = {"type": "message_start", "message": self.shuffled(message)}
        events: list[Json] = [start | {"x_start": self.value()}]
        for index in range(self.chance.randrange(1, 4)):
            events += self.block(index)
        events.append(
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None, "x": self.value()},
                "usage": {"output_tokens": 4},
                "context_management": self.value(),
            }
        )
        events.append({"type": "message_stop", "x_stop": self.value()})
        return "".join(
            f"event: {each['type']}\ndata: {self.spelt(each, lines=False)}\n\n" for each in events
        )

    def block(self, index: int) -> list[Json]:
        kind, member = self.chance.choice([("text", "text"), ("thinking", "thinking")])
        block = {"type": kind, member: "", "x_block": self.value()}
        if kind == "thinking":
            block["signature"] = ""
        deltas: list[Json] = [
            {"type": f"{kind}_delta", member: self.text() + "."}
            for _ in range(self.chance.randrange(1, 9))
        ]
        if kind == "thinking":
            deltas.append({"type": "signature_delta", "signature": "AB" * 2_000})
        deltas.insert(0, {"type": f"{kind}_delta", member: "first"})
        place = {"index": index}
        events: list[Json] = [{"type": "content_block_start", **place, "content_block": block}]
        for delta in deltas:
            events.append({"type": "content_block_delta", **place, "delta": delta})
            if self.chance.random() < 0.2:
                events.append({"type": self.chance.choice(["ping", "x_new"])})
        events.append({"type": "content_block_stop", **place})
        return events


def filled(text: str, model: str, identity: str = "") -> bytes:
    return (
        text.replace(json.dumps(MODEL), json.dumps(model))
        .replace(json.dumps(IDENTITY), json.dumps(identity))
        .encode()
    )


async def test_both_get_what_the_other_sent(legato: Running, upstream: RawUpstream) -> None:
    async with legato.client() as client:
        for seed in range(200):
            generated = Generated(seed)
            request, answer = generated.request(), generated.answer()
            upstream.responses["a"] = http(filled(answer, "claude-upstream", "msg_theirs"))
            got = await client.post(
                "/v1/messages?beta=true",
                content=filled(request, "public"),
                headers={"anthropic-beta": f"b-{seed}", "anthropic-version": "2023-06-01"},
            )
            assert got.status_code == 200, (seed, got.text)
            assert upstream.bodies["a"][-1] == filled(request, "claude-upstream"), seed
            assert b"\r\nanthropic-beta: b-%d\r\n" % seed in upstream.heads["a"][-1], seed
            identity = got.headers["x-request-id"].replace("req_", "msg_")
            assert got.content == filled(answer, "public", identity), seed


async def test_who_goes_on_with_an_answer_gets_the_headers_too(
    legato: Running, upstream: RawUpstream
) -> None:
    """A request may need what one of them allows."""
    start, end = {"type": "content_block_start"}, {"type": "message_stop"}
    text = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}
    start |= {"index": 0, "content_block": {"type": "text", "text": ""}}
    finish = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    events = [f"data: {json.dumps(each)}\n\n".encode() for each in (start, text, finish, end)]
    half = http(b"".join(events))[: -len(b"".join(events[2:]))]
    upstream.responses["half"] = half.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1)
    upstream.responses["rest"] = http(b"".join(events))
    said = [{"role": "user", "content": "hi"}]
    async with legato.client() as client:
        got = await client.post(
            "/v1/messages",
            json={"model": "both", "max_tokens": 99, "stream": True, "messages": said},
            headers={"anthropic-beta": "b-1", "anthropic-version": "2023-01-01"},
        )
    assert got.status_code == 200
    for name in ("half", "rest"):
        (head,) = upstream.heads[name]
        assert b"\r\nanthropic-beta: b-1\r\n" in head
        assert head.count(b"anthropic-version:") == 1
    assert upstream.requests["rest"][0]["messages"][-1]["role"] == "assistant"
    assert MessagesBody(got.content).content == [{"type": "text", "text": "aa"}]


async def test_an_answer_that_is_not_streamed_is_the_fold_of_a_stream(
    legato: Running, upstream: RawUpstream
) -> None:
    body = b'{"model":"public",  "max_tokens":8,"messages":[{"role":"user","content":"hi"}]}'
    upstream.responses["a"] = http(filled(Generated(1).answer(), "m", "msg_theirs"))
    async with legato.client() as client:
        got = await client.post("/v1/messages", content=body)
    message = got.json()
    assert message["model"] == "public"
    assert message["content"][0]["type"] in ("text", "thinking")
    assert "x_message" in message
    sent = upstream.bodies["a"][-1]
    assert sent == b'{"stream":true,' + body[1:].replace(b'"public"', b'"claude-upstream"')


@pytest.mark.parametrize("stream", [True, False])
async def test_an_upstream_that_does_not_stream(
    legato: Running, upstream: RawUpstream, stream: bool
) -> None:
    """It is not asked to, and its answer in one piece becomes the events of one that did."""
    message = {
        "id": "msg_theirs",
        "type": "message",
        "role": "assistant",
        "model": "theirs",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
            {"type": "text", "text": "Hello"},
            {"type": "tool_use", "id": "t", "name": "sum", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }
    upstream.responses["a"] = http(json.dumps(message).encode(), b"application/json")
    said = [{"role": "user", "content": "hi"}]
    body = {"model": "whole", "max_tokens": 8, "stream": stream, "messages": said}
    async with legato.client() as client:
        got = await client.post("/v1/messages", json=body)
    assert upstream.requests["a"][-1]["stream"] is False
    answer = MessagesBody(got.content).message if stream else got.json()
    assert answer["content"] == message["content"]
    assert answer["stop_reason"] == "tool_use"
    assert answer["usage"]["output_tokens"] == 2


@pytest.mark.parametrize("model", ["public", "whole"])
async def test_a_request_to_fill_the_cache_alone(
    legato: Running, upstream: RawUpstream, model: str
) -> None:
    """It asks for no token, which the API takes only where nothing is streamed."""
    message = {
        "id": "msg_theirs",
        "type": "message",
        "role": "assistant",
        "model": "theirs",
        "content": [],
        "stop_reason": "max_tokens",
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 0}
        | {"cache_creation_input_tokens": 9, "cache_read_input_tokens": 0},
    }
    upstream.responses["a"] = http(json.dumps(message).encode(), b"application/json")
    body = {"model": model, "max_tokens": 0, "messages": [{"role": "user", "content": "hi"}]}
    async with legato.client() as client:
        got = await client.post("/v1/messages", json=body)
    assert got.status_code == 200, got.text
    assert got.json() == message | {"id": got.json()["id"], "model": model}
    assert upstream.requests["a"][-1].get("stream") in (None, False)
    assert (await legato.rows())[-1]["outcome"] == "complete"


async def test_a_number_that_no_decoder_takes(legato: Running, upstream: RawUpstream) -> None:
    """It stays as it came, also where thinking is left out."""
    upstream.responses["a"] = http(filled(Generated(1).answer(), "m", "msg_theirs"))
    body = b'{"x":1e999,"model":"public","max_tokens":8,"stream":true,"messages":[%b]}'
    said = b'{"role":"user","content":"thinking"}'
    thought = b'{"role":"assistant","content":[{"type":"thinking","thinking":"a"}]},'
    async with legato.client() as client:
        got = await client.post("/v1/messages", content=body % (thought + said))
    assert got.status_code == 200, got.text
    assert upstream.bodies["a"][-1] == (body % said).replace(b'"public"', b'"claude-upstream"')


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_a_body_that_is_not_utf_8(legato: Running, path: str) -> None:
    body = (
        b'{"x":"\xff","model":"public","max_tokens":8,"messages":[{"role":"user","content":"hi"}]}'
    )
    async with legato.client() as client:
        got = await client.post(path, content=body)
    assert (got.status_code, got.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "UTF-8" in got.json()["error"]["message"]


ERROR = b'{ "type":"error",\n"error":{"type":"overloaded_error","message":"Overloaded","x":1.0} }'


@pytest.mark.parametrize("status", [b"400 Bad", b"413 Large", b"429 Slow", b"529 Busy"])
async def test_an_error_comes_as_it_was_sent(
    legato: Running, upstream: RawUpstream, status: bytes
) -> None:
    upstream.responses["a"] = http(ERROR, b"application/json", status)
    body = {"model": "public", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}
    async with legato.client() as client:
        got = await client.post("/v1/messages", json=body)
    assert (got.status_code, got.content) == (int(status[:3]), ERROR)
    assert ("retry-after" in got.headers) is (got.status_code == 429)


async def test_an_error_about_our_key_does_not(legato: Running, upstream: RawUpstream) -> None:
    upstream.responses["a"] = http(ERROR, b"application/json", b"401 No")
    body = {"model": "public", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}
    async with legato.client() as client:
        got = await client.post("/v1/messages", json=body)
    assert got.status_code == 500
    assert b"Overloaded" not in got.content
