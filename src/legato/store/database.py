"""The SQLite database (WAL mode) and its tables: API keys, the ledger, kept responses.

The migrations in `migrations/` create the tables. Alembic is imported only if there is something to
migrate, so that it does not slow down every start.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

#: The newest migration; a test compares it with the files in `migrations/versions`.
HEAD: Final = "0005"

#: Token counts in the ledger that have a column with their source.
TOKENS: Final = ("prompt", "completion", "reasoning", "cached")

metadata = sa.MetaData()

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("revoked", sa.Float, nullable=True),
)

#: The ledger. The columns are the fields of `policy.ledger.Row`, in the same order.
calls = sa.Table(
    "calls",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("received", sa.Float, nullable=False),
    sa.Column("key", sa.String(32), nullable=True),
    sa.Column("route", sa.String(200), nullable=True),
    sa.Column("upstream_id", sa.String(200), nullable=True),
    sa.Column("deployments", sa.String(500), nullable=False),
    sa.Column("streamed", sa.Boolean, nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("error", sa.String(64), nullable=True),
    *(sa.Column(f"{kind}_tokens", sa.Integer, nullable=False) for kind in TOKENS),
    *(sa.Column(f"{kind}_from", sa.String(8), nullable=False) for kind in TOKENS),
    *(
        sa.Column(name, sa.Float, nullable=True)
        for name in ("ttft", "itl_p50", "itl_p99", "longest_gap", "duration")
    ),
    sa.Column("frames", sa.Integer, nullable=False),
    sa.Column("bytes", sa.Integer, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("errors", sa.String(1000), nullable=False),
    sa.Column("continuations", sa.Integer, nullable=False),
    sa.Column("cost", sa.Float, nullable=True),
    sa.Column("cache_write_tokens", sa.Integer, nullable=False),
    sa.Column("front", sa.String(16), nullable=False),
    sa.Column("session", sa.String(200), nullable=True),
    sa.Column("agent", sa.String(64), nullable=True),
    sa.Column("stripped_reasoning", sa.Integer, nullable=False),
    sa.Index("calls_received", "received"),
    sa.Index("calls_open", "outcome", sqlite_where=sa.text("outcome = 'open'")),
)

#: Responses that are kept (`store.responses`).
responses = sa.Table(
    "responses",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(32), nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("inputs", sa.Integer, nullable=False),
    sa.Column("items", sa.LargeBinary, nullable=False),
    sa.Column("response", sa.LargeBinary, nullable=False),
    sa.Index("responses_expires", "expires"),
)

#: A change counter for each subject: a running server detects changes without reading all rows.
changes = sa.Table(
    "changes",
    metadata,
    sa.Column("subject", sa.String(32), primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
)


def sqlite_url(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder / 'legato.db'}"


class Database:
    """One database. `begin` opens a transaction; `write` is a faster path for frequent writes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine: AsyncEngine = create_async_engine(url)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine.sync_engine, "connect", _prepare_sqlite)
        self._writer: _WriterThread | None = None

    @classmethod
    async def open(cls, folder: Path) -> "Database":
        """Opens the database in `folder`; creates or migrates it as needed."""
        database = cls(sqlite_url(folder))
        await database.prepare(folder)
        return database

    async def prepare(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # noqa: ASYNC240 - before any call
        await self.migrate(folder / "legato.db.lock")

    async def migrate(self, lock: Path) -> None:
        if await self._version() == HEAD:
            return
        from legato.store.migrations import upgrade

        async with self._engine.begin() as connection:
            await connection.run_sync(upgrade, lock)

    async def _version(self) -> str | None:
        try:
            async with self._engine.connect() as connection:
                return await connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        except OperationalError:
            return None

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        async with self._engine.begin() as connection:
            yield connection

    async def write(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        """Executes one statement (raw SQL) for each of these rows, in one transaction.

        Raises SQLAlchemy's errors.
        """
        writer = self._writer = self._writer or _WriterThread(self._engine.url)
        await writer.write(statement, rows)

    # A file next to the database gets one byte for each change: reading its size costs a hundredth
    # of a query. The file may be missing or lost; the table `changes` is authoritative.

    def mark_changed(self, subject: str) -> None:
        """Tells other processes that rows of `subject` have changed."""
        with contextlib.suppress(OSError), self._mark_file(subject).open("ab") as file:
            file.write(b".")

    def change_mark(self, subject: str) -> int:
        """A number that differs after each `mark_changed`, by any process."""
        try:
            return self._mark_file(subject).stat().st_size
        except OSError:
            return 0

    def _mark_file(self, subject: str) -> Path:
        return Path(f"{self._engine.url.database}.{subject}")

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        await self._engine.dispose()


class _WriterThread:
    """One thread with a synchronous engine. It runs a whole transaction in one step; with the async
    engine every step switches to a thread and back, which costs more than the writes."""

    def __init__(self, url: sa.URL) -> None:
        self._engine = sa.create_engine(url.set(drivername=url.get_backend_name()))
        event.listen(self._engine, "connect", _prepare_sqlite)
        self._thread = ThreadPoolExecutor(1, "database")

    async def write(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._write, statement, rows)

    def _write(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        with self._engine.begin() as connection:
            connection.exec_driver_sql(statement, rows)

    def close(self) -> None:
        self._thread.shutdown()
        self._engine.dispose()


def _prepare_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    # WAL: a reader (`legato usage`) and the server do not block each other. With WAL, NORMAL loses
    # at most the last transactions at a power cut and never corrupts the database.
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "busy_timeout=5000",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
