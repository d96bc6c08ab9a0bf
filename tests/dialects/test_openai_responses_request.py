"""The Responses dialect: what an upstream is asked for."""

import json
from typing import Any, Literal

import pytest

from legato.core.dialect import Delivered, OutgoingRequest, Quirks
from legato.core.errors import ApiError, UpstreamError
from legato.core.request import parse
from legato.dialects.openai_responses import client_format, encode, headers, models_path, path
from legato.policy.providers import quirks_of

HI = {"role": "user", "content": "hi"}
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
CALLED = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"a": 1}'}
SHOT = {"type": "custom", "id": "call_2", "custom": {"name": "patch", "input": "*** Begin"}}
SEEN = {"type": "output_text", "text": "Yes."}


def outgoing(fields: dict[str, Any], **options: Any) -> OutgoingRequest:
    body = json.dumps({"model": "public", "messages": [HI]} | fields).encode()
    options = {"quirks": Quirks()} | options
    return OutgoingRequest(body, parse(body), "theirs", **options)


def sent(fields: dict[str, Any], **options: Any) -> dict[str, Any]:
    return json.loads(encode(outgoing(fields, **options)))


def test_a_plain_request() -> None:
    assert sent({}) == {
        "model": "theirs",
        "input": [HI],
        "stream": True,
        "store": False,
        "include": ["reasoning.encrypted_content"],
    }
    assert sent({}, streams=False)["stream"] is False


def test_where_it_goes() -> None:
    assert (path("m"), path("m", streams=False), models_path()) == (
        "/responses",
        "/responses",
        "/models",
    )
    assert headers("k") == [("authorization", "Bearer k")]
    assert client_format == "responses"


def entry(**members: Any) -> dict[str, Any]:
    made = {"type": "reasoning.encrypted", "id": "rs_1", "data": "gAAA"}
    return made | {"summary": [], "format": "openai-responses-v1"} | members


def message(*content: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": list(content), **members}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def image(url: Any, **members: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **members}}


SUMMARY = [{"type": "summary_text", "text": "Hm"}]
#: What the client's messages are, and the input that the upstream has of them.
MESSAGES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "a system and a developer": (
        [{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, HI],
        [{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, HI],
    ),
    "a system in parts": (
        [{"role": "system", "content": [{"type": "text", "text": "a"}]}],
        [{"role": "system", "content": [{"type": "input_text", "text": "a"}]}],
    ),
    "an image by its address": (
        [user({"type": "text", "text": "What?"}, image("https://a.example/b.png", detail="low"))],
        [
            user(
                {"type": "input_text", "text": "What?"},
                {
                    "type": "input_image",
                    "image_url": "https://a.example/b.png",
                    "detail": "low",
                },
            )
        ],
    ),
    "an image inline, under another name": (
        [user(image("data:image/jpg;base64,AAAA"))],
        [
            user(
                {
                    "type": "input_image",
                    "image_url": "data:image/jpeg;base64,AAAA",
                    "detail": "auto",
                }
            )
        ],
    ),
    "files": (
        [
            user(
                {
                    "type": "file",
                    "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"},
                },
                {"type": "file", "file": {"file_id": "file-1"}},
                {"type": "file", "file": {"file_data": "https://a.example/b.pdf"}},
            )
        ],
        [
            user(
                {
                    "type": "input_file",
                    "filename": "a.pdf",
                    "file_data": "data:application/pdf;base64,AAAA",
                },
                {"type": "input_file", "file_id": "file-1"},
                {"type": "input_file", "file_url": "https://a.example/b.pdf"},
            )
        ],
    ),
    "an answer": (
        [HI, {"role": "assistant", "content": "Yes."}, HI],
        [HI, message(SEEN), HI],
    ),
    "an answer in parts, and its refusal": (
        [
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "Yes."}, {"type": "text", "text": ""}],
                "refusal": "No.",
            }
        ],
        [message(SEEN, {"type": "refusal", "refusal": "No."})],
    ),
    "an answer of nothing": ([HI, {"role": "assistant", "content": None}], [HI]),
    "a call and its result": (
        [
            {"role": "assistant", "content": "Yes.", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "3"},
        ],
        [
            message(SEEN),
            CALLED,
            {"type": "function_call_output", "call_id": "call_1", "output": "3"},
        ],
    ),
    "arguments that are no text": (
        [
            {
                "role": "assistant",
                "tool_calls": [
                    CALL | {"function": {"name": "f", "arguments": each}}
                    for each in ({"a": 1}, "", None, "{broken")
                ],
            }
        ],
        [CALLED | {"arguments": each} for each in ('{"a":1}', "{}", "{}", "{broken")],
    ),
    "a result in one part of text": (
        [{"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "3"}]}],
        [{"type": "function_call_output", "call_id": "c", "output": "3"}],
    ),
    "a result with an image": (
        [
            {
                "role": "tool",
                "tool_call_id": "c",
                "content": [{"type": "text", "text": "3"}, image("data:image/png;base64,AAAA")],
            }
        ],
        [
            {
                "type": "function_call_output",
                "call_id": "c",
                "output": [
                    {"type": "input_text", "text": "3"},
                    {
                        "type": "input_image",
                        "image_url": "data:image/png;base64,AAAA",
                        "detail": "auto",
                    },
                ],
            }
        ],
    ),
    "a result without content": (
        [{"role": "tool", "tool_call_id": "c", "content": None}],
        [{"type": "function_call_output", "call_id": "c", "output": ""}],
    ),
    "a call of a custom tool": (
        [
            {"role": "assistant", "tool_calls": [SHOT, CALL]},
            {"role": "tool", "tool_call_id": "call_2", "content": "ok"},
            {"role": "tool", "tool_call_id": "call_1", "content": "3"},
        ],
        [
            {
                "type": "custom_tool_call",
                "call_id": "call_2",
                "name": "patch",
                "input": "*** Begin",
            },
            CALLED,
            {"type": "custom_tool_call_output", "call_id": "call_2", "output": "ok"},
            {"type": "function_call_output", "call_id": "call_1", "output": "3"},
        ],
    ),
    "further members of a call": (
        [
            {
                "role": "assistant",
                "tool_calls": [CALL | {"extra_content": {"openai": {"namespace": "ns"}}}],
            }
        ],
        [CALLED | {"namespace": "ns"}],
    ),
    "encrypted reasoning": (
        [
            HI,
            {
                "role": "assistant",
                "content": "Yes.",
                "reasoning_content": "Hm",
                "reasoning_details": [entry(summary=SUMMARY), entry(id="rs_2", data="gBBB")],
                "tool_calls": [CALL],
            },
        ],
        [
            HI,
            {"type": "reasoning", "id": "rs_1", "summary": SUMMARY, "encrypted_content": "gAAA"},
            {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gBBB"},
            message(SEEN),
            CALLED,
        ],
    ),
    "reasoning in plain text": (
        [
            {
                "role": "assistant",
                "content": "Yes.",
                "reasoning_details": [entry(type="reasoning.text", text="Hm", data=None)],
            },
        ],
        [
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "Hm"}],
            },
            message(SEEN),
        ],
    ),
    "others' reasoning": (
        [
            {
                "role": "assistant",
                "content": "Yes.",
                "reasoning_content": "Hm",
                "reasoning_details": [
                    {"type": "thinking", "thinking": "Hm", "signature": "Eq"},
                    entry(format="xai-responses-v1"),
                    entry(data=None),
                    entry(type="reasoning.summary"),
                    7,
                ],
            },
        ],
        [message(SEEN)],
    ),
    "the phase of an answer": (
        [
            {
                "role": "assistant",
                "content": "Yes.",
                "extra_content": {"openai": {"phases": ["commentary", "final_answer"]}},
            }
        ],
        [message(SEEN, phase="final_answer")],
    ),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_messages(case: str) -> None:
    messages, items = MESSAGES[case]
    assert sent({"messages": messages})["input"] == items


SAME: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.9,
    "metadata": {"a": "b"},
    "user": "u",
    "service_tier": "flex",
    "prompt_cache_key": "k",
    "safety_identifier": "s",
}
OWN = {"truncation": "auto", "max_tool_calls": 3, "previous_response_id": "resp_1"}
#: What the client has beside its messages, and the members that the upstream has of it.
PARAMETERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a limit": ({"max_tokens": 50}, {"max_output_tokens": 50}),
    "the newer limit": (
        {"max_tokens": 50, "max_completion_tokens": 60},
        {"max_output_tokens": 60},
    ),
    "null for the newer limit": (
        {"max_tokens": 50, "max_completion_tokens": None},
        {"max_output_tokens": 50},
    ),
    "what both APIs have": (
        SAME,
        SAME,
    ),
    "what it alone has": (
        OWN,
        OWN,
    ),
    "storing": ({"store": True}, {"store": True}),
    "an effort": (
        {"reasoning_effort": "low"},
        {"reasoning": {"effort": "low", "summary": "auto"}},
    ),
    "a budget": (
        {"thinking": {"type": "enabled", "budget_tokens": 5000}},
        {"reasoning": {"effort": "medium", "summary": "auto"}},
    ),
    "any thinking": (
        {"thinking": {"type": "adaptive"}},
        {"reasoning": {"effort": "medium", "summary": "auto"}},
    ),
    "no reasoning": ({"reasoning_effort": "none"}, {"reasoning": {"effort": "none"}}),
    "a schema": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True},
            }
        },
        {
            "text": {
                "format": {
                    "type": "json_schema",
                    "name": "x",
                    "schema": {"type": "object"},
                    "strict": True,
                }
            }
        },
    ),
    "any JSON": (
        {"response_format": {"type": "json_object"}, "verbosity": "low"},
        {"text": {"format": {"type": "json_object"}, "verbosity": "low"}},
    ),
    "text": ({"response_format": {"type": "text"}}, {}),
    "logprobs": (
        {"logprobs": True},
        {"include": ["reasoning.encrypted_content", "message.output_text.logprobs"]},
    ),
    "alternatives": (
        {"logprobs": True, "top_logprobs": 2},
        {
            "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
            "top_logprobs": 2,
        },
    ),
    "defaults": (
        {
            "n": 1,
            "logprobs": False,
            "top_logprobs": 0,
            "presence_penalty": 0,
            "logit_bias": {},
            "modalities": ["text"],
            "stream_options": {"include_usage": True},
            "stream": True,
        },
        {},
    ),
    "a tool": (
        {"tools": [TOOL]},
        {"tools": [{"type": "function", "strict": False, **FUNCTION}]},
    ),
    "a strict tool without parameters": (
        {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
        {
            "tools": [
                {
                    "type": "function",
                    "name": "f",
                    "strict": True,
                    "parameters": {"type": "object", "properties": {}},
                }
            ]
        },
    ),
    "a custom tool": (
        {
            "tools": [
                {
                    "type": "custom",
                    "custom": {
                        "name": "patch",
                        "format": {
                            "type": "grammar",
                            "grammar": {"syntax": "lark", "definition": "start: /x/"},
                        },
                    },
                },
                {"type": "custom", "custom": {"name": "say", "format": {"type": "text"}}},
            ]
        },
        {
            "tools": [
                {
                    "type": "custom",
                    "name": "patch",
                    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /x/"},
                },
                {"type": "custom", "name": "say", "format": {"type": "text"}},
            ]
        },
    ),
    "tools of its own": (
        {"tools": [{"type": "web_search", "filters": {}}, {"type": "custom", "name": "patch"}]},
        {"tools": [{"type": "web_search", "filters": {}}, {"type": "custom", "name": "patch"}]},
    ),
    "no tools": ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": False}, {}),
}


@pytest.mark.parametrize("case", PARAMETERS)
def test_parameters(case: str) -> None:
    fields, there = PARAMETERS[case]
    assert sent(fields) == sent({}) | there


NAMED = {"type": "function", "function": {"name": "f"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}
CHOICES: list[tuple[Any, Any]] = [
    *((word, word) for word in ("auto", "none", "required")),
    (NAMED, {"type": "function", "name": "f"}),
    ({"type": "custom", "custom": {"name": "c"}}, {"type": "custom", "name": "c"}),
    (
        ALLOWED,
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    ),
    ({"type": "web_search"}, {"type": "web_search"}),
]


@pytest.mark.parametrize(("choice", "there"), CHOICES)
def test_tool_choice(choice: Any, there: Any) -> None:
    fields = {"tools": [TOOL], "tool_choice": choice, "parallel_tool_calls": False}
    asked = sent(fields)
    assert (asked["tool_choice"], asked["parallel_tool_calls"]) == (there, False)


#: What the client sends, and the `param` and a word of the refusal, whatever may be dropped.
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "choices": ({"n": 2}, "n", "`n`"),
    "a choice that is none": (
        {"tools": [TOOL], "tool_choice": "any"},
        "tool_choice",
        "`any`",
    ),
    "a choice without a type": ({"tools": [TOOL], "tool_choice": {}}, "tool_choice", "`type`"),
    "functions of old": ({"functions": [FUNCTION]}, "functions", "`functions`"),
    "sound": (
        {"messages": [user({"type": "input_audio", "input_audio": {}})]},
        "messages",
        "`input_audio`",
    ),
    "sound of an answer": (
        {"messages": [{"role": "assistant", "audio": {"id": "x"}}]},
        "messages",
        "`audio`",
    ),
    "an image of an answer": (
        {"messages": [{"role": "assistant", "content": [image("https://a.example")]}]},
        "messages",
        "`assistant`",
    ),
    "an image of the developer": (
        {"messages": [{"role": "developer", "content": [image("https://a.example")]}]},
        "messages",
        "`developer`",
    ),
    "an image without an address": ({"messages": [user(image(7))]}, "messages", "`data:`"),
    "a file of nothing": (
        {"messages": [user({"type": "file", "file": {}})]},
        "messages",
        "`file_data`",
    ),
    "a function's answer": (
        {"messages": [{"role": "function", "name": "f", "content": "3"}]},
        "messages",
        "`function`",
    ),
    "a call without a name": (
        {"messages": [{"role": "assistant", "tool_calls": [CALL | {"function": {}}]}]},
        "messages",
        "`function.name`",
    ),
    "a call without an id": (
        {"messages": [{"role": "assistant", "tool_calls": [CALL | {"id": None}]}]},
        "messages",
        "`id`",
    ),
    "a call of no type": (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "x"}]}]},
        "messages",
        "no type",
    ),
    "arguments that are a list": (
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [CALL | {"function": {"name": "f", "arguments": []}}],
                }
            ]
        },
        "messages",
        "`arguments`",
    ),
    "nothing": ({"messages": [{"role": "assistant", "content": ""}]}, "messages", "content"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("unsupported", ["drop", "error"])
def test_what_is_refused(case: str, unsupported: Literal["drop", "error"]) -> None:
    fields, param, word = REFUSED[case]
    with pytest.raises(ApiError) as caught:
        sent(fields, unsupported=unsupported)
    error = caught.value
    assert (error.status, error.param) == (400, param)
    assert not isinstance(error, UpstreamError)
    assert word in error.message


NOT_TAKEN: dict[str, Any] = {
    "stop": ["x"],
    "seed": 1,
    "logit_bias": {"1": 1},
    "presence_penalty": 1,
    "frequency_penalty": 1,
    "prediction": {"type": "content", "content": "x"},
    "modalities": ["text", "audio"],
    "include": ["file_search_call.results"],
    "reasoning": {"effort": "low"},
    "invented": 7,
}


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_what_is_not_taken_is_dropped_or_refused(name: str) -> None:
    fields = {name: NOT_TAKEN[name]}
    assert sent(fields) == sent({})
    with pytest.raises(ApiError) as caught:
        sent(fields, unsupported="error")
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", name)


def test_an_answer_cannot_be_continued() -> None:
    with pytest.raises(UpstreamError) as caught:
        sent({}, delivered=Delivered("Once"))
    assert caught.value.code == "cannot_continue"


HISTORY = [{"role": "assistant", "content": "Yes.", "reasoning_details": [entry()]}]
# quirks, what is asked for, what is there of it
QUIRKS: dict[str, tuple[Quirks, dict[str, Any], dict[str, Any]]] = {
    "no summary": (
        Quirks(summarizes_reasoning=False),
        {"reasoning_effort": "low"},
        {"reasoning": {"effort": "low"}},
    ),
    "nothing encrypted": (
        Quirks(encrypts_reasoning=False),
        {"messages": HISTORY},
        {"include": None, "input": [message(SEEN)]},
    ),
    "no efforts": (Quirks(effort_style="none"), {"reasoning_effort": "low"}, {"reasoning": None}),
    "high at most": (
        Quirks(most="high"),
        {"reasoning_effort": "xhigh"},
        {"reasoning": {"effort": "high", "summary": "auto"}},
    ),
    "alternatives are needed": (
        Quirks(needs_alternatives=True),
        {"logprobs": True},
        {"top_logprobs": 1},
    ),
    "OpenAI pads": (
        quirks_of("openai", "openai-responses"),
        {"reasoning_effort": "max"},
        {
            "stream_options": {"include_obfuscation": False},
            "reasoning": {"effort": "max", "summary": "auto"},
        },
    ),
    "xAI has no logprobs": (
        quirks_of("xai", "openai-responses"),
        {"logprobs": True, "reasoning_effort": "max"},
        {
            "stream_options": None,
            "include": ["reasoning.encrypted_content"],
            "reasoning": {"effort": "high", "summary": "auto"},
        },
    ),
}


@pytest.mark.parametrize("case", QUIRKS)
def test_quirks(case: str) -> None:
    quirks, fields, there = QUIRKS[case]
    asked = sent(fields, quirks=quirks)
    assert {name: asked.get(name) for name in there} == there
    assert "stream_options" not in sent(fields, quirks=quirks, streams=False)


@pytest.mark.parametrize("provider", [None, "openai", "xai", "together"])
def test_choices_are_fanned_out(provider: str | None) -> None:
    assert not quirks_of(provider, "openai-responses").has_n
