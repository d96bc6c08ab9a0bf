"""The client's half of a call: a stream of frames or one answer, heartbeats, slow clients."""

import math
from collections.abc import Callable

from legato.core.errors import ApiError, internal
from legato.core.front import (
    Aggregator,
    AnswerHead,
    Front,
    FrontRequest,
    Writer,
    WriterOptions,
)
from legato.core.request import ChatRequest
from legato.core.stream import State, Stream
from legato.gateway.services import Client, Services


class Reply:
    """What one client is sent.

    `stall_seconds`: for how long a client may take nothing at all before it is cut.
    """

    __slots__ = (
        "_aggregator",
        "_answer",
        "_beat",
        "_client",
        "_frames",
        "_front",
        "_head",
        "_is_ended",
        "_on_full",
        "_options",
        "_request",
        "_services",
        "_shown",
        "_stream",
        "_taken",
        "_unsent",
        "_writer",
        "stall_seconds",
    )

    def __init__(
        self,
        services: Services,
        client: Client,
        front: Front,
        stream: Stream,
        head: AnswerHead,
        request: FrontRequest,
    ) -> None:
        self._services = services
        self._client = client
        self._front = front
        self._stream = stream
        self._head = head
        self._writer: Writer | None = None
        self._answer = b""  # one that is not streamed
        self._is_ended = False  # the last frame of one that is
        streams = request.chat.stream
        self._aggregator: Aggregator | None = None if streams else front.aggregator(request)
        self._request: FrontRequest | None = request if streams else None  # until it is written
        self._on_full: Callable[[], None] | None = None
        self._options = self._writer_options(request.chat) if streams else None
        self._beat = client.begun  # when the last heartbeat went out
        self._frames = 0  # that had been written when that was last looked at
        self._shown = client.begun  # when the last chunk had come at that time
        self._taken = client.begun  # when a slow client last took something
        self._unsent = 0  # bytes, at that time
        self.stall_seconds = services.stall_client_seconds

    def _writer_options(self, request: ChatRequest) -> WriterOptions:
        services, options = self._services, request.stream_options
        pads = options.include_obfuscation if options is not None else None
        if pads is None:
            pads = services.padding == "on" or (
                services.padding == "auto" and self._client.is_secure
            )
        return WriterOptions(
            shows_usage=request.wants_usage,
            shows_running_usage=request.wants_running_usage,
            pads=pads,
            heartbeat=self._front.heartbeat(services.heartbeat, self._client.user_agent),
            limit=services.backlog_bytes,
        )

    @property
    def is_streamed(self) -> bool:
        return self._aggregator is None

    @property
    def is_committed(self) -> bool:
        """Whether the status is 200 by now, so that a failure can only be a frame."""
        return self._writer is not None

    @property
    def size(self) -> tuple[int, int]:
        """(frames, bytes) that were sent."""
        return (self._writer.frames, self._writer.size) if self._writer is not None else (0, 0)

    def start_over(self) -> None:
        """Drops what has come of an answer that its client has not seen."""
        if self._aggregator is not None:
            self._aggregator.start_over()

    def deliver(self, lines: bytes, on_full: Callable[[], None]) -> None:
        """The answer has begun: it is sent as it comes, or folded.

        `lines`: further headers. `on_full` is called while more waits for a slow client than memory
        is given for.
        """
        if self._aggregator is not None:
            self._stream.subscribe(self._aggregator)
        elif (request := self._request) is not None and self._options is not None:
            self._request = None
            self._on_full = on_full
            self._client.start(lines)
            self._writer = self._front.writer(self._head, self._options, self, request)
            self._stream.subscribe(self._writer)
            if self._client.is_full:  # of an earlier answer on the same connection
                self.pause()

    @property
    def response(self) -> bytes:
        """The whole answer as its client has it, once it is complete; empty where the format of a
        stream does not repeat it."""
        return self._answer if self._writer is None else self._writer.response

    def hand_over(self, lines: bytes) -> None:
        """Sends the whole answer. Raises `ApiError` where the stream failed."""
        aggregator = self._aggregator
        if aggregator is not None:
            if aggregator.error is not None:
                raise aggregator.error
            self._answer = aggregator.answer(self._head)
            self._client.answer(200, lines, self._answer)

    def pause(self) -> None:
        """The client reads slower than the upstream writes: what comes is coalesced."""
        if self._writer is not None:
            self._stream.leave_fast_path()
            self._writer.pause()

    def resume(self) -> None:
        if self._writer is not None:
            self._writer.resume()

    def close(self) -> None:
        """Ends a stream whose end could not be written, which is a fault of ours: else its client
        would wait for it."""
        if self._writer is not None and not self._is_ended:
            self._writer.fail(internal())

    def release(self) -> None:
        """Lets go of what refers back to the reply, once the call is settled."""
        self._writer = None
        self._answer = b""
        self._on_full = None

    # The sink of the writer

    def write(self, data: bytes) -> None:
        self._client.write(data)

    def finish(self, data: bytes) -> None:
        self._is_ended = True
        self._client.finish(data)

    def on_full(self) -> None:
        if self._on_full is not None:
            self._on_full()

    # Timers

    def check(self, now: float, progress: float | None) -> float:
        """Sends the heartbeat that is due, cuts a client that takes nothing; when to look again.

        `progress`: how much of the prompt the upstream has processed, 0 to 1, where it tells.
        """
        writer = self._writer
        if writer is None:
            return now + self._services.heartbeat_seconds
        return min(self._heartbeat(writer, now, progress), self._watch_client(writer, now))

    def _heartbeat(self, writer: Writer, now: float, progress: float | None) -> float:
        seconds = self._services.heartbeat_seconds
        if writer.frames != self._frames:  # a chunk that is not shown keeps no line open
            self._frames, self._shown = writer.frames, self._stream.timings.last
        silent_since = max(self._shown, self._beat)
        if now >= silent_since + seconds:
            self._beat = silent_since = now
            writer.heartbeat(progress if self._stream.state is State.WAITING else None)
        return silent_since + seconds

    def _watch_client(self, writer: Writer, now: float) -> float:
        unsent = self._client.unsent
        if not writer.is_paused or unsent != self._unsent:
            self._taken, self._unsent = now, unsent
        limit = self._taken + self.stall_seconds
        if now >= limit:
            self._stream.note_error(ApiError(408, "client_stalled", "The client took nothing."))
            self._client.abort()
        return limit


def refuse(client: Client, front: Front, lines: bytes, error: ApiError) -> None:
    """Sends an error with its status."""
    wait = error.retry_after or (0.0 if error.status == 429 else None)
    if wait is not None and error.code != "insufficient_quota":  # who waits would wait in vain
        lines += b"retry-after: %d\r\n" % max(1, math.ceil(wait))
    refusal = front.refusal(error, client.request_id)
    lines += b"".join([b"%b: %b\r\n" % each for each in refusal.headers])
    client.answer(refusal.status, lines, refusal.body)
