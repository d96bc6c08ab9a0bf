"""Responses of OpenAI's Responses API that are kept in the database."""

import sqlalchemy as sa
from msgspec import Struct
from msgspec.structs import asdict

from legato.store.database import Database
from legato.store.fitting import sought
from legato.store.tables import responses


class StoredResponse(Struct, frozen=True):
    """One response. Its fields are the columns of the table.

    `key`: the API key that asked for it. `expires`: Unix seconds. `items`: the whole conversation
    as a JSON list, of which the first `inputs` are the input. `response`: the object as JSON.
    """

    id: str
    key: str
    expires: float
    inputs: int
    items: bytes
    response: bytes


class ResponseStore:
    """Reads and writes them. Who asks with another key finds nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, identity: str, key: str, now: float) -> StoredResponse | None:
        """`now`: Unix seconds; what has expired is not found."""
        table = responses.c
        wanted = sa.and_(table.id == sought(identity), table.key == key, table.expires > now)
        async with self._database.begin() as connection:
            rows = await connection.execute(responses.select().where(wanted))
            row = rows.mappings().first()
        return StoredResponse(**row) if row is not None else None

    async def put(self, response: StoredResponse) -> None:
        async with self._database.begin() as connection:
            await connection.execute(responses.insert().values(**asdict(response)))

    async def delete(self, identity: str, key: str) -> bool:
        """Whether it was there."""
        table = responses.c
        wanted = sa.and_(table.id == sought(identity), table.key == key)
        async with self._database.begin() as connection:
            result = await connection.execute(responses.delete().where(wanted))
        return result.rowcount > 0

    async def purge(self, now: float) -> None:
        """Deletes what has expired."""
        async with self._database.begin() as connection:
            await connection.execute(responses.delete().where(responses.c.expires <= now))
