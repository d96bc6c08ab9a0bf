"""One timer for all: deadlines that move, with times that the test makes up."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legato.core.timers import RESOLUTION, Check, Timers

QUICK = settings(deadline=None, database=None, max_examples=200)
SLACK = 1e-9  # seconds; what binary fractions of 0.05 may be off


class Watcher:
    """Remembers when it was asked; answers with `deadlines` one after the other, then None."""

    def __init__(self, *deadlines: float) -> None:
        self.asked: list[float] = []
        self._deadlines = list(deadlines)

    def check(self, now: float) -> float | None:
        self.asked.append(now)
        return self._deadlines.pop(0) if self._deadlines else None


def test_an_empty_wheel() -> None:
    archive = Timers()
    archive.advance(1e9)
    assert (len(archive), archive.next_due) == (0, None)


@pytest.mark.parametrize("deadline", [0.0, 0.01, 0.05, 0.051, 0.15, 1.0, 59.99, 1e6, 1e9 + 0.3])
def test_a_watcher_is_asked_at_its_deadline_never_before(deadline: float) -> None:
    archive, watcher = Timers(), Watcher()
    archive.watch(deadline, watcher.check)
    due = archive.next_due
    assert due is not None
    assert deadline - SLACK <= due <= deadline + RESOLUTION + 1e-6
    archive.advance(due - RESOLUTION / 2)
    assert watcher.asked == []
    archive.advance(due)
    assert watcher.asked == [due]
    assert (len(archive), archive.next_due) == (0, None)
    archive.advance(due + 100)
    assert watcher.asked == [due], "one that answered None was asked again"


def test_a_deadline_moves_lazily() -> None:
    """Progress costs nothing; the archive finds out at the old deadline, and comes back."""
    archive = Timers()
    last = 0.0
    looks: list[float] = []
    over: list[float] = []

    def check(now: float) -> float | None:
        looks.append(now)
        if now < last + 1.0:
            return last + 1.0
        over.append(now)
        return None

    archive.watch(1.0, check)
    for tick in range(1, 1000):
        now = tick * 0.01
        if now <= 5.0:
            last = now
        archive.advance(now)
    assert len(over) == 1
    assert 6.0 - SLACK <= over[0] <= 6.0 + RESOLUTION + 0.011
    assert len(looks) <= 7, "more than a look a second"


def test_a_deadline_in_the_past_is_asked_at_once_and_never_in_a_loop() -> None:
    archive, watcher = Timers(), Watcher(1.0, 0.0, -5.0)
    archive.watch(1.0, watcher.check)
    archive.advance(2.0)
    assert watcher.asked == [2.0]
    archive.advance(2.0)
    assert watcher.asked == [2.0], "asked twice at one time"
    for now in (2.1, 2.2, 2.3, 2.4):
        archive.advance(now)
    assert watcher.asked == [2.0, 2.1, 2.2, 2.3]


def test_the_alarm_hears_of_an_earlier_deadline_only() -> None:
    archive = Timers()
    heard: list[float] = []
    archive.on_earlier = heard.append
    for deadline in (5.0, 7.0, 5.0, 3.0, 4.0, 1.0):
        archive.watch(deadline, Watcher().check)
    assert heard == pytest.approx([5.0, 3.0, 1.0])
    assert archive.next_due == heard[-1]


def test_the_alarm_hears_of_what_is_asked_for_while_it_rings() -> None:
    archive = Timers()
    archive.watch(1.0, Watcher(2.0).check)
    archive.watch(9.0, Watcher().check)
    heard: list[float] = []
    archive.on_earlier = heard.append
    archive.advance(1.0)
    assert heard == pytest.approx([2.0])


def test_a_check_may_watch() -> None:
    archive, other = Timers(), Watcher()

    def check(now: float) -> None:
        archive.watch(now, other.check)

    archive.watch(1.0, check)
    archive.advance(1.0)
    archive.advance(1.0 + RESOLUTION)
    assert len(other.asked) == 1


def test_many_watchers_share_slots_and_each_is_asked_in_its_time() -> None:
    archive = Timers()
    chance = random.Random(7)
    deadlines = [chance.uniform(0, 60) for _ in range(20_000)]
    asked: list[tuple[float, float]] = []

    def watcher(deadline: float) -> Check:
        return lambda now: asked.append((deadline, now))

    for deadline in deadlines:
        archive.watch(deadline, watcher(deadline))
    assert len(archive) == 20_000
    assert len(archive._order) <= 60 / RESOLUTION + 1, "an entry of the heap for each watcher"
    now = 0.0
    while archive.next_due is not None:
        now = archive.next_due
        archive.advance(now)
    assert len(archive) == 0
    assert sorted(deadline for deadline, _ in asked) == sorted(deadlines)
    assert all(-SLACK <= at - deadline <= RESOLUTION + SLACK for deadline, at in asked)
    assert [at for _, at in asked] == sorted(at for _, at in asked)


@QUICK
@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=30),
    st.lists(st.floats(0, 1e6), max_size=30),
)
def test_never_early_and_at_most_one_step_late(deadlines: list[float], looks: list[float]) -> None:
    archive = Timers()
    watchers = [(deadline, Watcher()) for deadline in deadlines]
    for deadline, watcher in watchers:
        archive.watch(deadline, watcher.check)
    for now in [*sorted(looks), 1e6 + 1]:
        archive.advance(now)
        for deadline, watcher in watchers:
            if watcher.asked:
                assert watcher.asked[0] >= deadline - SLACK
            else:
                assert now < (math.ceil(deadline / RESOLUTION) + 1) * RESOLUTION + 1e-6
    assert all(len(watcher.asked) == 1 for _, watcher in watchers)
