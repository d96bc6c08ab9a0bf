"""The contract, sections 3 (reasoning) and 8 (what upstreams do wrong, and we mend), over the wire.
The first line of each docstring is the sentence that it holds."""

import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.contract_server import ContractServer, built
from tests.support.stream_order import Json, Usage

pytestmark = pytest.mark.asyncio(loop_scope="module")

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


# Reasoning

THOUGHTS = {
    # who says it, and how: what is thought, what is answered
    "thinking": ("Let me think.", " Forty-two."),
    "reasoning-field": ("Let me think.", "Forty-two"),
    "content-parts": ("Let me think.", "Forty-two"),
    "anthropic/thinking": ("Let me think.", " Forty-two."),
    "gemini/thinking": ("Let me think.", " Forty-two."),
    "ollama/thinking": ("Let me think.", " Forty-two."),
    "tags/think-tags": ("Let me see", "Forty-two"),
    "tags/think-letters": ("Let me see.", "Forty-two"),
    "fan/thinking": ("Let me think.", " Forty-two."),
}


@pytest.mark.parametrize("model", THOUGHTS)
async def test_reasoning_has_one_name_and_comes_first(contract: ContractServer, model: str) -> None:
    """Upstreams that say `reasoning`, Anthropic `thinking_delta`, Gemini `thought: true` parts, and
    models that write `<think>…</think>` all arrive as `reasoning_content`, before `content`."""
    thought, answer = THOUGHTS[model]
    said = await contract.stream(model)
    assert said.done
    assert said.text(member="reasoning_content") == thought
    assert said.text() == answer
    deltas = [each["delta"] for chunk in said.chunks for each in chunk["choices"]]
    kinds = ["reasoning_content" in each for each in deltas if each and "role" not in each]
    assert kinds == sorted(kinds, reverse=True), "a thought behind the answer"
    assert not any("reasoning" in each or "thinking" in each for each in deltas)
    (choice,) = (await contract.whole(model))["choices"]
    assert choice["message"]["reasoning_content"] == thought
    assert choice["message"]["content"] == answer


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("think-tags", "<think>Let me see</think>Forty-two"),
        ("think-letters", "<think>Let me see.</think>Forty-two"),
        ("think-by-the-way", "Use <think> and </think>."),
        ("tags/think-by-the-way", "Use <think> and </think>."),
        ("tags/happy", TEXT),
    ],
)
async def test_tags_are_text_unless_the_deployment_says_otherwise(
    contract: ContractServer, model: str, text: str
) -> None:
    """Tags split anywhere across chunks; only where the deployment says so."""
    said = await contract.stream(model)
    assert said.text() == text
    assert said.text(member="reasoning_content") == ""
    (choice,) = (await contract.whole(model))["choices"]
    assert choice["message"]["content"] == text
    assert "reasoning_content" not in choice["message"]


EFFORTS = ["none", "minimal", "low", "medium", "high"]
THINKINGS: list[Json] = [
    {"type": "enabled", "budget_tokens": 2048},
    {"type": "enabled"},
    {"type": "disabled"},
    {"type": "adaptive"},
]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("effort", EFFORTS)
async def test_an_effort_is_accepted_and_passed_on(
    contract: ContractServer, effort: str, stream: bool
) -> None:
    """`reasoning_effort` (minimal, low, medium, high, none) is accepted."""
    answer = await contract.ask("happy", reasoning_effort=effort, stream=stream)
    assert answer.status == 200
    assert contract.scripted.requests[-1].request["reasoning_effort"] == effort


@pytest.mark.parametrize("thinking", THINKINGS, ids=lambda each: "-".join(map(str, each.values())))
async def test_thinking_is_accepted_and_passed_on(contract: ContractServer, thinking: Json) -> None:
    """`thinking: {type, budget_tokens}` is accepted."""
    said = await contract.stream("happy", thinking=thinking)
    assert said.done
    assert contract.scripted.requests[-1].request["thinking"] == thinking


BUDGET = {"thinking": {"type": "enabled", "budget_tokens": 2048}}
OFF = {"thinking": {"type": "disabled"}}
MAPPED: dict[str, tuple[str, Json, Json]] = {
    "OpenAI, an effort": ("openai", {"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
    "OpenAI, a budget": ("openai", BUDGET, {"reasoning_effort": "low", "thinking": None}),
    "OpenAI, off": ("openai", OFF, {"reasoning_effort": "none", "thinking": None}),
    "llama.cpp, an effort": ("llama", {"reasoning_effort": "low"}, {"thinking_budget_tokens": 64}),
    "llama.cpp, a budget": ("llama", BUDGET, {"thinking_budget_tokens": 2048, "thinking": None}),
    "llama.cpp, off": ("llama", OFF, {"chat_template_kwargs": {"enable_thinking": False}}),
    "Anthropic, a budget": ("anthropic", BUDGET, BUDGET),
    "Anthropic, off": ("anthropic", OFF, OFF),
    "nothing said": ("openai", {}, {"reasoning_effort": None, "thinking": None}),
}


@pytest.mark.parametrize("case", MAPPED)
async def test_it_is_mapped_to_what_the_upstream_takes(contract: ContractServer, case: str) -> None:
    """`reasoning_effort` and `thinking` are mapped to what the upstream takes."""
    kind, asked, wanted = MAPPED[case]
    assert (await contract.ask(f"{kind}/happy", **asked, max_tokens=4096)).status == 200
    sent = contract.scripted.requests[-1].request
    assert {name: sent.get(name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("model", "reasoning", "known"),
    [
        ("thinking", 4, "exact"),
        ("gemini/thinking", 4, "exact"),
        ("anthropic/thinking", 4, "exact"),
        ("reasoning-field", 2, "counted"),
        ("tags/think-tags", 2, "counted"),
        ("happy", 0, "counted"),
        ("usage-nowhere", 0, "counted"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_reasoning_tokens_are_always_filled(
    contract: ContractServer, model: str, reasoning: int, known: str, stream: bool
) -> None:
    """`usage.completion_tokens_details.reasoning_tokens`: exact from the upstream, else counted and
    labelled in the ledger."""
    if stream:
        usage = (await contract.stream(model, usage="last")).usage
    else:
        usage = (await contract.whole(model))["usage"]
    assert usage is not None
    assert usage["completion_tokens_details"]["reasoning_tokens"] == reasoning
    row = await contract.row()
    assert (row["reasoning_tokens"], row["reasoning_from"]) == (reasoning, known)


# What upstreams do wrong, and we mend

CALLS = [("sum", "{}"), ("now", "{}"), ("last", '{"x": 1}')]
MENDED: dict[str, tuple[str, str | list[tuple[str, str]]]] = {
    "`created` or `id` changing per chunk": ("jumpy", TEXT),
    "role in every chunk": ("role-every-chunk", TEXT),
    "role in none": ("role-never", TEXT),
    "two usage chunks": ("usage-early", TEXT),
    "`content: null` in the first": ("null-content", TEXT),
    "finish merged into the last content chunk": ("finish-merged", TEXT),
    "usage with non-empty choices": ("usage-everywhere", TEXT),
    "usage in the chunk with the finish": ("usage-with-choices", TEXT),
    "missing blank line after [DONE]": ("no-blank-line", TEXT),
    "missing [DONE]: then the finish decides": ("no-done", TEXT),
    "missing [DONE] and a connection that is cut": ("cut-late", TEXT),
    "more after [DONE]": ("done-then-more", TEXT),
    "tool-call index reused or missing": ("tool-chaos", CALLS),
    "tool arguments whole in one piece": ("tools", [("sum", '{"a": 1, "b": 2}'), ("now", "{}")]),
    "no usage at all": ("usage-nowhere", TEXT),
    "BOM": ("bom", TEXT),
    "CR line ends": ("cr", TEXT),
    "CRLF line ends": ("crlf", TEXT),
    "comments": ("comments", TEXT),
    "multi-line `data:`": ("multi-line", TEXT),
    "a UTF-8 character across two reads": ("utf8-split", "Žluťoučký kůň 🐎👩‍👩‍👧 úpěl"),
    "lines of a megabyte": ("huge-line", "x" * 1_000_000 + "."),
    "a finish without content": ("finish-only", ""),
    "compression that nobody asked for": ("gzip", TEXT),
    "another content type": ("odd-type", TEXT),
    "a content type that is another's": ("json-type", TEXT),
    "a body that only its end delimits": ("close-framed", TEXT),
    "no stream at all, but an answer": ("whole", TEXT),
    "events without data": ("empty-event", TEXT),
    "content in parts": ("content-parts", "Forty-two"),
    "usage in the choice": ("usage-in-choice", TEXT),
}


@pytest.mark.parametrize("model", ["whole", "usage-in-choice", "json-type"])
async def test_usage_is_found_where_it_is(contract: ContractServer, model: str) -> None:
    """Usage in another place or shape is the upstream's own all the same."""
    said = await contract.stream(model, usage="last")
    assert said.usage is not None
    assert (said.usage["prompt_tokens"], said.usage["completion_tokens"]) == (7, 10)
    assert not any("usage" in each for chunk in said.chunks for each in chunk["choices"])
    row = await contract.row()
    assert (row["completion_tokens"], row["completion_from"]) == (10, "exact")


async def test_a_function_call_is_whole_when_it_is_not_streamed(contract: ContractServer) -> None:
    """A fold of the same stream: also of what OpenAI has replaced by tools."""
    said = await contract.stream("function-call")
    answer = await contract.whole("function-call")
    for choice in (*said.choices, *answer["choices"]):
        call = {"name": "sum", "arguments": '{"a": 1, "b": 2}'}
        assert choice["message"]["function_call"] == call
        assert choice["finish_reason"] == "function_call"
    assert answer["choices"][0]["message"]["content"] is None


@pytest.mark.parametrize("usage", ["none", "last"])
@pytest.mark.parametrize("wrong", MENDED)
async def test_what_upstreams_do_wrong_is_mended(
    contract: ContractServer, wrong: str, usage: Usage
) -> None:
    """Each item of section 8: what comes out is whole, in order, and the same not streamed."""
    model, wanted = MENDED[wrong]
    said = await contract.stream(model, usage=usage)
    assert said.done
    answer = await contract.whole(model)
    for choice in (*said.choices, *answer["choices"]):
        message = choice["message"]
        if isinstance(wanted, str):
            assert message["content"] == wanted
            assert choice["finish_reason"] == "stop"
        else:
            calls = [each["function"] for each in message["tool_calls"]]
            assert [(each["name"], each["arguments"]) for each in calls] == wanted
            assert choice["finish_reason"] == "tool_calls"
