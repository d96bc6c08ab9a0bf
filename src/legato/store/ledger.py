"""The ledger in the database: rows are journaled, then written in batches; `legato usage` reads
them."""

import asyncio
from collections.abc import Callable, Collection
from decimal import Decimal
from itertools import islice
from typing import Any, Final, Literal, Protocol

import sqlalchemy as sa
from msgspec import Struct
from msgspec.structs import astuple
from sqlalchemy.exc import SQLAlchemyError

from legato.store.daily_sums import day, deleted
from legato.store.database import Database
from legato.store.journal import PROBE, Journal, mark, record
from legato.store.tables import TOKENS, calls, daily_sums
from legato.store.upsert import Upsert

#: The longest time, in seconds, that a row waits for others to be written with.
BATCH_SECONDS: Final = 0.25

#: Seconds before a failed write is retried.
RETRY_SECONDS: Final = 1.0

#: Rows in one transaction. On a single core the event loop waits for the writer thread: with 200
#: rows every stream stalled for 3 ms.
BATCH_ROWS: Final = 32

#: Rows that may wait for the database. Beyond it new calls are refused: an unaccounted answer is
#: worse than a 503.
MAX_QUEUE: Final = 50_000

#: Rows that may wait while rows of refused calls are still taken.
MAX_REFUSED: Final = 5_000

#: What usage is added up by. `deployment`: the last one that was asked. `day`: in UTC.
By = Literal["key", "owner", "route", "outcome", "deployment", "front", "session", "agent", "day"]

#: How calls end, and `open` for those in progress.
OUTCOMES: Final = ("open", "complete", "cancelled", "failed", "refused", "interrupted")

#: The part of `deployments` after its last comma: what is left of it once everything that is not a
#: comma is cut off its end is what comes before.
_LAST_DEPLOYMENT: Final = (
    "nullif(substr(deployments, length(rtrim(deployments, replace(deployments, ',', ''))) + 1), '')"
)

#: Whole seconds first: the databases round parts of them differently.
_DAY_IN_SQLITE: Final = "date(CAST(received AS INTEGER), 'unixepoch')"
_DAY_IN_POSTGRESQL: Final = (
    "to_char(to_timestamp(floor(received)) AT TIME ZONE 'UTC', 'YYYY-MM-DD')"
)


class WrittenRow(Protocol):
    """A row of the ledger: a struct whose fields are the columns, in the same order."""

    instance: str | None


class Writer:
    """Appends rows to the journal at once, and writes them into the database in batches. `put`
    replaces a waiting row of the same call.

    `is_reachable`: whether the database took the last batch.
    """

    def __init__(
        self,
        database: Database,
        on_bug: Callable[[BaseException], None],
        on_state: Callable[[BaseException | None], None] = lambda _: None,
    ) -> None:
        """`on_state` is told when the database cannot be written to any more, and why, and with
        None when it can again."""
        self.is_reachable = True
        self._database = database
        self._on_bug = on_bug
        self._on_state = on_state
        self._upsert = Upsert(database, on_bug)
        self._journal: Journal | None = None
        self._instance: str | None = None
        self._waiting: dict[str, Struct] = {}
        self._unjournaled: dict[str, Struct] = {}  # those of them that the journal did not take
        self._timer: asyncio.TimerHandle | None = None  # None: no row is waiting
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._writing = asyncio.Lock()

    def use(self, journal: Journal, instance: str) -> None:
        """From now on rows are journaled, and carry the name of the slot."""
        self._journal, self._instance = journal, instance

    @property
    def waiting(self) -> int:
        """Rows that are not in the database yet."""
        return len(self._waiting)

    @property
    def journal_bytes(self) -> int:
        return 0 if self._journal is None else self._journal.size

    @property
    def is_full(self) -> bool:
        """Whether a further call might be lost: too many rows wait, or the journal takes none."""
        if len(self._waiting) >= MAX_QUEUE:
            return True
        return self._journal is not None and self._journal.is_full

    def put_refused(self, identity: str, row: WrittenRow) -> None:
        """The row of a call that was never admitted. It is left out where many rows wait: who sends
        thousands a second over a limit must not fill the ledger, and keep others from calling."""
        if len(self._waiting) < MAX_REFUSED:
            self.put(identity, row)

    def put(self, identity: str, row: WrittenRow) -> None:
        """Journals a row, and queues it. It may still change until it is written."""
        row.instance = self._instance
        written: Any = row  # a struct, which a protocol cannot say
        if self._journal is not None:
            if self._journal.append(record(astuple(written))):
                if self._unjournaled:
                    self._unjournaled.pop(identity, None)
            else:
                self._unjournaled[identity] = written
        if self._timer is None:
            self._set_timer(BATCH_SECONDS)
        self._waiting[identity] = written

    async def stop(self) -> None:
        """Writes the waiting rows, stops the timer and closes the journal. If the database is away
        the rows stay in the journal, for the next start; without a journal its error is raised."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        # Not cancelled: its thread would go on writing to a closed database.
        if self._task is not None:
            await self._task
        try:
            await self.flush()
            await self._database.make_durable()
        except (OSError, SQLAlchemyError) as error:
            self._note(error)
            if self._journal is None:
                raise
        if self._journal is not None:
            self._retry_journal()
            self._journal.close(delete=not self._waiting)

    async def flush(self) -> None:
        """Returns when all rows that were put before are in the database."""
        async with self._writing:
            journal = self._journal
            position = (0, 0) if journal is None else journal.position
            taken, self._waiting = self._waiting, {}
            is_news = bool(taken)
            try:
                await self._write(taken)
            finally:
                if taken:
                    self._waiting = taken | self._waiting  # retried with the next batch
            if journal is None:
                return
            if is_news and not journal.is_failing:
                journal.append(mark(position))
            if journal.has_before(position[0]):
                await self._database.make_durable()
                journal.delete_before(position[0])

    async def _write(self, entries: dict[str, Struct]) -> None:
        """Writes the entries batch by batch; removes those that are written."""
        while entries:
            batch = list(islice(entries, BATCH_ROWS))
            await self._upsert.write([astuple(entries[identity]) for identity in batch])
            for identity in batch:
                del entries[identity]

    def _retry_journal(self) -> None:
        """Appends what the journal did not take; ends with the first failure. While there is
        nothing of that kind, a blank line shows whether the disk has room again."""
        journal = self._journal
        if journal is None:
            return
        for identity, row in list(self._unjournaled.items()):
            if identity in self._waiting and not journal.append(record(astuple(row))):
                return
            del self._unjournaled[identity]
        if journal.is_failing:
            journal.append(PROBE)

    def _set_timer(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._begin)

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._run(), name="ledger")

    async def _run(self) -> None:
        delay = BATCH_SECONDS
        try:
            await self.flush()
            self._note(None)
        except (OSError, SQLAlchemyError) as error:  # a TimeoutError is an OSError
            self._note(error)
            delay = RETRY_SECONDS
        except Exception as error:
            self._on_bug(error)
            delay = RETRY_SECONDS
        journal = self._journal
        if journal is not None and journal.is_failing:
            self._retry_journal()
            delay = RETRY_SECONDS
        self._timer = None
        if not self._stopped and (self._waiting or (journal is not None and journal.is_failing)):
            self._set_timer(delay)

    def _note(self, error: BaseException | None) -> None:
        is_reachable = error is None
        if is_reachable != self.is_reachable:
            self.is_reachable = is_reachable
            self._on_state(error)


async def summary(
    database: Database,
    since: float,
    by: By | None = None,
    *,
    key: str | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """Usage since a Unix time: `{"total", "outcomes", "rows", "deleted"}`, all of one moment.
    `outcomes` has the number of each of `OUTCOMES`.

    `rows` has one row for each call, oldest first, or one for each value of `by`; with `limit` so
    many at most, the newest calls or the first values. `key`: the id of the key whose calls are
    read; None: all. `cost` is the sum in US dollars over the calls with a price; None if no call
    has one. `deleted`: what `daily_sums.deleted` returns; it is in none of the others.
    """
    numbers = [sa.func.count().label("calls")]
    numbers += [
        sa.func.coalesce(sa.func.sum(calls.c[f"{kind}_tokens"]), 0).label(f"{kind}_tokens")
        for kind in (*TOKENS, "cache_write")
    ]
    numbers.append(sa.func.sum(calls.c.cost).label("cost"))  # NULL where no call has a price
    chosen = calls.c.received >= since
    if key is not None:
        chosen &= calls.c.key == key
    if by is None:
        query = calls.select().where(chosen).order_by(calls.c.received.desc())
    else:
        first = sa.literal_column("1")
        query = sa.select(_column(by, database).label(by), *numbers).where(chosen)
        query = query.group_by(first).order_by(first.nulls_first())
    query = query.limit(limit)
    async with database.snapshot() as connection:
        total = (await connection.execute(sa.select(*numbers).where(chosen))).mappings().one()
        outcomes = await connection.execute(
            sa.select(calls.c.outcome, sa.func.count()).where(chosen).group_by(calls.c.outcome)
        )
        rows = (await connection.execute(query)).mappings()
        found = [_plain(row) for row in rows]
        return {
            "total": _plain(total),
            "outcomes": dict.fromkeys(OUTCOMES, 0) | {row[0]: row[1] for row in outcomes},
            "rows": found[::-1] if by is None else found,
            "deleted": await deleted(connection, since, key),
        }


async def spent(
    database: Database,
    column: Literal["key", "owner"],
    since: float,
    names: Collection[str] | None = None,
) -> dict[str, tuple[float, int]]:
    """(US dollars, tokens) that each key or owner, or each of `names`, has used since a Unix time,
    which is a midnight in UTC; deleted rows included."""

    def sums(table: sa.Table, chosen: sa.ColumnElement[bool]) -> sa.Select[*tuple[Any, ...]]:
        by = table.c[column]
        if names is not None:
            chosen &= by.in_(names)
        cost = sa.func.coalesce(sa.func.sum(table.c.cost), 0.0)
        tokens = sa.func.sum(table.c.prompt_tokens + table.c.completion_tokens)
        return sa.select(by.label("name"), cost, tokens).where(chosen).group_by(by)

    kept = sums(calls, (calls.c.received >= since) & calls.c[column].is_not(None))
    gone = sums(daily_sums, (daily_sums.c.day >= day(since)) & (daily_sums.c[column] != ""))
    found: dict[str, tuple[float, int]] = {}
    async with database.begin() as connection:
        # One statement: a row that is deleted meanwhile is in one of the two.
        for name, cost, tokens in await connection.execute(sa.union_all(kept, gone)):
            before = found.get(name, (0.0, 0))
            found[name] = (before[0] + float(cost), before[1] + int(tokens))
    return found


def _column(by: By, database: Database) -> sa.ColumnElement[Any]:
    if by == "deployment":
        return sa.literal_column(_LAST_DEPLOYMENT, sa.String)
    if by == "day":
        day = _DAY_IN_SQLITE if database.is_sqlite else _DAY_IN_POSTGRESQL
        return sa.literal_column(day, sa.String)
    return calls.c[by]


def _plain(row: sa.RowMapping) -> dict[str, Any]:
    """PostgreSQL's sums of integers are decimal numbers."""
    return {
        name: int(value) if isinstance(value, Decimal) else value for name, value in row.items()
    }
