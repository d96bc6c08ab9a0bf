"""Anthropic's dialect: the request that goes out, but for its messages."""

import json
from typing import Any

import pytest

from legato.core.dialect import Delivered, OutgoingRequest, Quirks
from legato.core.errors import ApiError, UpstreamError
from legato.core.request import amended, parse
from legato.dialects.anthropic import encode, headers, models, models_path, path

HELLO = [{"role": "user", "content": "Hello"}]
OLD, NEW, OTHER = "claude-haiku-4-5", "claude-opus-4-8", "glm-4.6"


def encoded(
    members: dict[str, Any] | None = None,
    model: str = OLD,
    facts: Quirks | None = None,
    **more: Any,
) -> dict[str, Any]:
    body = json.dumps({"model": "public", "messages": HELLO} | (members or {})).encode()
    return json.loads(encode(OutgoingRequest(body, parse(body), model, facts or Quirks(), **more)))


def text(*texts: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": each} for each in texts]


def test_a_request_byte_by_byte() -> None:
    body = b'{"model":"public","messages":[{"role":"user","content":"Hello"}],"stream":true}'
    assert encode(OutgoingRequest(body, parse(body), "theirs", Quirks())) == (
        b'{"model":"theirs","max_tokens":4096,'
        b'"messages":[{"role":"user","content":[{"type":"text","text":"Hello"}]}],"stream":true}'
    )


@pytest.mark.parametrize("key", [None, "", "k"])
def test_headers_and_paths(key: str | None) -> None:
    version = ("anthropic-version", "2023-06-01")
    assert headers(key) == ([("x-api-key", "k"), version] if key else [version])
    assert path("any") == "/v1/messages"
    assert models_path().startswith("/v1/models")
    assert models(b'{"data":[{"type":"model","id":"a"},{"id":"b"}],"has_more":false}') == ["a", "b"]


SCHEMA = {"type": "object", "properties": {"a": {"type": "number"}}}
SUM = {"type": "function", "function": {"name": "sum", "description": "Adds", "parameters": SCHEMA}}
SUM_THERE = {"name": "sum", "description": "Adds", "input_schema": SCHEMA}
NOW = {"type": "function", "function": {"name": "now", "strict": True}}
NOW_THERE = {"name": "now", "input_schema": {"type": "object", "properties": {}}, "strict": True}
NAMED = {"type": "function", "function": {"name": "sum"}}


def budget(tokens: int) -> dict[str, Any]:
    return {"type": "enabled", "budget_tokens": tokens}


ADAPTIVE = {"type": "adaptive", "display": "summarized"}
OFF = {"type": "disabled"}

# what is asked for, of which model, and what is different from a plain request
REQUESTS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "a limit": ({"max_tokens": 7}, OLD, {"max_tokens": 7}),
    "the newer limit wins": (
        {"max_tokens": 7, "max_completion_tokens": 9},
        OLD,
        {"max_tokens": 9},
    ),
    "room to think": ({}, NEW, {"max_tokens": 32_000}),
    "one stop": ({"stop": "x"}, OLD, {"stop_sequences": ["x"]}),
    "stops, one of white space": ({"stop": ["\n", "x"]}, OLD, {"stop_sequences": ["x"]}),
    "a user": ({"user": "u1"}, OLD, {"metadata": {"user_id": "u1"}}),
    "sampling": ({"temperature": 0.3, "top_k": 5}, OLD, {"temperature": 0.3, "top_k": 5}),
    "a temperature over 1": ({"temperature": 1.7}, OLD, {"temperature": 1}),
    "one of temperature and top_p": (
        {"temperature": 0.3, "top_p": 0.9},
        OLD,
        {"temperature": 0.3},
    ),
    "both, where both are taken": (
        {"temperature": 0.3, "top_p": 0.9},
        OTHER,
        {"temperature": 0.3, "top_p": 0.9},
    ),
    "sampling that is fixed": (
        {"temperature": 0.3, "top_p": 0.9, "top_k": 5},
        NEW,
        {"max_tokens": 32_000},
    ),
    "what is native": (
        {"cache_control": {"type": "ephemeral"}, "inference_geo": "eu"},
        OLD,
        {"cache_control": {"type": "ephemeral"}, "inference_geo": "eu"},
    ),
    "what is not taken": (
        {
            "seed": 1,
            "logprobs": True,
            "top_logprobs": 3,
            "logit_bias": {"1": 2},
            "presence_penalty": 1,
            "frequency_penalty": 1,
            "service_tier": "flex",
            "prompt_cache_key": "x",
            "n": 1,
        },
        OLD,
        {},
    ),
    "nulls": ({"temperature": None, "stop": None, "tools": None, "x": None}, OLD, {}),
    # Thinking
    "an effort": (
        {"reasoning_effort": "low", "max_tokens": 100},
        OLD,
        {"thinking": budget(2048), "max_tokens": 2148},
    ),
    "an effort, no limit": (
        {"reasoning_effort": "medium"},
        OLD,
        {"thinking": budget(8192), "max_tokens": 4096 + 8192},
    ),
    "the least budget": (
        {"thinking": budget(5), "max_tokens": 5000},
        OTHER,
        {"thinking": budget(1024), "max_tokens": 5000},
    ),
    "thinking as much as it likes": (
        {"thinking": {"type": "adaptive"}},
        OLD,
        {"thinking": budget(8192), "max_tokens": 4096 + 8192},
    ),
    "no thinking": ({"reasoning_effort": "none"}, OLD, {"thinking": OFF}),
    "thinking is not sampled": (
        {"reasoning_effort": "low", "temperature": 0.2, "top_p": 0.5, "top_k": 2},
        OLD,
        {"thinking": budget(2048), "max_tokens": 4096 + 2048},
    ),
    "by effort": (
        {"reasoning_effort": "minimal"},
        NEW,
        {"thinking": ADAPTIVE, "output_config": {"effort": "low"}, "max_tokens": 32_000},
    ),
    "by effort, from a budget": (
        {"thinking": budget(9000), "max_tokens": 500},
        "anthropic.claude-sonnet-5",
        {"thinking": ADAPTIVE, "output_config": {"effort": "high"}, "max_tokens": 500},
    ),
    "adaptive, as it likes": (
        {"thinking": {"type": "adaptive"}},
        "claude-sonnet-4-6-20260218",
        {"thinking": ADAPTIVE, "max_tokens": 32_000},
    ),
    "a year is no version": (
        {"reasoning_effort": "low"},
        "claude-sonnet-4-20250514",
        {"thinking": budget(2048), "max_tokens": 4096 + 2048},
    ),
    # Tools
    "tools": ({"tools": [SUM, NOW]}, OLD, {"tools": [SUM_THERE, NOW_THERE]}),
    "a tool of its own": (
        {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 2}]},
        OLD,
        {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 2}]},
    ),
    "no tools": ({"tools": [], "tool_choice": "auto"}, OLD, {}),
    **{
        f"tool choice {choice}": (
            {"tools": [SUM], "tool_choice": choice},
            OLD,
            {"tools": [SUM_THERE], "tool_choice": there},
        )
        for choice, there in (
            ("auto", {"type": "auto"}),
            ("none", {"type": "none"}),
            ("required", {"type": "any"}),
        )
    },
    "one tool": (
        {"tools": [SUM], "tool_choice": NAMED, "parallel_tool_calls": False},
        OLD,
        {
            "tools": [SUM_THERE],
            "tool_choice": {"type": "tool", "name": "sum", "disable_parallel_tool_use": True},
        },
    ),
    "one call at a time": (
        {"tools": [SUM], "parallel_tool_calls": False},
        OLD,
        {
            "tools": [SUM_THERE],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        },
    ),
    # Formats
    "a schema": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": SCHEMA},
            }
        },
        OLD,
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    ),
    "a schema and an effort": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": SCHEMA},
            },
            "output_config": {"effort": "max"},
        },
        NEW,
        {
            "output_config": {
                "effort": "max",
                "format": {"type": "json_schema", "schema": SCHEMA},
            },
            "max_tokens": 32_000,
        },
    ),
    "text": ({"response_format": {"type": "text"}}, OLD, {}),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_what_is_asked_for_in_its_words(name: str) -> None:
    members, model, different = REQUESTS[name]
    plain = {
        "model": model,
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": text("Hello")}],
        "stream": True,
    }
    assert encoded(members, model) == plain | different


@pytest.mark.parametrize(
    ("asks", "model", "wanted"),
    [
        ("thinking", NEW, budget(2048)),
        ("effort", OTHER, ADAPTIVE),
        ("none", OLD, None),
    ],
)
def test_the_operator_knows_better_how_it_is_told_to_think(
    asks: Any, model: str, wanted: Any
) -> None:
    sent = encoded({"reasoning_effort": "low"}, model, Quirks(effort_style=asks))
    assert sent.get("thinking") == wanted


@pytest.mark.parametrize(
    ("members", "model"),
    [
        ({"seed": 1}, OLD),
        ({"guided_json": {}}, OLD),
        ({"stop": ["\n"]}, OLD),
        ({"temperature": 0.5}, NEW),
        ({"top_p": 0.5, "reasoning_effort": "low"}, OLD),
    ],
)
def test_a_strict_deployment_drops_nothing(members: dict[str, Any], model: str) -> None:
    encoded(members, model)
    with pytest.raises(ApiError) as caught:
        encoded(members, model, unsupported="error")
    assert (caught.value.status, caught.value.code) == (400, "unsupported_parameter")
    assert caught.value.param in members


def test_a_strict_deployment_lets_pass_what_asks_for_nothing() -> None:
    nothing = {
        "n": 1,
        "logprobs": False,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logit_bias": {},
        "temperature": 1,
        "top_p": 1.0,
        "seed": None,
        "stream_options": None,
    }
    sent = encoded(nothing, NEW, unsupported="error")
    assert sent == encoded({}, NEW)


def test_what_the_operator_says_is_not_taken_is_left_out() -> None:
    sent = encoded({"top_k": 4}, OTHER, Quirks(rejected_parameters=frozenset({"top_k"})))
    assert "top_k" not in sent


# An answer that another upstream began


def test_an_answer_is_gone_on_with_where_it_stopped() -> None:
    sent = encoded(delivered=Delivered("Once upon"), members={"reasoning_effort": "low"})
    assert sent["messages"] == [
        {"role": "user", "content": text("Hello")},
        {"role": "assistant", "content": text("Once upon")},
    ]
    assert "thinking" not in sent


def test_an_answer_under_way_has_what_is_left_of_its_limit() -> None:
    body = json.dumps({"model": "public", "messages": HELLO, "max_tokens": 9}).encode()
    rest = amended(body, max_tokens=4)
    asked = OutgoingRequest(rest, parse(body), OLD, Quirks(), delivered=Delivered("Once"))
    assert json.loads(encode(asked))["max_tokens"] == 4


def test_what_the_client_began_is_gone_on_with_in_the_same_block() -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Once"}]
    sent = encoded({"messages": messages}, delivered=Delivered(" upon"))
    assert sent["messages"][-1] == {"role": "assistant", "content": text("Once upon")}


def test_an_answer_of_which_nothing_was_delivered_is_asked_for_again() -> None:
    members = {"reasoning_effort": "low"}
    assert encoded(members, NEW, delivered=Delivered()) == encoded(members, NEW)


@pytest.mark.parametrize(
    ("model", "delivered"),
    [
        (OLD, Delivered("Once ")),
        (OLD, Delivered("Once\n")),
        (OLD, Delivered("Once", "Let me")),
        (OLD, Delivered("", "Let me")),
        (NEW, Delivered("Once")),
    ],
)
def test_an_answer_that_would_not_join_exactly_is_left_to_others(
    model: str, delivered: Delivered
) -> None:
    with pytest.raises(UpstreamError) as caught:
        encoded(model=model, delivered=delivered)
    assert caught.value.code == "cannot_continue"
