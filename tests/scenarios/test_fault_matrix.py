"""Every fault, at every moment, streamed or not, with every kind of client: the outcome is what the
contract says, one row is written, and nothing is left behind."""

import gc
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from legato.mock.scripts import SCRIPTS
from legato.mock.steps import Script, Step
from tests.conftest import until
from tests.scenarios.test_slow_client import narrow
from tests.support.fault_stage import CELLS, Cell, Matrix, staged
from tests.support.fault_table import FAT, FAULTS, LATE, pieces, said, usage
from tests.support.wire import Answer, Wire, chat, request

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def matrix(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Matrix]:
    async with staged(tmp_path_factory.mktemp("matrix")) as stage:
        yield stage


@pytest.fixture(autouse=True, scope="module")
def no_garbage() -> Any:
    """Once for all cells: as often as they are it would take longer than they do."""
    yield
    gc.collect()


# The clients


async def stay(matrix: Matrix, cell: Cell, asking: bytes) -> Answer:
    async with await Wire.open(matrix.legato.port) as wire:
        wire.send(asking)
        return await wire.answer()


async def read_slowly(matrix: Matrix, cell: Cell, asking: bytes) -> Answer:
    state = matrix.legato.server.server_state
    before = state.total_requests
    async with await narrow(matrix.legato.port) as wire:
        wire.send(asking)
        if cell.fills:
            await until(lambda: matrix.is_full, "the client's line is full")
        else:
            await until(lambda: state.total_requests > before, "it is answered")
        if cell.holds_back:
            await until(lambda: matrix.holds_back, "the upstream waits")
        else:
            settled = "the call is settled, read or not"
            holds_back = cell.may_hold_back
            await until(lambda: not state.tasks or (holds_back and matrix.holds_back), settled)
        return await wire.answer()


async def leave(matrix: Matrix, cell: Cell, asking: bytes) -> None:
    asked = matrix.asked
    async with await Wire.open(matrix.legato.port) as wire:
        wire.send(asking)
        if cell.fault.name == "refused":
            await wire.writer.drain()
        else:
            await until(lambda: matrix.asked > asked, "the upstream was asked")
        if cell.never_comes and cell.streamed:
            status, _ = await wire.head()
            assert status == 200
            assert await wire.chunk()
        wire.writer.transport.abort()


# What each must see


def folded(answer: Answer) -> list[dict[str, Any]]:
    """The tool calls of a stream."""
    calls: list[dict[str, Any]] = []
    for chunk in answer.chunks:
        for choice in chunk["choices"]:
            for call in choice["delta"].get("tool_calls", []):
                if call["index"] == len(calls):
                    calls.append(call)
                else:
                    calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    return calls


def is_whole(cell: Cell, answer: Answer) -> None:
    script, fault = cell.script, cell.fault
    assert script is not None
    assert answer.status == 200
    finish = "tool_calls" if fault.calls else "stop"
    if cell.streamed:
        assert answer.done
        assert answer.text() == said(script)
        assert answer.finishes() == [finish]
        assert not cell.is_told_by_comments or answer.comments
        calls = folded(answer)
    else:
        choice = answer.json["choices"][0]
        assert (choice["message"]["content"] or "") == said(script)
        assert choice["finish_reason"] == finish
        calls = choice["message"].get("tool_calls", [])
    assert [(call["function"]["name"], call["function"]["arguments"]) for call in calls] == list(
        fault.calls
    )


def is_broken(cell: Cell, answer: Answer) -> None:
    fault = cell.fault
    assert fault.error is not None
    status, code = fault.error
    assert answer.error is not None
    assert answer.error["code"] == code
    assert set(answer.error) == {"message", "type", "param", "code"}
    if cell.is_framed:
        assert answer.status == 200
        assert b"[DONE]" not in answer.body
        assert answer.finishes() == []
        assert answer.text() == (said(cell.script) if cell.script and fault.has_begun else "")
        assert not cell.is_told_by_comments or answer.comments
    else:
        assert answer.status == status
        assert (answer.headers.get("retry-after") == "7") == (code == "upstream_rate_limited")


def is_accounted_for(cell: Cell, row: dict[str, Any]) -> None:
    fault, script = cell.fault, cell.script
    assert row["outcome"] == fault.outcome
    assert row["error"] == (fault.error[1] if fault.error else None)
    assert row["completion_from"] == fault.tokens
    assert row["streamed"] == cell.streamed
    assert row["attempts"] == 1
    if fault.tokens == "exact" and script is not None:
        assert row["completion_tokens"] == usage(script)["completion_tokens"]
        assert row["prompt_tokens"] == 7
    else:
        counts = fault.tokens != "none" and script is not None
        assert row["completion_tokens"] == (pieces(script) if counts else 0)


def is_left(cell: Cell, row: dict[str, Any]) -> None:
    """The client was gone first; or, where the two came together, the fault may have been."""
    seen = cell.fault.seen_before()
    if cell.never_comes:
        assert row["outcome"] == "cancelled"
        assert row["error"] is None
        # What has been read is known where the client has seen some of it.
        assert row["completion_from"] in ({seen} if cell.streamed else {seen, "none"})
    elif row["outcome"] == "cancelled":
        assert row["error"] is None
        assert row["completion_from"] != "exact"
    else:
        is_accounted_for(cell, row)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.identity)
async def test_a_fault(matrix: Matrix, cell: Cell) -> None:
    asking = request(matrix.legato.key, chat(matrix.prepare(cell), stream=cell.streamed))
    began, tasks, answer = time.time(), matrix.tasks, None
    if cell.client == "leaves":
        await leave(matrix, cell, asking)
    else:
        answer = await (stay if cell.client == "stays" else read_slowly)(matrix, cell, asking)
        (is_broken if cell.fault.error else is_whole)(cell, answer)
    await matrix.nothing_is_left(tasks)
    (row,) = await matrix.rows(began)
    if answer is not None:
        assert row["id"] == answer.headers["x-request-id"].replace("req_", "chatcmpl-")
        is_accounted_for(cell, row)
    else:
        is_left(cell, row)
        if cell.never_comes and cell.script is not None:
            assert matrix.scripted.requests[-1].is_disconnected


@pytest.mark.asyncio(loop_scope="module")
async def test_a_connection_that_waited_for_a_slow_client_is_good_again(
    matrix: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backlog is full in the same read in which the answer ends."""
    monkeypatch.setattr("legato.upstreams.connection.SLOW_SHARE", 1 << 20)
    happy = SCRIPTS["happy"].steps
    fat = [Step(say=FAT), Step(wait=LATE), Step(say=FAT), *happy]
    matrix.scripted.scripts |= {"fault": Script(steps=fat)}
    asking = request(matrix.legato.key, chat("patient", stream=True))
    async with await narrow(matrix.legato.port) as wire:
        wire.send(asking)
        await until(lambda: matrix.is_full, "the client's line is full")
        await until(lambda: matrix.legato.busy == 0, "the answer has ended")
        answer = await wire.answer()
    assert answer.done
    assert answer.text() == FAT + FAT + said(SCRIPTS["happy"])
    opened = matrix.scripted.open_connections
    matrix.scripted.scripts |= {"fault": SCRIPTS["happy"]}
    async with await Wire.open(matrix.legato.port) as wire:
        wire.send(asking)
        answer = await wire.answer()
    assert answer.done
    assert matrix.scripted.open_connections == opened


def test_the_page_shows_this_table() -> None:
    _, _, table = PAGE.read_text().partition("\n| upstream |")
    rows = table.partition("\n\n")[0].splitlines()[2:]
    assert rows == [fault.row() for fault in FAULTS]
