"""Gemini's dialect: the request that goes out. What comes back: test_dialects and
test_dialect_gemini."""

import json
from typing import Any

import pytest
from google.genai import types

from legato.core.dialect import Delivered, OutgoingRequest, Quirks
from legato.core.errors import ApiError, UpstreamError
from legato.core.request import parse
from legato.dialects.gemini import encode, headers, models, models_path, path

HELLO = [{"role": "user", "content": "Hello"}]
BUDGET, LEVEL, OTHER = "gemini-2.5-flash", "gemini-3-flash-preview", "gemma-3-27b-it"


def encoded(
    members: dict[str, Any] | None = None,
    model: str = BUDGET,
    facts: Quirks | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A request's body, which Google's own types have to take: unknown members they refuse."""
    body = json.dumps({"model": "public", "messages": HELLO} | (members or {})).encode()
    sent = json.loads(encode(OutgoingRequest(body, parse(body), model, facts or Quirks(), **more)))
    known = {
        "contents": types.Content,
        "systemInstruction": types.Content,
        "generationConfig": types.GenerationConfig,
        "tools": types.Tool,
        "toolConfig": types.ToolConfig,
        "safetySettings": types.SafetySetting,
    }
    for name, value in sent.items():
        for each in value if isinstance(value, list) else [value]:
            if name in known:
                known[name].model_validate(each)
    return sent


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "parts": list(parts)}


def model(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "model", "parts": list(parts)}


def test_a_request_byte_by_byte() -> None:
    body = b'{"model":"public","messages":[{"role":"user","content":"Hello"}],"stream":true}'
    assert encode(OutgoingRequest(body, parse(body), "theirs", Quirks())) == (
        b'{"contents":[{"role":"user","parts":[{"text":"Hello"}]}]}'
    )


@pytest.mark.parametrize("key", [None, "", "k"])
def test_headers(key: str | None) -> None:
    assert headers(key) == ([("x-goog-api-key", "k")] if key else [])


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("gemini-2.5-flash", "models/gemini-2.5-flash"),
        ("models/gemini-2.5-flash", "models/gemini-2.5-flash"),
        ("tunedModels/mine-1", "tunedModels/mine-1"),
        ("a b\r\nc?d#e:f", "models/a%20b%0D%0Ac%3Fd%23e%3Af"),
    ],
)
def test_the_model_is_in_the_path(name: str, there: str) -> None:
    assert path(name) == f"/v1beta/{there}:streamGenerateContent?alt=sse"
    assert path(name, streams=False) == f"/v1beta/{there}:generateContent"


def test_the_models_that_there_are() -> None:
    assert models_path() == "/v1beta/models?pageSize=1000"
    found = [
        {"name": "models/a", "supportedGenerationMethods": ["generateContent", "countTokens"]},
        {"name": "models/b", "supportedGenerationMethods": ["embedContent"]},
        {"name": "models/c"},
        {"displayName": "D"},
    ]
    assert models(json.dumps({"models": found}).encode()) == ["a", "c"]
    assert models(b"{}") == []


SCHEMA = {"type": "object", "properties": {"a": {"type": "number"}}}
SUM = {"type": "function", "function": {"name": "sum", "description": "Adds", "parameters": SCHEMA}}
SUM_THERE = {"name": "sum", "description": "Adds", "parametersJsonSchema": SCHEMA}
NOW = {"type": "function", "function": {"name": "now", "strict": True}}
NAMED = {"type": "function", "function": {"name": "sum"}}
TOOLS = {"tools": [{"functionDeclarations": [SUM_THERE]}]}


def config(**members: Any) -> dict[str, Any]:
    return {"generationConfig": members}


def thinks(**members: Any) -> dict[str, Any]:
    return config(thinkingConfig={"includeThoughts": True, **members})


def calling(**members: Any) -> dict[str, Any]:
    return TOOLS | {"toolConfig": {"functionCallingConfig": members}}


def enabled(tokens: int) -> dict[str, Any]:
    return {"thinking": {"type": "enabled", "budget_tokens": tokens}}


# what is asked for, of which model, and what is there beside a plain request
REQUESTS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "a limit": ({"max_tokens": 7}, BUDGET, config(maxOutputTokens=7)),
    "the newer limit wins": (
        {"max_tokens": 7, "max_completion_tokens": 9},
        BUDGET,
        config(maxOutputTokens=9),
    ),
    "sampling": (
        {
            "temperature": 0.3,
            "top_p": 0.9,
            "top_k": 5,
            "seed": 7,
            "presence_penalty": 0.5,
            "frequency_penalty": -0.5,
        },
        BUDGET,
        config(
            temperature=0.3,
            topP=0.9,
            topK=5,
            seed=7,
            presencePenalty=0.5,
            frequencyPenalty=-0.5,
        ),
    ),
    "a large seed": ({"seed": 2**40 + 3}, BUDGET, config(seed=3)),
    "a seed below 0": ({"seed": -1}, BUDGET, config(seed=2**31 - 1)),
    "several choices": ({"n": 3}, BUDGET, config(candidateCount=3)),
    "logprobs": (
        {"logprobs": True, "top_logprobs": 4},
        BUDGET,
        config(responseLogprobs=True, logprobs=4),
    ),
    "one stop": ({"stop": "x"}, BUDGET, config(stopSequences=["x"])),
    "stops": ({"stop": ["x", "\n"]}, BUDGET, config(stopSequences=["x", "\n"])),
    "no stops": ({"stop": []}, BUDGET, {}),
    "what is native": (
        {
            "generationConfig": {
                "mediaResolution": "MEDIA_RESOLUTION_LOW",
                "topK": 3,
                "candidateCount": 8,  # `n` is known here, and limited
            },
            "top_k": 5,
            "cachedContent": "cachedContents/x",
            "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        },
        BUDGET,
        {
            **config(mediaResolution="MEDIA_RESOLUTION_LOW", topK=5),
            "cachedContent": "cachedContents/x",
            "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        },
    ),
    "what is not taken": (
        {"logit_bias": {"1": 2}, "user": "u1", "parallel_tool_calls": False, "store": True},
        BUDGET,
        {},
    ),
    "nulls": ({"temperature": None, "stop": None, "tools": None, "x": None}, BUDGET, {}),
    # Thinking
    "an effort": ({"reasoning_effort": "low"}, BUDGET, thinks(thinkingBudget=2048)),
    "a budget": (enabled(5000), BUDGET, thinks(thinkingBudget=5000)),
    "a budget too large": (enabled(99_999), BUDGET, thinks(thinkingBudget=24_576)),
    "a budget too small": (enabled(5), "gemini-2.5-flash-lite", thinks(thinkingBudget=512)),
    "a large model's": (enabled(99_999), "gemini-2.5-pro", thinks(thinkingBudget=32_768)),
    "thinking as much as it likes": (
        {"thinking": {"type": "adaptive"}},
        BUDGET,
        thinks(thinkingBudget=-1),
    ),
    "no thinking": (
        {"reasoning_effort": "none"},
        BUDGET,
        config(thinkingConfig={"includeThoughts": False, "thinkingBudget": 0}),
    ),
    "no thinking of a model that always thinks": (
        {"thinking": {"type": "disabled"}},
        "gemini-2.5-pro",
        config(thinkingConfig={"includeThoughts": False, "thinkingBudget": 128}),
    ),
    "a level": ({"reasoning_effort": "high"}, LEVEL, thinks(thinkingLevel="HIGH")),
    "the least level": ({"reasoning_effort": "minimal"}, LEVEL, thinks(thinkingLevel="MINIMAL")),
    "the least level of a large model": (
        {"reasoning_effort": "minimal"},
        "gemini-3.1-pro-preview",
        thinks(thinkingLevel="LOW"),
    ),
    "a level, from a budget": (enabled(9000), LEVEL, thinks(thinkingLevel="HIGH")),
    "a level as it likes": ({"thinking": {"type": "adaptive"}}, LEVEL, thinks()),
    "no thinking by level": (
        {"reasoning_effort": "none"},
        LEVEL,
        config(thinkingConfig={"includeThoughts": False, "thinkingLevel": "MINIMAL"}),
    ),
    "a name without a number": (
        {"reasoning_effort": "medium"},
        "gemini-flash-latest",
        thinks(thinkingLevel="MEDIUM"),
    ),
    # Tools
    "tools": (
        {"tools": [SUM, NOW]},
        BUDGET,
        {"tools": [{"functionDeclarations": [SUM_THERE, {"name": "now"}]}]},
    ),
    "tools of its own": (
        {"tools": [{"type": "googleSearch"}, {"type": "codeExecution", "codeExecution": {}}, SUM]},
        BUDGET,
        {"tools": [{"googleSearch": {}}, {"codeExecution": {}}, *TOOLS["tools"]]},
    ),
    "no tools": ({"tools": [], "tool_choice": "auto"}, BUDGET, {}),
    "tools of its own, but not now": (
        {"tools": [{"type": "googleSearch"}], "tool_choice": "none"},
        BUDGET,
        {},
    ),
    "tools of its own as it likes": (
        {"tools": [{"type": "googleSearch"}], "tool_choice": "auto"},
        BUDGET,
        {"tools": [{"googleSearch": {}}]},
    ),
    "tools as it likes": ({"tools": [SUM], "tool_choice": "auto"}, BUDGET, calling(mode="AUTO")),
    "tools, but not now": ({"tools": [SUM], "tool_choice": "none"}, BUDGET, calling(mode="NONE")),
    "some tool": ({"tools": [SUM], "tool_choice": "required"}, BUDGET, calling(mode="ANY")),
    "one tool": (
        {"tools": [SUM], "tool_choice": NAMED},
        BUDGET,
        calling(mode="ANY", allowedFunctionNames=["sum"]),
    ),
    # Formats
    "any JSON": (
        {"response_format": {"type": "json_object"}},
        BUDGET,
        config(responseMimeType="application/json"),
    ),
    "a schema": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": SCHEMA},
            }
        },
        BUDGET,
        config(responseMimeType="application/json", responseJsonSchema=SCHEMA),
    ),
    "a schema that is none": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": True}}},
        BUDGET,
        config(responseMimeType="application/json"),
    ),
    "text": ({"response_format": {"type": "text"}}, BUDGET, {}),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_what_is_asked_for_in_its_words(name: str) -> None:
    members, which, beside = REQUESTS[name]
    assert encoded(members, which) == {"contents": [user({"text": "Hello"})]} | beside


@pytest.mark.parametrize(
    ("asks", "which", "wanted"),
    [
        ("thinking", LEVEL, {"includeThoughts": True, "thinkingBudget": 2048}),
        ("effort", BUDGET, {"includeThoughts": True, "thinkingLevel": "LOW"}),
        ("none", LEVEL, None),
    ],
)
def test_the_operator_knows_better_how_it_is_told_to_think(
    asks: Any, which: str, wanted: Any
) -> None:
    sent = encoded({"reasoning_effort": "low"}, which, Quirks(effort_style=asks))
    assert sent.get("generationConfig", {}).get("thinkingConfig") == wanted


# members, the member that is named, its code
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a custom tool": (
        {"tools": [SUM, {"type": "custom", "custom": {"name": "f"}}]},
        "tools[1]",
        "unsupported_parameter",
    ),
    "another API's tool": (
        {"tools": [{"type": "web_search", "search_context_size": "low"}]},
        "tools[0]",
        "unsupported_parameter",
    ),
    "a call of a tool of its own": (
        {"tools": [{"type": "googleSearch"}], "tool_choice": "required"},
        "tool_choice",
        "unsupported_parameter",
    ),
    "functions": ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
    "a choice among tools": (
        {"tools": [SUM], "tool_choice": {"type": "allowed_tools"}},
        "tool_choice",
        "unsupported_parameter",
    ),
    "an unknown choice": (
        {"tools": [SUM], "tool_choice": "perhaps"},
        "tool_choice",
        "unsupported_parameter",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_asked_for_is_refused(name: str) -> None:
    members, param, code = REFUSED[name]
    with pytest.raises(ApiError) as caught:
        encoded(members)
    error = caught.value
    assert not isinstance(error, UpstreamError)
    assert (error.status, error.param, error.code) == (400, param, code)


@pytest.mark.parametrize(
    "members", [{"logit_bias": {"1": 2}}, {"guided_json": {}}, {"parallel_tool_calls": False}]
)
def test_a_strict_deployment_drops_nothing(members: dict[str, Any]) -> None:
    assert encoded(members) == encoded()
    with pytest.raises(ApiError) as caught:
        encoded(members, unsupported="error")
    assert (caught.value.status, caught.value.code) == (400, "unsupported_parameter")
    assert caught.value.param in members


def test_a_strict_deployment_lets_pass_what_asks_for_nothing() -> None:
    nothing = {
        "n": 1,
        "logprobs": False,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logit_bias": {},
        "parallel_tool_calls": True,
        "stream_options": None,
    }
    assert encoded(nothing, unsupported="error") == encoded()


def test_what_the_operator_says_is_not_taken_is_left_out() -> None:
    facts = Quirks(rejected_parameters=frozenset({"top_k", "reasoning_effort"}))
    assert encoded({"top_k": 4}, OTHER, facts) == encoded()


def test_an_answer_of_which_nothing_was_delivered_is_asked_for_again() -> None:
    assert encoded(delivered=Delivered()) == encoded()


@pytest.mark.parametrize("delivered", [Delivered("Once"), Delivered("", "Let me")])
def test_an_answer_that_another_began_is_left_to_others(delivered: Delivered) -> None:
    with pytest.raises(UpstreamError) as caught:
        encoded(delivered=delivered)
    assert caught.value.code == "cannot_continue"
