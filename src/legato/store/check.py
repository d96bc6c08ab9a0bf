"""Examines a database and the journals of a data folder without changing them (`legato db
check`)."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from legato.store import instances, journal
from legato.store.database import Database
from legato.store.tables import HEAD


async def examine(database: Database, folder: Path, *, quick: bool = False) -> dict[str, Any]:
    """`{"database", "revision", "head", "instances": [{"name", "running", "segments", "records",
    "damaged"}], "problems": [sentence]}`. `quick`: the pages of SQLite are not read.

    Raises what `Database.revision` raises.
    """
    problems: list[str] = []
    revision = await _revision(database, folder)
    if revision is None:
        problems.append("the database has no tables yet: run `legato db upgrade`")
    elif revision < HEAD:
        problems.append(f"revision {revision} is older than {HEAD}: run `legato db upgrade`")
    elif revision > HEAD:
        problems.append(f"revision {revision} is of a newer version of Legato")
    if revision is not None and database.is_sqlite and not quick:
        problems += await _damage(database)
    found = _instances(folder)
    for each in found:
        if each["damaged"]:
            problems.append(f"the journal of {each['name']} has {each['damaged']} damaged records")
    kept = sorted(journal.journal_folder(folder).glob("*.damaged"))
    problems += [f"{path} has damaged records that were left out" for path in kept]
    return {
        "database": database.name,
        "revision": revision,
        "head": HEAD,
        "instances": found,
        "problems": problems,
    }


async def _revision(database: Database, folder: Path) -> str | None:
    if database.is_sqlite and not (folder / "legato.db").exists():
        return None  # opening it would create it
    return await database.revision()


async def _damage(database: Database) -> list[str]:
    async with database.begin() as connection:
        rows = await connection.scalars(sa.text("PRAGMA quick_check"))
        return [f"SQLite: {line}" for line in rows if line != "ok"]


def _instances(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    with instances.holding(instances.free_slots(folder)) as free:
        for name in instances.names(folder):
            read = [journal.read(path) for _, path in journal.segments(folder, name)]
            found.append(
                {
                    "name": name,
                    "running": name not in free,
                    "segments": len(read),
                    "records": sum(len(each.rows) for each in read),
                    "damaged": sum(each.damaged for each in read),
                }
            )
    return found
