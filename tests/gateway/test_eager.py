"""Coroutines that run in the turn in which what they wait for comes."""

import asyncio
from typing import Any

import pytest

from legato.gateway.eager import Eager, Signal


class Story:
    """A coroutine that writes down what happens to it."""

    def __init__(self, *waits: Any) -> None:
        self.told: list[str] = []
        self.running: set[Any] = set()
        self.eager = Eager(self._live(waits), self.running)

    async def _live(self, waits: tuple[Any, ...]) -> None:
        try:
            for each in waits:
                self.told.append("waits")
                try:
                    await (each() if callable(each) else each)
                except ValueError as error:
                    self.told.append(str(error))
            self.told.append("ends")
        except asyncio.CancelledError:
            self.told.append("is stopped")
            raise


def test_it_runs_before_start_comes_back() -> None:
    story = Story()
    story.eager.start()
    assert story.told == ["ends"]
    assert not story.running


def test_a_signal_runs_it_at_once() -> None:
    first, second = Signal(), Signal()
    story = Story(first, second)
    story.eager.start()
    assert story.told == ["waits"]
    assert story.running == {story.eager}
    first.set()
    assert story.told == ["waits", "waits"]
    first.set()
    second.set(ValueError("broken"))
    assert story.told == ["waits", "waits", "broken", "ends"]
    assert not story.running


def test_a_signal_that_came_before_is_not_waited_for() -> None:
    early, broken = Signal(), Signal()
    early.set()
    broken.set(ValueError("broken"))
    story = Story(early, broken)
    story.eager.start()
    assert story.told == ["waits", "waits", "broken", "ends"]


def test_it_is_stopped_at_a_signal_at_once() -> None:
    signal = Signal()
    story = Story(signal)
    story.eager.start()
    story.eager.stop()
    assert story.told == ["waits", "is stopped"]
    assert not story.running
    signal.set()
    story.eager.stop()
    assert len(story.told) == 2


async def test_it_waits_for_futures_tasks_and_turns_too() -> None:
    future = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(asyncio.sleep(0))
    story = Story(future, task, lambda: asyncio.sleep(0), lambda: asyncio.sleep(0.001))
    story.eager.start()
    assert story.told == ["waits"]
    future.set_exception(ValueError("broken"))
    while story.running:
        await asyncio.sleep(0)
    assert story.told == ["waits", "broken", "waits", "waits", "waits", "ends"]


async def test_what_it_waits_for_is_stopped_with_it() -> None:
    task = asyncio.ensure_future(asyncio.sleep(60))
    story = Story(task)
    story.eager.start()
    story.eager.stop()
    while story.running:
        await asyncio.sleep(0)
    assert task.cancelled()
    assert story.told == ["waits", "is stopped"]


async def test_it_is_stopped_though_what_it_waits_for_has_just_come() -> None:
    future = asyncio.get_running_loop().create_future()
    story = Story(future, Signal())
    story.eager.start()
    future.set_result(None)
    story.eager.stop()
    while story.running:
        await asyncio.sleep(0)
    assert story.told == ["waits", "is stopped"]


async def test_as_a_task_it_is_cancelled_in_another_turn() -> None:
    """A server cancels all that are running while it goes through them."""
    stories = [Story(Signal()) for _ in range(3)]
    running: set[Any] = set()
    for story in stories:
        story.eager._running = running
        story.eager.start()
    for each in running:
        assert each.cancel(msg="the server ends")
    assert len(running) == 3
    await asyncio.sleep(0)
    assert not running
    assert all(story.told == ["waits", "is stopped"] for story in stories)


@pytest.mark.parametrize("at_signal", [True, False])
async def test_it_may_stop_itself(at_signal: bool) -> None:
    """Where what it calls finds out that it is not wanted: at the next thing it waits for."""
    signal, told = Signal(), []

    async def live() -> None:
        eager.stop()
        told.append("goes on")
        try:
            await (signal if at_signal else asyncio.sleep(60))
        except asyncio.CancelledError:
            told.append("is stopped")
            raise

    running: set[Any] = set()
    eager = Eager(live(), running)
    eager.start()
    while running:
        await asyncio.sleep(0)
    assert told == ["goes on", "is stopped"]


def test_an_error_is_not_kept() -> None:
    async def live() -> None:
        raise KeyError("bug")

    running: set[Any] = set()
    with pytest.raises(KeyError):
        Eager(live(), running).start()
    assert not running
