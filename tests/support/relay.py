"""One answer from an upstream's connection to a client's, without sockets: cut any way."""

import itertools
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from legato.core.front import AnswerHead, WriterOptions
from legato.core.stream import Stream
from legato.core.think_tags import ThinkTags
from legato.dialects import openai
from legato.fronts.chat_writer import ChatWriter
from legato.upstreams.connection import Connection
from legato.upstreams.response import Response

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


IDENTITY, CREATED = "chatcmpl-41f", 1700000000


def event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    fields = {"id": IDENTITY, "object": "chat.completion.chunk", "created": CREATED, "model": "m"}
    said = json.dumps(fields | {"choices": [choice]} | more, ensure_ascii=False)
    return f"data: {said}\n\n".encode()


def second(delta: dict[str, Any], finish: str | None = None) -> bytes:
    return event(delta, finish).replace(b'"index": 0', b'"index": 1')


def text(*pieces: str) -> list[bytes]:
    return [event({"content": piece}) for piece in pieces]


def words(number: int) -> list[bytes]:
    return text(*(f"word{each} " for each in range(number)))


END = [event({}, "stop"), b"data: [DONE]\n\n"]


class Side:
    """A connection's other side: what is written there, and what was asked of it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.write = self.written.append

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def keep(self, connection: Connection) -> None: ...
    def remove(self, connection: Connection) -> None: ...


class Relay:
    """One answer from an upstream's connection to a client's. `told` is all that comes of it."""

    def __init__(
        self, *, fast_path: bool = True, tags: bool = False, keeps: bool = True, **options: Any
    ) -> None:
        self.times = itertools.count()
        self.stream = Stream(lambda: next(self.times) / 1000, 0.0)
        wanted = WriterOptions(**options)
        self.stream.expect(
            1, shows_usage=wanted.shows_usage, shows_running_usage=wanted.shows_running_usage
        )
        if keeps:
            self.stream.keep_delivered()
        self.client = Side()
        self.connection = Connection(Side())
        self.connection.transport = Side()  # type: ignore[assignment]
        self.writer = ChatWriter(AnswerHead("chatcmpl-x", 1, "m"), wanted, self)
        self.failures: list[Exception] = []
        transforms = (ThinkTags(),) if tags else ()
        response = Response(
            self.connection,
            self.stream,
            self.failures.append,
            openai,
            transforms,
            fast_path=fast_path,
        )
        self.connection.send(b"", response)
        self.connection.data_received(HEAD)
        self.stream.subscribe(self.writer)

    def write(self, data: bytes) -> None:
        self.client.write(data)

    finish = write

    def on_full(self) -> None: ...

    @property
    def frames(self) -> bytes:
        """The body that the client reads."""
        return b"".join(self.client.written)

    @property
    def told(self) -> tuple[Any, ...]:
        timings, delivered = self.stream.timings, self.stream.delivered
        return (
            self.frames,
            self.stream.state,
            (self.writer.frames, self.writer.size),
            (timings.pieces, timings.reasoning),
            delivered.delivered if delivered is not None else None,
            [str(each) for each in self.failures],
        )


def chunks(events: list[bytes]) -> list[bytes]:
    return [b"%x\r\n%b\r\n" % (len(each), each) for each in events]


def cut(data: bytes, seed: int) -> Iterator[bytes]:
    random_ = random.Random(seed)
    while data:
        size = random_.randint(1, 400)
        yield data[:size]
        data = data[size:]


WAYS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a chunk a read": chunks,
    "by the byte": lambda events: [bytes([each]) for each in b"".join(chunks(events))],
    "twenty chunks a read": lambda events: [
        b"".join(chunks(events)[at : at + 20]) for at in range(0, len(events), 20)
    ],
    "two chunks a read": lambda events: [
        b"".join(chunks(events)[at : at + 2]) for at in range(0, len(events), 2)
    ],
    "head and body apart": lambda events: [
        part for each in chunks(events) for part in (each[:5], each[5:])
    ],
    "capital digits": lambda events: [b"%X\r\n%b\r\n" % (len(each), each) for each in events],
    "with an extension": lambda events: [
        b"%x;a=b\r\n%b\r\n" % (len(each), each) for each in events
    ],
    **{
        f"at random {seed}": lambda events, seed=seed: list(cut(b"".join(chunks(events)), seed))
        for seed in range(6)
    },
}


def played(reads: list[bytes], **options: Any) -> Relay:
    relay = Relay(**options)
    for read in reads:
        relay.connection.data_received(read)
    return relay
