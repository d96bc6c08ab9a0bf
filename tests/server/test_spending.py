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
    watched = Spending(database, ledger, live, bugs.append)
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
