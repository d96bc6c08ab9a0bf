"""An answer's way without a socket: the bytes of a script, and what a client gets of them."""

import gzip
import itertools
import secrets
from collections.abc import Iterable
from random import Random
from typing import Any, Final

import pytest
from msgspec import Struct

from legato import dialects
from legato.core.chunk import Chunk, Usage
from legato.core.dialect import Dialect
from legato.core.errors import ApiError, bad_gateway, gateway_timeout
from legato.core.front import AnswerHead, WriterOptions
from legato.core.stream import State, Stream
from legato.core.think_tags import ThinkTags
from legato.fronts.chat_aggregator import ChatAggregator
from legato.fronts.chat_writer import ChatWriter
from legato.mock import dialects as mock_dialects
from legato.mock.scripts import SCRIPTS
from legato.mock.steps import Script, Step
from legato.upstreams.connection import SHARE, Connection
from legato.upstreams.response import Response

HEAD: Final = AnswerHead("chatcmpl-1", 1_700_000_000, "public")

#: The dialects that the scripted upstream speaks.
SCRIPTED: Final = tuple(name for name in dialects.NAMES if name in mock_dialects.PATHS.values())

#: So many deltas that what is learnt of the first ones is used, and some that are not like them.
PIECES: Final = (*"abcdefg", "ž🐎", '"', "\\", "h\u2028", " i", "stop", "m")
_END: Final = SCRIPTS["happy"].steps[-3:]
LONG: Final[dict[str, Script]] = {
    "long": Script(
        steps=[*(Step(think=each) for each in PIECES), *(Step(say=each) for each in PIECES), *_END]
    ),
    "long between tags": Script(
        steps=[
            *(Step(say=each) for each in ("<thi", "nk>", *PIECES, "</thi", "nk>", *PIECES)),
            *_END,
        ]
    ),
}


class Sent(Struct, frozen=True):
    """What an upstream sends. `end`: the body's (whole), or the connection's (cut, stalled)."""

    body: bytes
    end: str = "whole"
    status: int = 200
    headers: dict[str, str] = {}
    dialect: Dialect = dialects.named("openai")
    thinks: bool = False  # between tags


def sent(script: Script, dialect: str = "openai") -> Sent:
    """A script, as the scripted upstream says it."""
    path, *_ = [path for path, name in mock_dialects.PATHS.items() if name == dialect]
    dialect_class = mock_dialects.for_path(path)
    assert dialect_class is not None
    mock_dialect = dialect_class(script, {})
    kind = mock_dialect.content_type if script.body is None else "application/json"
    parts = (
        [mock_dialects.encode_body(mock_dialect, script.body)] if script.body is not None else []
    )
    parts += [b"\xef\xbb\xbf"] if script.bom else []
    end = "whole"
    for step in script.steps:
        if step.stall or step.cut or step.reset:
            end = "stalled" if step.stall else "cut"
            break
        parts.append(_encoded(mock_dialect, step) * step.repeat)
    headers = {"content-type": kind} | script.headers
    body = b"".join(parts)
    if script.gzip:
        headers["content-encoding"] = "gzip"
        body = gzip.compress(body, mtime=0)
    thinks = any("<th" in (step.say or "") for step in script.steps)
    return Sent(body, end, script.status, headers, dialects.named(dialect), thinks)


def _encoded(mock_dialect: mock_dialects.MockDialect, step: Step) -> bytes:
    if step.raw is not None:
        return step.raw.encode()
    return b"" if step.wait is not None else mock_dialect.encode(step)


def table() -> dict[str, Sent]:
    """All scripts, and long ones, in all dialects that the scripted upstream speaks, but for those
    that come to the same bytes."""
    scripts = SCRIPTS | LONG
    found: dict[str, Sent] = {}
    seen: set[Any] = set()
    for dialect, (name, script) in itertools.product(SCRIPTED, scripts.items()):
        encoded = sent(script, dialect)
        same = (dialect, encoded.body, encoded.end, encoded.status, encoded.headers["content-type"])
        if same not in seen and not script.no_head:
            seen.add(same)
            found[f"{dialect}, {name}"] = encoded
    return found


class _Both:
    """A client that streams and one that does not."""

    def __init__(self, writer: ChatWriter, collector: ChatAggregator) -> None:
        self._both = (writer, collector)

    def push(self, chunk: Chunk) -> None:
        for each in self._both:
            each.push(chunk)

    def flush(self) -> None:
        for each in self._both:
            each.flush()

    def complete(self, usage: Usage, extras: bytes) -> None:
        for each in self._both:
            each.complete(usage, extras)

    def fail(self, error: ApiError) -> None:
        for each in self._both:
            each.fail(error)


class Got(Struct, frozen=True):
    """`frames`: the whole body of a stream. `answer`: the body of an answer that is not streamed,
    or of its error; None where nobody has asked for it."""

    frames: bytes
    answer: bytes | None


def play(
    upstream: Sent,
    pieces: Iterable[bytes],
    *,
    late: int = 0,
    over_http: bool = False,
    folds: bool = True,
) -> Got:
    """What is made of a body, or of a whole HTTP answer, that is read as `pieces`. The client is
    there from the `late`th on."""
    _INVENTED.count = 0
    sink = _Sink()
    writer = ChatWriter(HEAD, WriterOptions(shows_usage=True), sink)
    collector = ChatAggregator()
    client = _Both(writer, collector) if folds else writer
    stream = Stream(lambda: 0.0, 0.0)
    source = (_Connected if over_http else _Bare)(upstream, stream)
    number = -1
    for number, piece in enumerate(pieces):
        if number == late:
            stream.subscribe(client)
        source.feed(piece)
    if number < late:
        stream.subscribe(client)
    source.end()
    assert stream.done
    assert sink.closed == 1, "a body ends once"
    if not folds:
        return Got(b"".join(sink.parts), None)
    if collector.error is not None:
        return Got(b"".join(sink.parts), collector.error.as_json())
    return Got(b"".join(sink.parts), collector.answer(HEAD))


class _Sink:
    """Where a client's frames go."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.closed = 0

    def write(self, data: bytes) -> None:
        self.parts.append(data)

    def on_full(self) -> None:
        """Its client is not slow."""

    def finish(self, data: bytes) -> None:
        self.parts.append(data)
        self.closed += 1


class _Bare:
    """Fills a stream, with nothing of HTTP around it. It is the answer's connection as well."""

    def __init__(self, upstream: Sent, stream: Stream) -> None:
        self.upstream = upstream
        self.stream = stream
        transforms = (ThinkTags(),) if upstream.thinks else ()
        connection: Any = self
        self.answer = Response(connection, stream, stream.fail, upstream.dialect, transforms)
        self.begin()

    def begin(self) -> None:
        self.answer.head(self.upstream.status, self.upstream.headers)

    def feed(self, piece: bytes) -> None:
        self.answer.body(piece)
        self.stream.flush()

    def end(self) -> None:
        if self.upstream.end == "stalled" and self.stream.state is State.FINISHED:
            self.stream.end()
        elif self.upstream.end == "stalled":
            self.stream.fail(gateway_timeout("It made no progress.", code="upstream_stalled"))
        else:
            self.over()
        self.stream.flush()

    def over(self) -> None:
        if self.upstream.end == "whole":
            self.answer.complete()
        else:
            self.answer.lost(
                bad_gateway("The upstream closed the connection.", code="upstream_cut")
            )

    def release(self) -> None:
        return None


class _Connected(_Bare):
    """The same behind a connection that reads HTTP; it is that one's transport and pool as well."""

    def begin(self) -> None:
        whole: Any = self
        self._connection = Connection(whole)
        self._connection.connection_made(whole)
        self._connection.send(b"", self.answer)
        self._closing = False

    def feed(self, piece: bytes) -> None:
        for at in range(0, len(piece), SHARE):  # more of it would wait for another turn of a loop
            if not self._closing:
                self._connection.data_received(piece[at : at + SHARE])

    def get_extra_info(self, name: str) -> None:
        """It has no socket."""

    def over(self) -> None:
        self._connection.connection_lost(None)

    def write(self, data: bytes) -> None:
        return None

    def abort(self) -> None:
        self._closing = True

    def keep(self, connection: Connection) -> None:
        return None

    remove = keep


def as_http(upstream: Sent, seed: object) -> bytes:
    """The same as a chunked HTTP answer, in chunks of any size."""
    chance = Random(repr(seed))
    head = f"HTTP/1.1 {upstream.status} OK\r\ntransfer-encoding: chunked\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in upstream.headers.items()) + "\r\n"
    rest, framed = upstream.body, head.encode()
    while rest:
        size = chance.randint(1, 300)
        framed += b"%x\r\n%b\r\n" % (len(rest[:size]), rest[:size])
        rest = rest[size:]
    return framed + (b"0\r\n\r\n" if upstream.end == "whole" else b"")


class _Invented:
    """Ids that are made up, the same ones again for every answer."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, size: int) -> str:
        self.count += 1
        return f"{self.count:0{2 * size}x}"


_INVENTED = _Invented()


def pin(patch: pytest.MonkeyPatch) -> None:
    """Nothing is left to chance from here on."""
    patch.setattr(secrets, "token_hex", _INVENTED)


def cut(body: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(body)]
    return [body[a:b] for a, b in itertools.pairwise(edges)]


def letters(body: bytes) -> list[bytes]:
    return [body[place : place + 1] for place in range(len(body))]


def ways(body: bytes, number: int, seed: object) -> Iterable[list[bytes]]:
    """`number` ways to cut a body: half of them once, at places as far apart as they can be, and
    half of them at random, mostly into few pieces."""
    chance = Random(repr(seed))
    singles = number // 2
    for each in range(singles):
        yield cut(body, [each * len(body) // singles])
    for _ in range(number - singles):
        times = min(chance.randint(2, 9), chance.randint(2, 60))
        yield cut(body, [chance.randint(0, len(body)) for _ in range(times)])
