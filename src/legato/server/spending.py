"""Tells the live state what the ledger knows of budgets."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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

#: Names in one query; where more have a budget it reads what all have spent.
MAX_NAMES: Final = 1000


class Spending:
    """Loads what was spent: of all budgets at the start, and after Valkey was away, when each
    server knew of its own calls alone; and of those that are new, since the live state counts for
    budgets alone. `clock` gives Unix seconds."""

    def __init__(
        self,
        database: Database,
        ledger: Writer,
        live: Live,
        keys: Callable[[], Iterable[Key]],
        owners: Mapping[str, Budget],
        on_bug: Callable[[BaseException], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`keys` returns those that are known now; `owners`: budgets by name."""
        self._database = database
        self._ledger = ledger
        self._live = live
        self._keys = keys
        self._owners = owners
        self._on_bug = on_bug
        self._clock = clock
        self._waiting: dict[str, Budget] = {}  # by the key's id
        self._task: asyncio.Task[None] | None = None
        self._reloading: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Raises the database's errors."""
        await self._load("key", _budgets(self._keys()))
        await self._load("owner", self._owners)

    def budgets_changed(self, keys: Sequence[Key]) -> None:
        """Keys have budgets for which nothing was counted so far. Returns at once."""
        self._waiting |= _budgets(keys)
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
            taken, self._waiting = self._waiting, {}
            try:
                await self._ledger.flush()
                await self._load("key", taken)
            except (OSError, SQLAlchemyError):
                self._waiting = taken | self._waiting
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as error:
                self._on_bug(error)

    async def _load(self, column: Literal["key", "owner"], budgets: Mapping[str, Budget]) -> None:
        """`budgets`: by the id of a key, or the name of an owner."""
        now = self._clock()
        found: dict[str, float] = {}
        for period, since in (("month", month(now)[0]), ("total", 0.0)):
            names = [name for name, budget in budgets.items() if budget.period == period]
            if not names:
                continue
            chosen = names if len(names) <= MAX_NAMES else None
            sums = await spent(self._database, column, since, chosen)
            for name in sums.keys() & names:
                dollars, tokens = sums[name]
                amount = dollars if budgets[name].unit == "usd" else tokens
                found[counter(f"{column}:{name}", budgets[name], now)] = amount
        await self._live.load(found)


def _budgets(keys: Iterable[Key]) -> dict[str, Budget]:
    return {key.id: key.budget for key in keys if key.budget is not None}
