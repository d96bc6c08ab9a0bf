"""Changes of keys in the database, and the audit log of them."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from legato.store import audit, keys
from legato.store.audit import SERVER, Actor
from legato.store.database import Database
from legato.store.responses import ResponseStore
from legato.store.tables import audit as table
from legato.store.tables import keys as keys_table
from tests.support.postgres import BOTH

both = pytest.mark.parametrize("address", BOTH, indirect=True)
OPS = Actor("key:key_ops", "10.0.0.1")

#: What is never to be seen in an entry: the digests of secrets, as bytes, hex and base64.
DIGEST, OTHER = b"\x01" * 32, b"\x02" * 32
HIDDEN = [each for d in (DIGEST, OTHER) for each in (d.hex(), msgspec.json.encode(d).decode())]


async def acts(database: Database, **query: Any) -> list[tuple[Any, ...]]:
    """(actor, action, before, after) of the entries, oldest first."""
    found = await audit.entries(database, **query)
    text = msgspec.json.encode(found).decode()
    assert not [each for each in HIDDEN if each.strip('"') in text]
    return [(each.actor, each.action, each.before, each.after) for each in reversed(found)]


@both
async def test_each_change_has_an_entry(tmp_path: Path, address: str | None) -> None:
    database = await Database.open(tmp_path, address)
    columns = {"owner": "alice", "limits": '{"concurrent":2}', "created": 1.0}
    await keys.add(database, "key_1", "one", DIGEST, OPS, **columns)
    versions = [await keys.version(database)]

    async def update(action: str = "update", **values: Any) -> Any:
        row = await keys.update(database, "key_1", lambda _: values, OPS, action)
        versions.append(await keys.version(database))
        return row

    assert (await update(limits=None, tier="free"))["tier"] == "free"
    await update("disable", is_disabled=True)
    rotated = await keys.rotate(database, "key_1", OTHER, 60.0, OPS)
    assert (rotated["digest"], rotated["previous"]) == (OTHER, DIGEST)
    assert await keys.revoke(database, "one", OPS) == 1
    revoked = await keys.get(database, "key_1")
    found = await acts(database)
    await database.close()
    name = "key:key_ops"
    assert found == [
        (
            name,
            "create",
            None,
            {
                "name": "one",
                "owner": "alice",
                "limits": {"concurrent": 2},
                "created": 1.0,
                "disabled": False,
            },
        ),
        (
            name,
            "update",
            {"tier": None, "limits": {"concurrent": 2}},
            {"tier": "free", "limits": None},
        ),
        (name, "disable", {"disabled": False}, {"disabled": True}),
        (name, "rotate", {"previous_until": None}, {"previous_until": rotated["previous_until"]}),
        (name, "revoke", {"revoked": None}, {"revoked": revoked["revoked"]}),
    ]
    assert len(set(versions)) == len(versions)


@both
async def test_what_changes_nothing_has_no_entry(tmp_path: Path, address: str | None) -> None:
    database = await Database.open(tmp_path, address)
    await keys.add(database, "key_1", "one", DIGEST, tier="free")
    await keys.update(database, "key_1", lambda _: {"tier": "free"}, OPS)
    assert await keys.revoke(database, "nobody", OPS) == 0
    with pytest.raises(keys.UnknownKey):
        await keys.update(database, "key_2", lambda _: {"tier": "pro"}, OPS)
    with pytest.raises(keys.UnknownKey):
        await keys.rotate(database, "key_2", OTHER, 0.0, OPS)
    with pytest.raises(DBAPIError):
        await keys.add(database, "key_3", "three", DIGEST, OPS)
    assert [each[1] for each in await acts(database)] == ["create"]
    await keys.revoke(database, "key_1")
    with pytest.raises(keys.RevokedKey):
        await keys.update(database, "key_1", lambda _: {"tier": "pro"}, OPS)
    with pytest.raises(keys.RevokedKey):
        await keys.rotate(database, "key_1", OTHER, 0.0, OPS)
    assert [each[:2] for each in await acts(database)] == [
        (SERVER.name, "create"),
        (SERVER.name, "revoke"),
    ]
    await database.close()


@both
@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'x'", "DELETE FROM audit"])
async def test_the_log_is_append_only(tmp_path: Path, address: str | None, statement: str) -> None:
    database = await Database.open(tmp_path, address)
    await keys.add(database, "key_1", "one", DIGEST)
    with pytest.raises(DBAPIError, match="append-only"):
        async with database.begin() as connection:
            await connection.execute(sa.text(statement))
    assert len(await audit.entries(database)) == 1
    await database.close()


@both
async def test_pages_of_the_log(tmp_path: Path, address: str | None) -> None:
    database = await Database.open(tmp_path, address)
    for number in range(5):
        await keys.add(database, f"key_{number}", f"n{number}", bytes([number]) * 32)
    first = await audit.entries(database, limit=2)
    second = await audit.entries(database, limit=2, before=first[-1].id)
    assert [each.name for each in (*first, *second)] == ["n4", "n3", "n2", "n1"]
    assert [each.subject for each in await audit.entries(database, subject="key_1")] == ["key_1"]
    times = [each.time for each in await audit.entries(database)]
    assert len(await audit.entries(database, since=times[1])) == 2
    await database.close()


HOSTILE = [
    "'; DROP TABLE keys; --",
    '" OR 1=1 --',
    "%_\\",
    "$1 :name ? {0}",
    "Robert\u202e\U0001f600",
]


@both
async def test_no_text_is_sql(tmp_path: Path, address: str | None) -> None:
    database = await Database.open(tmp_path, address)
    for number, text in enumerate(HOSTILE):
        by = Actor(f"user:{text}", f"{text}\r\nx-injected: 1\x1b[31m\0")
        await keys.add(database, f"key_{number}", text, bytes([number]) * 32, by, owner=text)
    for number, text in enumerate(HOSTILE):
        (row,) = await keys.named(database, text)
        assert (row["id"], row["owner"]) == (f"key_{number}", text)
        assert [each["id"] for each in await keys.page(database, owner=text)] == [row["id"]]
        (entry,) = await audit.entries(database, subject=row["id"])
        assert entry.origin.isprintable()
        assert await keys.revoke(database, text) == 1
    assert len(await keys.page(database)) == len(HOSTILE)
    await database.close()


@both
async def test_changes_at_the_same_time_are_all_kept(tmp_path: Path, address: str | None) -> None:
    """Each reads what the one before wrote: a change of one limit never undoes another's."""
    database = await Database.open(tmp_path, address)
    other = await Database.open(tmp_path, address)
    await keys.add(database, "key_1", "one", DIGEST, tags="0")

    def add_one(row: keys.Row) -> dict[str, str]:
        return {"tags": str(int(row["tags"]) + 1)}

    await asyncio.gather(
        *(keys.update((database, other)[n % 2], "key_1", add_one, OPS) for n in range(10))
    )
    assert (await keys.get(database, "key_1"))["tags"] == "10"
    async with database.begin() as connection:
        entries = await connection.scalar(sa.select(sa.func.count()).select_from(table))
    assert entries == 11
    for each in (database, other):
        await each.close()


@both
async def test_only_what_changed_is_loaded(
    tmp_path: Path, address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("legato.store.keys.PAGE_ROWS", 3)
    database = await Database.open(tmp_path, address)
    async with database.begin() as connection:  # as those of before the column was added
        rows = [
            {"id": f"key_{n}", "name": "x", "digest": bytes([n]) * 32, "created": 0.0}
            | {"is_disabled": False, "changed": 0}
            for n in range(7)
        ]
        await connection.execute(keys_table.insert(), rows)

    async def loaded(number: int) -> list[list[str]]:
        pages = keys.changed_since(database, number)
        return [[row[0] for row in page] async for page in pages]

    assert await loaded(-1) == [
        ["key_0", "key_1", "key_2"],
        ["key_3", "key_4", "key_5"],
        ["key_6"],
    ]
    before = await keys.version(database)
    assert await loaded(before) == []
    await keys.update(database, "key_4", lambda _: {"tier": "free"}, OPS)
    await keys.revoke(database, "key_2")
    assert await loaded(before) == [["key_4", "key_2"]]
    assert await loaded(before + 1) == [["key_2"]]
    await database.close()


@both
async def test_pages_of_keys(tmp_path: Path, address: str | None) -> None:
    database = await Database.open(tmp_path, address)
    for n in range(5):
        role = "admin" if n == 2 else None
        created = float(n // 2)  # two at the same time
        await keys.add(database, f"key_{n}", "x", bytes([n]) * 32, created=created, role=role)

    async def ids(**query: Any) -> list[str]:
        return [row["id"] for row in await keys.page(database, **query)]

    assert await ids(limit=2) == ["key_0", "key_1"]
    assert await ids(limit=2, after="key_1") == ["key_2", "key_3"]
    assert await ids(after="key_0", has_role=False) == ["key_1", "key_3", "key_4"]
    assert await ids(has_role=True) == ["key_2"]
    with pytest.raises(keys.UnknownKey):
        await ids(after="key_9")
    await database.close()


@both
async def test_ids_that_no_database_can_hold(tmp_path: Path, address: str | None) -> None:
    """A path may have NUL in it, which PostgreSQL takes for an error."""
    database = await Database.open(tmp_path, address)
    await keys.add(database, "key_1", "one", DIGEST)
    with pytest.raises(keys.UnknownKey):
        await keys.get(database, "key_1\0")
    with pytest.raises(keys.UnknownKey):
        await keys.page(database, after="\0")
    assert not await audit.entries(database, subject="key_1\0")
    responses = ResponseStore(database)
    assert await responses.find("\0", "key_1", 0.0) is None
    assert not await responses.delete("\0", "key_1")
    await database.close()
