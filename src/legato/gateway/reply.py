"""The client's half of a call: a stream of frames or one answer, heartbeats, and its patience."""

from collections.abc import Callable

from legato.core.errors import ApiError
from legato.core.request import ChatRequest
from legato.core.stream import State, Stream
from legato.fronts.chat_aggregate import ChatAggregator
from legato.fronts.chat_frames import KEEP_ALIVE, ChatWriter
from legato.gateway.services import Client, Services


class Reply:
    """What one client is answered."""

    __slots__ = (
        "_beat",
        "_client",
        "_created",
        "_identity",
        "_left",
        "_model",
        "_pads",
        "_runs_usage",
        "_services",
        "_stream",
        "_taken",
        "_wants_usage",
        "_writer",
        "is_streamed",
        "patience",
    )

    def __init__(
        self, services: Services, client: Client, stream: Stream, identity: str, created: int
    ) -> None:
        self._services = services
        self._client = client
        self._stream = stream
        self._identity = identity
        self._created = created
        self._model = ""
        self._wants_usage = self._runs_usage = self._pads = False
        self._writer: ChatWriter | None = None
        self._beat = client.begun  # when the last comment went out
        self._taken = client.begun  # when a slow client last took something
        self._left = 0  # of what had been written, then
        self.is_streamed = False
        self.patience = services.stall_client_seconds
        """Seconds for which a client may take nothing at all."""

    def expect(self, request: ChatRequest) -> None:
        """How this request wants to be answered."""
        self._model = request.model
        self.is_streamed = bool(request.stream)
        padding, pads = self._services.padding, None
        if (options := request.stream_options) is not None:
            self._wants_usage = request.wants_usage
            self._runs_usage = self._stream.counts_early = request.wants_running_usage
            pads = options.include_obfuscation
        # As the client says; else as the server does, which by default looks at the line.
        if pads is None:
            pads = padding == "on" or (padding == "auto" and self._client.is_secure)
        self._pads = pads

    @property
    def is_committed(self) -> bool:
        """The status is 200 by now, and a failure can only be a frame."""
        return self._writer is not None

    @property
    def size(self) -> tuple[int, int]:
        """(frames, bytes) that were sent."""
        return (self._writer.frames, self._writer.size) if self._writer is not None else (0, 0)

    def commit(self, lines: bytes, on_full: Callable[[], None]) -> None:
        """From here on the status is 200. `on_full` is called while more waits for a slow client
        than memory is given for."""
        if self._writer is not None:
            return
        self._client.start(lines)
        self._writer = ChatWriter(
            identity=self._identity,
            created=self._created,
            model=self._model,
            wants_usage=self._wants_usage,
            running_usage=self._stream.running_usage if self._runs_usage else None,
            sink=self._client,
            pads=self._pads,
            limit=self._services.backlog_bytes,
            on_full=on_full,
        )
        self._stream.attach(self._writer)

    def answer(self, lines: bytes, collected: ChatAggregator) -> None:
        """The whole answer at once."""
        body = collected.answer(identity=self._identity, created=self._created, model=self._model)
        self._client.answer(200, lines, body)

    def refuse(self, lines: bytes, error: ApiError) -> None:
        """An error with its status."""
        wait = error.retry_after or (0.0 if error.status == 429 else None)
        if wait is not None:
            lines += b"retry-after: %d\r\n" % max(1, round(wait))
        self._client.answer(error.status, lines, error.as_json())

    def pause(self) -> None:
        """The client reads slower than the upstream writes: what comes is merged."""
        if self._writer is not None:
            self._stream.look_at_each()
            self._writer.pause()

    def resume(self) -> None:
        if self._writer is not None:
            self._writer.resume()

    # Timers

    def check(self, now: float, progress: float | None) -> float:
        """Sends the heartbeat that is due and cuts a client that takes nothing; when to look again.

        `progress`: how far the upstream is with the prompt, 0 to 1, where it tells.
        """
        writer = self._writer
        if writer is None:
            return now + self._services.heartbeat_seconds
        return min(self._heartbeat(writer, now, progress), self._watch_client(writer, now))

    def _heartbeat(self, writer: ChatWriter, now: float, progress: float | None) -> float:
        silent_since = max(self._stream.timings.last, self._beat)
        if now >= silent_since + self._services.heartbeat_seconds:
            self._beat = silent_since = now
            if progress is not None and self._stream.state is State.WAITING:
                writer.comment(b": prefill %d%%\n\n" % round(progress * 100))
            else:
                writer.comment(KEEP_ALIVE)
        return silent_since + self._services.heartbeat_seconds

    def _watch_client(self, writer: ChatWriter, now: float) -> float:
        unsent = self._client.unsent
        if not writer.is_paused or unsent != self._left:
            self._taken, self._left = now, unsent
        limit = self._taken + self.patience
        if now >= limit:
            self._stream.error = ApiError(408, "client_stalled", "The client took nothing.")
            self._client.abort()
        return limit
