"""Keys in the database."""

import time
from typing import Final

import sqlalchemy as sa

from legato.store.database import Database, changes, keys

#: Of changes that a running server hears of.
SUBJECT: Final = "keys"


async def add(database: Database, identity: str, name: str, digest: bytes) -> None:
    async with database.begin() as connection:
        await connection.execute(
            keys.insert().values(id=identity, name=name, digest=digest, created=time.time())
        )
        await connection.execute(_changed())
    database.touch(SUBJECT)


async def revoke(database: Database, name_or_id: str) -> int:
    """Revokes every key in force with that name or id; how many there were."""
    async with database.begin() as connection:
        done = await connection.execute(
            keys.update()
            .where(sa.or_(keys.c.id == name_or_id, keys.c.name == name_or_id))
            .where(keys.c.revoked.is_(None))
            .values(revoked=time.time())
        )
        await connection.execute(_changed())
    database.touch(SUBJECT)
    return done.rowcount


async def all_keys(database: Database) -> list[dict[str, object]]:
    """Every key ever made, oldest first: `id`, `name`, `digest`, `created`, `revoked`."""
    async with database.begin() as connection:
        rows = await connection.execute(keys.select().order_by(keys.c.created))
        return [dict(row) for row in rows.mappings()]


async def version(database: Database) -> int:
    """A number that is another one whenever a key was made or revoked since."""
    async with database.begin() as connection:
        number = await connection.scalar(
            sa.select(changes.c.number).where(changes.c.subject == SUBJECT)
        )
        return number or 0


def _changed() -> sa.Update:
    return changes.update().where(changes.c.subject == SUBJECT).values(number=changes.c.number + 1)
