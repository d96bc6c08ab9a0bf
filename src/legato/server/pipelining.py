"""The requests of one connection, answered in the order in which they came."""

import asyncio

from legato.server.exchange import Exchange


class Pipeline:
    """`current`: the exchange whose turn it is."""

    __slots__ = ("_waiting", "current")

    def __init__(self) -> None:
        self.current: Exchange | None = None
        self._waiting: list[Exchange] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether requests wait for the end of the answer in hand."""
        return bool(self._waiting)

    def add(self, exchange: Exchange) -> None:
        if self.current is None:
            self._begin(exchange)
        elif self._waiting is None:
            self._waiting = [exchange]
        else:
            self._waiting.append(exchange)

    def replace(self, last: Exchange, other: Exchange) -> None:
        """`other` answers in the place of the last exchange that was added."""
        if self._waiting:
            assert self._waiting[-1] is last
            self._waiting[-1] = other
        else:
            assert self.current is last
            self._begin(other)

    def advance(self) -> bool:
        """The current answer is complete: begins the next one. False where none waits."""
        self.current = None
        if not self._waiting:
            return False
        # In another turn: a request that is refused is answered at once, and there may be many.
        self.current = exchange = self._waiting.pop(0)
        asyncio.get_running_loop().call_soon(self._begin_current, exchange)
        return True

    def drop(self) -> None:
        """The connection is lost."""
        waiting, self._waiting = self._waiting or [], None
        current, self.current = self.current, None
        if current is not None:
            current.gone()
        for exchange in waiting:
            exchange.gone()

    def _begin(self, exchange: Exchange) -> None:
        self.current = exchange
        exchange.begin()

    def _begin_current(self, exchange: Exchange) -> None:
        if self.current is exchange:  # neither replaced nor dropped meanwhile
            exchange.begin()
