"""Databases of earlier versions: they are migrated when they are opened, and keep their rows."""

import asyncio
import itertools
import time
from pathlib import Path
from typing import Any, Literal

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, astuple

from legato.policy.ledger import Row
from legato.store import keys, migrations
from legato.store.daily_sums import last_received
from legato.store.database import Database, UnusableDatabase
from legato.store.fitting import fitted
from legato.store.ledger import Writer, spent, summary
from legato.store.retention import BATCH_ROWS, Retention, delete_batch
from legato.store.tables import HEAD, calls, daily_sums, metadata
from legato.store.upsert import Upsert
from legato.store.urls import database_url, masked, postgresql_url
from tests.conftest import until
from tests.support.postgres import BOTH, POSTGRES, Postgres

VERSIONS = Path(migrations.__file__).parent / "versions"
REVISIONS = sorted(each.name[:4] for each in VERSIONS.glob("0*.py"))

both = pytest.mark.parametrize("address", BOTH, indirect=True)

#: Values for columns without a default, by their name in SQL.
OLD_ROW = {
    "id": "'old'",
    "received": "1795000000.0",
    "route": "'smart'",
    "deployments": "'primary'",
    "streamed": "true",
    "outcome": "'complete'",
    "prompt_tokens": "7",
    "completion_tokens": "3",
    "reasoning_tokens": "0",
    "cached_tokens": "4",
    "prompt_from": "'exact'",
    "completion_from": "'exact'",
    "reasoning_from": "'counted'",
    "cached_from": "'exact'",
    "frames": "5",
    "bytes": "1000",
}


async def migrate(database: Database, revision: str) -> None:
    """Brings the database to a revision, up or down."""

    def run(connection: sa.Connection) -> None:
        config = migrations.configuration(connection)
        now = MigrationContext.configure(connection).get_current_revision() or ""
        (command.upgrade if now < revision else command.downgrade)(config, revision)

    async with database.begin() as connection:
        await connection.run_sync(run)


async def create(folder: Path, address: str | None, revision: str) -> None:
    """A database of `revision` with two rows in its ledger, one of them open."""
    database = Database(database_url(folder, address))
    await migrate(database, revision)
    if revision >= "0002":
        async with database.begin() as connection:
            for row in (OLD_ROW, OLD_ROW | {"id": "'open'", "outcome": "'open'"}):
                columns, values = ", ".join(row), ", ".join(row.values())
                await connection.execute(
                    sa.text(f"INSERT INTO calls ({columns}) VALUES ({values})")
                )
    await database.close()


def test_the_newest_revision_is_known() -> None:
    assert REVISIONS[-1] == HEAD


def test_the_columns_of_the_ledger_are_the_fields_of_a_row() -> None:
    assert [column.name for column in calls.c] == list(Row.__struct_fields__)


@both
@pytest.mark.parametrize("revision", REVISIONS)
async def test_an_older_database_is_migrated_and_keeps_its_rows(
    tmp_path: Path, address: str | None, revision: str
) -> None:
    await create(tmp_path, address, revision)
    database = await Database.open(tmp_path, address)
    row = Row("new", 1_795_000_001.0, front="messages", session="s-1", agent="claude-code/2.1.197")
    row.cache_write_tokens, row.stripped_reasoning = 60, 2
    writer = Writer(database, lambda error: pytest.fail(str(error)))
    writer.put(row.id, row)
    await writer.stop()
    *old, new = (await summary(database, 0))["rows"]
    await database.close()
    assert new == asdict(row)
    if revision >= "0002":
        kept, left_open = sorted(old, key=lambda each: each["id"])
        assert (kept["prompt_tokens"], kept["cached_tokens"], kept["cost"]) == (7, 4, None)
        assert (kept["cache_write_tokens"], kept["stripped_reasoning"]) == (0, 0)
        assert (kept["front"], kept["session"], kept["agent"]) == ("chat", None, None)
        assert (kept["owner"], kept["instance"], kept["queued"]) == (None, None, 0.0)
        assert kept["streamed"] is True
        # No server could tell that such a call is its own.
        assert left_open["outcome"] == ("interrupted" if revision < "0006" else "open")


@both
async def test_migrations_can_be_undone(tmp_path: Path, address: str | None) -> None:
    database = await Database.open(tmp_path, address)
    for revision in [*reversed(REVISIONS[:-1]), HEAD]:
        await migrate(database, revision)
        assert await database.revision() == revision
    assert (await summary(database, 0))["rows"] == []
    await database.close()


@both
async def test_no_key_is_good_for_more_in_an_older_version(
    tmp_path: Path, address: str | None
) -> None:
    """Which knows no admin keys, no disabled ones, and no expiry."""
    database = await Database.open(tmp_path, address)
    columns: dict[str, dict[str, Any]] = {
        "key_admin": {"role": "admin"},
        "key_disabled": {"is_disabled": True},
        "key_expired": {"expires": 1.0},
        "key_good": {"expires": 4e9, "tier": "free"},
    }
    for number, (name, more) in enumerate(columns.items()):
        await keys.add(database, name, name, bytes([number]) * 32, **more)
    await migrate(database, "0006")
    async with database.begin() as connection:
        rows = await connection.scalars(sa.text("SELECT id FROM keys WHERE revoked IS NULL"))
        assert list(rows) == ["key_good"]
    await migrate(database, HEAD)
    assert len(await keys.page(database)) == 4
    await database.close()


@both
async def test_what_the_migrations_build_is_what_the_code_expects(
    tmp_path: Path, address: str | None
) -> None:
    database = await Database.open(tmp_path, address)

    def differences(connection: sa.Connection) -> Any:
        return compare_metadata(MigrationContext.configure(connection), metadata)

    async with database.begin() as connection:
        assert await connection.run_sync(differences) == []
        if database.is_sqlite:
            assert await connection.scalar(sa.text("PRAGMA journal_mode")) == "wal"
    await database.close()


@both
@pytest.mark.parametrize("statements", [4, 12, 20])
async def test_a_migration_that_is_cut_off_has_not_begun(
    tmp_path: Path, address: str | None, statements: int
) -> None:
    """The disk is full, the server is killed."""
    run = 0

    def cut(_: Any, __: Any, statement: str, *___: Any) -> None:
        nonlocal run
        run += 1
        if run > statements:
            raise OSError("the disk is full")

    sa.event.listen(sa.Engine, "before_cursor_execute", cut)
    try:
        with pytest.raises(OSError, match="full"):
            await Database.open(tmp_path, address)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", cut)
    database = await Database.open(tmp_path, address)
    assert await database.revision() == HEAD
    await keys.add(database, "key_1", "x", b"1" * 32)
    await database.close()


@POSTGRES
async def test_many_that_open_at_once_migrate_once(tmp_path: Path, postgres: Postgres) -> None:
    address = await postgres.create()
    opened = await asyncio.gather(*(Database.open(tmp_path, address) for _ in range(5)))
    for number, database in enumerate(opened):
        await keys.add(database, f"key_{number}", "x", bytes([number]) * 32)
    assert len(await keys.page(opened[0])) == 5
    for database in opened:
        await database.close()


@both
async def test_a_database_of_a_newer_version_is_refused(
    tmp_path: Path, address: str | None
) -> None:
    database = await Database.open(tmp_path, address)
    async with database.begin() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    await database.close()
    with pytest.raises(UnusableDatabase, match="is of a newer version of Legato") as caught:
        await Database.open(tmp_path, address)
    assert "secret" not in str(caught.value)


@both
async def test_keys_are_found_again(tmp_path: Path, address: str | None) -> None:
    database = await Database.open(tmp_path, address)
    marks = [database.change_mark(keys.SUBJECT)]
    await keys.add(database, "key_1", "one", b"1" * 32)
    marks.append(database.change_mark(keys.SUBJECT))
    assert await keys.version(database) == 1
    assert await keys.revoke(database, "one") == 1
    marks.append(database.change_mark(keys.SUBJECT))
    (row,) = await keys.page(database)
    assert (row["digest"], row["revoked"] is not None) == (b"1" * 32, True)
    await database.close()
    assert len(set(marks)) == 3


# Addresses


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("postgresql://u:p@h/db", "postgresql+asyncpg://u:p@h/db"),
        ("postgres://h:5433/db", "postgresql+asyncpg://h:5433/db"),
        (
            "postgresql://u:p%40@h/db?sslmode=require",
            "postgresql+asyncpg://u:p%40@h/db?ssl=require",
        ),
        ("postgresql://u@/db?host=%2Frun", "postgresql+asyncpg://u@/db?host=%2Frun"),
        ("postgresql://u:p@[::1]:5432/db", "postgresql+asyncpg://u:p@[::1]:5432/db"),
    ],
)
def test_addresses(given: str, url: str) -> None:
    assert postgresql_url(given) == url
    assert "p%40" not in masked(url)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("mysql://u:secret@h/db", "must be postgresql://"),
        ("legato.db", "must be postgresql://"),
        ("postgresql://u:secret@h", "name of the database is missing"),
        ("postgresql://u:secret@h/a/b", "name of the database is missing"),
        ("postgresql://u:se@cret@h/db", "as %40"),
        ("postgresql://u:1/secret@h/db", "as %40"),
        ("postgresql://u:se#cret@h/db", "as %40|port"),
        ("postgresql://u:secret@h:port/db", "the port is not a number"),
        ("postgresql://u:secret@/db", "the host is missing"),
        ("postgresql://h/db?password=secret", "`password` is not a parameter"),
        ("postgresql://u:secret@h/db?sslmode=maybe", "`sslmode` is not one of"),
    ],
)
def test_bad_addresses(given: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        postgresql_url(given)
    assert "secret" not in str(caught.value)
    assert "cret" not in str(caught.value)


@POSTGRES
@pytest.mark.parametrize("wrong", ["password", "port", "name"])
async def test_one_that_cannot_be_reached(tmp_path: Path, postgres: Postgres, wrong: str) -> None:
    address = postgres.address("nothing" if wrong == "name" else "postgres")
    if wrong == "password":
        address = address.replace("secret", "other")
    if wrong == "port":
        address = address.replace(f":{postgres.port}", ":1")
    with pytest.raises(UnusableDatabase, match="cannot be opened: ") as caught:
        await Database.open(tmp_path, address)
    assert "secret" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


@POSTGRES
async def test_one_that_hangs_is_away(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It closes no connection, and nobody hears from it: a stopped host, a firewall."""
    monkeypatch.setattr("legato.store.database.ANSWER_SECONDS", 0.3)
    answers = asyncio.Event()
    answers.set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await answers.wait()
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", postgres.port)
        await asyncio.gather(copy(reader, ours), copy(theirs, writer))

    peer = await asyncio.start_server(serve, "127.0.0.1")
    port = peer.sockets[0].getsockname()[1]
    address = (await postgres.create()).replace(f":{postgres.port}", f":{port}")
    database = await Database.open(tmp_path, address)
    statement = "UPDATE changes SET number = $1"
    await database.write(statement, [(1,)])
    answers.clear()
    with pytest.raises(TimeoutError):
        await database.write(statement, [(2,)])
    answers.set()
    await database.write(statement, [(3,)])
    assert await keys.version(database) == 3
    await database.close()
    peer.close()


# Rows


@both
async def test_an_open_row_never_replaces_another(tmp_path: Path, address: str | None) -> None:
    database = await Database.open(tmp_path, address)
    upsert = Upsert(database, lambda error: pytest.fail(str(error)))

    async def write(outcome: Any) -> str:
        row = Row("one", 1.0, outcome=outcome)
        await upsert.write([tuple(asdict(row).values())])
        return (await summary(database, 0))["rows"][0]["outcome"]

    assert await write("open") == "open"
    assert await write("complete") == "complete"
    assert await write("open") == "complete"
    await database.close()
    # A server that was taken for dead: its call has ended in truth.
    database = await Database.open(tmp_path, address)
    upsert = Upsert(database, lambda error: pytest.fail(str(error)))
    async with database.begin() as connection:
        await connection.execute(calls.update().values(outcome="interrupted"))
    assert await write("open") == "interrupted"
    assert await write("failed") == "failed"
    await database.close()


HOSTILE: dict[str, Any] = {
    "upstream_id": "id \0 \ud83d " + "x" * 300,
    "route": "r" * 100_000,
    "error": "e" * 65,
    "prompt_tokens": 2**70,
    "completion_tokens": 2**40,
    "ttft": float("nan"),
    "longest_gap": float("inf"),
    "session": "\0",
}


@both
@pytest.mark.parametrize("name", [*HOSTILE, "all"])
async def test_whatever_an_upstream_sends_the_row_is_written(
    tmp_path: Path, address: str | None, name: str
) -> None:
    database = await Database.open(tmp_path, address)
    reported: list[BaseException] = []
    row = Row("bad", 1.0, outcome="complete", prompt_tokens=1)
    for column, value in HOSTILE.items():
        if name in (column, "all"):
            setattr(row, column, value)
    await Upsert(database, reported.append).write(
        [tuple(asdict(each).values()) for each in (Row("before", 0.5), row, Row("behind", 2.0))]
    )
    rows = {each["id"]: each for each in (await summary(database, 0))["rows"]}
    assert set(rows) == {"before", "bad", "behind"}
    assert rows["bad"]["outcome"] == "complete"
    await database.close()


def test_a_row_of_another_version_fits() -> None:
    row = tuple(asdict(Row("one", 1.0, "key_1", outcome="failed")).values())
    assert fitted(row) == row
    assert fitted((*row, "of", "a newer version")) == row
    assert fitted(row[:30]) == row
    assert fitted(("one",))[:3] == ("one", 0.0, None)


@both
async def test_usage_by_each_column(tmp_path: Path, address: str | None) -> None:
    database = await Database.open(tmp_path, address)
    writer = Writer(database, lambda error: pytest.fail(str(error)))
    for number in range(4):
        row = Row(f"r{number}", float(number), "key_1" if number else None, outcome="complete")
        row.prompt_tokens, row.completion_tokens, row.cost = 2**40, number, 0.25
        writer.put(row.id, row)
    await writer.stop()
    report = await summary(database, 0, "key")
    await database.close()
    assert report["outcomes"]["complete"] == 4
    assert (report["total"]["prompt_tokens"], report["total"]["cost"]) == (2**42, 1.0)
    assert type(report["total"]["prompt_tokens"]) is int
    assert [(row["key"], row["completion_tokens"]) for row in report["rows"]] == [
        (None, 0),
        ("key_1", 6),
    ]


@both
async def test_old_rows_are_deleted_batch_by_batch(
    tmp_path: Path, address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("legato.store.retention.BATCH_ROWS", 3)
    assert BATCH_ROWS > 3
    database = await Database.open(tmp_path, address)
    rows = [Row(f"r{number}", float(number), outcome="complete") for number in range(10)]
    rows[1].outcome = "open"
    await Upsert(database, lambda error: pytest.fail(str(error))).write(
        [tuple(asdict(row).values()) for row in rows]
    )
    assert [await delete_batch(database, 6.0) for _ in range(3)] == [3, 2, 0]
    left = {row["id"] for row in (await summary(database, 0))["rows"]}
    assert left == {"r1", "r6", "r7", "r8", "r9"}
    await database.close()


MIDNIGHT = 1_794_960_000.0
names = st.sampled_from([None, "a", "é,'\"%:x"])
old_rows = st.builds(
    Row,
    id=st.uuids().map(str),
    received=st.floats(MIDNIGHT - 90_000, MIDNIGHT + 90_000),
    key=names,
    owner=names,
    outcome=st.sampled_from(["complete", "open"]),
    prompt_tokens=st.integers(0, 2**40),
    completion_tokens=st.integers(0, 2**40),
    cost=st.none() | st.floats(0, 1e6),
)


async def all_spent(database: Database) -> dict[str, Any]:
    found: dict[str, Any] = {}
    columns: tuple[Literal["key", "owner"], ...] = ("key", "owner")
    for column, since in itertools.product(columns, (0.0, MIDNIGHT)):
        sums = await spent(database, column, since)
        assert await spent(database, column, since, ["a"]) == {
            name: sums[name] for name in sums if name == "a"
        }
        for name, (cost, tokens) in sums.items():
            found[f"{column} {name} {since}"] = (pytest.approx(cost), tokens)
    return found


@both
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    rows=st.lists(old_rows, max_size=12, unique_by=lambda row: row.id),
    before=st.floats(MIDNIGHT - 90_000, MIDNIGHT + 90_000),
)
async def test_deleted_rows_go_on_counting_for_budgets(
    tmp_path: Path, address: str | None, rows: list[Row], before: float
) -> None:
    database = await Database.open(tmp_path, address)
    async with database.begin() as connection:
        for table in (calls, daily_sums):
            await connection.execute(table.delete())
    if rows:
        upsert = Upsert(database, lambda error: pytest.fail(str(error)))
        await upsert.write([astuple(row) for row in rows])
    whole = await all_spent(database)
    for end in (before, MIDNIGHT + 90_001):
        gone = [row for row in rows if row.outcome != "open" and row.received < end]
        await delete_batch(database, end)
        assert await all_spent(database) == whole
        report = await summary(database, 0)
        assert report["total"]["calls"] == len(rows) - len(gone)
        assert (report["deleted"] or {"calls": 0})["calls"] == len(gone)
        async with database.begin() as connection:
            last = max((row.received for row in gone), default=0.0)
            assert await last_received(connection) == last
    await database.close()


@both
async def test_several_servers_delete_at_once_and_each_row_counts_once(
    tmp_path: Path, address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("legato.store.retention.BATCH_ROWS", 20)
    databases = [await Database.open(tmp_path, address) for _ in range(3)]
    upsert = Upsert(databases[0], lambda error: pytest.fail(str(error)))
    for number in range(300):
        row = Row(f"r{number}", float(number), f"key_{number % 7}", outcome="complete")
        row.prompt_tokens = 1
        await upsert.write([astuple(row)])

    async def delete(database: Database) -> int:
        return sum([await delete_batch(database, 1e6) for _ in range(20)])

    async def watch() -> None:
        while not is_done:
            sums = await spent(databases[0], "key", 0.0)
            seen.append(sum(tokens for _, tokens in sums.values()))

    seen: list[int] = []
    is_done = False
    watching = asyncio.create_task(watch())
    assert sum(await asyncio.gather(*(delete(database) for database in databases))) == 300
    await until(lambda: len(seen) > 1)
    is_done = True
    await watching
    assert set(seen) == {300}
    assert (await summary(databases[0], 0))["deleted"]["calls"] == 300
    for database in databases:
        await database.close()


async def test_a_server_deletes_old_rows(tmp_path: Path) -> None:
    database = await Database.open(tmp_path)
    rows = [Row("old", time.time() - 86_500, outcome="complete")]
    rows.append(Row("new", time.time() - 86_300, outcome="complete"))
    await Upsert(database, lambda error: pytest.fail(str(error))).write(
        [tuple(asdict(row).values()) for row in rows]
    )
    retention = Retention(database, 1.0, lambda error: pytest.fail(str(error)))
    retention.start()
    left = {"old", "new"}
    while left != {"new"}:
        left = {row["id"] for row in (await summary(database, 0))["rows"]}
    await retention.stop()
    forever = Retention(database, None, lambda error: pytest.fail(str(error)))
    forever.start()
    await forever.stop()
    await database.close()
