"""API keys in the database."""

import time
from typing import Final

import sqlalchemy as sa

from legato.store.database import Database
from legato.store.tables import changes, keys

#: The subject under which changes of keys are counted.
SUBJECT: Final = "keys"


async def add(database: Database, identity: str, name: str, digest: bytes) -> None:
    async with database.begin() as connection:
        await connection.execute(
            keys.insert().values(id=identity, name=name, digest=digest, created=time.time())
        )
        await connection.execute(_count_change())
    database.mark_changed(SUBJECT)


async def revoke(database: Database, name_or_id: str) -> int:
    """Revokes every active key with that name or id; returns how many there were."""
    async with database.begin() as connection:
        result = await connection.execute(
            keys.update()
            .where(sa.or_(keys.c.id == name_or_id, keys.c.name == name_or_id))
            .where(keys.c.revoked.is_(None))
            .values(revoked=time.time())
        )
        await connection.execute(_count_change())
    database.mark_changed(SUBJECT)
    return result.rowcount


async def all_keys(database: Database) -> list[dict[str, object]]:
    """All keys, revoked ones included, oldest first: `id`, `name`, `digest`, `created`,
    `revoked`."""
    async with database.begin() as connection:
        rows = await connection.execute(keys.select().order_by(keys.c.created))
        return [dict(row) for row in rows.mappings()]


async def version(database: Database) -> int:
    """A number that changes whenever a key is created or revoked."""
    async with database.begin() as connection:
        number = await connection.scalar(
            sa.select(changes.c.number).where(changes.c.subject == SUBJECT)
        )
        return number or 0


def _count_change() -> sa.Update:
    return changes.update().where(changes.c.subject == SUBJECT).values(number=changes.c.number + 1)


async def names(database: Database) -> dict[str, str]:
    """The name of each key, revoked ones included, by its id."""
    async with database.begin() as connection:
        found = await connection.execute(sa.select(keys.c.id, keys.c.name))
        return {row[0]: row[1] for row in found}
