"""What the ledger knows of budgets reaches the live state, also when the database was away."""

from pathlib import Path
from typing import Any

import pytest

from legato.policy.budgets import parse
from legato.policy.keys import Key
from legato.policy.ledger import Row
from legato.server import spending
from legato.server.spending import Spending
from legato.store.database import Database
from legato.store.ledger import Writer
from legato.store.live_memory import LiveMemory
from tests.conftest import until

KEY = Key("key_1", "app", b"", 0.0, budget=parse("100tokens"))
NOW = 1_795_000_000.0  # in November 2026
COUNTER = "key:key_1:tokens:total"


@pytest.mark.parametrize("what", ["a new budget", "Valkey is back"])
async def test_it_is_tried_until_the_database_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(spending, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(spending, "RELOAD_SECONDS", 0.01)
    database, tries = await Database.open(tmp_path), list[int]()
    ledger, live = Writer(database, pytest.fail), LiveMemory()  # type: ignore[arg-type]
    row = Row("one", 1.0, "key_1", outcome="complete", prompt_tokens=30, completion_tokens=12)
    ledger.put(row.id, row)
    await ledger.flush()
    loaded = spending.spent

    async def away(*arguments: Any) -> Any:
        tries.append(len(tries))
        if len(tries) < 3:
            raise ConnectionRefusedError
        return await loaded(*arguments)

    monkeypatch.setattr(spending, "spent", away)
    bugs: list[BaseException] = []
    watched = Spending(database, ledger, live, lambda: [KEY], {}, bugs.append)
    if what == "a new budget":
        watched.budgets_changed([KEY])
        watched.budgets_changed([KEY])  # while the first is being loaded
    else:
        watched.reload()
        watched.reload()
    await until(lambda: live.spent.get(COUNTER) == 42, "it is loaded")
    await watched.stop()
    assert bugs == []
    await ledger.stop()
    await database.close()


@pytest.mark.parametrize("many", [False, True])
async def test_what_has_a_budget_is_loaded_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """A start with millions of calls reads only what it needs of them."""
    monkeypatch.setattr(spending, "MAX_NAMES", 1 if many else 1000)
    database, live = await Database.open(tmp_path), LiveMemory()
    ledger = Writer(database, pytest.fail)  # type: ignore[arg-type]
    for key, owner, received in (
        ("a", "x", 1.0),
        ("b", "y", NOW),
        ("c", "x", NOW),
        ("d", "z", NOW),
    ):
        row = Row(f"{key}-call", received, f"key_{key}", outcome="complete", prompt_tokens=10)
        row.owner, row.cost = owner, 0.5
        ledger.put(row.id, row)
    await ledger.flush()
    keys = [
        Key("key_a", "a", b"", 0.0, budget=parse("100tokens")),
        Key("key_b", "b", b"", 0.0, budget=parse("1usd/month")),
        Key("key_c", "c", b"", 0.0, budget=parse("100tokens/month")),
        Key("key_d", "d", b"", 0.0),
    ]
    owners = {"x": parse("100tokens"), "y": parse("1usd"), "other": parse("1usd/month")}
    watched = Spending(database, ledger, live, lambda: keys, owners, pytest.fail, lambda: NOW)  # type: ignore[arg-type]
    await watched.load()
    assert live.spent == {
        "key:key_a:tokens:total": 10,
        "key:key_b:usd:2026-11": 0.5,
        "key:key_c:tokens:2026-11": 10,
        "owner:x:tokens:total": 20,
        "owner:y:usd:total": 0.5,
    }
    monkeypatch.setattr(spending, "spent", pytest.fail)
    await Spending(database, ledger, live, list, {}, pytest.fail).load()  # type: ignore[arg-type]
    await ledger.stop()
    await database.close()
