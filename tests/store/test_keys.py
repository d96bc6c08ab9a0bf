"""Keys: how they look, how they are kept, and that a running server follows the command line."""

import asyncio
import hashlib
import json
import re
import threading
from pathlib import Path

import pytest

from legato.core.errors import ApiError
from legato.policy.key_fields import ShownKey
from legato.policy.keys import Key, Keyring, create, digest
from legato.store import keys as store
from legato.store import migrations
from legato.store.database import Database
from legato.store.tables import HEAD
from tests.cli.test_cli import cli
from tests.conftest import Running, until
from tests.support.wire import ask, chat


def test_a_key_is_256_bits_and_its_digest_is_what_is_kept() -> None:
    made = [create() for _ in range(100)]
    for identity, key, hashed in made:
        assert re.fullmatch(r"lg-[A-Za-z0-9_-]{43}", key)
        assert re.fullmatch(r"key_[0-9a-f]{16}", identity)
        assert hashed == hashlib.sha256(key.encode()).digest()
    assert len({key for _, key, _ in made}) == len({each for each, _, _ in made}) == 100


KEY = Key("key_1", "one", digest(b"lg-one"), 1.0)
GONE = Key("key_2", "two", digest(b"lg-two"), 1.0, revoked=2.0)


def identify(ring: Keyring, authorization: bytes | None) -> Key:
    """The key of a request with this `Authorization` header."""
    headers = [] if authorization is None else [(b"authorization", authorization)]
    return ring.identify(headers)


@pytest.mark.parametrize("header", [b"Bearer lg-one", b"bearer lg-one", b"BEARER  lg-one "])
def test_who_a_caller_is(header: bytes) -> None:
    assert identify(Keyring([KEY, GONE]), header) is KEY


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_api_key"),
        (b"", "missing_api_key"),
        (b"lg-one", "missing_api_key"),
        (b"Bearer", "missing_api_key"),
        (b"Bearer  ", "missing_api_key"),
        (b"Basic lg-one", "missing_api_key"),
        (b"Bearer lg-none", "invalid_api_key"),
        (b"Bearer lg-one x", "invalid_api_key"),
        (b"Bearer LG-ONE", "invalid_api_key"),
        (b"Bearer \xff", "invalid_api_key"),
        (b"Bearer lg-two", "key_revoked"),
    ],
)
def test_who_a_caller_is_not(header: bytes | None, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        identify(Keyring([KEY, GONE]), header)
    assert (caught.value.status, caught.value.code) == (401, code)
    assert "lg-" not in caught.value.message


def test_a_keyring_is_replaced_as_a_whole() -> None:
    ring = Keyring([KEY])
    ring.replace([GONE])
    assert len(ring) == 1
    with pytest.raises(ApiError, match="not valid"):
        identify(ring, b"Bearer lg-one")


# The command line


async def test_create_list_revoke(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path))
    code, out, err = await cli("keys", "create", "app", "--json", *data)
    assert (code, err) == (0, "")
    made = json.loads(out)
    assert set(made) == {"id", "name", "key"}
    assert made["name"] == "app"
    code, out, _ = await cli("keys", "list", "--json", *data)
    (listed,) = json.loads(out)
    assert code == 0
    assert (listed["id"], listed["name"], listed["revoked"]) == (made["id"], "app", None)
    assert set(listed) == set(ShownKey.__struct_fields__)
    for path in tmp_path.iterdir():  # noqa: ASYNC240 - between two programs
        assert made["key"].encode() not in path.read_bytes(), path
    assert (await cli("keys", "revoke", "app", *data))[:2] == (0, "revoked 1 key\n")
    code, out, err = await cli("keys", "revoke", made["id"], *data)
    assert (code, out) == (1, "")
    assert err == f"legato: there is no active key `{made['id']}`\n"
    (listed,) = json.loads((await cli("keys", "list", "--json", *data))[1])
    assert listed["revoked"] >= listed["created"]


async def test_a_running_server_follows_within_a_second(legato: Running) -> None:
    data = ("--data", str(legato.app.settings.data_dir))
    code, out, _ = await cli("keys", "create", "app", "--json", *data)
    assert code == 0
    made = json.loads(out)
    ring = legato.app.services.keyring
    await until(lambda: len(ring) == 2, "the key is in force", seconds=1.0)
    assert (await ask(legato.port, made["key"], chat("happy", stream=True))).done
    assert (await cli("keys", "revoke", made["id"], *data))[0] == 0

    def revoked() -> bool:
        try:
            identify(ring, f"Bearer {made['key']}".encode())
        except ApiError as error:
            return error.code == "key_revoked"
        return False

    await until(revoked, "the key is not in force", seconds=1.0)
    answer = await ask(legato.port, made["key"], chat("happy"))
    assert answer.error is not None
    assert (answer.status, answer.error["code"]) == (401, "key_revoked")


async def test_a_running_server_follows_without_a_mark_too(
    legato: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file beside the database may be gone: now and then the database is asked."""
    monkeypatch.setattr(Database, "mark_changed", lambda *_: None)
    monkeypatch.setattr("legato.server.key_sync.DATABASE_POLL_SECONDS", 0.0)
    await store.add(legato.app.database, "key_1", "one", b"1" * 32)
    await until(lambda: len(legato.app.services.keyring) == 2, "the key is in force")


@pytest.mark.parametrize("name", ["", "x" * 201], ids=["empty", "long"])
async def test_a_name_has_1_to_200_characters(tmp_path: Path, name: str) -> None:
    code, out, err = await cli("keys", "create", name, "--data", str(tmp_path))
    assert (code, out) == (2, "")
    assert err.startswith("legato: ")


async def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "legato.db").write_bytes(b"this is no database, it is a text" * 100)
    code, out, err = await cli("keys", "list", "--data", str(tmp_path))
    assert (code, out) == (1, "")
    assert err.startswith("legato: ")
    assert "Traceback" not in err


# The database


def test_the_head_is_the_newest_migration() -> None:
    folder = Path(migrations.__file__).parent / "versions"
    assert max(path.stem.partition("_")[0] for path in folder.glob("[0-9]*.py")) == HEAD


async def test_a_change_has_another_number(tmp_path: Path) -> None:
    database = await Database.open(tmp_path)

    async def number() -> tuple[int, int]:
        return await store.version(database), database.change_mark(store.SUBJECT)

    numbers = [await number()]
    await store.add(database, "key_1", "one", b"1" * 32)
    numbers.append(await number())
    assert await store.revoke(database, "one") == 1
    numbers.append(await number())
    await database.close()
    again = await Database.open(tmp_path)
    assert await store.version(again) == numbers[-1][0]
    assert again.change_mark(store.SUBJECT) == numbers[-1][1]
    assert [row["id"] for row in await store.page(again)] == ["key_1"]
    await again.close()
    versions, stamps = zip(*numbers, strict=True)
    assert len(set(versions)) == len(set(stamps)) == 3


def test_many_that_open_at_once_migrate_once(tmp_path: Path) -> None:
    errors: list[BaseException] = []
    gate = threading.Barrier(4)

    async def use(number: int) -> None:
        database = await Database.open(tmp_path)
        try:
            await store.add(database, f"key_{number}", "x", bytes([number]) * 32)
        finally:
            await database.close()

    def run(number: int) -> None:
        try:
            gate.wait()
            asyncio.run(use(number))
        except BaseException as error:  # handed to the test
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert errors == []

    async def count() -> int:
        database = await Database.open(tmp_path)
        rows = await store.page(database)
        await database.close()
        return len(rows)

    assert asyncio.run(count()) == 4


async def test_the_names_of_keys(tmp_path: Path) -> None:
    database = await Database.open(tmp_path)
    assert await store.names(database) == {}
    for number in range(2):
        await store.add(database, f"key_{number}", f"name {number}", digest(b"%d" % number))
    await store.revoke(database, "key_1")
    assert await store.names(database) == {"key_0": "name 0", "key_1": "name 1"}
    await database.close()
