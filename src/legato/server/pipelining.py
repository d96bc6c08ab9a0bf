"""The requests of one connection, answered in the order in which they came."""

import asyncio

from legato.server.exchange import Exchange


class Pipeline:
    """`current`: the exchange whose answer is being made. `last`: that of the last request read."""

    __slots__ = ("_waiting", "current", "last")

    def __init__(self) -> None:
        self.current: Exchange | None = None
        self.last: Exchange | None = None
        self._waiting: list[Exchange] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether requests wait for the end of the answer in hand."""
        return bool(self._waiting)

    def add(self, exchange: Exchange) -> None:
        self.last = exchange
        if self.current is None:
            self._begin(exchange)
        elif self._waiting is None:
            self._waiting = [exchange]
        else:
            self._waiting.append(exchange)

    def advance(self) -> bool:
        """The current answer is complete: begins the next one. False where none waits."""
        self.current = None
        if not self._waiting:
            return False
        # In another turn: a request that is refused is answered at once, and there may be many.
        self.current = exchange = self._waiting.pop(0)
        asyncio.get_running_loop().call_soon(self._begin, exchange)
        return True

    def drop(self) -> None:
        """The connection is lost."""
        waiting, self._waiting = self._waiting or [], None
        for exchange in {id(each): each for each in (self.current, self.last, *waiting)}.values():
            if exchange is not None:
                exchange.gone()
        self.current = self.last = None

    def _begin(self, exchange: Exchange) -> None:
        if not exchange.is_over:
            self.current = exchange
            exchange.begin()
