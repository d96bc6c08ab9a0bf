"""The contract, sections 2.4 and 3 (usage), over the wire. The first line of each docstring is the
sentence that it holds."""

import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.contract_server import ContractServer, built, heard
from tests.support.stream_order import Json
from tests.support.wire import chat

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def contract(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ContractServer]:
    async with built(tmp_path_factory.mktemp("house")) as contract:
        yield contract


@pytest.fixture(autouse=True, scope="module")
def no_garbage() -> Any:
    """Once for all: after each test it would take longer than they do."""
    yield
    gc.collect()


SAID = {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3}}
USAGES: dict[str, tuple[Json, int, int]] = {
    # what is asked: completion tokens, reasoning tokens
    "happy": ({}, 10, 0),
    "happy, with a stop": ({"stop": ["\n"]}, 10, 0),
    "thinking": ({}, 7, 4),
    "tools": ({"tools": [{"type": "function", "function": {"name": "sum"}}]}, 4, 0),
    "choices": ({"n": 3}, 9, 0),
    "length": ({"max_tokens": 10}, 10, 0),
    "filtered": ({}, 10, 0),
    "reasoning-field": ({}, 4, 2),
    "usage-early": ({}, 10, 0),
    "usage-everywhere": ({}, 10, 0),
    "usage-with-choices": ({}, 10, 0),
    "finish-only": ({}, 0, 0),
    "fan/happy": ({"n": 2}, 20, 0),
    "fan/thinking": ({"n": 2}, 14, 8),
    "anthropic/thinking": ({}, 7, 4),
    "gemini/thinking": ({}, 7, 4),
}


@pytest.mark.parametrize("case", USAGES)
async def test_usage_comes_last_and_is_null_before(contract: ContractServer, case: str) -> None:
    """With `include_usage` every earlier chunk carries `"usage": null`; one last chunk has
    `choices: []` and `usage`. Reasoning tokens are always in it."""
    asked, completion, reasoning = USAGES[case]
    model = case.partition(",")[0]
    body = chat(model, stream=True, stream_options={"include_usage": True}, **asked)
    answer = await contract.post(body)
    *chunks, last = answer.chunks
    assert answer.frames[-1] == b"data: [DONE]"
    assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)
    assert all(chunk["choices"] for chunk in chunks)
    assert last["choices"] == []
    wanted = SAID | {"completion_tokens": completion, "total_tokens": 7 + completion}
    wanted |= {"completion_tokens_details": {"reasoning_tokens": reasoning}}
    assert last["usage"] == wanted
    folded = await contract.whole(model, **asked)
    assert folded["usage"] == wanted


@pytest.mark.parametrize(
    ("model", "completion", "asked"),
    [("usage-nowhere", 10, {}), ("fan/usage-nowhere", 30, {"n": 3}), ("no-done", 10, {})],
)
async def test_what_no_upstream_says_is_counted(
    contract: ContractServer, model: str, completion: int, asked: Json
) -> None:
    """No usage at all: the deltas with content are counted, and an answer always has its usage."""
    wanted = {
        "prompt_tokens": 0,
        "completion_tokens": completion,
        "total_tokens": completion,
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    result = await contract.stream(model, usage="last", **asked)
    assert result.usage == wanted
    assert (await contract.whole(model, **asked))["usage"] == wanted
    row = await contract.row()
    assert (row["completion_tokens"], row["completion_from"]) == (completion, "counted")


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": None}])
@pytest.mark.parametrize(
    "model",
    ["happy", "usage-early", "usage-everywhere", "usage-with-choices", "thinking", "fan/happy"],
)
async def test_usage_that_nobody_asked_for_is_never_shown(
    contract: ContractServer, model: str, options: Json | None
) -> None:
    """A usage chunk that the client did not ask for is never shown (the page indexes
    `choices[0]`)."""
    answer = await contract.ask(model, stream=True, stream_options=options)
    assert answer.done
    assert all(chunk["choices"] and "usage" not in chunk for chunk in answer.chunks)


RUNNING = {"include_usage": True, "continuous_usage_stats": True}


@pytest.mark.parametrize(
    "model", ["happy", "apart", "thinking", "tools", "choices", "usage-nowhere", "finish-merged"]
)
async def test_running_usage_rises_chunk_by_chunk(contract: ContractServer, model: str) -> None:
    """With `continuous_usage_stats` each chunk has the usage so far; then the last one's comes."""
    answer = await contract.ask(model, stream=True, stream_options=RUNNING)
    result = heard(answer, "running")
    counts = [chunk["usage"] for chunk in result.chunks]
    assert all(
        each.keys() == {"prompt_tokens", "completion_tokens", "total_tokens"}
        and each["total_tokens"] == each["prompt_tokens"] + each["completion_tokens"]
        for each in counts
    )
    bearing = 0
    for chunk, count in zip(result.chunks, counts, strict=True):
        (member,) = chunk["choices"]
        bearing += bool(member["delta"]) and "role" not in member["delta"]
        assert count["completion_tokens"] == bearing
    assert result.usage is not None
    assert result.usage["completion_tokens"] == counts[-1]["completion_tokens"]


async def test_running_usage_is_what_the_upstream_says_where_it_does(
    contract: ContractServer,
) -> None:
    """The same, of an upstream that knows better than whoever counts deltas."""
    result = await contract.stream("usage-everywhere", usage="running")
    counts = [chunk["usage"] for chunk in result.chunks]
    assert [each["prompt_tokens"] for each in counts[1:]] == [7] * (len(counts) - 1)
    assert [each["completion_tokens"] for each in counts[1:]] == [10] * (len(counts) - 1)


@pytest.mark.parametrize(
    "options", [{"continuous_usage_stats": True}, RUNNING | {"include_usage": False}]
)
async def test_running_usage_goes_with_usage(contract: ContractServer, options: Json) -> None:
    """As vLLM has it, it is nothing without `include_usage`."""
    answer = await contract.ask("happy", stream=True, stream_options=options)
    assert answer.done
    assert all(chunk["choices"] and "usage" not in chunk for chunk in answer.chunks)
