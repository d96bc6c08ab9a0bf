"""Databases of earlier versions: they are migrated when they are opened, and keep their rows."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from msgspec.structs import asdict

from legato.policy.ledger import Row
from legato.store import migrations
from legato.store.database import HEAD, Database, calls
from legato.store.ledger import Writer, summary

VERSIONS = Path(migrations.__file__).parent / "versions"
REVISIONS = sorted(each.name[:4] for each in VERSIONS.glob("0*.py"))

#: Values for columns without a default, by their name in SQL.
OLD_ROW = {
    "id": "'old'",
    "received": "1795000000.0",
    "route": "'smart'",
    "deployments": "'primary'",
    "streamed": "1",
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


def create(folder: Path, revision: str) -> None:
    """A database of `revision` with one row in its ledger."""
    folder.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(f"sqlite:///{folder / 'legato.db'}")
    config = Config()
    config.set_main_option("script_location", str(VERSIONS.parent))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        if revision >= "0002":
            columns, values = ", ".join(OLD_ROW), ", ".join(OLD_ROW.values())
            connection.execute(sa.text(f"INSERT INTO calls ({columns}) VALUES ({values})"))
    engine.dispose()


def test_the_newest_revision_is_known() -> None:
    assert REVISIONS[-1] == HEAD


def test_the_columns_of_the_ledger_are_the_fields_of_a_row() -> None:
    assert [column.name for column in calls.c] == list(Row.__struct_fields__)


@pytest.mark.parametrize("revision", REVISIONS)
async def test_an_older_database_is_migrated_and_keeps_its_rows(
    tmp_path: Path, revision: str
) -> None:
    create(tmp_path, revision)
    database = await Database.open(tmp_path)
    row = Row("new", 1_795_000_001.0, front="messages", session="s-1", agent="claude-code/2.1.197")
    row.cache_write_tokens, row.stripped_reasoning = 60, 2
    writer = Writer(database, lambda error: pytest.fail(str(error)))
    writer.put(row.id, row)
    await writer.stop()
    *old, new = (await summary(database, 0))["rows"]
    await database.close()
    assert new == asdict(row)
    if revision >= "0002":
        (kept,) = old
        assert (kept["prompt_tokens"], kept["cached_tokens"], kept["cost"]) == (7, 4, None)
        assert (kept["cache_write_tokens"], kept["stripped_reasoning"]) == (0, 0)
        assert (kept["front"], kept["session"], kept["agent"]) == ("chat", None, None)


async def test_migrations_can_be_undone(tmp_path: Path) -> None:
    await (await Database.open(tmp_path)).close()
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'legato.db'}")
    config = Config()
    config.set_main_option("script_location", str(VERSIONS.parent))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        command.upgrade(config, "head")
    engine.dispose()
    database = await Database.open(tmp_path)
    assert (await summary(database, 0))["rows"] == []
    await database.close()
