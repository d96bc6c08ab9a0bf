"""n choices of an upstream that gives one at a time, merged into one stream with true indices."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from legato.core.errors import bad_gateway
from legato.core.fanout import Fanout
from legato.core.stream import State, Stream
from legato.dialects.openai import Reader
from legato.mock.server import MockServer
from tests.conftest import Running, serving, settings_for, until
from tests.core.test_stream import choice, say, still
from tests.fronts.test_chat_writer import Sink, check_body
from tests.support.wire import Wire, ask, chat, request

USAGE = {"prompt_tokens": 7, "completion_tokens": 10, "total_tokens": 17}
MODELS = ("happy", "tools", "thinking", "slow", "cut", "error-first", "500", "usage-nowhere")


@pytest.fixture
async def fanning(tmp_path: Path, scripted: MockServer) -> Any:
    base = await scripted.start()
    settings = settings_for(tmp_path, base, MODELS, deploy={"n": "fan-out"})
    async with serving(settings) as running:
        yield running


async def test_three_choices_of_three_calls(fanning: Running, scripted: MockServer) -> None:
    more: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    answer = await ask(fanning.port, fanning.key, chat("happy", n=3, seed=5, **more))
    assert answer.done
    for index in range(3):
        assert answer.text(index) == "Once upon a time, there was a stream."
        assert answer.finishes(index) == ["stop"]
    firsts = [chunk["choices"][0] for chunk in answer.chunks if chunk["choices"]]
    roles = [each["index"] for each in firsts if "role" in each["delta"]]
    assert sorted(roles) == [0, 1, 2]
    usage = answer.chunks[-1]["usage"]
    assert usage["prompt_tokens"] == 7
    assert usage["completion_tokens"] == 30
    assert usage["total_tokens"] == 37
    asked = [each.request for each in scripted.requests]
    assert ["n" in each for each in asked] == [False] * 3
    assert sorted(each["seed"] for each in asked) == [5, 6, 7]


async def test_not_streamed_is_the_same(fanning: Running) -> None:
    answer = await ask(fanning.port, fanning.key, chat("tools", n=2))
    choices = answer.json["choices"]
    assert [each["index"] for each in choices] == [0, 1]
    for each in choices:
        names = [call["function"]["name"] for call in each["message"]["tool_calls"]]
        assert names == ["sum", "now"]
        assert each["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(("name", "code"), [("error-first", "gpu_lost"), ("500", "upstream_500")])
async def test_one_that_fails_before_the_first_chunk(
    fanning: Running, name: str, code: str
) -> None:
    answer = await ask(fanning.port, fanning.key, chat(name, n=3, stream=True))
    assert answer.status == 502
    assert answer.error is not None
    assert answer.error["code"] == code


async def test_one_that_fails_fails_them_all(fanning: Running, scripted: MockServer) -> None:
    answer = await ask(fanning.port, fanning.key, chat("cut", n=3, stream=True))
    assert answer.error is not None
    assert answer.error["code"] == "upstream_cut"
    assert b"[DONE]" not in answer.body


async def test_a_client_that_leaves_ends_them_all(fanning: Running, scripted: MockServer) -> None:
    async with await Wire.open(fanning.port) as wire:
        wire.send(request(fanning.key, chat("slow", n=3, stream=True)))
        await wire.head()
        await wire.chunk()
    await until(lambda: [each.is_disconnected for each in scripted.requests] == [True] * 3)


def test_branches_end_in_any_order() -> None:
    """A choice that is through before another has begun does not end the stream."""
    sink = Sink(wants_usage=True)
    stream = Stream(still, 0.0)
    stream.subscribe(sink.writer)
    stream.expect(2)
    fan = Fanout(stream, 2, still)
    reader = Reader()

    def push(branch: int, event: bytes) -> None:
        chunk = reader.read(b"", event[6:-2])
        assert chunk is not None
        fan.branches[branch].push(chunk)
        fan.branches[branch].flush()

    push(1, say(choice({"content": "b"})))
    push(1, say(choice({}, "stop")))
    push(1, say(usage=USAGE))
    fan.branches[1].end()
    assert stream.state is State.OPEN
    push(0, say(choice({"content": "a"})))
    push(0, say(choice({}, "length")))
    assert not stream.done
    fan.branches[0].end()
    assert stream.state is State.COMPLETE
    checked = check_body(sink.body, wants_usage=True)
    assert checked.choices[1]["content"] == "a"  # the second to begin, in order of first use
    assert checked.usage is not None
    assert checked.usage["completion_tokens"] == 2  # counted: one of the two reported nothing


def test_a_branch_that_breaks() -> None:
    stream = Stream(still, 0.0)
    fan = Fanout(stream, 2, still)
    fan.branches[0].fail(bad_gateway("gone"))
    assert stream.state is State.FAILED


async def test_one_that_fails_while_another_answers_in_the_same_moment(tmp_path: Path) -> None:
    """What the other one sends begins no answer: the next deployment gives all of it."""
    refusal = b'{"error":{"message":"Overloaded."}}'
    refused = b"HTTP/1.1 529 x\r\ncontent-length: %d\r\n\r\n%b" % (len(refusal), refusal)
    stream = say(choice({"content": "good"})) + say(choice({}, "stop")) + b"data: [DONE]\n\n"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
    good = head % len(stream) + stream
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while asked := await reader.readuntil(b"\r\n\r\n"):
                length = asked.lower().partition(b"content-length: ")[2].split()[0]
                await reader.readexactly(int(length))
                writers.append(writer)
                if len(writers) == 2:
                    writers[0].write(refused)
                    writers[1].write(good)
                elif len(writers) > 2:
                    writer.write(good)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    deploy = {"base_url": base, "n": "fan-out", "open_after": 0}
    flags: dict[str, Any] = {
        "deployments": [{"name": name, "model": name} | deploy for name in ("one", "two")],
        "routes": [{"model": "both", "deployments": ["one", "two"]}],
    }
    try:
        async with serving(settings_for(tmp_path, None, **flags)) as running:
            for stream_it in (True, False):
                writers.clear()
                asked = ask(running.port, running.key, chat("both", n=2, stream=stream_it))
                answer = await asyncio.wait_for(asked, 10)
                assert answer.status == 200
                assert len(writers) == 4
                if stream_it:
                    assert answer.done
                    assert [answer.text(index) for index in (0, 1)] == ["good", "good"]
    finally:
        server.close()
