"""Writes rows of the ledger into the database. A settled row is never replaced by an open one."""

from collections.abc import Callable, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    ProgrammingError,
)

from legato.store.database import Database, sqlstate
from legato.store.fitting import fitted
from legato.store.tables import calls

#: Errors that are caused by the row, not by the database: raised by a driver that cannot encode it.
_ROW_ERRORS: Final = (
    DataError,
    IntegrityError,
    InterfaceError,
    ProgrammingError,
    OverflowError,
    TypeError,
    UnicodeError,
)

#: Classes of PostgreSQL's codes that are about the row: data exceptions, constraints.
_ROW_STATES: Final = ("22", "23")


class Upsert:
    """Writes rows, tuples in the order of the columns."""

    def __init__(self, database: Database, on_bug: Callable[[BaseException], None]) -> None:
        """`on_bug`: told of a row that had to be changed or left out."""
        self._database = database
        self._on_bug = on_bug
        self._statement = _statement(is_sqlite=database.is_sqlite)

    async def write(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Writes the rows in one transaction. If one of them is not accepted, each is written on
        its own. Raises what `Database.write` raises if the database is at fault."""
        if not self._database.is_sqlite:
            # Two that write the same rows, a server and a replay, lock them in the same order.
            rows = sorted(rows, key=itemgetter(0))
        try:
            await self._database.write(self._statement, rows)
        except Exception as error:
            if not _is_about_a_row(error):
                raise
            for row in rows:
                await self._write_one(row)

    async def _write_one(self, row: tuple[Any, ...]) -> None:
        for values in (row, fitted(row)):
            try:
                await self._database.write(self._statement, [values])
            except Exception as error:
                if not _is_about_a_row(error):
                    raise
                self._on_bug(error)
            else:
                return


def _is_about_a_row(error: Exception) -> bool:
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return False
        state = sqlstate(error)
        if state is not None:
            return state[:2] in _ROW_STATES
        cause = error.orig.__cause__ if error.orig is not None else None
        if isinstance(error, InterfaceError) and cause is not None:
            return isinstance(cause, ValueError)  # asyncpg: a value, not a closed connection
    return isinstance(error, _ROW_ERRORS)


@cache
def _statement(*, is_sqlite: bool) -> str:
    """The upsert as raw SQL. Compiled once, executed with tuples: SQLAlchemy's usual path processes
    each value twice."""
    if is_sqlite:
        insert, dialect = sqlite.insert(calls), sqlite.dialect(paramstyle="qmark")  # type: ignore[no-untyped-call]
    else:
        insert, dialect = postgresql.insert(calls), asyncpg.dialect()  # type: ignore[no-untyped-call]
    columns = {column.name: insert.excluded[column.name] for column in calls.c}
    upsert = insert.on_conflict_do_update(
        index_elements=["id"],
        set_=columns,
        where=insert.excluded.outcome != sa.literal_column("'open'"),
    )
    compiled = upsert.compile(dialect=dialect)
    assert compiled.positiontup == [column.name for column in calls.c]
    return str(compiled)
