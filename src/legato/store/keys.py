"""API keys in the database. Each change is counted, and has its entry in the audit log, in the same
transaction."""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from legato.store import audit
from legato.store.audit import SERVER, Actor
from legato.store.database import Database
from legato.store.fitting import sought
from legato.store.tables import changes, keys

#: The subject under which changes of keys are counted.
SUBJECT: Final = "keys"

#: Rows of one page of `changed_since`: what one page costs the event loop is a few milliseconds.
PAGE_ROWS: Final = 500

#: Columns that are JSON, and those that nobody is shown.
_JSON: Final = ("limits", "budget", "routes", "tags")
_HIDDEN: Final = ("id", "digest", "previous", "changed")

Row = Mapping[str, Any]


class UnknownKey(LookupError):
    """There is no key with this id."""


class RevokedKey(ValueError):
    """The key has been revoked, for good."""


async def add(
    database: Database, identity: str, name: str, digest: bytes, by: Actor = SERVER, **columns: Any
) -> Row:
    """Stores a new key, and returns its row. `columns`: further ones, by name."""
    values = {"is_disabled": False, "created": time.time()} | columns
    async with _changing(database) as (connection, number):
        row = values | {"id": identity, "name": name, "digest": digest, "changed": number}
        await connection.execute(keys.insert().values(row))
        added = await _read(connection, identity)
        after = {field: value for field, value in _shown(added).items() if value is not None}
        await audit.append(connection, by, "create", identity, None, after)
    return added


async def update(
    database: Database,
    identity: str,
    change: Callable[[Row], Mapping[str, Any]],
    by: Actor,
    action: str = "update",
) -> Row:
    """Sets the columns that `change` makes of a key's row, and returns the new row. Nothing is
    written if nothing changes.

    Raises `UnknownKey`, `RevokedKey`.
    """
    async with _changing(database) as (connection, number):
        before = await _read(connection, identity)
        if before["revoked"] is not None:
            raise RevokedKey(identity)
        columns = change(before)
        if all(before[name] == value for name, value in columns.items()):
            return before
        return await _write(connection, number, before, columns, by, action)


async def rotate(
    database: Database, identity: str, digest: bytes, overlap: float, by: Actor
) -> Row:
    """Gives a key another secret, and returns its row. The old one is good for `overlap` seconds
    more; the one before it, if it still was, is not any more.

    Raises `UnknownKey`, `RevokedKey`.
    """
    async with _changing(database) as (connection, number):
        before = await _read(connection, identity)
        if before["revoked"] is not None:
            raise RevokedKey(identity)
        columns = {
            "digest": digest,
            "previous": before["digest"],
            "previous_until": time.time() + overlap,
        }
        return await _write(connection, number, before, columns, by, "rotate")


async def revoke(database: Database, name_or_id: str, by: Actor = SERVER) -> int:
    """Revokes every active key with that name or id; returns how many there were."""
    async with _changing(database) as (connection, number):
        rows = await connection.execute(
            keys.select().where(_named(name_or_id)).where(keys.c.revoked.is_(None))
        )
        found: list[Row] = [dict(row) for row in rows.mappings()]
        for before in found:
            await _write(connection, number, before, {"revoked": time.time()}, by, "revoke")
    return len(found)


async def get(database: Database, identity: str) -> Row:
    """Raises `UnknownKey`."""
    async with database.begin() as connection:
        return await _read(connection, identity)


async def named(database: Database, name_or_id: str) -> list[Row]:
    """All keys with that name or id, revoked ones included, oldest first."""
    async with database.begin() as connection:
        query = keys.select().where(_named(name_or_id)).order_by(keys.c.created, keys.c.id)
        return [dict(row) for row in (await connection.execute(query)).mappings()]


async def page(
    database: Database,
    *,
    after: str | None = None,
    limit: int | None = None,
    owner: str | None = None,
    has_role: bool | None = None,
) -> list[Row]:
    """Keys, revoked ones included, oldest first. `after`: the id of the last one of the page that
    came before. `has_role`: only admin keys, or none. Raises `UnknownKey` for `after`."""
    table = keys.c
    query = keys.select().order_by(table.created, table.id).limit(limit)
    if owner is not None:
        query = query.where(table.owner == owner)
    if has_role is not None:
        query = query.where(table.role.is_not(None) if has_role else table.role.is_(None))
    async with database.begin() as connection:
        if after is not None:
            last = await _read(connection, after)
            query = query.where(
                sa.tuple_(table.created, table.id) > sa.tuple_(last["created"], last["id"])
            )
        return [dict(row) for row in (await connection.execute(query)).mappings()]


async def is_empty(database: Database) -> bool:
    """Whether there has never been a key."""
    async with database.begin() as connection:
        return await connection.scalar(sa.select(keys.c.id).limit(1)) is None


async def version(database: Database) -> int:
    """The number of the last change of a key."""
    async with database.begin() as connection:
        number = await connection.scalar(
            sa.select(changes.c.number).where(changes.c.subject == SUBJECT)
        )
        return number or 0


async def names(database: Database) -> dict[str, str]:
    """The name of each key, revoked ones included, by its id."""
    async with database.begin() as connection:
        found = await connection.execute(sa.select(keys.c.id, keys.c.name))
        return {row[0]: row[1] for row in found}


async def changed_since(database: Database, number: int) -> AsyncIterator[Sequence[Sequence[Any]]]:
    """The keys that changes after `number` wrote, in pages, in the order of the changes: rows in
    the order of the columns. A key that changes meanwhile may come twice."""
    order = (keys.c.changed, keys.c.id)
    where = keys.c.changed > number
    while True:
        query = keys.select().where(where).order_by(*order).limit(PAGE_ROWS)
        async with database.begin() as connection:
            rows = (await connection.execute(query)).all()
        if rows:
            yield rows
        if len(rows) < PAGE_ROWS:
            return
        where = sa.tuple_(*order) > sa.tuple_(rows[-1].changed, rows[-1].id)


@asynccontextmanager
async def _changing(database: Database) -> AsyncIterator[tuple[AsyncConnection, int]]:
    """A transaction that changes keys, and the number of its change. The first statement locks the
    counter: changes are committed in the order of their numbers, and what is read after it stays
    true until the end."""
    async with database.begin() as connection:
        number = await connection.scalar(
            changes.update()
            .where(changes.c.subject == SUBJECT)
            .values(number=changes.c.number + 1)
            .returning(changes.c.number)
        )
        assert number is not None
        yield connection, number
    database.mark_changed(SUBJECT)


async def _read(connection: AsyncConnection, identity: str) -> Row:
    query = keys.select().where(keys.c.id == sought(identity))
    row = (await connection.execute(query)).mappings().first()
    if row is None:
        raise UnknownKey(identity)
    return dict(row)


async def _write(
    connection: AsyncConnection,
    number: int,
    before: Row,
    columns: Mapping[str, Any],
    by: Actor,
    action: str,
) -> Row:
    identity = before["id"]
    values = dict(columns) | {"changed": number}
    await connection.execute(keys.update().where(keys.c.id == identity).values(values))
    after = await _read(connection, identity)
    old, new = _shown(before), _shown(after)
    changed = [name for name in new if old[name] != new[name]]
    await audit.append(
        connection,
        by,
        action,
        identity,
        {name: old[name] for name in changed},
        {name: new[name] for name in changed},
    )
    return after


def _shown(row: Row) -> dict[str, Any]:
    """The fields of a key that anybody may see, as the admin API calls them."""
    return {
        "disabled" if name == "is_disabled" else name: msgspec.Raw(value.encode())
        if name in _JSON and value is not None
        else value
        for name, value in row.items()
        if name not in _HIDDEN
    }


def _named(name_or_id: str) -> sa.ColumnElement[bool]:
    return sa.or_(keys.c.id == name_or_id, keys.c.name == name_or_id)
