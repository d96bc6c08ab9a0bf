"""Live state in Valkey, which several servers share.

One task talks to Valkey: what is asked in the same moment travels together, in order. A call that
is cancelled while it waits leaves nothing behind: what is granted to it is released. After a
failure Valkey is away, and is tried again every second; until it is back nobody waits for it.

A `LiveMemory` shadows what this server grants. Limits are checked against it while Valkey is away,
and Valkey gets back from it what it has lost.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, Final, Literal

from msgspec import Struct
from redis.exceptions import RedisError

from legato.store import live_scripts
from legato.store.live import (
    BUDGETS,
    Bucket,
    Crossed,
    Decision,
    Levels,
    OnCrossed,
    Permit,
    Used,
    allowed,
    crossed,
    levels,
    refused,
)
from legato.store.live_memory import LiveMemory
from legato.store.live_scripts import LEASE_SECONDS, Invocation
from legato.store.valkey import Connection, told

#: Seconds that anything waits for Valkey.
TIMEOUT_SECONDS: Final = 0.25

#: Seconds that connecting may take. No call waits for it.
CONNECT_SECONDS: Final = 2.0

#: Seconds between tries while it is away.
RETRY_SECONDS: Final = 1.0

#: Leases are renewed so often within one.
RENEWALS: Final = 3

#: Invocations in one round trip.
BATCH: Final = 256

#: Permits that are renewed at once: admissions wait for these.
RENEWED: Final = 100


#: Called with an answer; None: Valkey is away.
OnAnswer = Callable[[bytes | None], None]


class _Waiting(Struct, eq=False):
    invocation: Invocation
    on_answer: OnAnswer


class LiveValkey:
    """Buckets in Valkey.

    `fail`: how new calls are decided while Valkey is away: `open`: by this server's own buckets;
    `closed`: they are refused. `on_state` is told why Valkey is away, and None when it is back.
    `clock`: for this server's own buckets. `server_clock`: in place of Valkey's time, for tests.
    `lease`, `timeout`, `retry`: seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        fail: Literal["open", "closed"] = "open",
        on_crossed: OnCrossed | None = None,
        on_state: Callable[[str | None], None] | None = None,
        on_bug: Callable[[BaseException], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        server_clock: Callable[[], float | None] = lambda: None,
        lease: float = LEASE_SECONDS,
        timeout: float = TIMEOUT_SECONDS,
        retry: float = RETRY_SECONDS,
    ) -> None:
        self.is_reachable = False
        self.problem: str | None = None  # why it is away
        self._url = url
        self._fail = fail
        self._on_crossed = on_crossed
        self._on_state = on_state
        self._on_bug = on_bug
        self._own = LiveMemory(clock)
        self._now = server_clock
        self._lease = lease
        self._timeout = timeout
        self._retry = retry
        self._ids = count()
        self._instance = secrets.token_hex(6)
        self._open: dict[str, Permit] = {}  # those with a lease
        self._queue: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._is_back = asyncio.Event()
        self._connection: Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._is_stopping = False

    @property
    def permits(self) -> int:
        return self._own.permits

    async def start(self) -> None:
        """Starts also where Valkey is away."""
        await self._connect()
        if not self.is_reachable:
            self._change_state(False)
        self._tasks = [
            asyncio.create_task(self._talk(), name="live state"),
            asyncio.create_task(self._renew(), name="live state: leases"),
        ]

    async def stop(self) -> None:
        self._is_stopping = True
        self._wake.set()
        if self._tasks:
            talking, renewing = self._tasks
            renewing.cancel()
            await talking
            await asyncio.gather(renewing, return_exceptions=True)
        self.is_reachable = False
        await self._disconnect()

    async def load(self, spent: Mapping[str, float]) -> None:
        await self._own.load(spent)
        for each in live_scripts.raise_spent(spent):
            if self.is_reachable:
                await self._ask(each)

    async def admit(self, buckets: Sequence[Bucket]) -> Decision:
        permit = Permit(f"{self._instance}-{next(self._ids)}", buckets)
        if not buckets:
            self._own.grant(buckets)
            return Decision(True, permit=permit)
        if not self.is_reachable:
            return self._decide_alone(permit)
        answer = await self._ask(
            live_scripts.take(buckets, permit.id, self._lease, self._now()),
            lambda answer: self._undo(permit, answer),
        )
        return self._decision(permit, answer)

    async def levels(self, buckets: Sequence[Bucket]) -> Levels:
        if not buckets:
            return {}
        answer = None
        if self.is_reachable:
            answer = await self._ask(live_scripts.take(buckets, None, self._lease, self._now()))
        if answer is None:
            return self._own.left(buckets)
        return levels(buckets, live_scripts.taken(answer)[1], takes=False)

    def settle(self, permit: Permit, tokens: float, cost: float = 0.0) -> None:
        if permit.is_settled:
            return
        self._open.pop(permit.id, None)
        passed = self._own.give_back(permit, tokens, cost)
        buckets = live_scripts.to_settle(permit)
        if not buckets:
            return
        if not self.is_reachable:
            self._tell(passed)
            return

        def answered(answer: bytes | None) -> None:
            self._tell(passed if answer is None else self._crossed(buckets, answer))

        self._put(live_scripts.settle(permit, buckets, tokens, cost, self._now()), answered)

    def release(self, permit: Permit) -> None:
        self.settle(permit, 0.0)

    # Decisions

    def _decision(self, permit: Permit, answer: bytes | None) -> Decision:
        if answer is None:
            # Valkey may have granted it: with the same id that is no other permit.
            return self._decide_alone(permit)
        allows, used = live_scripts.taken(answer)
        self._restore(permit.buckets, used)
        if not allows:
            return refused(permit.buckets, used)
        self._own.grant(permit.buckets)
        return self._granted(permit, allowed(permit.buckets, used, permit))

    def _restore(self, buckets: Sequence[Bucket], used: Sequence[Used]) -> None:
        """Valkey may have lost its data while it was connected: it was emptied, or another one took
        its place. What this server knows to be spent, and its leases, are written again."""
        lost = dict[str, float]()
        for bucket, each in zip(buckets, used, strict=True):
            if bucket.kind in BUDGETS and each.amount < self._own.spent_of(bucket.name) / 2:
                lost[bucket.name] = self._own.spent_of(bucket.name)
        # Where only the last calls are missing, they are on their way: then it raises nothing.
        for each in live_scripts.raise_spent(lost):
            self._put(each, lambda answer: None)
        if lost:
            self._is_back.set()

    def _undo(self, permit: Permit, answer: bytes | None) -> None:
        """Nobody waits for the decision any more."""
        if answer is not None and self._decision(permit, answer).allowed:
            self.release(permit)

    def _decide_alone(self, permit: Permit) -> Decision:
        if self._fail == "closed":
            return Decision(False, is_available=False)
        decision = self._own.take(permit.buckets)
        if decision.permit is None:
            return decision
        permit.is_local, decision.permit = True, permit
        return self._granted(permit, decision)

    def _granted(self, permit: Permit, decision: Decision) -> Decision:
        if any(live_scripts.has_lease(bucket) for bucket in permit.buckets):
            self._open[permit.id] = permit
        return decision

    def _crossed(self, buckets: Sequence[Bucket], answer: bytes) -> list[Crossed]:
        passed: list[Crossed] = []
        for bucket, (before, after) in zip(buckets, live_scripts.settled(answer), strict=True):
            passed += crossed(bucket, before, after)
            if after:
                self._own.raise_spent(bucket.name, after)
        return passed

    def _tell(self, passed: Sequence[Crossed]) -> None:
        if self._on_crossed is not None:
            for each in passed:
                self._call(self._on_crossed, each)

    # What is asked of Valkey

    def _put(self, invocation: Invocation, on_answer: OnAnswer) -> None:
        self._queue.append(_Waiting(invocation, on_answer))
        self._wake.set()

    async def _ask(
        self, invocation: Invocation, on_cancelled: OnAnswer | None = None
    ) -> bytes | None:
        """The answer; None if Valkey is away. `on_cancelled` gets it where nobody waits for it any
        more."""
        asked = self._begin(invocation, on_cancelled)
        try:
            return await asked
        except asyncio.CancelledError:
            if not asked.cancelled() and on_cancelled is not None:  # in the turn of the answer
                on_cancelled(asked.result())
            raise

    def _begin(
        self, invocation: Invocation, on_cancelled: OnAnswer | None = None
    ) -> "asyncio.Future[bytes | None]":
        """Asks at once; what is put later runs behind it."""
        asked: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

        def answered(answer: bytes | None) -> None:
            if not asked.cancelled():
                asked.set_result(answer)
            elif on_cancelled is not None:
                on_cancelled(answer)

        self._put(invocation, answered)
        return asked

    async def _renew(self) -> None:
        """Renews the leases a few times within one, and at once when Valkey is back."""
        while True:
            self._is_back.clear()
            try:
                async with asyncio.timeout(self._lease / RENEWALS):
                    await self._is_back.wait()
            except TimeoutError:
                pass
            await self.renew()

    async def renew(self) -> None:
        """Renews the leases of all open permits."""
        ids = list(self._open)
        for begin in range(0, len(ids), RENEWED):
            # Looked up now: one that was settled meanwhile must not come back.
            known = (self._open.get(each) for each in ids[begin : begin + RENEWED])
            permits = [permit for permit in known if permit is not None]
            if not self.is_reachable:
                return
            renewals = live_scripts.renew(permits, self._lease, self._now())
            # Not as tasks, which would ask a turn later: a permit that is settled in between would
            # come back.
            await asyncio.gather(*[self._begin(each) for each in renewals])

    # The connection

    async def _talk(self) -> None:
        while self._queue or not self._is_stopping:
            if not self.is_reachable:
                await self._pause()
                await self._connect()
            elif self._queue:
                await self._run_batch()
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _pause(self) -> None:
        """Waits for the next try; not if the server stops."""
        try:
            async with asyncio.timeout(self._retry):
                while not self._is_stopping:
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            pass

    async def _run_batch(self) -> None:
        queue = self._queue
        batch = [queue.popleft() for _ in range(min(BATCH, len(queue)))]
        try:
            answers = await self._run([each.invocation for each in batch])
        except Exception as error:
            await self._lose(error)
            answers = [error] * len(batch)
        for each, answer in zip(batch, answers, strict=True):
            if not isinstance(answer, bytes):
                await self._lose(answer)
            self._call(each.on_answer, answer if isinstance(answer, bytes) else None)
        if not self.is_reachable:
            while queue:
                self._call(queue.popleft().on_answer, None)

    async def _run(self, invocations: Sequence[Invocation]) -> Sequence[bytes | RedisError]:
        """In two halves of the timeout: an event loop that was busy for longer sees its timers
        before it sees the answer, and Valkey is not to blame."""
        assert self._connection is not None
        loop, half = asyncio.get_running_loop(), self._timeout / 2
        async with asyncio.timeout(None) as scope:
            timer = loop.call_later(half, lambda: scope.reschedule(loop.time() + half))
            try:
                return await self._connection.run(invocations)
            finally:
                timer.cancel()

    def _call(self, callback: Callable[[Any], None], value: object) -> None:
        """A callback that fails stops nothing: all calls would wait for ever."""
        try:
            callback(value)
        except Exception as error:
            if self._on_bug is not None:
                self._on_bug(error)

    async def _connect(self) -> None:
        """Valkey gets what it may have lost before it is asked anything else."""
        connection = self._connection = Connection(self._url)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await connection.open()
                await connection.probe(f"{live_scripts.PREFIX}probe")
            for each in live_scripts.raise_spent(self._own.spent):
                async with asyncio.timeout(CONNECT_SECONDS):
                    [answer] = await connection.run([each])
                if isinstance(answer, RedisError):
                    raise answer
        except Exception as error:
            self.problem = told(error)
            await self._disconnect()
        else:
            self._change_state(True)
            self._is_back.set()

    async def _lose(self, error: BaseException) -> None:
        if self.is_reachable:
            self.problem = told(error)
            self._change_state(False)
            await self._disconnect()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _change_state(self, is_reachable: bool) -> None:
        self.is_reachable = is_reachable
        if is_reachable:
            self.problem = None
        if self._on_state is not None:
            self._call(self._on_state, self.problem)
