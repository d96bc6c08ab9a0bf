"""Tells the live state what the ledger knows of budgets."""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final, Literal

from sqlalchemy.exc import SQLAlchemyError

from legato.policy.budgets import Budget, counter, month
from legato.policy.keys import Key
from legato.store.database import Database
from legato.store.ledger import Writer, spent
from legato.store.live import Live

#: Seconds between tries while the database is away.
RETRY_SECONDS: Final = 1.0

#: Seconds after which all servers have written to the ledger what they spent while Valkey was away.
RELOAD_SECONDS: Final = 1.0


class Spending:
    """Loads what was spent: of all budgets at the start, and after Valkey was away, when each
    server knew of its own calls alone; and of those that are new, since the live state counts for
    budgets alone. `clock` gives Unix seconds."""

    def __init__(
        self,
        database: Database,
        ledger: Writer,
        live: Live,
        on_bug: Callable[[BaseException], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._live = live
        self._on_bug = on_bug
        self._clock = clock
        self._waiting: set[str] = set()  # ids of keys
        self._task: asyncio.Task[None] | None = None
        self._reloading: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Raises the database's errors."""
        for column in ("key", "owner"):
            await self._load(column)

    def budgets_changed(self, keys: Sequence[Key]) -> None:
        """Keys have budgets for which nothing was counted so far. Returns at once."""
        self._waiting.update(key.id for key in keys)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._catch_up(), name="spending")

    def reload(self) -> None:
        """Loads all of it a little later, and again and again while the database is away."""
        if self._reloading is not None:
            self._reloading.cancel()
        self._reloading = asyncio.get_running_loop().create_task(self._reload(), name="spending")

    async def stop(self) -> None:
        for task in (self._task, self._reloading):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _reload(self) -> None:
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            try:
                await self.load()
            except (OSError, SQLAlchemyError):
                continue
            except Exception as error:
                self._on_bug(error)
            return

    async def _catch_up(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting, set()
            try:
                await self._ledger.flush()
                await self._load("key", taken)
            except (OSError, SQLAlchemyError):
                self._waiting |= taken
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as error:
                self._on_bug(error)

    async def _load(
        self, column: Literal["key", "owner"], names: Collection[str] | None = None
    ) -> None:
        now = self._clock()
        found: dict[str, float] = {}
        for period, since in (("month", month(now)[0]), ("total", 0.0)):
            sums = await spent(self._database, column, since, names)
            for name, (dollars, tokens) in sums.items():
                for unit, amount in (("usd", dollars), ("tokens", tokens)):
                    budget = Budget(1.0, unit, period)  # type: ignore[arg-type]
                    found[counter(f"{column}:{name}", budget, now)] = amount
        await self._live.load(found)
