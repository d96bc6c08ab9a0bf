"""What remains of the rows of the ledger that `retention_days` deleted: sums by day, key and owner,
so that budgets go on counting them."""

from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from legato.store.tables import calls, daily_sums

#: The columns of `calls` that `add` needs.
SUMMED: Final = tuple(
    calls.c[name]
    for name in ("received", "key", "owner", "prompt_tokens", "completion_tokens", "cost")
)

_KEYS: Final = ("day", "key", "owner")
_COUNTS: Final = ("calls", "prompt_tokens", "completion_tokens", "cost")


def day(received: float) -> date:
    """The day in UTC of a Unix time; of one before 1970 the first."""
    return datetime.fromtimestamp(max(int(received), 0), UTC).date()


async def add(connection: AsyncConnection, rows: Iterable[sa.RowMapping]) -> None:
    """Adds rows with the columns `SUMMED`, which this transaction deletes."""
    sums: dict[tuple[date, str, str], dict[str, Any]] = {}
    for row in rows:
        received = row["received"]
        keys = (day(received), row["key"] or "", row["owner"] or "")
        each = sums.get(keys)
        if each is None:
            each = sums[keys] = dict(zip(_KEYS, keys, strict=True))
            each |= {**dict.fromkeys(_COUNTS, 0), "last_received": received}
        each["calls"] += 1
        each["prompt_tokens"] += row["prompt_tokens"]
        each["completion_tokens"] += row["completion_tokens"]
        each["cost"] += row["cost"] or 0.0
        each["last_received"] = max(each["last_received"], received)
    if sums:
        # Sorted: two servers that add to the same sums lock them in the same order.
        await connection.execute(_upsert(connection), [sums[keys] for keys in sorted(sums)])


def _upsert(connection: AsyncConnection) -> sa.Insert:
    kind = sqlite if connection.dialect.name == "sqlite" else postgresql
    insert = kind.insert(daily_sums)
    new, old = insert.excluded.last_received, daily_sums.c.last_received
    return insert.on_conflict_do_update(
        index_elements=_KEYS,
        set_={
            **{name: daily_sums.c[name] + insert.excluded[name] for name in _COUNTS},
            "last_received": sa.case((new > old, new), else_=old),
        },
    )


async def last_received(connection: AsyncConnection) -> float:
    """When the last call was received whose row was deleted, in Unix seconds; 0: none was."""
    last_day = sa.select(sa.func.max(daily_sums.c.day)).scalar_subquery()
    query = sa.select(sa.func.max(daily_sums.c.last_received)).where(daily_sums.c.day == last_day)
    return await connection.scalar(query) or 0.0


async def deleted(
    connection: AsyncConnection, since: float, key: str | None
) -> dict[str, Any] | None:
    """The sums of whole days in UTC, from that of a Unix time on: `{"from", "to", "calls",
    "prompt_tokens", "completion_tokens", "cost"}`; None if no row of them was deleted. `key`: of
    the key with this id; None: of all. `cost` is in US dollars."""
    days = daily_sums.c.day
    query = sa.select(
        sa.func.min(days).label("from"),
        sa.func.max(days).label("to"),
        *(sa.func.sum(daily_sums.c[name]).label(name) for name in _COUNTS),
    ).where(days >= day(since))
    if key is not None:
        query = query.where(daily_sums.c.key == key)
    row = (await connection.execute(query)).mappings().one()
    if row["from"] is None:
        return None
    counts = {name: int(row[name]) for name in _COUNTS[:-1]}
    return {"from": str(row["from"]), "to": str(row["to"]), **counts, "cost": row["cost"]}
