"""The audit log: who did which administrative act, from where, and what it changed."""

import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from legato.store.database import Database
from legato.store.fitting import sought
from legato.store.tables import audit, keys

#: The longest actor and origin, in characters.
_LONGEST: Final = 200


class Actor(Struct, frozen=True):
    """Who acts: `key:ID` of an admin key, `user:NAME` at the command line, `server`. `origin`: the
    address or the host that they act from."""

    name: str
    origin: str


#: What the server does on its own.
SERVER: Final = Actor("server", "server")


class Entry(Struct, frozen=True):
    """One act. `time`: Unix seconds. `subject`: the id of the key that was changed; `name`: its
    name now. `before` and `after`: the fields that changed, without secrets and digests; None:
    there was nothing before."""

    id: int
    time: float
    actor: str
    origin: str
    action: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    name: str | None


async def append(
    connection: AsyncConnection,
    by: Actor,
    action: str,
    subject: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> None:
    """Adds an entry, in the transaction of the change itself."""
    await connection.execute(
        audit.insert().values(
            time=time.time(),
            actor=_printable(by.name),
            origin=_printable(by.origin),
            action=action,
            subject=subject,
            before=_json(before),
            after=_json(after),
        )
    )


async def entries(
    database: Database,
    *,
    since: float = 0.0,
    before: int | None = None,
    subject: str | None = None,
    limit: int | None = None,
) -> list[Entry]:
    """Entries, newest first. `since`: Unix seconds. `before`: the id of the last one of the page
    that came before. `subject`: those about one key."""
    table = audit.c
    query = (
        sa.select(audit, keys.c.name)
        .join(keys, keys.c.id == table.subject, isouter=True)
        .where(table.time >= since)
        .order_by(table.id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(table.id < before)
    if subject is not None:
        query = query.where(table.subject == sought(subject))
    async with database.begin() as connection:
        rows = [dict(row) for row in (await connection.execute(query)).mappings()]
    return [
        Entry(**{**row, "before": _object(row["before"]), "after": _object(row["after"])})
        for row in rows
    ]


def _printable(text: str) -> str:
    """A name from outside, as a log may show it."""
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    return shown[:_LONGEST]


def _json(fields: Mapping[str, Any] | None) -> str | None:
    return None if fields is None else msgspec.json.encode(fields).decode()


def _object(text: str | None) -> dict[str, Any] | None:
    return None if text is None else msgspec.json.decode(text)
