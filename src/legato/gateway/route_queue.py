"""At most so many calls of one route at once; the others wait in turn, a key after the other."""

import asyncio
from collections import deque
from collections.abc import Callable

from legato.core.errors import ApiError, service_unavailable

#: The share of the last call in the mean of how long calls take.
_NEWEST = 0.1


class RouteQueue:
    """Calls of one route: those that go on, and those that wait.

    Keys wait in turn, so that one that sends a thousand calls delays another by one. Where the
    queue is full, a key that waits less than the one that waits most takes a place of that one.

    `limit`: calls that go on at once. `size`: calls that may wait. `seconds`: how long each of them
    may wait.
    """

    def __init__(self, limit: int, size: int, seconds: float, clock: Callable[[], float]) -> None:
        self.busy = 0
        self._limit = limit
        self._size = size
        self._seconds = seconds
        self._clock = clock
        self._turns: dict[str, deque[asyncio.Future[None]]] = {}  # by key, the next one first
        self._mean = 0.0  # seconds that a call goes on

    @property
    def waiting(self) -> int:
        return sum(map(len, self._turns.values()))

    async def enter(self, key: str) -> float:
        """Returns when it is the call's turn: the seconds that it waited. Each call that has
        entered has to `leave`. Raises `ApiError` 503 at once where no place is free, and where
        its time is up."""
        if self.busy < self._limit and not self._turns:
            self.busy += 1
            return 0.0
        if self.waiting >= self._size:
            self._make_room(key)
        turn = asyncio.get_running_loop().create_future()
        self._turns.setdefault(key, deque()).append(turn)
        begun = self._clock()
        try:
            async with asyncio.timeout(self._seconds):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if _is_called(turn):
                self._next()  # in the very turn in which its time was up, or its client left
            if isinstance(error, TimeoutError):
                raise self._shed("No call of this model ended in time.") from None
            raise
        finally:
            self._forget(key, turn)
        return self._clock() - begun

    def leave(self, seconds: float) -> None:
        """A call has ended, which went on for so long."""
        self._mean += (seconds - self._mean) * _NEWEST if self._mean else seconds
        self._next()

    def _next(self) -> None:
        """The place of a call goes to the next one that waits."""
        while self._turns:
            key = next(iter(self._turns))
            turns = self._turns.pop(key)
            turn = turns.popleft()
            if turns:
                self._turns[key] = turns  # behind the other keys
            if not turn.done():
                turn.set_result(None)
                return
        self.busy -= 1

    def _make_room(self, key: str) -> None:
        most = max(self._turns, key=lambda each: len(self._turns[each]), default=key)
        own = len(self._turns.get(key, ()))
        if len(self._turns.get(most, ())) <= own + 1:
            raise self._shed("Too many calls of this model wait for their turn.")
        turn = self._turns[most].pop()
        if not turn.done():  # else its client has just left
            turn.set_exception(self._shed("Too many calls of your key wait for their turn."))

    def _forget(self, key: str, turn: "asyncio.Future[None]") -> None:
        turns = self._turns.get(key)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._turns[key]

    def _shed(self, why: str) -> ApiError:
        error = service_unavailable(why, code="queue_full")
        error.retry_after = max(1.0, self._mean * (self.waiting + 1) / self._limit)
        return error


def _is_called(turn: "asyncio.Future[None]") -> bool:
    return turn.done() and not turn.cancelled() and turn.exception() is None
