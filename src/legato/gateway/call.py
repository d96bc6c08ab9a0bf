"""The life of a call, read from top to bottom; the one place where both sides meet.

    authenticate ▸ parse ▸ plan ▸ open (first-token gate, next deployment) ▸ await the end ▸ settle

One coroutine a call. It runs in the callbacks that bring what it waits for, without a task. Its
chunks never wake it: they travel from the upstream's socket to the client's in callbacks
(`Answer.body` ▸ `Stream.push` ▸ `ChatWriter`), and the coroutine sleeps until the end.
"""

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Any, Final

from legato.core.errors import ApiError, internal, service_unavailable
from legato.core.request import ChatRequest, cleaned, parse
from legato.core.stream import Stream
from legato.core.timers import Timer
from legato.fronts.chat_aggregate import ChatAggregator
from legato.gateway.dispatch import Asking
from legato.gateway.eager import Eager, Signal
from legato.gateway.reply import Reply
from legato.gateway.services import Client, Services
from legato.policy.ledger import Row, SettledCall


class Call:
    """One request to `POST /v1/chat/completions`, until it is settled."""

    __slots__ = (
        "_alarm",
        "_asking",
        "_client",
        "_collector",
        "_draining",
        "_finished",
        "_gone",
        "_id",
        "_received",
        "_reply",
        "_row",
        "_run",
        "_services",
        "_stream",
    )

    def __init__(self, services: Services, client: Client) -> None:
        self._services = services
        self._client = client
        self._id = client.request_id.replace("req_", "chatcmpl-", 1)
        self._stream = Stream(services.clock, client.received)
        self._received = time.time()
        self._reply = Reply(services, client, self._stream, self._id, int(self._received))
        self._asking = Asking(services, self._stream)
        self._stream.on_close = self._asking.on_broken = self._wake
        self._alarm = Timer(self._check)
        self._row: Row | None = None
        self._collector: ChatAggregator | None = None  # where the answer is not streamed
        self._gone = False
        self._draining = False  # the client is gone, and the upstream is heard to its end
        self._finished: Signal | None = None
        self._run: Eager | None = None

    def start(self, running: set[Any]) -> None:
        """It is among `running` until it is settled."""
        self._run = Eager(self._live(), running)
        self._run.start()

    async def _live(self) -> None:
        try:
            request = self._admit()
            await self._open(request)
            del request
            self._pass_on()
            await self._over()
            self._hand_over()
        except ApiError as error:
            self._break(error)
            error.__traceback__ = None  # holds all that the error went through
        except asyncio.CancelledError:
            if self._draining:
                await self._drain()
            elif not self._gone:
                self._break(
                    service_unavailable("The server is shutting down.", code="server_shutdown")
                )
        except Exception as error:
            self._services.on_bug(error)
            self._break(internal())
        finally:
            self._settle()

    def cancel(self) -> None:
        """The client is gone: the upstream is told in this very turn, then the call is settled."""
        self._gone = True
        asking = self._asking
        if asking.drains and not self._stream.done:
            self._draining = True
            asking.let_go()
            self._stream.detach()
            asking.resume()
        else:
            self._stream.cancel()
            asking.abort()
        if self._run is not None:
            self._run.stop()

    def pause(self) -> None:
        """The client reads slower than the upstream writes: what comes is merged, and past a limit
        the upstream waits too."""
        self._reply.pause()

    def resume(self) -> None:
        self._reply.resume()
        self._asking.resume()

    # From top to bottom

    def _admit(self) -> ChatRequest:
        services = self._services
        client, keyring = self._client, services.keyring
        if client.digest is None:
            key = keyring.authenticate(client.authorization)
            client.digest = key.digest
        else:
            key = keyring.known(client.digest)
        client.authorization = None  # not held for as long as the answer streams
        if services.ledger.is_full:
            raise service_unavailable(
                "The server cannot keep account of more calls now.", code="busy"
            )
        row = self._row = Row(self._id, self._received, key.id)
        services.ledger.put(self._id, row)
        client.body = cleaned(client.body)
        request = parse(client.body)
        row.route = request.model
        row.streamed = bool(request.stream)
        self._reply.expect(request)
        if not request.stream:
            self._collector = ChatAggregator()
            self._asking.on_start_over = self._collector.start_over
        return request

    async def _open(self, request: ChatRequest) -> None:
        """Comes back when an upstream has begun to answer. Raises `ApiError` when none does."""
        assert self._row is not None
        services = self._services
        soonest = min(
            services.gate_seconds,
            services.heartbeat_seconds,
            self._reply.patience,
            self._asking.find(request.model),
        )
        services.timers.watch(self._client.begun + soonest, self._alarm)
        self._asking.on_asked = self._look_anew
        await self._asking.open(self._client, request, self._row)

    def _pass_on(self) -> None:
        """What comes goes to the client, or is collected for it."""
        options = self._asking.options
        if options is not None and options.stall_client_seconds is not None:
            self._reply.patience = options.stall_client_seconds
        if self._collector is None:
            self._commit()  # its head goes out with the frames that this turn has for it
        else:
            self._stream.attach(self._collector)

    def _hand_over(self) -> None:
        """It is over: what was collected goes out."""
        collector = self._collector
        if collector is None:
            return
        if collector.error is not None:
            raise collector.error
        self._reply.answer(self._asking.tried, collector)

    async def _over(self) -> None:
        """Comes back when the stream is over."""
        while not self._stream.done:
            if self._asking.problem is not None:
                await self._asking.go_on()
            else:
                self._finished = Signal()
                await self._finished

    async def _drain(self) -> None:
        """Nobody listens any more, but what is paid for is heard to its end, and written down."""
        options, services = self._asking.options, self._services
        limit = services.clock() + (options.drain_seconds if options is not None else 0)
        self._alarm = Timer(self._give_up)
        services.timers.watch(limit, self._alarm)
        try:
            await self._over()
        except asyncio.CancelledError:
            self._stream.cancel()

    def _give_up(self, now: float) -> None:
        self._stream.cancel()

    def _commit(self) -> None:
        """From here on the status is 200, and a failure can only be a frame."""
        self._reply.commit(self._asking.tried, self._asking.hold)
        if self._client.is_full:
            self.pause()  # of an answer before this one

    def _break(self, error: ApiError) -> None:
        """The call failed: as a status where that can still be said, else as the last frame."""
        self._stream.fail(error)
        if not self._reply.is_committed and not self._gone:
            self._reply.refuse(self._asking.tried, error)

    def _settle(self) -> None:
        if self._row is not None:  # somebody that we know has called
            self._write_down(self._row)
        self._asking.settle()
        # Nothing of a call is left to the garbage collector: with many of them it would find late
        # what takes memory now.
        self._stream.release()
        self._alarm.check = self._run = None

    def _write_down(self, row: Row) -> None:
        services, stream = self._services, self._stream
        ended = SettledCall(row, stream, services.clock(), services.on_bug, left=self._draining)
        try:
            row.upstream_id = self._asking.upstream_id
            row.frames, row.bytes = self._reply.size
            self._asking.charge()
        except Exception as error:  # what was taken is given back all the same
            services.on_bug(error)
        if stream.tally is not None:
            ended.settled()  # nobody keeps its text
        services.ledger.put(self._id, ended)

    # Called back

    def _wake(self) -> None:
        """The stream is over, or broken: in the turn behind this one, in which its last frames go
        out."""
        finished, self._finished = self._finished, None
        if finished is not None:
            asyncio.get_running_loop().call_soon(finished.set)

    def _look_anew(self) -> None:
        """Another deployment is asked: its timers may be due before those of the last one."""
        self._alarm.check = None
        self._alarm = Timer(self._check)
        services = self._services
        services.timers.watch(services.clock() + self._asking.soonest, self._alarm)

    def _check(self, now: float) -> float | None:
        """Gate, first token, stall and heartbeat: what of them is due, and when the next is."""
        if self._stream.done or self._gone:
            return None
        due = [self._asking.check(now)]
        if self._stream.done:
            return None
        if self._reply.is_streamed:
            gate = self._client.begun + self._services.gate_seconds
            if now >= gate:
                self._commit()
                self._client.flush()
            else:
                due.append(gate)
            due.append(self._reply.check(now, self._asking.progress))
        return min(due)


#: Random bytes of an id, and for how many ids they are asked for at once.
_ID_BYTES: Final = 8
_IDS: Final = 64


def _random() -> Iterator[str]:
    while True:
        drawn = os.urandom(_ID_BYTES * _IDS).hex()
        for begin in range(0, len(drawn), 2 * _ID_BYTES):
            yield drawn[begin : begin + 2 * _ID_BYTES]


_ids = _random()


def new_request_id() -> str:
    """Begins with the time, so that the ledger's index has its new rows side by side: one with a
    million of them would have them all over the disk."""
    return f"req_{int(time.time()):08x}{next(_ids)}"
