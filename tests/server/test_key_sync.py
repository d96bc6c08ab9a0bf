"""A running server follows what changes the keys, wherever it was done."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from legato.core.errors import ApiError
from legato.policy.keys import Keyring, digest
from legato.policy.limits import Limits
from legato.server.key_sync import KeySync
from legato.store import keys as store
from legato.store.audit import SERVER
from legato.store.database import Database
from legato.store.tables import changes, keys
from tests.conftest import Running, until
from tests.support.postgres import BOTH
from tests.support.wire import ask, chat

both = pytest.mark.parametrize("address", BOTH, indirect=True)


def state(ring: Keyring, secret: str) -> Any:
    """The key's limits, or the code of the refusal."""
    try:
        return ring.find(digest(secret.encode())).limits
    except ApiError as error:
        return error.code


class Replica:
    """What a server has of the keys."""

    def __init__(self, database: Database) -> None:
        self.ring, self.admins = Keyring(), Keyring()
        self.bugs: list[BaseException] = []
        self.checks: list[BaseException | None] = []
        self.sync = KeySync(
            database,
            self.ring,
            time.monotonic,
            self.bugs.append,
            self.checks.append,
            self.admins,
        )


@asynccontextmanager
async def replicas(folder: Path, address: str | None) -> AsyncIterator[list[Replica]]:
    """Two that run, each with a database object of its own."""
    databases = [await Database.open(folder, address) for _ in range(2)]
    found = [Replica(each) for each in databases]
    try:
        for each in found:
            await each.sync.start()
        yield found
    finally:
        for each in found:
            await each.sync.stop()
        for database in databases:
            await database.close()


@both
async def test_each_replica_follows_within_a_second(tmp_path: Path, address: str | None) -> None:
    database = await Database.open(tmp_path, address)
    async with replicas(tmp_path, address) as found:
        rings = [each.ring for each in found]

        async def all_have(secret: str, wanted: Any) -> None:
            await until(
                lambda: all(state(ring, secret) == wanted for ring in rings), secret, seconds=1.0
            )

        await store.add(database, "key_1", "one", digest(b"a"), limits='{"concurrent":2}')
        await all_have("a", Limits(concurrent=2))
        await store.update(database, "key_1", lambda _: {"limits": None}, SERVER)
        await all_have("a", Limits())
        await store.rotate(database, "key_1", digest(b"b"), 0.0, SERVER)
        await all_have("a", "key_rotated")
        await all_have("b", Limits())
        await store.update(database, "key_1", lambda _: {"is_disabled": True}, SERVER)
        await all_have("b", "key_disabled")
        await store.add(database, "key_2", "two", digest(b"c"), role="viewer")
        await until(lambda: all(len(each.admins) == 1 for each in found), seconds=1.0)
        assert [state(ring, "c") for ring in rings] == ["invalid_api_key"] * 2
        assert not [each.bugs for each in found if each.bugs]
    await database.close()


@both
async def test_a_row_that_cannot_be_read_stops_no_other(
    tmp_path: Path, address: str | None
) -> None:
    database = await Database.open(tmp_path, address)
    replica = Replica(database)
    await store.add(database, "key_1", "one", digest(b"a"), limits="{")
    await store.add(database, "key_2", "two", digest(b"b"))
    await replica.sync.refresh()
    assert [state(replica.ring, each) for each in "ab"] == ["key_disabled", Limits()]
    assert len(replica.bugs) == 1
    await database.close()


async def test_an_older_copy_of_the_database_is_loaded_as_a_whole(tmp_path: Path) -> None:
    database = await Database.open(tmp_path)
    replica = Replica(database)
    await store.add(database, "key_1", "one", digest(b"a"))
    await store.add(database, "key_2", "two", digest(b"b"))
    await replica.sync.refresh()
    async with database.begin() as connection:
        await connection.execute(keys.delete().where(keys.c.id == "key_2"))
        await connection.execute(changes.update().values(number=1))
    good = 0
    loading = asyncio.create_task(replica.sync.refresh())
    while not loading.done():
        assert state(replica.ring, "a") == Limits(), "no key is refused meanwhile"
        await asyncio.sleep(0)
        good += 1
    assert good > 1
    await loading
    assert [state(replica.ring, each) for each in "ab"] == [Limits(), "invalid_api_key"]
    await database.close()


async def test_keys_stay_good_while_the_database_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("legato.server.key_sync.POLL_SECONDS", 0.001)
    monkeypatch.setattr("legato.server.key_sync.DATABASE_POLL_SECONDS", 0.0)
    database = await Database.open(tmp_path)
    replica = Replica(database)
    await store.add(database, "key_1", "one", digest(b"a"))
    await replica.sync.start()
    asked = 0

    async def away(*_: Any) -> int:
        nonlocal asked
        asked += 1
        raise ConnectionRefusedError

    with monkeypatch.context() as patch:
        patch.setattr(store, "version", away)
        await until(lambda: asked > 5)
    assert type(replica.checks[-1]) is ConnectionRefusedError
    assert state(replica.ring, "a") == Limits()
    await store.revoke(database, "one")
    await until(lambda: state(replica.ring, "a") == "key_revoked")
    await until(lambda: replica.checks[-1] is None)
    assert replica.bugs == []
    await replica.sync.stop()
    await database.close()


@both
async def test_streams_go_on_while_many_keys_are_loaded(
    tmp_path: Path, address: str | None
) -> None:
    """20,000 of them; the work between two turns of the event loop is that of one page."""
    number = 20_000
    database = await Database.open(tmp_path, address)
    rows = [
        {"id": f"key_{n}", "name": f"n{n}", "digest": digest(b"%d" % n), "created": float(n)}
        | {"is_disabled": False, "changed": n + 1, "limits": f'{{"concurrent":{n % 50 + 1}}}'}
        for n in range(number)
    ]
    async with database.begin() as connection:
        await connection.execute(keys.insert(), rows)
        await connection.execute(changes.update().values(number=number))
    replica, turns = Replica(database), 0
    loading = asyncio.create_task(replica.sync.refresh())
    sizes: set[int] = set()
    while not loading.done():
        await asyncio.sleep(0)
        turns += 1
        sizes.add(len(replica.ring))
    await loading
    assert len(replica.ring) == number
    steps = sorted(sizes)
    assert max(b - a for a, b in itertools.pairwise(steps)) <= store.PAGE_ROWS
    assert state(replica.ring, "77") == Limits(concurrent=28)
    await store.revoke(database, "n77")
    loaded: list[int] = []
    take = replica.sync._take
    replica.sync._take = lambda rows: (loaded.append(len(rows)), take(rows))[1]  # type: ignore[method-assign]
    await replica.sync.refresh()
    assert loaded == [1]
    assert state(replica.ring, "77") == "key_revoked"
    async with database.begin() as connection:
        assert await connection.scalar(sa.select(sa.func.count()).select_from(keys)) == number
    await database.close()


async def test_a_database_is_not_back_while_it_can_only_be_read(
    legato: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, or a replica that another one has taken the place of."""
    tried = 0

    async def fail(*_: Any) -> None:
        nonlocal tried
        tried += 1
        raise OSError("the disk is full")

    def said(logs: Any) -> list[str]:
        return [each["event"] for each in logs if each["event"].startswith("database_")]

    monkeypatch.setattr("legato.server.key_sync.DATABASE_POLL_SECONDS", 0.0)
    monkeypatch.setattr("legato.server.key_sync.POLL_SECONDS", 0.01)
    monkeypatch.setattr("legato.store.ledger.RETRY_SECONDS", 0.01)
    with capture_logs() as logs:
        with monkeypatch.context() as patched:
            patched.setattr(legato.app.database, "write", fail)
            assert (await ask(legato.port, legato.key, chat("happy"))).status == 200
            await until(lambda: tried > 20)  # the keys have been read meanwhile
            assert said(logs) == ["database_unreachable"]
        await until(lambda: len(said(logs)) > 1)
        assert said(logs) == ["database_unreachable", "database_reachable"]
