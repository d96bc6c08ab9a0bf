"""Usage from the ledger: the totals are the sums of the rows, on both databases alike."""

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple

from legato.policy.ledger import Outcome, Row
from legato.store.database import Database
from legato.store.ledger import OUTCOMES, By, summary
from legato.store.tables import calls
from legato.store.upsert import Upsert
from tests.support.postgres import BOTH

both: Any = pytest.mark.parametrize("address", BOTH, indirect=True)

MIDNIGHT = 1_794_960_000.0
KINDS = ("prompt", "completion", "reasoning", "cached", "cache_write")
BYS: tuple[By, ...] = get_args(By)

names = st.sampled_from([None, "", "a", "b", "=1+1", "é,'\"%:x"])
tokens = st.integers(0, 2**40)
rows = st.builds(
    Row,
    id=st.uuids().map(str),
    received=st.floats(MIDNIGHT - 90_000, MIDNIGHT + 90_000),
    key=st.sampled_from([None, "key_1", "key_2"]),
    owner=names,
    route=names,
    session=names,
    agent=names,
    front=st.sampled_from(["chat", "messages"]),
    outcome=st.sampled_from(get_args(Outcome)),
    deployments=st.lists(st.sampled_from(["a", "b/c", "d%e", "ü"]), max_size=3).map(",".join),
    cost=st.none() | st.floats(0, 1e6),
    **{f"{kind}_tokens": tokens for kind in KINDS},
)


@pytest.fixture
async def database(tmp_path: Path, address: str | None) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path, address)
    yield database
    await database.close()


async def write(database: Database, found: Iterable[Row]) -> None:
    """Makes these the rows of the ledger."""
    async with database.begin() as connection:
        await connection.execute(calls.delete())
    upsert = Upsert(database, lambda error: pytest.fail(str(error)))
    if values := [astuple(row) for row in found]:
        await upsert.write(values)


def value(row: Row, by: By) -> Any:
    if by == "deployment":
        return row.deployments.split(",")[-1] or None
    if by == "day":
        return datetime.fromtimestamp(int(row.received), UTC).strftime("%Y-%m-%d")
    return getattr(row, by)


def numbers(found: list[Row]) -> dict[str, Any]:
    costs = [row.cost for row in found if row.cost is not None]
    return {
        "calls": len(found),
        **{
            f"{kind}_tokens": sum(getattr(row, f"{kind}_tokens") for row in found) for kind in KINDS
        },
        "cost": pytest.approx(sum(costs)) if costs else None,
    }


@both
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    found=st.lists(rows, max_size=12, unique_by=lambda row: row.id),
    by=st.sampled_from(BYS),
    key=st.sampled_from([None, "key_1"]),
    since=st.sampled_from([0.0, MIDNIGHT]),
)
async def test_the_totals_are_the_sums_of_the_rows(
    database: Database, found: list[Row], by: By, key: str | None, since: float
) -> None:
    await write(database, found)
    report = await summary(database, since, by, key=key)
    listed = await summary(database, since, key=key)
    chosen = [row for row in found if row.received >= since and key in (None, row.key)]
    assert report["total"] == listed["total"] == numbers(chosen)
    assert report["outcomes"] == listed["outcomes"]
    assert list(report["outcomes"]) == list(OUTCOMES) == list(get_args(Outcome))
    assert Counter(report["outcomes"]) == Counter(row.outcome for row in chosen)
    assert {row["id"] for row in listed["rows"]} == {row.id for row in chosen}
    groups = {row[by]: {name: row[name] for name in row if name != by} for row in report["rows"]}
    assert len(groups) == len(report["rows"])
    assert groups == {
        each: numbers([row for row in chosen if value(row, by) == each])
        for each in {value(row, by) for row in chosen}
    }


@both
@pytest.mark.parametrize("seconds", [0.0, 1e-6, 43_200.0, 86_399.0, 86_399.9999])
async def test_a_day_begins_at_midnight_in_utc(database: Database, seconds: float) -> None:
    await write(database, [Row("one", MIDNIGHT + seconds)])
    (row,) = (await summary(database, 0, "day"))["rows"]
    assert (row["day"], row["calls"]) == ("2026-11-18", 1)


@both
async def test_the_last_calls(database: Database) -> None:
    await write(database, [Row(f"call {number}", MIDNIGHT + number) for number in range(5)])
    report = await summary(database, 0, limit=2)
    assert [row["id"] for row in report["rows"]] == ["call 3", "call 4"]
    assert report["total"]["calls"] == 5
    report = await summary(database, 0, "key", limit=0)
    assert (report["rows"], report["total"]["calls"]) == ([], 5)


@both
async def test_statements_of_a_snapshot_see_the_same_rows(database: Database) -> None:
    count = sa.select(sa.func.count()).select_from(calls)
    await write(database, [Row("one", MIDNIGHT)])
    async with database.snapshot() as connection:
        assert await connection.scalar(count) == 1
        upsert = Upsert(database, lambda error: pytest.fail(str(error)))
        await upsert.write([astuple(Row("two", MIDNIGHT))])
        assert await connection.scalar(count) == 1
    async with database.snapshot() as connection:
        assert await connection.scalar(count) == 2
