"""One answer from an upstream's connection to a client's, without sockets: cut any way."""

import itertools
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from legato.fastpath.template import Habit

from legato.core.continuation import DeliveredText
from legato.core.stream import Stream
from legato.core.think_tags import Thinking
from legato.dialects import openai
from legato.fronts.chat_writer import ChatWriter
from legato.upstreams.connection import Connection
from legato.upstreams.response import Response

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


IDENTITY, CREATED = "chatcmpl-41f", 1700000000


def of_another(event: bytes) -> bytes:
    """The same event in another answer."""
    other = event.replace(IDENTITY.encode(), b"chatcmpl-another")
    return other.replace(str(CREATED).encode(), b"1700000099")


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
    def forget(self, connection: Connection) -> None: ...


class Through:
    """One answer from an upstream's connection to a client's."""

    def __init__(
        self,
        habit: Habit | None = None,
        tags: bool = False,
        is_chunked: bool = True,
        keeps: bool = True,
        **options: Any,
    ) -> None:
        self.is_chunked = is_chunked
        self.times = itertools.count()
        self.stream = Stream(lambda: next(self.times) / 1000, 0.0)
        self.stream.kept = DeliveredText() if keeps else None
        self.client = Side()
        self.connection = Connection(Side())
        self.connection.transport = Side()  # type: ignore[assignment]
        self.writer = ChatWriter(
            identity="chatcmpl-x",
            created=1,
            model="m",
            sink=self,
            **{"wants_usage": False, **options},
        )
        self.failures: list[Exception] = []
        habit = habit or Habit()
        passes = (Thinking(),) if tags else ()
        read = Response(self.connection, self.stream, self.failures.append, openai, passes, habit)
        self.connection.send(b"", read)
        self.connection.data_received(HEAD)
        self.stream.attach(self.writer)

    def write(self, data: bytes) -> None:
        self.client.write(b"%x\r\n%b\r\n" % (len(data), data))

    finish = write

    def direct(self) -> Callable[[bytes], None] | None:
        return self.client.write if self.is_chunked else None

    @property
    def frames(self) -> bytes:
        """The body that the client reads."""
        body, left = b"", b"".join(self.client.written)
        while left:
            size, _, left = left.partition(b"\r\n")
            body, left = body + left[: int(size, 16)], left[int(size, 16) + 2 :]
        return body

    @property
    def told(self) -> tuple[Any, ...]:
        meter, kept = self.stream.timings, self.stream.kept
        return (
            self.frames,
            self.stream.state,
            (self.writer.frames, self.writer.size),
            (meter.pieces, meter.reasoning),
            kept.delivered if kept is not None else None,
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


def played(reads: list[bytes], habit: Habit | None = None, **options: Any) -> Through:
    through = Through(habit, **options)
    for read in reads:
        through.connection.data_received(read)
    assert not through.failures
    return through
