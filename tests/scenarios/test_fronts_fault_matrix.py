"""Every fault of the fault matrix, in the other two client formats: nowhere the end of a whole
answer behind a failure, and one row of the ledger for each."""

import gc
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.fault_stage import CELLS, Cell, Matrix, staged
from tests.support.fault_table import result, usage
from tests.support.front_answers import FRONTS
from tests.support.wire import Answer, Wire, request

#: Codes of failures that stay until the operator has done something.
INCURABLE = {"upstream_tls", "upstream_401", "bad_param", "context_length_exceeded"}

#: Whoever does not stream is never committed: when the fault comes makes no difference.
PLAYED = [
    each for each in CELLS if each.client == "stays" and (each.streamed or each.moment == "before")
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def matrix(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Matrix]:
    async with staged(tmp_path_factory.mktemp("matrix"), is_narrow=False) as stage:
        yield stage


@pytest.fixture(autouse=True, scope="module")
def no_garbage() -> Any:
    """Once for all cells: as often as they are it would take longer than they do."""
    yield
    gc.collect()


def is_whole(cell: Cell, front: Any, answer: Answer) -> None:
    assert cell.script is not None
    assert answer.status == 200
    assert front.is_complete(answer)
    assert front.error(answer) is None
    assert front.text(answer) == result(cell.script)
    assert [name for name, _ in front.calls(answer)] == [name for name, _ in cell.fault.calls]


def is_broken(cell: Cell, front: Any, answer: Answer) -> None:
    assert cell.fault.error is not None
    status, code = cell.fault.error
    error = front.error(answer)
    assert error is not None
    curable = status >= 429 and code not in INCURABLE
    assert error[1].endswith("Try again later.") is curable or code == "upstream_rate_limited"
    if cell.is_framed:
        assert answer.status == 200
        assert not front.is_complete(answer)
        has_begun = cell.script is not None and cell.fault.has_begun
        assert front.text(answer) == (result(cell.script) if has_begun and cell.script else "")
    else:
        assert answer.status == front.status(status, curable=curable)
        assert (answer.headers.get("retry-after") == "7") == (code == "upstream_rate_limited")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("front", FRONTS, ids=lambda front: front.name)
@pytest.mark.parametrize("cell", PLAYED, ids=lambda cell: cell.identity)
async def test_a_fault(matrix: Matrix, front: Any, cell: Cell) -> None:
    asks = front.asks(matrix.prepare(cell), "Hello", stream=cell.streamed)
    began, tasks = time.time(), matrix.tasks
    async with await Wire.open(matrix.legato.port) as wire:
        wire.send(request(matrix.legato.key, asks, path=front.path))
        answer = await wire.answer()
    (is_broken if cell.fault.error else is_whole)(cell, front, answer)
    await matrix.nothing_is_left(tasks)
    (row,) = await matrix.rows(began)
    fault = cell.fault
    assert (row["front"], row["outcome"]) == (front.name, fault.outcome)
    assert row["error"] == (fault.error[1] if fault.error else None)
    assert row["completion_from"] == fault.tokens
    if fault.tokens == "exact" and cell.script is not None:
        assert row["completion_tokens"] == usage(cell.script)["completion_tokens"]
