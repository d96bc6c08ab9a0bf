"""Token buckets, concurrency and budgets in memory, on a clock that the test moves."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato.store.live import Bucket, Crossed, Decision, Kind, Level, Permit
from legato.store.live_memory import LiveMemory
from tests.support.clock import Clock

MINUTE = 60.0


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def live(clock: Clock) -> LiveMemory:
    return LiveMemory(clock)


def requests(capacity: float, name: str = "key:a:requests") -> Bucket:
    return Bucket(name, "requests", capacity, MINUTE)


def tokens(capacity: float, amount: float) -> Bucket:
    return Bucket("key:a:tokens", "tokens", capacity, MINUTE, amount)


def concurrent(capacity: float) -> Bucket:
    return Bucket("key:a:concurrent", "concurrent", capacity)


def usd(capacity: float, amount: float, seconds: float = 0.0, *, blocks: bool = True) -> Bucket:
    return Bucket("key:a:usd:total", "budget_usd", capacity, seconds, amount, blocks)


def granted(decision: Decision) -> Permit:
    assert decision.allowed, decision
    assert decision.permit is not None
    return decision.permit


async def test_a_rate_refills_continuously(live: LiveMemory, clock: Clock) -> None:
    for _ in range(10):
        granted(await live.admit([requests(10)]))
    refusal = await live.admit([requests(10)])
    assert not refusal.allowed
    assert refusal.permit is None
    assert (refusal.limiting, refusal.kind) == ("key:a:requests", "requests")
    assert refusal.retry_after == pytest.approx(6.0)
    clock.now += 5.99
    assert (await live.admit([requests(10)])).retry_after == pytest.approx(0.01)
    clock.now += 0.01
    assert granted(await live.admit([requests(10)]))
    clock.now += 3600  # a bucket holds no more than its capacity
    assert sum([(await live.admit([requests(10)])).allowed for _ in range(20)]) == 10


async def test_all_buckets_or_none(live: LiveMemory, clock: Clock) -> None:
    granted(await live.admit([requests(2), tokens(100, 100)]))
    refusal = await live.admit([requests(2), tokens(100, 60), concurrent(1)])
    assert refusal.kind == "tokens"
    assert refusal.retry_after == pytest.approx(36.0)
    assert refusal.levels == {
        "requests": Level(2, 1, 30.0),
        "tokens": Level(100, 0, 60.0),
        "concurrent": Level(1, 1, 0.0),
    }
    assert live.permits == 1
    assert await live.levels([requests(2), concurrent(1)]) == {
        "requests": Level(2, 1, 30.0),
        "concurrent": Level(1, 1, 0.0),
    }


async def test_the_longest_wait_is_what_a_client_is_told(live: LiveMemory, clock: Clock) -> None:
    buckets = [requests(1), Bucket("key:a:day", "day", 1, 86_400.0), concurrent(1)]
    granted(await live.admit(buckets))
    assert (await live.admit(buckets)).retry_after == 86_400.0
    assert (await live.admit(buckets[::-1])).limiting == "key:a:day"


async def test_the_limit_that_refuses_is_what_a_client_is_told(
    live: LiveMemory, clock: Clock
) -> None:
    """Not another one of its kind that has less left, and refills faster."""
    key, route = requests(6), requests(600, "route:a:requests")
    for _ in range(6):
        granted(await live.admit([key]))
    clock.now += 5.0
    for _ in range(600):
        granted(await live.admit([route]))
    for buckets in ([key, route], [route, key]):
        refusal = await live.admit(buckets)
        assert (refusal.limiting, refusal.retry_after) == (key.name, pytest.approx(5.0))
        assert refusal.levels["requests"].limit == 6


async def test_the_tightest_bucket_of_a_kind_is_shown(live: LiveMemory) -> None:
    decision = await live.admit([requests(10), requests(3, "route:m:requests")])
    assert decision.levels == {"requests": Level(3, 2, 20.0)}


@pytest.mark.parametrize(
    ("reserved", "used", "left"),
    [(60, 60, 40), (60, 10, 90), (60, 0, 100), (60, 100, 0), (0, 30, 70), (500, 30, 70)],
)
async def test_tokens_are_settled(
    live: LiveMemory, reserved: float, used: float, left: float
) -> None:
    permit = granted(await live.admit([tokens(100, reserved)]))
    live.settle(permit, used)
    assert (await live.levels([tokens(100, 0)]))["tokens"].remaining == pytest.approx(left)


async def test_a_debt_is_paid_before_the_next_call(live: LiveMemory, clock: Clock) -> None:
    live.settle(granted(await live.admit([tokens(100, 10)])), 250)
    levels = await live.levels([tokens(100, 0)])
    assert levels == {"tokens": Level(100, -150.0, 150.0)}
    refusal = await live.admit([tokens(100, 10)])
    assert refusal.retry_after == pytest.approx(96.0)  # 150 of debt, and 10
    clock.now += refusal.retry_after
    assert granted(await live.admit([tokens(100, 10)]))


async def test_more_than_the_capacity_waits_for_a_full_bucket(
    live: LiveMemory, clock: Clock
) -> None:
    granted(await live.admit([tokens(100, 1)]))
    refusal = await live.admit([tokens(100, 1_000_000)])
    assert refusal.retry_after == pytest.approx(0.6)
    clock.now += refusal.retry_after
    granted(await live.admit([tokens(100, 1_000_000)]))


async def test_a_released_call_keeps_its_request_alone(live: LiveMemory) -> None:
    buckets = [requests(10), tokens(100, 60), concurrent(1), usd(1, 0.5)]
    live.release(granted(await live.admit(buckets)))
    levels = await live.levels(buckets)
    left = {kind: each.remaining for kind, each in levels.items()}
    assert left == {"requests": 9, "tokens": 100, "concurrent": 1, "budget_usd": 1}
    assert live.permits == 0


async def test_concurrency(live: LiveMemory, clock: Clock) -> None:
    permits = [granted(await live.admit([concurrent(2)])) for _ in range(2)]
    clock.now += 3600  # it does not refill
    assert (await live.admit([concurrent(2)])).retry_after == 1.0
    for _ in range(3):  # settling is idempotent
        live.settle(permits[0], 0)
    assert live.permits == 1
    granted(await live.admit([concurrent(2)]))
    assert not (await live.admit([concurrent(2)])).allowed


async def test_no_buckets(live: LiveMemory) -> None:
    permit = granted(await live.admit([]))
    assert live.permits == 1
    live.settle(permit, 100, 1.0)
    assert live.permits == 0
    assert await live.levels([]) == {}


# Budgets


async def test_a_budget_admits_while_something_is_left(live: LiveMemory) -> None:
    first = granted(await live.admit([usd(1, 0.6)]))
    second = granted(await live.admit([usd(1, 0.6)]))
    refusal = await live.admit([usd(1, 0.6)])  # all is reserved, but not spent
    assert refusal.retry_after == 1.0
    assert not refusal.is_spent
    live.settle(first, 10, 0.1)
    live.settle(second, 10, 0.9)
    refusal = await live.admit([usd(1, 0.01)])
    assert refusal.is_spent
    assert refusal.retry_after == math.inf
    assert refusal.levels["budget_usd"] == Level(1, 0.0, 0.0)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 5000.0])
async def test_a_month_s_budget_comes_back(live: LiveMemory, seconds: float) -> None:
    live.settle(granted(await live.admit([usd(1, 1, seconds)])), 0, 1.5)
    refusal = await live.admit([usd(1, 1, seconds)])
    assert refusal.is_spent
    assert refusal.retry_after == max(seconds, 2.0)


async def test_a_budget_that_warns(live: LiveMemory) -> None:
    for _ in range(3):
        live.settle(granted(await live.admit([usd(1, 5, blocks=False)])), 0, 1.0)
    assert (await live.levels([usd(1, 5)]))["budget_usd"].remaining == -2.0


@pytest.mark.parametrize(
    ("kind", "cost", "steps"),
    [
        ("budget_usd", 0.1, {5: 50, 8: 80, 10: 100}),
        ("budget_tokens", 0.1, {3: 50}),
        ("budget_tokens", 0.0, {3: 50}),
    ],
)
async def test_each_threshold_is_told_once(
    clock: Clock, kind: Kind, cost: float, steps: dict[int, int]
) -> None:
    told: list[Crossed] = []
    live = LiveMemory(clock, told.append)
    capacity = 1 if kind == "budget_usd" else 480
    bucket = Bucket("c", kind, capacity, 0.0, 0.0, blocks=False)
    found: dict[int, int] = {}
    for step in range(1, (12 if kind == "budget_usd" else 4)):
        live.settle(granted(await live.admit([bucket])), 80, cost)
        for each in told:
            assert (each.name, each.kind, each.amount) == ("c", kind, capacity)
            found[step] = each.percent
        told.clear()
    assert found == steps


async def test_one_call_may_pass_all_thresholds(clock: Clock) -> None:
    told: list[Crossed] = []
    live = LiveMemory(clock, told.append)
    live.settle(granted(await live.admit([usd(2, 1)])), 0, 3.0)
    assert [(each.percent, each.spent) for each in told] == [(50, 3.0), (80, 3.0), (100, 3.0)]


async def test_counters_are_raised_by_the_ledger(clock: Clock) -> None:
    told: list[Crossed] = []
    live = LiveMemory(clock, told.append)
    name = usd(1, 0).name
    await live.load({name: 0.6, "key:b:usd:total": 2.0})
    assert (await live.levels([usd(1, 0)]))["budget_usd"].remaining == pytest.approx(0.4)
    await live.load({name: 0.2})  # a ledger that lags behind
    assert live.spent == {name: 0.6, "key:b:usd:total": 2.0}
    live.settle(granted(await live.admit([usd(1, 0)])), 0, 0.3)
    assert [each.percent for each in told] == [80]  # 50 was passed before


# Bounds


async def test_idle_buckets_are_dropped(clock: Clock) -> None:
    live = LiveMemory(clock)
    for number in range(1000):
        granted(await live.admit([requests(60, f"key:{number}:requests")]))
        clock.now += 0.1  # full again after a second
    assert len(live._full_at) < 30


async def test_buckets_are_bounded(clock: Clock) -> None:
    live = LiveMemory(clock, max_buckets=100)
    for number in range(1000):
        granted(await live.admit([requests(60, f"key:{number}:requests")]))
        assert len(live._full_at) <= 100


async def test_counters_of_past_months_are_dropped(clock: Clock) -> None:
    live = LiveMemory(clock)
    for month in range(50):
        bucket = Bucket(f"key:a:usd:{month}", "budget_usd", 1, 10.0, 1)
        live.settle(granted(await live.admit([bucket])), 0, 1.0)
        clock.now += 11
    assert len(live.spent) <= 2


# Properties

steps = st.lists(
    st.tuples(
        st.floats(0, 30, allow_subnormal=False),  # seconds before it
        st.floats(0, 150),  # tokens that are reserved
        st.floats(0, 1),  # the part of them that is used
        st.booleans(),  # whether the call is settled at once
    ),
    max_size=40,
)


@given(steps)
async def test_no_window_has_more_than_the_capacity_and_the_refill(
    taken: Sequence[tuple[float, float, float, bool]],
) -> None:
    clock = Clock(1000.0)
    live = LiveMemory(clock)
    used: list[tuple[float, float]] = []
    for seconds, reserved, part, is_settled in taken:
        clock.now += seconds
        bucket = tokens(100, reserved)
        decision = await live.admit([bucket])
        if decision.permit is None:
            continue
        used.append((clock.now, bucket.taken * (part if is_settled else 1)))
        if is_settled:
            live.settle(decision.permit, bucket.taken * part)
    for first, (begin, _) in enumerate(used):
        total = 0.0
        for end, amount in used[first:]:
            total += amount
            assert total <= 100 + (end - begin) * 100 / MINUTE + 1e-3


@given(steps)
async def test_who_waits_exactly_as_long_as_told_gets_in(
    taken: Sequence[tuple[float, float, float, bool]],
) -> None:
    clock = Clock(1000.0)
    clock.now = 1.8e9  # where a double resolves a quarter of a microsecond
    live = LiveMemory(clock)
    for seconds, reserved, part, is_settled in taken:
        clock.now += seconds
        buckets = [requests(20), tokens(100, reserved)]
        decision = await live.admit(buckets)
        if not decision.allowed:
            early = decision.retry_after - 1e-3
            if early > 0:
                clock.now += early
                assert not (await live.admit(buckets)).allowed
                clock.now -= early
            clock.now += decision.retry_after
            decision = await live.admit(buckets)
        permit = granted(decision)
        if is_settled:
            live.settle(permit, reserved * part * 2)
