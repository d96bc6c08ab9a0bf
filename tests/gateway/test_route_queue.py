"""Calls of a route that wait for their turn: bounded, in time, fair between keys."""

import asyncio
import random
from collections import Counter

import pytest

from legato.core.errors import ApiError
from legato.gateway.route_queue import RouteQueue
from tests.conftest import until

PATIENT = 60.0


class Stage:
    """A queue, and the calls that have entered it. `entered`: keys in the order of their turns."""

    def __init__(self, limit: int = 1, size: int = 10, seconds: float = PATIENT) -> None:
        self.now = 0.0
        self.queue = RouteQueue(limit, size, seconds, lambda: self.now)
        self.entered: list[str] = []
        self.refused: list[tuple[str, ApiError]] = []
        self.waited: list[float] = []

    def call(self, key: str) -> "asyncio.Task[None]":
        return asyncio.create_task(self._enter(key))

    async def _enter(self, key: str) -> None:
        try:
            self.waited.append(await self.queue.enter(key))
        except ApiError as error:
            self.refused.append((key, error))
        else:
            self.entered.append(key)

    async def settled(self, entered: int, waiting: int) -> None:
        await until(
            lambda: (len(self.entered), self.queue.waiting) == (entered, waiting), "calls wait"
        )


async def test_a_free_place_is_taken_at_once() -> None:
    stage = Stage(limit=2)
    assert await stage.queue.enter("a") == 0.0
    assert await stage.queue.enter("a") == 0.0
    assert (stage.queue.busy, stage.queue.waiting) == (2, 0)


async def test_keys_take_turns() -> None:
    stage = Stage()
    calls = [stage.call(key) for key in "aaaabc"]
    await stage.settled(1, 5)
    for done in range(6):
        stage.now += 2.0
        stage.queue.leave(2.0)
        await stage.settled(min(done + 2, 6), max(4 - done, 0))
    await asyncio.gather(*calls)
    assert stage.entered == ["a", "a", "b", "c", "a", "a"]
    assert stage.waited == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert stage.queue.busy == 0


async def test_a_full_queue_refuses_at_once() -> None:
    stage = Stage(size=2)
    calls = [stage.call("a") for _ in range(3)]
    await stage.settled(1, 2)
    await stage.call("a")
    ((_, error),) = stage.refused
    assert (error.status, error.code, error.is_curable) == (503, "queue_full", True)
    assert error.retry_after is not None
    for _ in calls:
        stage.queue.leave(1.0)
    await asyncio.gather(*calls)
    assert stage.queue.busy == 0


async def test_who_waits_most_gives_a_place_to_another_key() -> None:
    stage = Stage(size=3)
    calls = [stage.call(key) for key in "aaaa"]
    await stage.settled(1, 3)
    calls += [stage.call("b"), stage.call("b")]
    await until(lambda: len(stage.refused) == 2, "two are refused")
    assert sorted(key for key, _ in stage.refused) == ["a", "b"]  # and then both wait equally
    for _ in range(4):
        stage.queue.leave(1.0)
        await asyncio.sleep(0)
    await asyncio.gather(*calls)
    assert Counter(stage.entered) == {"a": 3, "b": 1}
    assert stage.queue.busy == 0


async def test_time_that_is_up() -> None:
    stage = Stage(seconds=0.01)
    stage.queue.busy = 1
    await stage.call("a")
    ((_, error),) = stage.refused
    assert (error.status, error.code) == (503, "queue_full")
    assert (stage.queue.busy, stage.queue.waiting) == (1, 0)


@pytest.mark.parametrize("seed", range(20))
async def test_no_place_is_lost(seed: int) -> None:
    """Whoever leaves, and whenever: before its turn, in the same turn, after it."""
    draw = random.Random(seed)
    stage = Stage(limit=3, size=20)
    calls = []
    for _ in range(60):
        match draw.randrange(4):
            case 0 | 1:
                calls.append(stage.call(draw.choice("abc")))
            case 2 if calls:
                calls.pop(draw.randrange(len(calls))).cancel()
            case _ if stage.queue.busy:
                if len(stage.entered) > stage.queue.busy or draw.random() < 0.7:
                    stage.queue.leave(1.0)
        if draw.random() < 0.7:
            await asyncio.sleep(0)
        assert 0 <= stage.queue.busy <= 3
    await until(lambda: stage.queue.busy == 3 or not stage.queue.waiting, "places are taken")
    while stage.queue.busy:
        stage.queue.leave(1.0)
        await asyncio.sleep(0)
    await asyncio.gather(*calls, return_exceptions=True)
    assert (stage.queue.busy, stage.queue.waiting) == (0, 0)


async def test_a_place_is_taken_of_a_call_whose_client_has_just_left() -> None:
    """It is still in the queue: its task has not run yet."""
    stage = Stage(size=2)
    first = stage.call("a")
    await stage.settled(1, 0)
    left = [stage.call("a") for _ in range(2)]
    await stage.settled(1, 2)
    other = stage.call("b")
    left[1].cancel()
    await asyncio.gather(*left[1:], return_exceptions=True)
    stage.queue.leave(1.0)
    await stage.settled(2, 1)
    stage.queue.leave(1.0)
    await asyncio.gather(first, left[0], other)
    stage.queue.leave(1.0)
    assert (stage.queue.busy, stage.queue.waiting) == (0, 0)
