"""Reads one HTTP response of an upstream into a stream."""

import contextlib
import time
import zlib
from collections.abc import Callable
from email.utils import mktime_tz, parsedate_tz
from typing import Final, Protocol

from legato.core import sse
from legato.core.chunk import Chunk
from legato.core.dialect import Decoder, Dialect
from legato.core.errors import ApiError, UpstreamError, bad_gateway, broken_off, internal
from legato.core.state import State
from legato.core.stream import Stream
from legato.fastpath.splice import Splice, Splicer
from legato.upstreams.connection import Connection

#: Bytes of an error response that are read at most.
REFUSAL_LIMIT: Final = 256 * 1024

#: Bytes that an answer in one piece may have. It may hold images.
ANSWER_LIMIT: Final = 64 * 1024 * 1024

#: The content types of a stream of events, as most servers write them.
_EVENTS: Final = ("text/event-stream", "text/event-stream; charset=utf-8")

#: What a stream of events may begin with, and what JSON and HTML never do: comments, `data`,
#: `event`, `id`, `retry`.
_FIELDS: Final = b":deir"
#: What JSON and HTML begin with, and no line of events.
_NO_EVENTS: Final = (b"{", b"[", b"<")
_BLANK: Final = b"\xef\xbb\xbf\r\n \t"

#: Seconds of a `Retry-After` that are believed at most.
_LONGEST_WAIT: Final = 86_400.0


class ChunkTransform(Protocol):
    """Changes the chunks of a response on their way to the stream."""

    def transform(self, chunk: Chunk) -> Chunk:
        """The chunk, changed or not."""
        ...

    def passes(self, index: int) -> bool:
        """Whether no later chunk with nothing but text for this choice is changed."""
        ...


ChunkTransforms = tuple[ChunkTransform, ...]


class Response:
    """Reads one HTTP response into a stream, and gives the connection back when it is over."""

    __slots__ = (
        "_connection",
        "_decoder",
        "_dialect",
        "_inflate",
        "_is_events",
        "_is_started",
        "_last",
        "_on_fail",
        "_reader",
        "_refusal",
        "_retry_after",
        "_splicer",
        "_status",
        "_transforms",
        "stream",
    )

    #: Requests that were sent for it.
    requests: Final = 1

    def __init__(
        self,
        connection: Connection,
        stream: Stream,
        on_fail: Callable[[ApiError], None],
        dialect: Dialect,
        transforms: ChunkTransforms = (),
        *,
        fast_path: bool = True,
    ) -> None:
        """`on_fail` is called where the upstream fails, before its answer or during it."""
        self._connection: Connection | None = connection
        self.stream = stream
        self._on_fail = on_fail
        self._dialect = dialect
        self._decoder: Decoder = dialect.decoder()
        self._reader = dialect.reader()
        self._transforms = transforms
        self._is_events = dialect.decoder is sse.Decoder
        self._splicer = Splicer() if fast_path and self._is_events else None
        self._last: Chunk | None = None  # what the last event was decoded to
        self._is_started = False  # a piece of the body has come
        self._status = 0
        self._refusal: bytearray | None = None  # the body of what is not a stream of events
        self._retry_after: float | None = None
        self._inflate: zlib._Decompress | None = None

    @property
    def progress(self) -> float | None:
        """How much of the prompt the upstream has processed, 0 to 1, where it tells."""
        return self._reader.progress

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, where the upstream told them before its usage; else 0."""
        return self._reader.prompt_tokens

    @property
    def upstream_id(self) -> str | None:
        """The upstream's own id of this answer."""
        return self._reader.identity

    def abort(self) -> None:
        """Closes the connection: nobody wants the rest."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()

    @property
    def is_over(self) -> bool:
        """Whether the connection has been given back, or given up."""
        return self._connection is None

    def expire(self, now: float) -> None:
        """A timer's check: the end of the body has had its time."""
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
            self._splicer = None
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if status != 200 or kind in ("application/json", "text/html"):
            self._refusal = bytearray()
            self._retry_after = seconds_of(headers.get("retry-after"))
        elif encoding not in ("identity", "gzip", "deflate", ""):
            self._fail(bad_gateway(f"The upstream's answer is encoded as `{encoding}`."))

    def body(self, data: bytes) -> None:
        if self._connection is None:
            return
        self._last = None
        try:
            self._read(data)
        except zlib.error:
            self._fail(bad_gateway("The upstream's answer is not the gzip it claims to be."))
        except sse.EventTooLarge as error:
            self._fail(bad_gateway(f"The upstream sent too much: {error}."))
        except ApiError as error:
            self._fail(error)
        except Exception:
            self.abort()
            self._on_fail(internal())  # a bug of ours
            raise

    def fast_path(self, body: bytes) -> Splice | None:
        chunk, self._last = self._last, None
        if chunk is None or self._splicer is None or self._connection is None:
            return None
        if not self._decoder.is_between or not self._reader.is_stateless(chunk):
            return None
        if not all(each.passes(chunk.text_choice) for each in self._transforms):
            return None
        return self._splicer.enter(self.stream, body, chunk, self._reader.read)

    def complete(self) -> None:
        """The body ended as HTTP says that it should."""
        if self._connection is None:
            return
        if self._refusal is not None:
            self._read_refusal(self._refusal)
        elif not self.stream.done and self._read_last_events(None):
            self._end(None)
        self._connection = None

    def lost(self, error: UpstreamError) -> None:
        """The connection is gone; for a body that only its end delimits this is the end."""
        if self._connection is None:
            return
        if self._status == 0:
            self._fail(error)
        elif self._refusal is not None:
            self._read_refusal(self._refusal)
        elif self._read_last_events(error):
            self._end(error)
        self._connection = None

    # Events

    def _read(self, data: bytes) -> None:
        if self._inflate is not None:
            data = self._inflate.decompress(data)
        if not self._is_started and data:
            self._is_started = True
            # Some servers send an error as JSON, or a page, under the name of a stream of events.
            if self._is_events and data[:64].lstrip(_BLANK)[:1] in _NO_EVENTS:
                self._refusal = bytearray()
        if self._refusal is not None:
            self._take_refusal(self._refusal, data)
            first = self._refusal[:64].lstrip(_BLANK)[:1]
            if self._status != 200 or not first or first not in _FIELDS:
                return
            data, self._refusal = bytes(self._refusal), None  # a stream under another name
        self._push_events(self._decoder.feed(data))

    def _take_refusal(self, body: bytearray, data: bytes) -> None:
        """An answer in one piece is needed whole; of an error, what fits is enough."""
        if self._status == 200 and len(body) + len(data) > ANSWER_LIMIT:
            raise sse.EventTooLarge(f"an answer is larger than {ANSWER_LIMIT} bytes")
        if self._status == 200 or len(body) < REFUSAL_LIMIT:
            body += data

    def _push_events(self, events: list[sse.Event]) -> None:
        for name, data in events:
            if data or name == b"error":
                self._push_event(name, data)
            if self.stream.done or self._connection is None:
                return

    def _push_event(self, name: bytes, data: bytes) -> None:
        try:
            chunk = self._reader.read(name, data)
            if self.stream.relays:
                self.stream.relay(name, data)
                if self._reader.holds_block and self.stream.delivered is not None:
                    self.stream.delivered.is_exact = False
            if chunk is None:
                self._end(None)
                return
            for each in self._transforms:
                chunk = each.transform(chunk)
            self.stream.push(chunk)
        except UpstreamError as error:
            # Nothing that is not a chunk fails an answer that has its finish.
            if error.code == "upstream_malformed" and self.stream.state is State.FINISHED:
                return
            raise
        self._last = chunk if chunk.text_choice >= 0 else None

    def _read_last_events(self, cut: UpstreamError | None) -> bool:
        """What the end of the body completes; False where that was a failure."""
        try:
            self._push_events(self._decoder.close())
        except ApiError as error:
            # Half an event is what a cut leaves; after the finish it is no loss.
            if cut is None and self.stream.state is not State.FINISHED:
                self._fail(error)
                return False
        return True

    def _end(self, cut: UpstreamError | None) -> None:
        """No more comes. The stream decides whether that is an answer or a failure."""
        if self.stream.done:
            return
        if self.stream.state is State.FINISHED:
            self.stream.end()
        else:
            self._fail(cut or self.stream.unfinished())

    def _fail(self, error: ApiError) -> None:
        self.abort()
        if self.stream.timings.first is not None and not isinstance(error, UpstreamError):
            error = broken_off(error)
        self._on_fail(error)

    def _read_refusal(self, body: bytearray) -> None:
        """A body that is not a stream of events has ended."""
        if self._status != 200:
            self._fail(self._dialect.refusal(self._status, bytes(body), self._retry_after))
            return
        events = self._dialect.unstreamed(bytes(body))
        try:
            self._push_events([(b"", data) for data in events])
        except ApiError as error:
            self._fail(error)
        else:
            if events:
                self._end(None)
            else:
                self._fail(self._dialect.no_stream(bytes(body)))


def seconds_of(retry_after: str | None) -> float | None:
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
