"""The database: SQLite (WAL mode) in the data folder, or PostgreSQL.

The migrations in `migrations/` create the tables. Alembic is imported only if there is something to
migrate, so that it does not slow down every start.
"""

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from legato.store.tables import HEAD
from legato.store.urls import database_url, masked

#: Seconds for a connection to PostgreSQL, and for one statement.
CONNECT_SECONDS: Final = 5.0
COMMAND_SECONDS: Final = 60.0

#: Seconds for a few rows, after which PostgreSQL is away: one that hangs closes no connection.
ANSWER_SECONDS: Final = 10.0

#: What PostgreSQL reports where a table does not exist.
_UNDEFINED_TABLE: Final = "42P01"


class UnusableDatabase(OSError):
    """The database cannot be opened, or is of a newer version. The message has no password."""


class Database:
    """One database. `begin` opens a transaction; `write` is a faster path for frequent writes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine: AsyncEngine = create_async_engine(url, **_options(url))
        self.is_sqlite = self._engine.dialect.name == "sqlite"
        if self.is_sqlite:
            event.listen(self._engine.sync_engine, "connect", _prepare_sqlite)
        self._writer: _WriterThread | None = None
        self._marks = itertools.count(1)

    @classmethod
    async def open(cls, folder: Path, address: str | None = None) -> "Database":
        """Opens the database at `address`, or else SQLite in `folder`; creates or migrates it as
        needed. Raises `UnusableDatabase`, and SQLAlchemy's errors."""
        database = cls(database_url(folder, address))
        try:
            await database.prepare(folder)
        except BaseException:
            await database.close()
            raise
        return database

    @property
    def name(self) -> str:
        """The address, without user and password."""
        return masked(self.url)

    async def prepare(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # noqa: ASYNC240 - before any call
        await self.migrate(folder / "legato.db.lock")

    async def migrate(self, lock: Path) -> None:
        """`lock`: a file that serialises servers which migrate SQLite at the same time."""
        revision = await self.revision()
        if revision == HEAD:
            return
        if revision is not None and revision > HEAD:
            raise UnusableDatabase(
                f"the database {self.name} is of a newer version of Legato: its revision is"
                f" {revision}, this version knows {HEAD}"
            )
        from legato.store.migrations import upgrade

        async with self._engine.begin() as connection:
            await connection.run_sync(upgrade, lock)

    async def revision(self) -> str | None:
        """The migration that the database is at; None: it has no tables. Raises
        `UnusableDatabase` if PostgreSQL cannot be reached."""
        try:
            async with self._engine.connect() as connection:
                return await connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        except (OSError, DBAPIError) as error:
            if self.is_sqlite:
                if isinstance(error, OperationalError):
                    return None
                raise
            cause = error.orig if isinstance(error, DBAPIError) else error
            if isinstance(cause, TimeoutError):  # it says nothing
                cause = "it does not answer"
            if isinstance(error, ProgrammingError) and sqlstate(error) == _UNDEFINED_TABLE:
                return None
            raise UnusableDatabase(f"the database {self.name} cannot be opened: {cause}") from None

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        async with self._engine.begin() as connection:
            yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads: all of its statements see the same rows."""
        # Neither is the default: Python's driver for SQLite begins with the first write.
        begin = "BEGIN" if self.is_sqlite else "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
        async with self._engine.begin() as connection:
            await connection.exec_driver_sql(begin)
            yield connection

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that reads rows and then changes them. SQLite lets nobody else write from
        its begin on; with PostgreSQL the rows have to be locked as they are read."""
        async with self._engine.begin() as connection:
            if self.is_sqlite:
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    async def write(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Executes one statement (raw SQL) for each of these rows, in one transaction.

        Raises SQLAlchemy's errors, and OSError or TimeoutError where PostgreSQL is away.
        """
        if self.is_sqlite:
            writer = self._writer = self._writer or _WriterThread(self._engine.url)
            await writer.write(statement, rows)
            return
        async with asyncio.timeout(ANSWER_SECONDS), self._engine.begin() as connection:
            await connection.exec_driver_sql(statement, list(rows))

    async def make_durable(self) -> None:
        """Returns when a power cut cannot undo what was committed before. SQLite does not wait for
        the disk at each commit; PostgreSQL does."""
        if self.is_sqlite:
            await asyncio.to_thread(_sync, Path(f"{self._engine.url.database}-wal"))

    # A file next to SQLite gets one byte for each change: reading its size costs a hundredth of a
    # query. The file may be missing or lost; the table `changes` is authoritative.

    def mark_changed(self, subject: str) -> None:
        """Tells other processes that rows of `subject` have changed."""
        if self.is_sqlite:
            with contextlib.suppress(OSError), self._mark_file(subject).open("ab") as file:
                file.write(b".")

    def change_mark(self, subject: str) -> int:
        """A number that differs after each `mark_changed`, by any process. With PostgreSQL, which
        other hosts write to, it always differs: the table has to be asked."""
        if not self.is_sqlite:
            return next(self._marks)
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

    async def write(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._write, statement, rows)

    def _write(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        with self._engine.begin() as connection:
            connection.exec_driver_sql(statement, list(rows))

    def close(self) -> None:
        self._thread.shutdown()
        self._engine.dispose()


def sqlstate(error: DBAPIError) -> str | None:
    """PostgreSQL's code of an error; None for errors of SQLite and of a driver."""
    return getattr(error.orig, "sqlstate", None)


def _options(url: str) -> dict[str, Any]:
    options: dict[str, Any] = {"hide_parameters": True}  # errors do not show what was written
    if not url.startswith("sqlite"):
        # A connection that a restart of the server closed is replaced, not handed out.
        options["pool_pre_ping"] = True
        options["connect_args"] = {"timeout": CONNECT_SECONDS, "command_timeout": COMMAND_SECONDS}
    return options


def _sync(path: Path) -> None:
    """Syncs SQLite's log. SQLite holds no lock on this file that closing it here would release."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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
