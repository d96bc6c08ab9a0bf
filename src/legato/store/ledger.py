"""The ledger in the database: rows are written in batches; `legato usage` reads them."""

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Any, Final, Literal, Protocol

import sqlalchemy as sa
from msgspec import Struct
from msgspec.structs import astuple
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, ProgrammingError

from legato.store.database import TOKENS, Database, calls

#: The longest time, in seconds, that a row waits for others to be written with.
BATCH_SECONDS: Final = 0.25

#: Seconds before a failed write is retried.
RETRY_SECONDS: Final = 1.0

#: Rows in one transaction. On a single core the event loop waits for the writer thread: with 200
#: rows every stream stalled for 3 ms.
BATCH_ROWS: Final = 32

#: How many settled calls may wait with their stream for the writer; beyond it a row is completed at
#: once, which frees the stream.
MAX_UNSETTLED: Final = 1000

#: Rows that may wait for the database. Beyond it new calls are refused: an unaccounted answer is
#: worse than a 503.
MAX_QUEUE: Final = 50_000

#: Errors that are caused by the row, not by the database.
_ROW_ERRORS: Final = (
    DataError,
    IntegrityError,
    InterfaceError,
    ProgrammingError,
    OverflowError,
    TypeError,
    UnicodeError,
)

By = Literal["key", "route", "outcome", "front", "session", "agent"]


class Entry(Protocol):
    """The ledger's record of one call."""

    def settled(self) -> Struct:
        """The row to write; its fields are the columns of the ledger. May be called repeatedly."""
        ...


class Writer:
    """Collects rows in memory and writes them in batches. `put` replaces a waiting row of the same
    call."""

    def __init__(self, database: Database, on_bug: Callable[[BaseException], None]) -> None:
        self._database = database
        self._on_bug = on_bug
        self._waiting: dict[str, Entry] = {}
        self._timer: asyncio.TimerHandle | None = None  # None: no row is waiting
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._writing = asyncio.Lock()
        insert = sqlite.insert(calls)
        columns = {column.name: insert.excluded[column.name] for column in calls.c}
        upsert = insert.on_conflict_do_update(index_elements=["id"], set_=columns)
        # Compiled once, executed with tuples: SQLAlchemy's usual path processes each value twice.
        compiled = upsert.compile(dialect=sqlite.dialect(paramstyle="qmark"))  # type: ignore[no-untyped-call]
        assert compiled.positiontup == [column.name for column in calls.c]
        self._upsert = str(compiled)

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= MAX_QUEUE

    def put(self, identity: str, entry: Entry) -> None:
        """Queues a row. `entry.settled()` is called when it is written."""
        if self._timer is None:
            self._set_timer(BATCH_SECONDS)
        elif len(self._waiting) >= MAX_UNSETTLED:
            entry.settled()
        self._waiting[identity] = entry

    async def stop(self) -> None:
        """Writes the waiting rows and stops the timer."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        # Not cancelled: its thread would go on writing to a closed database.
        if self._task is not None:
            await self._task
        await self.flush()

    async def flush(self) -> None:
        """Returns when all rows that were put before are in the database."""
        async with self._writing:
            taken, self._waiting = self._waiting, {}
            try:
                await self._write(taken)
            finally:
                if taken:
                    self._waiting = taken | self._waiting  # retried with the next batch

    async def _write(self, entries: dict[str, Entry]) -> None:
        """Writes the entries batch by batch; removes those that are written."""
        while entries:
            batch = list(islice(entries, BATCH_ROWS))
            rows = [astuple(entries[identity].settled()) for identity in batch]
            try:
                await self._database.write(self._upsert, rows)
            except _ROW_ERRORS:
                await self._write_each(rows)
            for identity in batch:
                del entries[identity]

    async def _write_each(self, rows: list[tuple[Any, ...]]) -> None:
        """Writes rows one by one after a batch failed, so that only the bad row is lost."""
        for row in rows:
            try:
                await self._database.write(self._upsert, [row])
            except _ROW_ERRORS as error:
                self._on_bug(error)

    def _set_timer(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._begin)

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._run(), name="ledger")

    async def _run(self) -> None:
        delay = BATCH_SECONDS
        try:
            await self.flush()
        except Exception as error:
            self._on_bug(error)
            delay = RETRY_SECONDS
        self._timer = None
        if self._waiting and not self._stopped:
            self._set_timer(delay)


async def close_interrupted(database: Database) -> int:
    """Marks rows that a crash left open as interrupted; returns how many there were."""
    async with database.begin() as connection:
        result = await connection.execute(
            calls.update().where(calls.c.outcome == "open").values(outcome="interrupted")
        )
        return result.rowcount


async def summary(database: Database, since: float, by: By | None = None) -> dict[str, Any]:
    """Usage since a Unix time: `{"total", "outcomes", "rows"}`.

    `rows` has one row for each call, oldest first, or one for each value of `by`. `cost` is the sum
    in US dollars over the calls with a price; None if no call has one.
    """
    numbers = [sa.func.count().label("calls")]
    numbers += [
        sa.func.coalesce(sa.func.sum(calls.c[f"{kind}_tokens"]), 0).label(f"{kind}_tokens")
        for kind in (*TOKENS, "cache_write")
    ]
    numbers.append(sa.func.sum(calls.c.cost).label("cost"))  # NULL where no call has a price
    in_period = calls.c.received >= since
    async with database.begin() as connection:
        total = (await connection.execute(sa.select(*numbers).where(in_period))).mappings().one()
        outcomes = await connection.execute(
            sa.select(calls.c.outcome, sa.func.count()).where(in_period).group_by(calls.c.outcome)
        )
        if by is None:
            query = calls.select().where(in_period).order_by(calls.c.received)
        else:
            column = calls.c[by]
            query = sa.select(column, *numbers).where(in_period).group_by(column).order_by(column)
        rows = (await connection.execute(query)).mappings()
        return {
            "total": dict(total),
            "outcomes": {row[0]: row[1] for row in outcomes},
            "rows": [dict(row) for row in rows],
        }
