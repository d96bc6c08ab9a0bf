"""The ledger in the database: written in batches off the hot path, read by `legato usage`."""

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

#: Seconds that a row waits for company at most.
LATENCY: Final = 0.25

#: Seconds after which a database that took none is asked again.
RETRY: Final = 1.0

#: Rows that the database's thread takes at once. On a single core the event loop waits for what it
#: does: 200 rows kept every stream waiting for 3 ms.
PIECE: Final = 32

#: Calls that are kept as they were until their row is written. Of more of them the row is enough.
WHOLE: Final = 1000

#: Rows that may wait. With a database that is that far behind no more calls are taken: an answer
#: that nobody can account for is worse than a 503.
QUEUE: Final = 50_000

#: What is wrong with a row, and not with the database.
_UNWRITABLE: Final = (
    DataError,
    IntegrityError,
    InterfaceError,
    ProgrammingError,
    OverflowError,
    TypeError,
    UnicodeError,
)

By = Literal["key", "route", "outcome"]


class Entry(Protocol):
    """What is written down of one call."""

    def settled(self) -> Struct:
        """Its row, with the columns of the ledger as fields: the same whenever it is asked."""
        ...


class Writer:
    """Takes rows in memory, writes them together. A row may be put again: the last state counts."""

    def __init__(self, database: Database, on_bug: Callable[[BaseException], None]) -> None:
        self._database = database
        self._on_bug = on_bug
        self._waiting: dict[str, Entry] = {}
        self._timer: asyncio.TimerHandle | None = None  # from the first row on until they are taken
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._writing = asyncio.Lock()
        insert = sqlite.insert(calls)
        rest = {column.name: insert.excluded[column.name] for column in calls.c}
        upsert = insert.on_conflict_do_update(index_elements=["id"], set_=rest)
        # Compiled once, and given the rows as tuples: the usual way looks at every value twice.
        compiled = upsert.compile(dialect=sqlite.dialect(paramstyle="qmark"))  # type: ignore[no-untyped-call]
        assert compiled.positiontup == [column.name for column in calls.c]
        self._upsert = str(compiled)

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= QUEUE

    def put(self, identity: str, entry: Entry) -> None:
        """Its row is read when it is written."""
        if self._timer is None:
            self._set_timer(LATENCY)
        elif len(self._waiting) >= WHOLE:
            entry.settled()
        self._waiting[identity] = entry

    async def stop(self) -> None:
        """Writes what is waiting."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        # Not cancelled: what a thread has begun goes on, and would write on a closed database.
        if self._task is not None:
            await self._task
        await self.flush()

    async def flush(self) -> None:
        """Comes back when all that was put before is in the database."""
        async with self._writing:
            taken, self._waiting = self._waiting, {}
            try:
                await self._write(taken)
            finally:
                if taken:
                    self._waiting = taken | self._waiting  # nothing is lost: they are tried again

    async def _write(self, entries: dict[str, Entry]) -> None:
        """Those that are written are taken out."""
        while entries:
            piece = list(islice(entries, PIECE))
            rows = [astuple(entries[identity].settled()) for identity in piece]
            try:
                await self._database.write(self._upsert, rows)
            except _UNWRITABLE:
                await self._write_each(rows)
            for identity in piece:
                del entries[identity]

    async def _write_each(self, rows: list[tuple[Any, ...]]) -> None:
        """One of them is such that no database takes it: it must not take the others along."""
        for row in rows:
            try:
                await self._database.write(self._upsert, [row])
            except _UNWRITABLE as error:
                self._on_bug(error)

    def _set_timer(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._begin)

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._run(), name="ledger")

    async def _run(self) -> None:
        wait = LATENCY
        try:
            await self.flush()
        except Exception as error:
            self._on_bug(error)
            wait = RETRY
        self._timer = None
        if self._waiting and not self._stopped:
            self._set_timer(wait)


async def close_interrupted(database: Database) -> int:
    """Rows that a crash left open are closed; how many there were."""
    async with database.begin() as connection:
        done = await connection.execute(
            calls.update().where(calls.c.outcome == "open").values(outcome="interrupted")
        )
        return done.rowcount


async def summary(database: Database, since: float, by: By | None = None) -> dict[str, Any]:
    """Usage since a Unix time: `{"total", "outcomes", "rows"}`.

    `rows` are the calls themselves, oldest first, or one row for each value of `by`. `cost` is in
    US dollars, of the calls that have a price; None where none has.
    """
    numbers = [sa.func.count().label("calls")]
    numbers += [
        sa.func.coalesce(sa.func.sum(calls.c[f"{kind}_tokens"]), 0).label(f"{kind}_tokens")
        for kind in TOKENS
    ]
    numbers.append(sa.func.sum(calls.c.cost).label("cost"))  # NULL where no call has a price
    wanted = calls.c.received >= since
    async with database.begin() as connection:
        total = (await connection.execute(sa.select(*numbers).where(wanted))).mappings().one()
        outcomes = await connection.execute(
            sa.select(calls.c.outcome, sa.func.count()).where(wanted).group_by(calls.c.outcome)
        )
        if by is None:
            query = calls.select().where(wanted).order_by(calls.c.received)
        else:
            column = calls.c[by]
            query = sa.select(column, *numbers).where(wanted).group_by(column).order_by(column)
        rows = (await connection.execute(query)).mappings()
        return {
            "total": dict(total),
            "outcomes": {row[0]: row[1] for row in outcomes},
            "rows": [dict(row) for row in rows],
        }
