"""SIGKILL of a server under load: from the clients' side, no call is missing in the ledger."""

import asyncio
import random
from pathlib import Path

import pytest

from legato.mock.server import MockServer
from tests.conftest import until
from tests.support.postgres import BOTH, POSTGRES, Postgres
from tests.support.server_process import Clients, ServerProcess, check


@pytest.mark.parametrize("address", BOTH, indirect=True)
async def test_no_call_is_lost_or_doubled(
    tmp_path: Path, scripted: MockServer, address: str | None
) -> None:
    server = ServerProcess(tmp_path, await scripted.start(), address)
    told: dict[str, str] = {}
    sent = 0
    draw = random.Random(17)
    for kill in range(2):
        await server.start()
        clients = Clients(server, seed=kill)
        await until(lambda clients=clients: len(clients.told) > 30, "calls are answered", 30)
        await asyncio.sleep(draw.random() / 2)  # any moment will do
        await server.kill()
        await clients.end()
        told |= clients.told
        sent += clients.sent
        if kill == 0:  # once read while it is down, once after a start
            check(told, (await server.usage())["rows"], sent)
    await server.start()
    report = await server.usage()
    await server.stop()
    check(told, report["rows"], sent)
    assert report["outcomes"]["interrupted"] > 0
    assert report["outcomes"]["complete"] > 0
    assert len({row["instance"] for row in report["rows"]}) == 1, "a slot is used again"


@POSTGRES
async def test_a_database_that_is_away_and_back(
    tmp_path: Path, scripted: MockServer, postgres: Postgres
) -> None:
    """No call fails, no row is lost; the rows wait."""
    server = ServerProcess(tmp_path, await scripted.start(), await postgres.create())
    await server.start()
    clients = Clients(server, seed=3)
    await until(lambda: len(clients.told) > 20, "calls are answered", 30)
    postgres.stop()
    try:
        before = len(clients.told)
        await until(lambda: len(clients.told) > before + 100, "calls are answered", 30)
    finally:
        await asyncio.to_thread(postgres.start)
    before = len(clients.told)
    await until(lambda: len(clients.told) > before + 20, "calls are answered", 30)
    await clients.end()
    await server.stop()
    report = await server.usage()
    check(clients.told, report["rows"], clients.sent)
    assert set(clients.statuses) <= {200, 502}, "502: of the upstream that always fails"
    assert not report["outcomes"]["interrupted"]
