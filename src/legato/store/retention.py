"""Deletes old rows of the ledger (`retention_days`). Their sums remain."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from legato.store import daily_sums
from legato.store.database import Database
from legato.store.tables import calls

#: Rows in one transaction: writers wait only a few milliseconds for it.
BATCH_ROWS: Final = 500

#: Seconds between two batches, and between two searches for old rows.
PAUSE_SECONDS: Final = 0.1
INTERVAL_SECONDS: Final = 3600.0

_DAY: Final = 86_400.0


async def delete_batch(database: Database, before: float) -> int:
    """Deletes up to `BATCH_ROWS` rows of calls that were received before this Unix time and have
    ended, and adds them to the daily sums; returns how many there were."""
    old = (
        sa.select(calls.c.id, *daily_sums.SUMMED)
        .where(calls.c.received < before, calls.c.outcome != "open")
        .order_by(calls.c.received)
        .limit(BATCH_ROWS)
        # Nobody changes these rows before they are deleted; another server that is deleting, too,
        # has others. SQLite has one writer anyway.
        .with_for_update(skip_locked=True)
    )
    async with database.exclusive() as connection:
        rows = (await connection.execute(old)).mappings().all()
        identities = [row["id"] for row in rows]
        await connection.execute(calls.delete().where(calls.c.id.in_(identities)))
        await daily_sums.add(connection, rows)
    return len(rows)


class Retention:
    """Deletes old rows once an hour. Several servers of one database do not disturb each other."""

    def __init__(
        self, database: Database, days: float | None, on_bug: Callable[[BaseException], None]
    ) -> None:
        """`days`: how long rows are kept; None: forever."""
        self._database = database
        self._days = days
        self._on_bug = on_bug
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._days is not None:
            self._task = asyncio.create_task(self._run(self._days * _DAY), name="retention")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, seconds: float) -> None:
        while True:
            try:
                while await delete_batch(self._database, time.time() - seconds) == BATCH_ROWS:
                    await asyncio.sleep(PAUSE_SECONDS)
            except Exception as error:
                self._on_bug(error)
            await asyncio.sleep(INTERVAL_SECONDS)
