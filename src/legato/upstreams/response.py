"""One HTTP answer of an upstream, read into a stream."""

import contextlib
import time
import zlib
from collections.abc import Callable
from email.utils import mktime_tz, parsedate_tz
from typing import Final, Protocol

from legato.core import sse
from legato.core.chunk import Chunk
from legato.core.dialect import Decoder, Dialect
from legato.core.errors import ApiError, UpstreamError, bad_gateway, internal
from legato.core.stream import State, Stream
from legato.fastpath.lane import Lane, between
from legato.fastpath.template import Habit, Template
from legato.fastpath.through import Through
from legato.upstreams.connection import Connection

#: Bytes of an error answer, or of something that is no stream, that are read at most.
REFUSAL_LIMIT: Final = 256 * 1024

#: The last event of nearly all who speak OpenAI's dialect.
_DONE: Final = b"data: [DONE]"

#: As most of those that stream say that they do.
_EVENTS: Final = ("text/event-stream", "text/event-stream; charset=utf-8")

#: What a stream of events may begin with, and what JSON and HTML never do: comments, `data`,
#: `event`, `id`, `retry`.
_FIELDS: Final = b":deir"
#: What JSON and HTML begin with, and no line of events.
_NO_EVENTS: Final = (b"{", b"[", b"<")
_BLANK: Final = b"\xef\xbb\xbf\r\n \t"


class ChunkTransform(Protocol):
    """What the chunks of an answer go through on their way to the stream."""

    def split(self, chunk: Chunk) -> Chunk:
        """The chunk, changed or not."""
        ...

    def rest(self, through: Through, index: int) -> Through | None:
        """What becomes of texts of a choice that come to this pass as `through` says, as long as
        nothing else comes; None where each has to be looked at."""
        ...


ChunkTransforms = tuple[ChunkTransform, ...]

#: Seconds of a `Retry-After` that are believed at most.
_LONGEST_WAIT: Final = 86_400.0


class Response:
    """Reads one HTTP answer into a stream, and gives the connection back when it is done."""

    __slots__ = (
        "_connection",
        "_decoder",
        "_dialect",
        "_has_begun",
        "_has_blocks",
        "_inflate",
        "_is_between",
        "_is_started",
        "_known",
        "_on_fail",
        "_passes",
        "_reader",
        "_refused",
        "_retry_after",
        "_status",
        "_template",
        "stream",
    )

    def __init__(
        self,
        connection: Connection,
        stream: Stream,
        on_fail: Callable[[ApiError], None],
        dialect: Dialect,
        passes: ChunkTransforms,
        habit: Habit,
    ) -> None:
        """`on_fail` hears where it breaks; `habit` is of the upstream."""
        self._connection: Connection | None = connection
        self.stream = stream
        self._on_fail = on_fail
        self._dialect = dialect
        self._decoder: Decoder | None = None  # for what does not come in whole events
        self._reader = dialect.reader()
        self._template = Template(habit)
        self._has_blocks = dialect.decoder is sse.Decoder
        self._has_begun = False
        self._is_started = False  # an event has been read
        self._is_between = True  # nothing is held of an event whose end has not come
        self._known = b""  # the last body, where it was one event that the template knows
        self._status = 0
        self._passes = passes
        self._refused: bytearray | None = None  # the body of what is not a stream of events
        self._retry_after: float | None = None
        self._inflate: zlib._Decompress | None = None

    @property
    def progress(self) -> float | None:
        """How far the upstream is with the prompt, 0 to 1, where it tells."""
        return self._reader.progress

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, where the upstream told before its usage; else 0."""
        return self._reader.prompt_tokens

    @property
    def upstream_id(self) -> str | None:
        """What the upstream calls this answer."""
        return self._reader.identity

    requests: Final = 1

    def abort(self) -> None:
        """Nobody wants the rest: the upstream sees its peer gone."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()

    @property
    def is_over(self) -> bool:
        """The connection has been given back, or given up."""
        return self._connection is None

    def expire(self, now: float) -> None:
        """A watcher of the wheel: the end of the body has had its time."""
        self.abort()

    def pause(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        if self._connection is not None:
            self._connection.resume()

    # From the connection

    def head(self, status: int, headers: dict[str, str]) -> None:
        self._status = status
        if status == 200 and len(headers) == 1 and headers.get("content-type") in _EVENTS:
            return
        encoding = headers.get("content-encoding", "identity").lower()
        if encoding in ("gzip", "deflate"):
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
            self._has_blocks = False
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if status != 200 or kind in ("application/json", "text/html"):
            self._refused = bytearray()
            self._has_blocks = False
            self._retry_after = _seconds(headers.get("retry-after"))
        elif encoding not in ("identity", "gzip", "deflate", ""):
            self._fail(bad_gateway(f"The upstream's answer is encoded as `{encoding}`."))

    def body(self, data: bytes) -> None:
        if self._connection is None:
            return
        if not self._has_begun:
            self._has_begun = True
            if not data.startswith(b"data:"):
                self._begin(data)
        try:
            if self._has_blocks and data.endswith(b"\n\n"):
                self._known = data if self._blocks(data[:-2]) else b""
            else:
                self._known = b""
                self._bytes(data)
        except zlib.error:
            self._fail(bad_gateway("The upstream's answer is not the gzip it says it is."))
        except sse.EventTooLarge as error:
            self._fail(bad_gateway(f"The upstream sent too much: {error}."))
        except ApiError as error:
            self._fail(error)
        except Exception:
            self.abort()
            self._on_fail(internal())  # ours, and nothing that the upstream did
            raise

    def _begin(self, data: bytes) -> None:
        """Some say an error as JSON, or a page, under the name of a stream of events."""
        if self._has_blocks and data[:64].lstrip(_BLANK)[:1] in _NO_EVENTS:
            self._refused = bytearray()
            self._has_blocks = False

    def lane(self, read: bytes) -> Lane | None:
        """The short cut for reads like `read`, which has just been read the usual way. None where
        it does not end with an HTTP chunk with one event that the template knows; where the last
        short cut has not taken anything, that has to be all of it."""
        body, self._known = self._known, b""
        if not body:
            return None
        chunk = b"%x\r\n%b\r\n" % (len(body), body)
        last = self.stream.lane
        if not read.endswith(chunk) or (last is not None and not last.has_taken and read != chunk):
            return None
        template = self._template
        through: Through | None = Through(template.raw, template.thinks)
        for each in self._passes:
            through = each.rest(through, template.plain)
            if through is None:
                return None
        return between(self.stream, template, through)

    def complete(self) -> None:
        """The body ended as HTTP says that it should."""
        if self._connection is None:
            return
        if self._refused is not None:
            self._no_stream(self._refused)
        elif not self.stream.done and self._last_events(None):
            self._end(None)
        self._connection = None

    def lost(self, error: UpstreamError) -> None:
        """The connection is gone; for a body that only its end delimits this is the end."""
        if self._connection is None:
            return
        if self._status == 0:
            self._fail(error)
        elif self._refused is not None:
            self._no_stream(self._refused)
        elif self._last_events(error):
            self._end(error)
        self._connection = None

    # Inside

    def _blocks(self, data: bytes) -> bool:
        """Whole events, as nearly every server writes them. One like those that came before is
        only compared with them. Whether the template has them all."""
        stream, match = self.stream, self._template.match
        known = True
        for block in data.split(b"\n\n"):
            chunk = match(block) if self._is_between else None
            if chunk is None:
                known = self._block(block) and known
                if stream.done or self._connection is None:
                    return False
            else:
                for each in self._passes:
                    chunk = each.split(chunk)
                stream.push(chunk)
        return known

    def _block(self, block: bytes) -> bool:
        """An event that has to be decoded, or the end of one. Whether the template has it now."""
        reader = self._reader
        if block == _DONE and self._is_between:
            self._chunk(reader.read(b"", _DONE[6:]))
            return False
        event = sse.event(block) if self._is_between else None
        if event is None or not event[1]:
            self._feed(block + b"\n\n")
            return False
        self._is_started = True
        chunk = reader.read(*event)
        known = (
            chunk is not None
            and bool(chunk.choices)
            and reader.is_stateless(chunk)
            and self._template.learn(block, chunk, (), self._again)
        )
        self._chunk(chunk)
        return known

    def _again(self, block: bytes) -> Chunk | None:
        name, data = sse.Decoder().feed(block + b"\n\n")[0]
        return self._reader.read(name, data)

    def _bytes(self, data: bytes) -> None:
        """Any bytes of a body."""
        if self._inflate is not None:
            data = self._inflate.decompress(data)
        if self._refused is not None:
            if len(self._refused) < REFUSAL_LIMIT:
                self._refused += data
            first = self._refused[:64].lstrip(_BLANK)[:1]
            if self._status != 200 or not first or first not in _FIELDS:
                return
            data, self._refused = bytes(self._refused), None  # it was said to be something else
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        decoder = self._decoder or self._new_decoder()
        self._events(decoder.feed(data))
        self._is_between = decoder.is_between

    def _new_decoder(self) -> Decoder:
        decoder = self._decoder = self._dialect.decoder()
        if self._is_started and isinstance(decoder, sse.Decoder):
            decoder.begin()
        return decoder

    def _chunk(self, chunk: Chunk | None) -> None:
        if chunk is None:
            self._end(None)
            return
        for each in self._passes:
            chunk = each.split(chunk)
        self.stream.push(chunk)

    def _events(self, events: list[tuple[bytes, bytes]]) -> None:
        for name, data in events:
            if data or name == b"error":
                self._chunk(self._reader.read(name, data))
            if self.stream.done or self._connection is None:
                return

    def _last_events(self, cut: UpstreamError | None) -> bool:
        """What the end of the body completes; False where that was a failure."""
        if self._has_blocks and self._is_between:
            return True
        try:
            self._events((self._decoder or self._new_decoder()).close())
        except ApiError as error:
            # Half an event is what a cut leaves; behind the finish it is nobody's loss.
            if cut is None and self.stream.state is not State.FINISHED:
                self._fail(error)
                return False
        return True

    def _end(self, cut: UpstreamError | None) -> None:
        """No more will come. Whether that is an answer or a failure, the stream knows."""
        if self.stream.done:
            return
        if self.stream.state is State.FINISHED:
            self.stream.end()
        else:
            self._fail(cut or self.stream.unfinished())

    def _fail(self, error: ApiError) -> None:
        self.abort()
        if self.stream.timings.first is not None and not isinstance(error, UpstreamError):
            error = bad_gateway(error.message, code=error.code)  # it was not refused: it broke off
        self._on_fail(error)

    def _no_stream(self, body: bytearray) -> None:
        """What came is no stream, or was not said to be one, and has ended."""
        if self._status != 200:
            self._fail(self._dialect.refusal(self._status, bytes(body), self._retry_after))
            return
        events = self._dialect.unstreamed(bytes(body))
        try:
            self._events([(b"", data) for data in events])
        except ApiError as error:
            self._fail(error)
        else:
            if events:
                self._end(None)
            else:
                self._fail(self._dialect.no_stream(bytes(body)))


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` in seconds from now, from either of its forms (RFC 9110, section 10.2.3)."""
    if retry_after is None:
        return None
    with contextlib.suppress(ValueError):
        return _within(float(retry_after))
    try:
        date = parsedate_tz(retry_after)
        return None if date is None else _within(mktime_tz(date) - time.time())
    except (ValueError, OverflowError):
        return None


def _within(seconds: float) -> float | None:
    return None if seconds != seconds else min(max(0.0, seconds), _LONGEST_WAIT)
