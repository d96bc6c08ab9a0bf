"""One deployment, spoken to: a request out, its answer read into a stream."""

import time
import zlib
from collections.abc import Awaitable, Callable
from email.utils import mktime_tz, parsedate_tz
from typing import Final, Literal

from msgspec import Struct

from legato.core import sse
from legato.core.chunk import Chunk
from legato.core.dialect import Asked, Delivered, Dialect, Facts
from legato.core.errors import ApiError, UpstreamError, broken
from legato.core.kept import Replay
from legato.core.request import ChatRequest
from legato.core.stream import State, Stream
from legato.core.think import Thinking
from legato.dialects import openai
from legato.sources.http import Connection, Pool

#: Bytes of an error answer, or of something that is no stream, that are read at most.
REFUSAL_LIMIT: Final = 256 * 1024


#: How a model says what it thinks. field: in a member of its deltas; think-tags: between `<think>`
#: and `</think>` in its text; think-tags-open: the same, and its text begins inside.
Reasoning = Literal["field", "think-tags", "think-tags-open"]


#: Each takes a chunk and gives it changed.
Passes = tuple[Callable[[Chunk], Chunk], ...]


class Price(Struct, frozen=True):
    """US dollars for a million tokens; `cached`: of the prompt, read from a cache."""

    prompt: float
    completion: float
    cached: float


class Terms(Struct, frozen=True):
    """How long a deployment is waited for, and what is done with its answers."""

    first_token_seconds: float = 120.0  # from the request to the first chunk that counts
    stall_seconds: float = 60.0  # between two such chunks
    total_seconds: float = 3600.0  # from the request to the end of the answer
    stall_client_seconds: float | None = None  # None: as for the server as a whole
    on_disconnect: Literal["cancel", "drain"] = "cancel"
    drain_seconds: float = 60.0  # at most, after the client has left
    reasoning: Reasoning = "field"
    unsupported: Literal["drop", "error"] = "drop"
    replays: bool = False  # goes on with an answer that broke elsewhere by saying it all again
    price: Price | None = None

    @property
    def soonest(self) -> float:
        """Seconds after which the first of these timers may be due."""
        client = self.stall_client_seconds or self.stall_seconds
        return min(self.first_token_seconds, self.stall_seconds, self.total_seconds, client)


class Target(Struct):
    """Where a deployment can be reached at this moment."""

    pool: Pool
    heads: tuple[bytes, ...]  # one a credential: request line and headers, up to the content length

    @classmethod
    def of(
        cls, pool: Pool, dialect: Dialect, model: str, credentials: tuple[str | None, ...]
    ) -> "Target":
        return cls(pool, tuple(cls._head(pool, dialect, model, each) for each in credentials))

    @staticmethod
    def _head(pool: Pool, dialect: Dialect, model: str, api_key: str | None) -> bytes:
        lines = [
            f"POST {pool.endpoint.path}{dialect.path(model)} HTTP/1.1",
            f"host: {pool.endpoint.authority}",
            "user-agent: legato",
            "content-type: application/json",
            "accept: text/event-stream",
            "accept-encoding: identity",
            *(f"{name}: {value}" for name, value in dialect.headers(api_key)),
            "content-length: ",
        ]
        return "\r\n".join(lines).encode("latin-1")


class Upstream:
    """A deployment: where it is, what it is called there, how it is spoken to.

    `target` is None while the deployment cannot be reached and it is known why (an engine that is
    still loading); `wait` then comes back when it can, or raises `UpstreamError`.
    """

    def __init__(
        self,
        name: str,
        model: str,
        *,
        dialect: Dialect = openai,
        facts: Facts | None = None,
        terms: Terms | None = None,
        target: Target | None = None,
        wait: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self.dialect = dialect
        self.facts = facts or Facts()
        self.terms = terms or Terms()
        self.target = target
        self._wait = wait
        self._credential = 0  # which one is used
        self.recover: Callable[[], Awaitable[None]] | None = None
        """Where set: a call that was dropped unanswered may be asked again once this comes back."""
        self.amend: Callable[[Asked], bytes] | None = None
        """Where set: gives the body that this upstream is to have in place of the client's."""

    @property
    def credentials(self) -> int:
        """How many there are to use in turn."""
        return len(self.target.heads) if self.target is not None else 1

    def rotate(self) -> None:
        """The credential in use is used up: the next one."""
        self._credential += 1

    async def send(
        self,
        body: bytes,
        request: ChatRequest,
        stream: Stream,
        on_fail: Callable[[ApiError], None],
        *,
        fresh: bool = False,
        delivered: Delivered | None = None,
        replay: Replay | None = None,
    ) -> "Answer":
        """Sends a request. What comes back goes into `stream`; `on_fail` hears where the upstream
        broke, before its answer or in the middle of it: another deployment may be asked.

        `delivered`: what the client has of the answer, which the upstream is to go on with;
        `replay`: the same, where it is to answer from the start."""
        asked = Asked(body, request, self.model, self.facts, self.terms.unsupported, delivered)
        if self.amend is not None:
            asked.body = self.amend(asked)
        payload = self.dialect.encode(asked)
        if self.target is None and self._wait is not None:
            await self._wait()
        target = self.target
        if target is None:
            raise broken("The upstream is not running.", code="upstream_unreachable")
        connection = None if fresh else target.pool.idle()
        if connection is None:
            connection = await target.pool.connect()
        answer = Answer(connection, stream, on_fail, self.dialect, self._passes(delivered, replay))
        head = target.heads[self._credential % len(target.heads)]
        connection.send(b"%b%d\r\n\r\n%b" % (head, len(payload), payload), answer)
        return answer

    def _passes(self, delivered: Delivered | None, replay: Replay | None) -> Passes:
        """What the chunks of an answer go through."""
        passes: list[Callable[[Chunk], Chunk]] = []
        # Where the text of an answer has begun, its thoughts are over.
        if self.terms.reasoning != "field" and delivered is None:
            passes.append(Thinking(opened=self.terms.reasoning == "think-tags-open").split)
        if replay is not None:
            passes.append(replay.split)
        return tuple(passes)


class Answer:
    """Reads one HTTP answer into a stream, and gives the connection back when it is done."""

    __slots__ = (
        "_connection",
        "_decoder",
        "_dialect",
        "_inflate",
        "_on_fail",
        "_passes",
        "_reader",
        "_refused",
        "_retry_after",
        "_status",
        "_stream",
    )

    def __init__(
        self,
        connection: Connection,
        stream: Stream,
        on_fail: Callable[[ApiError], None],
        dialect: Dialect,
        passes: Passes,
    ) -> None:
        self._connection: Connection | None = connection
        self._stream = stream
        self._on_fail = on_fail
        self._dialect = dialect
        self._decoder = dialect.decoder()
        self._reader = dialect.reader()
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
        encoding = headers.get("content-encoding", "identity").lower()
        if encoding in ("gzip", "deflate"):
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if status != 200 or kind in ("application/json", "text/html"):
            self._refused = bytearray()
            self._retry_after = _seconds(headers.get("retry-after"))
        elif encoding not in ("identity", "gzip", "deflate", ""):
            self._fail(broken(f"The upstream's answer is encoded as `{encoding}`."))

    def body(self, data: bytes) -> None:
        if self._connection is None:
            return
        try:
            if self._inflate is not None:
                data = self._inflate.decompress(data)
            if self._refused is not None:
                if len(self._refused) < REFUSAL_LIMIT:
                    self._refused += data
                return
            self._events(self._decoder.feed(data))
        except zlib.error:
            self._fail(broken("The upstream's answer is not the gzip it says it is."))
        except sse.EventTooLarge as error:
            self._fail(broken(f"The upstream sent too much: {error}."))
        except UpstreamError as error:
            self._fail(error)

    def flush(self) -> None:
        self._stream.flush()

    def complete(self) -> None:
        """The body ended as HTTP says that it should."""
        if self._connection is None:
            return
        if self._refused is not None:
            self._fail(self._refusal(bytes(self._refused)))
        elif self._last_events(None):
            self._end(None)
        self._connection = None

    def lost(self, error: UpstreamError) -> None:
        """The connection is gone; for a body that only its end delimits this is the end."""
        if self._connection is None:
            return
        if self._status == 0:
            self._fail(error)
        elif self._refused is not None:
            self._fail(self._refusal(bytes(self._refused)))
        elif self._last_events(error):
            self._end(error)
        self._connection = None

    # Inside

    def _events(self, events: list[tuple[bytes, bytes]]) -> None:
        stream = self._stream
        read, passes = self._reader.read, self._passes
        for name, data in events:
            chunk = read(name, data)
            if chunk is None:
                self._end(None)
                return
            for each in passes:
                chunk = each(chunk)
            stream.push(chunk)
            if stream.done:
                return

    def _last_events(self, cut: UpstreamError | None) -> bool:
        """What the end of the body completes; False where that was a failure."""
        try:
            self._events(self._decoder.close())
        except UpstreamError as error:
            # Half an event is what a cut leaves; behind the finish it is nobody's loss.
            if cut is None and self._stream.state is not State.FINISHED:
                self._fail(error)
                return False
        return True

    def _end(self, cut: UpstreamError | None) -> None:
        """No more will come. Whether that is an answer or a failure, the stream knows."""
        if self._stream.done:
            return
        if self._stream.state is State.FINISHED:
            self._stream.end()
        else:
            self._fail(cut or self._stream.unfinished())

    def _fail(self, error: ApiError) -> None:
        self.abort()
        self._on_fail(error)

    def _refusal(self, body: bytes) -> ApiError:
        if self._status != 200:
            return self._dialect.refusal(self._status, body, self._retry_after)
        return self._dialect.no_stream(body)


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` in seconds from now, from either of its forms (RFC 9110, section 10.2.3)."""
    if retry_after is None:
        return None
    if retry_after.strip().isdigit():
        return float(retry_after)
    date = parsedate_tz(retry_after)
    if date is None:
        return None
    return max(0.0, mktime_tz(date) - time.time())
