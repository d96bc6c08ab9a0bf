"""The life of a call, read from top to bottom; the one place where both sides meet.

    authenticate ▸ parse ▸ plan ▸ open (first-token gate, next deployment) ▸ await the end ▸ settle

One coroutine a call. Its chunks never wake it: they travel from the upstream's socket to the
client's in callbacks (`Answer.body` ▸ `Stream.push` ▸ `FrameWriter`), and the coroutine sleeps
until the end.
"""

import asyncio
import secrets
import time
from typing import Final

from legato.core.collect import Collector
from legato.core.errors import ApiError, UpstreamError, internal, timed_out, unavailable
from legato.core.frames import KEEP_ALIVE, FrameWriter
from legato.core.request import ChatRequest, parse
from legato.core.stream import State, Stream
from legato.policy.ledger import Row, close
from legato.services import Client, Services
from legato.sources.http import StaleConnection
from legato.sources.upstream import Answer, Upstream

#: Seconds that an upstream may take to end its body after the answer's finish, or after `[DONE]`.
LINGER: Final = 1.0

#: What a call meets whose engine dies before it has said a word.
DROPPED: Final = ("upstream_cut", "upstream_unreachable")


class Call:
    """One request to `POST /v1/chat/completions`, until it is settled."""

    __slots__ = (
        "_answer",
        "_asked",
        "_beat",
        "_client",
        "_created",
        "_finished",
        "_gone",
        "_held",
        "_id",
        "_model",
        "_opened",
        "_pads",
        "_row",
        "_services",
        "_stream",
        "_taken",
        "_task",
        "_upstream",
        "_wants_stream",
        "_wants_usage",
        "_writer",
    )

    def __init__(self, services: Services, client: Client) -> None:
        self._services = services
        self._client = client
        self._id = client.request_id.replace("req_", "chatcmpl-", 1)
        self._created = int(time.time())
        self._model = ""
        self._wants_stream = False
        self._wants_usage = False
        self._stream = Stream(services.clock, client.received)
        self._stream.on_open = self._on_open
        self._stream.on_close = self._on_close
        self._writer: FrameWriter | None = None
        self._row: Row | None = None
        self._upstream: Upstream | None = None
        self._answer: Answer | None = None
        self._asked = client.received  # when the deployment in hand was asked
        self._beat = client.received  # when the last comment went out
        self._gone = False
        self._held = False  # the upstream waits for a slow client
        self._pads = False
        self._taken = (client.received, 0)  # when a slow client last took something, what was left
        self._opened: asyncio.Future[None] | None = None
        self._finished: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        self._task = asyncio.current_task()
        if self._gone:
            return  # before its turn had come
        try:
            request = self._admit()
            await self._open(request)
            del request  # a long prompt need not be held while its answer streams
            await self._end()
        except ApiError as error:
            self._break(error)
        except asyncio.CancelledError:
            if not self._gone:
                self._break(unavailable("The server is shutting down.", code="server_shutdown"))
        except Exception as error:
            self._services.on_bug(error)
            self._break(internal())
        finally:
            self._settle()

    def cancel(self) -> None:
        """The client is gone: the upstream is told in this very turn, then the call is settled."""
        self._gone = True
        self._stream.cancel()
        if self._answer is not None:
            self._answer.abort()
        if self._task is not None:
            self._task.cancel()

    def pause(self) -> None:
        """The client reads slower than the upstream writes: what comes is merged, and past a limit
        the upstream waits too."""
        if self._writer is not None:
            self._writer.pause()

    def resume(self) -> None:
        if self._writer is not None:
            self._writer.resume()
        if self._held and self._answer is not None:
            self._held = False
            self._answer.resume()

    # From top to bottom

    def _admit(self) -> ChatRequest:
        services = self._services
        key = services.keyring.authenticate(self._client.authorization)
        if services.ledger.is_full:
            raise unavailable("The server cannot keep account of more calls now.", code="busy")
        row = self._row = Row(self._id, time.time(), key.id)
        services.ledger.put(self._id, row)
        request = parse(self._client.body)
        row.route = self._model = request.model
        row.streamed = self._wants_stream = bool(request.stream)
        self._wants_usage = request.wants_usage
        self._pads = self._pads_for(request)
        return request

    def _pads_for(self, request: ChatRequest) -> bool:
        """As the client says; else as the server does, which by default looks at the line."""
        options = request.stream_options
        if options is not None and options.include_obfuscation is not None:
            return options.include_obfuscation
        padding = self._services.padding
        return padding == "on" or (padding == "auto" and self._client.is_secure)

    async def _open(self, request: ChatRequest) -> None:
        """Comes back when an upstream has begun to answer. Raises `ApiError` when none does."""
        services = self._services
        route = services.router.find(request.model)
        soonest = min(
            services.gate_seconds,
            services.stall_client_seconds,
            *(services.upstreams[name].stall_seconds for name in route.deployments),
        )
        services.wheel.watch(self._client.received + soonest, self._check)
        problem: ApiError | None = None
        for name in route.deployments:
            self._upstream = services.upstreams[name]
            self._note_asked(name)
            try:
                await self._ask(self._upstream, request)
                return
            except UpstreamError as error:
                problem = error
        raise problem or unavailable("No deployment answers for this model.")

    def _note_asked(self, deployment: str) -> None:
        row = self._row
        assert row is not None
        row.deployments = f"{row.deployments},{deployment}" if row.deployments else deployment

    async def _ask(self, upstream: Upstream, request: ChatRequest) -> None:
        loop = asyncio.get_running_loop()
        body = self._client.body
        fresh = recovered = False
        while True:
            self._opened = loop.create_future()
            self._asked = self._services.clock()
            self._answer = None
            try:
                self._answer = await upstream.send(
                    body, request, self._stream, self._on_fail, fresh=fresh
                )
                await self._opened
            except StaleConnection:
                fresh = True
            except UpstreamError as error:
                if recovered or upstream.recover is None or error.code not in DROPPED:
                    raise
                await upstream.recover()
                fresh = recovered = True
            else:
                self._client.body = b""
                return

    async def _end(self) -> None:
        """Passes on what comes; comes back when the stream is over."""
        if self._wants_stream:
            self._commit()
            if not self._stream.done:
                self._finished = asyncio.get_running_loop().create_future()
                await self._finished
            return
        collector = Collector()
        self._stream.attach(collector)
        if not self._stream.done:
            self._finished = asyncio.get_running_loop().create_future()
            await self._finished
        if collector.error is not None:
            raise collector.error
        self._client.answer(
            200,
            [],
            collector.answer(identity=self._id, created=self._created, model=self._model),
        )

    def _commit(self) -> None:
        """From here on the status is 200, and a failure can only be a frame."""
        if self._writer is None:
            self._client.start()
            self._writer = FrameWriter(
                identity=self._id,
                created=self._created,
                model=self._model,
                wants_usage=self._wants_usage,
                send=self._client.write,
                close=self._client.finish,
                pads=self._pads,
                limit=self._services.backlog_bytes,
                on_full=self._hold,
            )
            self._stream.attach(self._writer)

    def _break(self, error: ApiError) -> None:
        """The call failed: as a status where that can still be said, else as the last frame."""
        self._stream.fail(error)
        if self._writer is None and not self._gone:
            headers: list[tuple[str, str]] = []
            if error.retry_after is not None:
                headers.append(("retry-after", str(max(1, round(error.retry_after)))))
            self._client.answer(error.status, headers, error.as_json())

    def _settle(self) -> None:
        self._write_down()
        answer = self._answer
        if answer is not None and not answer.is_over:
            if self._stream.state is State.COMPLETE:
                # The end of the body is on its way; the connection is good for the next call.
                self._services.wheel.watch(self._services.clock() + LINGER, answer.expire)
            else:
                answer.abort()

    def _write_down(self) -> None:
        row = self._row
        if row is None:
            return  # nobody that we know has called
        close(row, self._stream, self._services.clock())
        if self._answer is not None:
            row.upstream_id = self._answer.upstream_id
        if self._writer is not None:
            row.frames, row.bytes = self._writer.frames, self._writer.size
        self._services.ledger.put(self._id, row)

    # Called back

    def _on_open(self) -> None:
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)

    def _on_fail(self, error: ApiError) -> None:
        """The deployment in hand failed before it had said anything."""
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(error)

    def _on_close(self) -> None:
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    def _comment(self) -> bytes:
        progress = self._answer.progress if self._answer is not None else None
        if progress is None or self._stream.state is not State.WAITING:
            return KEEP_ALIVE
        return b": prefill %d%%\n\n" % round(progress * 100)

    def _hold(self) -> None:
        """More waits for the client than memory is given for."""
        if not self._held and self._answer is not None:
            self._held = True
            self._answer.pause()

    def _check(self, now: float) -> float | None:
        """Gate, first token, stall and heartbeat: what of them is due, and when the next is."""
        stream = self._stream
        if stream.done or self._gone:
            return None
        services = self._services
        due = [now + services.heartbeat_seconds]
        if self._wants_stream:
            gate = self._client.received + services.gate_seconds
            if self._writer is None and now >= gate:
                self._commit()
            if self._writer is None:
                due.append(gate)
            else:
                due.append(self._heartbeat(self._writer, now))
                due.append(self._watch_client(self._writer, now))
        limit = self._patience(now)
        if now >= limit:
            self._give_up()
        else:
            due.append(limit)
        return None if stream.done else min(due)

    def _patience(self, now: float) -> float:
        """Until when the upstream may be silent."""
        stream, upstream = self._stream, self._upstream
        if upstream is None or self._answer is None or self._held:
            # Connecting has a limit of its own; and with a slow client it is we who do not read.
            return now + self._services.heartbeat_seconds
        if stream.state is State.WAITING:
            return self._asked + upstream.first_token_seconds
        if stream.state is State.OPEN:
            return stream.meter.last + upstream.stall_seconds
        return stream.meter.last + LINGER

    def _heartbeat(self, writer: FrameWriter, now: float) -> float:
        """Keeps a silent line open; when the next comment is due."""
        silent_since = max(self._stream.meter.last, self._beat)
        if now >= silent_since + self._services.heartbeat_seconds:
            self._beat = silent_since = now
            writer.comment(self._comment())
        return silent_since + self._services.heartbeat_seconds

    def _watch_client(self, writer: FrameWriter, now: float) -> float:
        """A client that takes nothing at all is cut; when to look again."""
        unsent = self._client.unsent
        if not writer.is_paused or unsent != self._taken[1]:
            self._taken = (now, unsent)
        limit = self._taken[0] + self._services.stall_client_seconds
        if now >= limit:
            self._stream.error = ApiError(408, "client_stalled", "The client took nothing.")
            self._client.abort()
        return limit

    def _give_up(self) -> None:
        """The upstream has made no progress for as long as its deployment lets it."""
        stream, upstream = self._stream, self._upstream
        assert upstream is not None
        if stream.state is State.FINISHED:
            stream.end()  # the answer is whole; only the end of the body never came
            return
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.abort()
        if stream.state is State.WAITING:
            error = timed_out(
                f"The upstream gave no first token within {upstream.first_token_seconds:g} s.",
                code="upstream_first_token_timeout",
            )
            self._on_fail(error)
        else:
            stream.fail(
                timed_out(
                    f"The upstream made no progress for {upstream.stall_seconds:g} s.",
                    code="upstream_stalled",
                )
            )


def new_request_id() -> str:
    return f"req_{secrets.token_hex(12)}"
