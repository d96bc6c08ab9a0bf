"""The life of a call, read from top to bottom.

    admit ▸ open (first-token gate, fallback) ▸ deliver ▸ await the end ▸ settle

One asyncio task per call. Chunks never wake it: they go from the upstream's socket to the client's
in callbacks (`Response.body` ▸ `Stream.push` ▸ writer), while the task waits for the end.
"""

import asyncio
import os
import sys
import time
from collections.abc import Coroutine, Iterator
from typing import Any, Final

from legato.core.errors import ApiError, internal, service_unavailable
from legato.core.front import AnswerHead, Front, FrontRequest
from legato.core.request import as_text
from legato.core.stream import State, Stream
from legato.core.timers import Timer
from legato.gateway.dispatch import Dispatch
from legato.gateway.hard_budgets import watch
from legato.gateway.kept_responses import KeptCall
from legato.gateway.limiter import Grant
from legato.gateway.reply import Reply, refuse
from legato.gateway.services import Client, Services
from legato.policy.agents import agent_of
from legato.policy.keys import Key
from legato.policy.ledger import Row, complete
from legato.policy.sessions import NO_HEADERS, named_session
from legato.store.live import Live


class Call:
    """One request to a native endpoint, until it is settled. Listens to its stream."""

    __slots__ = (
        "_client",
        "_dispatch",
        "_front",
        "_grant",
        "_id",
        "_is_admitted",
        "_is_draining",
        "_is_gone",
        "_kept",
        "_key",
        "_overspent",
        "_received",
        "_reply",
        "_row",
        "_services",
        "_stream",
        "_task",
        "_timer",
        "_waiting",
        "_watcher",
    )

    def __init__(self, services: Services, client: Client, front: Front, key: Key) -> None:
        self._services = services
        self._client = client
        self._front = front
        self._key = key
        self._id = front.identity(client.request_id)
        self._received = time.time()
        self._stream = Stream(services.clock, client.received, self)
        self._dispatch = Dispatch(services, self._stream, self)
        self._reply: Reply | None = None  # once the request has been parsed
        self._timer = Timer(self._check)
        self._row: Row | None = None
        self._grant = Grant()  # what it may do, once it is admitted
        self._kept: KeptCall | None = None  # where its answer is kept
        self._overspent: ApiError | None = None  # why it was cut while a deployment was asked
        self._watcher: asyncio.Task[None] | None = None  # of its hard budgets
        self._is_admitted = False  # and in the ledger
        self._is_gone = False  # the client has left
        self._is_draining = False  # and the upstream's answer is read to its end
        self._waiting: asyncio.Future[None] | None = None  # for the stream to close or to break
        self._task: asyncio.Task[None] | None = None

    def start(self, running: set[Any]) -> None:
        """Starts the task; it is a member of `running` until it is done."""
        task = self._task = _start(self._run())
        if not task.done():
            running.add(task)
            task.add_done_callback(running.discard)

    async def _run(self) -> None:
        try:
            await self._begin()
            self._deliver()
            await self._until_over()
            if self._reply is not None:
                self._reply.hand_over(self._lines)
            await self._keep()
        except ApiError as error:
            self._fail(error)
            error.__traceback__ = None  # refers to all frames that the error went through
        except asyncio.CancelledError:
            if self._overspent is not None:
                self._fail(self._overspent)
            elif self._is_draining:
                await self._drain()
            elif not self._is_gone:
                self._fail(
                    service_unavailable("The server is shutting down.", code="server_shutdown")
                )
        except Exception as error:
            self._services.on_bug(error)
            self._fail(internal())
        finally:
            self._settle()

    # From the exchange

    def cancel(self) -> None:
        """The client is gone: the upstream is told in this very turn, then the call is settled."""
        self._is_gone = True
        dispatch = self._dispatch
        if dispatch.drains and not self._stream.done:
            self._is_draining = True
            dispatch.stop_continuing()
            self._stream.unsubscribe()
            dispatch.resume()
        else:
            self._stream.cancel()
            dispatch.abort()
        if self._task is not None:
            self._task.cancel()

    def pause(self) -> None:
        """The client reads slower than the upstream writes."""
        if self._reply is not None:
            self._reply.pause()

    def resume(self) -> None:
        if self._reply is not None:
            self._reply.resume()
        self._dispatch.resume()

    # From top to bottom

    async def _begin(self) -> None:
        """Returns when an upstream has begun to answer. Raises `ApiError` when none does."""
        try:
            if self._client.is_encoded:
                await self._client.decode()
            await self._open(await self._admit())
        except ApiError as error:
            if not self._grant.lines and error.code != "limits_unavailable":
                # Refused before its limits were looked at; every answer tells them.
                await self._services.limiter.tell(self._grant, self._key, self._front.name)
            raise

    async def _admit(self) -> FrontRequest:
        services, client = self._services, self._client
        if services.ledger.is_full:
            raise _unaccountable()
        row = self._row = Row(self._id, self._received, self._key.id)
        row.owner = self._key.owner
        row.front = self._front.name
        row.agent = agent_of(client.user_agent, client.title)
        client.body = as_text(client.body)
        parsed = await self._read(client.body)
        client.body = b""
        request = parsed.chat
        row.route = request.model
        row.streamed = bool(request.stream)
        row.session = named_session(client.session_headers, request)
        client.session_headers = NO_HEADERS  # they need not be held while the answer streams
        self._stream.expect(
            request.choices,
            shows_usage=request.wants_usage or not request.stream,
            shows_running_usage=bool(request.stream) and request.wants_running_usage,
        )
        head = AnswerHead(self._id, int(self._received), request.model)
        self._reply = Reply(services, client, self._front, self._stream, head, parsed)
        services.open_streams += self._reply.is_streamed
        return parsed

    def _admitted(self) -> None:
        """From here on it is in the ledger, whatever happens. Raises `ApiError` 503 where it cannot
        be."""
        ledger, row = self._services.ledger, self._row
        assert row is not None
        self._is_admitted = True
        ledger.put(self._id, row)
        if ledger.is_full:  # this very row could not be kept
            raise _unaccountable()

    async def _read(self, body: bytes) -> FrontRequest:
        kept = self._services.kept_responses
        if kept is None or self._front.name != "responses":
            return self._front.parse(body)
        request, self._kept = await kept.begin(self._id, self._key.id, body, self._front)
        return request

    async def _open(self, request: FrontRequest) -> None:
        """Returns when an upstream has begun to answer. Raises `ApiError` when none does."""
        assert self._row is not None
        assert self._reply is not None
        services, reply = self._services, self._reply
        soonest = min(
            services.gate_seconds,
            services.heartbeat_seconds,
            reply.stall_seconds,
            self._dispatch.find(request.chat.model),
        )
        services.timers.watch(self._client.begun + soonest, self._timer)
        await services.limiter.admit(self._grant, self._key, request, self._admitted)
        if self._grant.hard:
            self._watcher = asyncio.create_task(self._watch_budgets(services.limiter.live))
        start_over = None if reply.is_streamed else reply.start_over
        await self._dispatch.open(self._client, request, self._row, start_over)

    def _deliver(self) -> None:
        """The answer goes to the client, or is folded for it. A streamed answer is committed: from
        here on its status is 200."""
        reply, options = self._reply, self._dispatch.options
        if reply is not None:
            if options is not None and options.stall_client_seconds is not None:
                reply.stall_seconds = options.stall_client_seconds
            reply.deliver(self._lines, self._dispatch.hold)

    async def _until_over(self) -> None:
        """Returns when the stream is over."""
        while not self._stream.done:
            if self._dispatch.problem is not None:
                await self._dispatch.continue_elsewhere()
            else:
                self._waiting = asyncio.get_running_loop().create_future()
                await self._waiting

    async def _drain(self) -> None:
        """Reads an answer that is billed in any case to its end, for the ledger."""
        options = self._dispatch.options
        try:
            async with asyncio.timeout(options.drain_seconds if options is not None else 0):
                await self._until_over()
        except (TimeoutError, asyncio.CancelledError):
            self._stream.cancel()

    async def _keep(self) -> None:
        """Writes down an answer that a later request may go on with."""
        reply = self._reply
        if self._kept is None or reply is None or self._stream.state is not State.COMPLETE:
            return
        try:
            await self._kept.keep(reply.response)
        except Exception as error:  # the client has its answer all the same
            self._services.on_bug(error)

    def _fail(self, error: ApiError) -> None:
        """The call failed: as a status where that is still possible, else as the last frame."""
        if self._stream.state is State.COMPLETE:
            self._stream.note_error(error)  # whole, and yet no answer that a client can be given
        self._stream.fail(error)
        if not self._is_gone and (self._reply is None or not self._reply.is_committed):
            refuse(self._client, self._front, self._lines, error)

    @property
    def _lines(self) -> bytes:
        """Header lines: what is left of limits, and who answers."""
        return self._grant.lines + self._dispatch.headers

    def _settle(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        if self._reply is not None and not self._is_gone:
            self._reply.close()
        if self._row is not None:
            self._write_row(self._row)
        self._dispatch.settle()
        # Nothing of a call is left to the garbage collector: with many of them it would find late
        # what takes memory now.
        self._stream.release()
        if self._reply is not None:
            self._services.open_streams -= self._reply.is_streamed
            self._reply.release()
        if self._kept is not None:
            self._kept.settle()
        self._timer.check = None
        self._task = self._waiting = self._reply = None

    def _write_row(self, row: Row) -> None:
        services, stream = self._services, self._stream
        now = services.clock()
        try:
            row.upstream_id = self._dispatch.upstream_id
            row.queued = self._grant.queued
            if self._reply is not None:
                row.frames, row.bytes = self._reply.size
            self._dispatch.charge()
            row.record_attempts(self._dispatch.attempts)
        except Exception as error:  # the row is written all the same
            services.on_bug(error)
        try:
            complete(row, stream, now, disconnected=self._is_draining)
        except Exception as error:
            row.outcome, row.error = "failed", "internal_error"
            services.on_bug(error)
        if self._is_admitted:
            services.ledger.put(self._id, row)
        else:
            services.ledger.put_refused(self._id, row)
        self._grant.settle(row)
        if services.on_settled is not None:
            services.on_settled(row)

    # The stream's listener

    def stream_opened(self) -> None:
        self._dispatch.stream_opened()

    def stream_finished(self) -> None:
        self._dispatch.stream_finished()

    def stream_closed(self) -> None:
        self.wake()

    def wake(self) -> None:
        """The stream is over, or its upstream broke: the task goes on in the next turn."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    # Timers

    def watch_attempt(self, seconds: float) -> None:
        """Another deployment is asked: its timers may be due before those of the last one."""
        self._timer.check = None
        self._timer = Timer(self._check)
        self._services.timers.watch(self._services.clock() + seconds, self._timer)

    def _check(self, now: float) -> float | None:
        """Gate, first token, stall, heartbeat: does what is due; when to look again."""
        if self._stream.done or self._is_gone:
            return None
        due = [self._dispatch.check(now)]
        reply = self._reply
        if self._stream.done or reply is None:
            return None
        if reply.is_streamed:
            gate = self._client.begun + self._services.gate_seconds
            if now < gate:
                due.append(gate)
            elif not reply.is_committed:
                self._deliver()
                self._client.flush()
            due.append(reply.check(now, self._dispatch.progress))
        return min(due)

    async def _watch_budgets(self, live: Live) -> None:
        """Ends the call when it has spent a hard budget."""
        stream = self._stream
        try:
            error = await watch(live, self._grant.hard, lambda: stream.usage.completion)
        except Exception as bug:
            self._services.on_bug(bug)
            error = internal()
        is_asking = self._waiting is None  # another deployment, which may never answer
        if self._is_draining:
            stream.cancel()
        else:
            stream.fail(error)
        if is_asking and self._task is not None:
            self._overspent = error
            self._task.cancel()


def _unaccountable() -> ApiError:
    return service_unavailable("The server cannot keep account of more calls now.", code="busy")


def _start(run: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        return asyncio.Task(run, loop=loop, eager_start=True)
    return loop.create_task(run)


#: Random bytes of an id, and how many ids are drawn at once.
_ID_BYTES: Final = 8
_IDS: Final = 64


def _random() -> Iterator[str]:
    while True:
        drawn = os.urandom(_ID_BYTES * _IDS).hex()
        for begin in range(0, len(drawn), 2 * _ID_BYTES):
            yield drawn[begin : begin + 2 * _ID_BYTES]


_ids = _random()


def new_request_id() -> str:
    """Begins with the time, so that new rows are neighbours in the ledger's index."""
    return f"req_{int(time.time()):08x}{next(_ids)}"
