"""The contract, section 10, over the wire: whole answers, failure, heartbeats, padding."""

import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.contract_server import ContractServer, built, error_of
from tests.support.responses_order import Told, check_response, split
from tests.support.wire import Answer, ask

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]

PATH = "/v1/responses"
TEXT = "Once upon a time, there was a stream."


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def contract(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ContractServer]:
    async with built(tmp_path_factory.mktemp("house")) as contract:
        yield contract


@pytest.fixture(autouse=True, scope="module")
def no_garbage() -> Any:
    """Once for all: after each test it would take longer than they do."""
    yield
    gc.collect()


async def asked(contract: ContractServer, model: str, **more: Any) -> Answer:
    legato = contract.legato
    body = {"model": model, "input": "Hello"} | more
    return await ask(legato.port, legato.key, body, path=PATH)


# Whole answers of odd upstreams

WHOLE = (
    *("happy", "thinking", "tools", "tool-chaos", "function-call", "crlf", "bom", "gzip", "whole"),
    *("utf8-split", "separators", "huge-line", "finish-merged", "usage-nowhere", "cut-late"),
    *("role-every-chunk", "null-content", "content-parts", "strangers", "separators-anywhere"),
)


@pytest.mark.parametrize("name", WHOLE)
async def test_whole_answers(contract: ContractServer, name: str) -> None:
    streamed = await asked(contract, name, stream=True)
    told = Told(streamed.body)
    assert told.response["status"] == "completed"
    whole = check_response((await asked(contract, name)).json)
    assert len(whole["output"]) == len(told.response["output"])
    row = await contract.row()
    assert row["outcome"] == "complete"


# After the first event: `response.failed`, and nothing that looks like an end

BROKEN = (
    *("cut", "reset", "no-finish", "bad-json", "error-in-band", "error-then-done"),
    *("half-an-event", "unfinished", "separators-in-error", "hasty/stall", "hasty/murmur"),
)


@pytest.mark.parametrize("name", BROKEN)
async def test_a_failure_behind_the_first_event(contract: ContractServer, name: str) -> None:
    """`response.failed` with `response.error: {code, message}` inside `response`."""
    answer = await asked(contract, name, stream=True)
    assert answer.status == 200
    told = Told(answer.body)
    assert told.kinds[-1] == "failed"
    assert told.has_open, "the open item stays open"
    assert not any(each.endswith((".done", "completed", "incomplete")) for each in told.kinds)
    assert told.error is not None
    assert told.error["code"] == "server_error"
    assert told.error["message"].endswith("Try again later.")
    assert b"[DONE]" not in answer.body
    assert (await contract.row())["outcome"] == "failed"


FIRST = (
    *("cut-early", "no-head", "empty", "error-first", "bad-json-first", "error-body", "html"),
    *("401", "500", "503", "429", "hasty/stall-early"),
)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", FIRST)
async def test_a_failure_before_it(contract: ContractServer, name: str, stream: bool) -> None:
    """A status and OpenAI's error object: the same as on the other front."""
    answer = await asked(contract, name, stream=stream)
    status, error = error_of(answer)
    chat = await contract.refused(name)
    assert (status, error) == chat


@pytest.mark.parametrize("stream", [True, False])
async def test_too_long_a_context(contract: ContractServer, stream: bool) -> None:
    status, error = error_of(await asked(contract, "too-long", stream=stream))
    assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", "input")


async def test_a_broken_answer_that_is_not_streamed_is_an_error(contract: ContractServer) -> None:
    status, error = error_of(await asked(contract, "cut"))
    assert (status, error["code"]) == (502, "upstream_cut")


# Heartbeats


@pytest.mark.parametrize("name", ["late-token", "late-headers"])
async def test_heartbeats_are_events(contract: ContractServer, name: str) -> None:
    """A whole `response.in_progress` event."""
    with contract.timers(gate=0.02, heartbeat=0.03):
        answer = await asked(contract, name, stream=True)
    told = Told(answer.body)
    assert told.text == TEXT
    assert told.kinds.count("in_progress") > 1
    assert told.kinds.index("output_item.added") == told.kinds.count("in_progress") + 1


async def test_a_failure_behind_heartbeats(contract: ContractServer) -> None:
    with contract.timers(gate=0.02, heartbeat=0.05):
        answer = await asked(contract, "hasty/stall-early", stream=True)
    told = Told(answer.body)
    assert set(told.kinds) == {"created", "in_progress", "failed"}


# Padding


@pytest.mark.parametrize("wanted", [True, False])
async def test_padding_is_the_clients_choice(contract: ContractServer, wanted: bool) -> None:
    options = {"include_obfuscation": wanted}
    answer = await asked(contract, "happy", stream=True, stream_options=options)
    deltas = [each for each in split(answer.body) if each["type"].endswith(".delta")]
    assert {"obfuscation" in each for each in deltas} == {wanted}
