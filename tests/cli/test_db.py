"""`legato db`, and other commands with PostgreSQL."""

import json
from pathlib import Path

import pytest
from msgspec.structs import astuple

from legato.policy.ledger import Row
from legato.store.database import Database
from legato.store.instances import new_slot
from legato.store.journal import Journal, record
from legato.store.tables import HEAD
from tests.cli.test_cli import cli
from tests.support.postgres import BOTH, POSTGRES, Postgres

both = pytest.mark.parametrize("address", BOTH, indirect=True)


def options(folder: Path, address: str | None) -> dict[str, str]:
    return {"LEGATO_DATA": str(folder)} | ({"LEGATO_DATABASE": address} if address else {})


@both
async def test_check_and_upgrade(tmp_path: Path, address: str | None) -> None:
    environment = options(tmp_path / "data", address)
    code, out, err = await cli("db", "check", **environment)
    assert (code, err) == (1, "")
    assert "problem: the database has no tables yet: run `legato db upgrade`" in out
    assert not (tmp_path / "data").exists(), "a check changes nothing"
    code, out, err = await cli("db", "upgrade", **environment)
    assert (code, out, err) == (0, f"upgraded the database from nothing to revision {HEAD}\n", "")
    code, out, err = await cli("db", "upgrade", **environment)
    assert (code, out, err) == (0, f"the database is at revision {HEAD} already\n", "")
    code, out, err = await cli("db", "check", **environment)
    assert (code, err) == (0, "")
    assert "no problems" in out
    assert "secret" not in out


async def test_check_shows_the_journals(tmp_path: Path) -> None:
    await (await Database.open(tmp_path)).close()
    slot = new_slot(tmp_path)
    journal = Journal(tmp_path, slot.name)
    for data in (record(astuple(Row("one", 1.0))), b"damage\n", record(astuple(Row("two", 1.0)))):
        journal.append(data)
    code, out, _ = await cli("db", "check", "--json", **options(tmp_path, None))
    report = json.loads(out)
    (instance,) = report["instances"]
    assert (code, report["revision"]) == (1, HEAD)
    assert instance == {
        "name": slot.name,
        "running": True,
        "segments": 1,
        "records": 2,
        "damaged": 1,
    }
    assert report["problems"] == [f"the journal of {slot.name} has 1 damaged records"]
    journal.close(delete=False)
    slot.release()
    code, out, err = await cli("usage", "--since", "4000w", **options(tmp_path, None))
    assert (code, err.count("1 damaged records were left out")) == (0, 1)
    assert "2 calls: 2 open" in out
    assert slot.name in (await cli("db", "check", **options(tmp_path, None)))[1]


@both
async def test_a_damaged_database_is_found(tmp_path: Path, address: str | None) -> None:
    environment = options(tmp_path, address)
    if address is None:
        (tmp_path / "legato.db").write_bytes(b"no database at all" * 100)
    else:
        environment["LEGATO_DATABASE"] = address.replace("legato_", "nothing_")
    code, out, err = await cli("db", "check", **environment)
    assert (code, out) == (1, "")
    assert err.startswith("legato: the database ")
    assert "secret" not in err
    assert "Traceback" not in err


@POSTGRES
async def test_keys_and_usage_with_postgresql(tmp_path: Path, postgres: Postgres) -> None:
    environment = options(tmp_path, await postgres.create())
    code, out, _ = await cli("keys", "create", "app", "--json", **environment)
    assert code == 0
    code, out, _ = await cli("keys", "list", **environment)
    assert (code, "app" in out) == (0, True)
    code, out, _ = await cli("usage", "--json", "--by", "key", **environment)
    assert (code, json.loads(out)["total"]["calls"]) == (0, 0)
    assert not (tmp_path / "legato.db").exists()


async def test_the_address_is_checked_and_never_shown(tmp_path: Path) -> None:
    address = "postgresql://me:secret@host/name"
    code, out, _ = await cli("config", "show", **options(tmp_path, address))
    assert (code, "secret" in out) == (0, False)
    assert 'database = "postgresql://********@host/name"' in out
    code, out, err = await cli("config", "show", **options(tmp_path, "mysql://me:secret@host/db"))
    assert (code, out) == (2, "")
    assert "database: must be postgresql://user:password@host/name" in err
    assert "secret" not in err
