"""Requests of Anthropic's Messages API: what they become, what is refused and by which name."""

import json
from typing import Any

import pytest

from legato.core.errors import ApiError
from legato.fronts.messages import MESSAGES
from legato.fronts.messages_thoughts import packed

Json = dict[str, Any]

HI: Json = {"role": "user", "content": "hi"}
TOOL: Json = {"name": "sum", "description": "Adds.", "input_schema": {"type": "object"}}
FUNCTION: Json = {
    "type": "function",
    "function": {"name": "sum", "parameters": {"type": "object"}, "description": "Adds."},
}
SEARCH: Json = {"type": "web_search_20250305", "name": "web_search"}
CACHE: Json = {"cache_control": {"type": "ephemeral"}}
PNG: Json = {"type": "base64", "media_type": "image/png", "data": "QUJD"}
IMAGE: Json = {"type": "image", "source": PNG}
IMAGE_PART: Json = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
SCHEMA: Json = {"type": "object", "properties": {}, "additionalProperties": False}
ENCRYPTED: Json = {"type": "reasoning.encrypted", "id": "rs_1", "data": "x"}
SIGNATURE: Json = {"google": {"thought_signature": "g"}}
SERVER_CALL: Json = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}


def text(words: str, **more: Any) -> Json:
    return {"type": "text", "text": words, **more}


def request(*messages: Json, **more: Any) -> Json:
    return {"model": "m", "max_tokens": 8, "messages": list(messages) or [HI], **more}


def parsed(fields: Json) -> Json:
    """The chat body that a request becomes."""
    read = MESSAGES.parse(json.dumps(fields).encode())
    assert read.beyond is None
    return json.loads(read.body)


def refused(fields: Any) -> ApiError:
    """The error for a request; also one that only upstreams of other formats are spared."""
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    try:
        error = MESSAGES.parse(body).beyond
        is_raised = False
    except ApiError as raised:
        error, is_raised = raised, True
    assert error is not None
    assert error.status == 400
    assert is_raised is (error.code != "unsupported_parameter")
    return error


PARAMETERS: dict[str, tuple[Json, Json]] = {
    "nothing more": ({}, {}),
    "a stream": ({"stream": True}, {"stream": True}),
    "sampling": (
        {"temperature": 0.5, "top_p": 0.9, "top_k": 40},
        {"temperature": 0.5, "top_p": 0.9, "top_k": 40},
    ),
    "stop sequences": ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
    "no stop sequences": ({"stop_sequences": []}, {}),
    "who it is": ({"metadata": {"user_id": '{"session_id":"x"}'}}, {"user": '{"session_id":"x"}'}),
    "thinking with a budget": (
        {"thinking": {"type": "enabled", "budget_tokens": 2048}},
        {"thinking": {"type": "enabled", "budget_tokens": 2048}},
    ),
    "a form by its first name": (
        {"output_format": {"type": "json_schema", "schema": SCHEMA}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
            }
        },
    ),
    "no form": ({"output_format": None, "output_config": {"format": None}}, {}),
    "no thinking": ({"thinking": {"type": "disabled"}}, {"thinking": {"type": "disabled"}}),
    "thinking that adapts": (
        {"thinking": {"type": "adaptive", "display": "omitted"}},
        {"thinking": {"type": "adaptive"}},
    ),
    "thinking of a later kind": (
        {"thinking": {"type": "between_tools"}},
        {"thinking": {"type": "adaptive"}},
    ),
    "an effort": ({"output_config": {"effort": "max"}}, {"reasoning_effort": "max"}),
    "a form": (
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
            }
        },
    ),
    "hints": (
        {
            "context_management": {"edits": []},
            "service_tier": "auto",
            "container": "c",
            "invented": 1,
        },
        {},
    ),
    "nulls": ({"system": None, "tools": None, "temperature": None, "metadata": None}, {}),
    "a tool": ({"tools": [TOOL]}, {"tools": [FUNCTION]}),
    "a custom tool": (
        {"tools": [TOOL | {"type": "custom"} | CACHE]},
        {"tools": [FUNCTION | CACHE]},
    ),
    "a server's tool beside it": ({"tools": [TOOL, SEARCH]}, {"tools": [FUNCTION]}),
    "a server's tool alone": ({"tools": [SEARCH], "tool_choice": {"type": "auto"}}, {}),
    "any tool": (
        {"tools": [TOOL, SEARCH], "tool_choice": {"type": "any"}},
        {"tools": [FUNCTION], "tool_choice": "required"},
    ),
    "no tool": (
        {"tools": [TOOL], "tool_choice": {"type": "none"}},
        {"tools": [FUNCTION], "tool_choice": "none"},
    ),
    "one tool": (
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "sum"}},
        {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "sum"}}},
    ),
    "one call at a time": (
        {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        {"tools": [FUNCTION], "tool_choice": "auto", "parallel_tool_calls": False},
    ),
    "one call or more": (
        {"tools": [TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": False}},
        {"tools": [FUNCTION], "tool_choice": "required", "parallel_tool_calls": True},
    ),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str) -> None:
    more, expected = PARAMETERS[name]
    assert parsed(request(**more)) == {
        "model": "m",
        "max_tokens": 8,
        "messages": [HI],
        **expected,
    }


def user(*blocks: Json) -> Json:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Json) -> Json:
    return {"role": "assistant", "content": list(blocks)}


def result(content: Any = None, **more: Any) -> Json:
    fields = {"type": "tool_result", "tool_use_id": "t1", **more}
    return fields if content is None else fields | {"content": content}


def tool(content: Any) -> Json:
    return {"role": "tool", "tool_call_id": "t1", "content": content}


CALL: Json = {"type": "tool_use", "id": "t1", "name": "sum", "input": {"a": 1}}
CHAT_CALL: Json = {
    "id": "t1",
    "type": "function",
    "function": {"name": "sum", "arguments": '{"a":1}'},
}
SIGNED: Json = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
UNSIGNED: Json = {"type": "thinking", "thinking": "hm", "signature": ""}
REDACTED: Json = {"type": "redacted_thinking", "data": "ZGF0YQ=="}
PDF: Json = {"type": "base64", "media_type": "application/pdf", "data": "QUJD"}
SHOWN = "Content of the result of the tool call t1:"

MESSAGES_OF: dict[str, tuple[list[Json], list[Json]]] = {
    "a string": ([HI], [HI]),
    "a lone text": ([user(text("hi"))], [HI]),
    "texts": ([user(text("a"), text("b"))], [user(text("a"), text("b"))]),
    "a text that is cached": ([user(text("a", **CACHE))], [user(text("a", **CACHE))]),
    "an image": ([user(IMAGE, text("a"))], [user(IMAGE_PART, text("a"))]),
    "an image elsewhere": (
        [user({"type": "image", "source": {"type": "url", "url": "https://x/y.png"}})],
        [user({"type": "image_url", "image_url": {"url": "https://x/y.png"}})],
    ),
    "a PDF": (
        [user({"type": "document", "source": PDF, "title": "T", "context": "C"} | CACHE)],
        [
            user(
                text("C"),
                {
                    "type": "file",
                    "file": {"filename": "T", "file_data": "data:application/pdf;base64,QUJD"},
                }
                | CACHE,
            )
        ],
    ),
    "a PDF elsewhere": (
        [user({"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}})],
        [
            user(
                {
                    "type": "file",
                    "file": {"filename": "document.pdf", "file_data": "https://x/y.pdf"},
                }
            )
        ],
    ),
    "a document of text": (
        [
            user(
                {
                    "type": "document",
                    "title": "T",
                    "source": {"type": "text", "media_type": "text/plain", "data": "words"},
                }
            )
        ],
        [user(text("T"), text("words"))],
    ),
    "a document of blocks": (
        [user({"type": "document", "source": {"type": "content", "content": [text("a"), IMAGE]}})],
        [user(text("a"), IMAGE_PART)],
    ),
    "a result of a search": (
        [user({"type": "search_result", "source": "s", "title": "t", "content": [text("a")]})],
        [user(text("t\ns"), text("a"))],
    ),
    "instructions within": (
        [HI, {"role": "system", "content": "Be brief."}],
        [HI, {"role": "system", "content": "Be brief."}],
    ),
    "an answer": (
        [HI, {"role": "assistant", "content": "a"}],
        [HI, {"role": "assistant", "content": "a"}],
    ),
    "a call": (
        [HI, assistant(text("a"), CALL)],
        [HI, {"role": "assistant", "content": "a", "tool_calls": [CHAT_CALL]}],
    ),
    "a call alone": (
        [HI, assistant(CALL)],
        [HI, {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL]}],
    ),
    "signed thinking": (
        [HI, assistant(SIGNED, REDACTED, text("a"))],
        [HI, {"role": "assistant", "content": "a", "reasoning_details": [SIGNED, REDACTED]}],
    ),
    "unsigned thinking": (
        [HI, assistant(UNSIGNED, text("a"))],
        [HI, {"role": "assistant", "content": "a"}],
    ),
    "thinking alone": ([HI, assistant(UNSIGNED)], [HI, {"role": "assistant", "content": ""}]),
    "what another vendor wants back": (
        [
            HI,
            assistant(
                packed(ENCRYPTED),
                packed({"type": "extra_content", "extra_content": SIGNATURE, "call_id": "t1"}),
                CALL,
            ),
        ],
        [
            HI,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [CHAT_CALL | {"extra_content": SIGNATURE}],
                "reasoning_details": [ENCRYPTED],
            },
        ],
    ),
    "a server's own blocks": (
        [HI, assistant(SERVER_CALL, text("a"))],
        [
            HI,
            {
                "role": "assistant",
                "content": "a",
                "extra_content": {"anthropic": {"blocks": [SERVER_CALL]}},
            },
        ],
    ),
    "a result": ([user(result("3"))], [tool("3")]),
    "an empty result": ([user(result())], [tool("")]),
    "a result in blocks": ([user(result([text("3")]))], [tool("3")]),
    "a result that is cached": ([user(result("3", **CACHE))], [tool([text("3", **CACHE)])]),
    "a result behind what is said": (
        [user(text("so?"), result("3"))],
        [tool("3"), {"role": "user", "content": "so?"}],
    ),
    "two results": (
        [user(result("3"), result("4", tool_use_id="t2"))],
        [tool("3"), tool("4") | {"tool_call_id": "t2"}],
    ),
    "a failed result": ([user(result("no file", is_error=True))], [tool("Error: no file")]),
    "a failed result that says so": (
        [user(result("<tool_use_error>x", is_error=True))],
        [tool("<tool_use_error>x")],
    ),
    "an empty failed result": ([user(result(is_error=True))], [tool("Error")]),
    "a result with an image": (
        [user(result([text("3"), IMAGE]), text("so?"))],
        [tool("3"), user(text(SHOWN), IMAGE_PART, text("so?"))],
    ),
    "a result that is an image": (
        [user(result([IMAGE]))],
        [tool("The result is in the next message."), user(text(SHOWN), IMAGE_PART)],
    ),
    "a result that names a tool": (
        [user(result([{"type": "tool_reference", "tool_name": "sum"}]))],
        [tool("The tool `sum` can be called.")],
    ),
}


@pytest.mark.parametrize("name", MESSAGES_OF)
def test_messages(name: str) -> None:
    messages, expected = MESSAGES_OF[name]
    assert parsed(request(*messages))["messages"] == expected


SYSTEMS: dict[str, tuple[Any, list[Json]]] = {
    "a string": ("Be brief.", [{"role": "system", "content": "Be brief."}]),
    "an empty string": ("", []),
    "a block": ([text("Be brief.")], [{"role": "system", "content": "Be brief."}]),
    "blocks that are cached": (
        [text("a"), text("b", **CACHE)],
        [{"role": "system", "content": [text("a"), text("b", **CACHE)]}],
    ),
    "no blocks": ([], []),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_instructions(name: str) -> None:
    system, expected = SYSTEMS[name]
    assert parsed(request(system=system))["messages"] == [*expected, HI]


NO_SOURCE: Json = {"type": "image", "source": {"type": "file", "file_id": "f"}}
REFUSED: dict[str, tuple[Any, str | None, str]] = {
    "no JSON": (b"{", None, "not valid JSON"),
    "nothing": (b"", None, "empty"),
    "no model": ({"max_tokens": 1, "messages": [HI]}, "model", "required"),
    "no max_tokens": ({"model": "m", "messages": [HI]}, "max_tokens", "required"),
    "no messages": ({"model": "m", "max_tokens": 1}, "messages", "required"),
    "empty messages": (request() | {"messages": []}, "messages", "length >= 1"),
    "max_tokens of a wrong type": (request(max_tokens="8"), "max_tokens", "expected `int`"),
    "max_tokens of less than nothing": (request(max_tokens=-1), "max_tokens", ">= 0"),
    "max_tokens of nothing": (request(max_tokens=0), "max_tokens", "a cache of prompts"),
    "too hot": (request(temperature=1.5), "temperature", "<= 1"),
    "a role of another API": (
        request({"role": "developer", "content": "x"}),
        "messages[0].role",
        "developer",
    ),
    "no text in a block": (
        request(HI, user({"type": "text"})),
        "messages[1].content[0].text",
        "required",
    ),
    "a block without a type": (request(user({})), "messages[0].content[0].type", "required"),
    "an unknown block": (
        request(user({"type": "video"})),
        "messages[0].content[0].type",
        "`video` is not a block",
    ),
    "a call of the user": (request(user(CALL)), "messages[0].content[0].type", "`tool_use`"),
    "an unknown block of the assistant": (
        request(HI, assistant({"type": "image"})),
        "messages[1].content[0].type",
        "`image`",
    ),
    "a type that is no word": (
        request(HI, assistant({"type": {"x": 1}})),
        "messages[1].content[0].type",
        "required",
    ),
    "a file that is elsewhere": (
        request(user(NO_SOURCE)),
        "messages[0].content[0].source",
        "of type `file`",
    ),
    "an image without data": (
        request(user({"type": "image", "source": {"type": "base64"}})),
        "messages[0].content[0].source.data",
        "required",
    ),
    "an image on a disk": (
        request(user({"type": "image", "source": {"type": "url", "url": "file:///x"}})),
        "messages[0].content[0].source.url",
        "not an `https:` URL",
    ),
    "an unknown block in a result": (
        request(user(result([{"type": "video"}]))),
        "messages[0].content[0].content[0].type",
        "`video`",
    ),
    "a result of nothing": (
        request(user({"type": "tool_result"})),
        "messages[0].content[0].tool_use_id",
        "required",
    ),
    "a result that is a number": (
        request(user(result(7))),
        "messages[0].content[0].content",
        "neither a string",
    ),
    "a call without an id": (
        request(HI, assistant({"type": "tool_use", "name": "a", "input": {}})),
        "messages[1].content[0].id",
        "required",
    ),
    "a call with text for an input": (
        request(HI, assistant(CALL | {"input": "x"})),
        "messages[1].content[0].input",
        "not an object",
    ),
    "instructions with an image": (request(system=[IMAGE]), "system[0].type", "not `text`"),
    "a tool without a name": (request(tools=[{"input_schema": {}}]), "tools[0].name", "required"),
    "a tool without a schema": (
        request(tools=[{"name": "a"}]),
        "tools[0].input_schema",
        "required",
    ),
    "a choice without tools": (
        request(tool_choice={"type": "any"}),
        "tool_choice",
        "only allowed with `tools`",
    ),
    "a choice of no tool": (
        request(tools=[TOOL], tool_choice={"type": "tool"}),
        "tool_choice.name",
        "required",
    ),
    "a choice of an unknown tool": (
        request(tools=[TOOL], tool_choice={"type": "tool", "name": "x"}),
        "tool_choice.name",
        "names `x`",
    ),
    "a choice of a server's tool": (
        request(tools=[TOOL, SEARCH], tool_choice={"type": "tool", "name": "web_search"}),
        "tool_choice",
        "`web_search` (`web_search_20250305`)",
    ),
    "any of a server's tools": (
        request(tools=[SEARCH], tool_choice={"type": "any"}),
        "tool_choice",
        "`web_search` (`web_search_20250305`)",
    ),
    "another form": (
        request(output_config={"format": {"type": "xml"}}),
        "output_config.format.type",
        "not `json_schema`",
    ),
    "a form without a schema": (
        request(output_config={"format": {"type": "json_schema"}}),
        "output_config.format.schema",
        "required",
    ),
    "a form by its first name, of another type": (
        request(output_format={"type": "xml"}),
        "output_format.type",
        "json_schema",
    ),
    "where it is answered": (request(inference_geo="us"), "inference_geo", "promised"),
    "another effort": (request(output_config={"effort": "x"}), "output_config.effort", "x"),
    "nothing but empty instructions": (
        request({"role": "system", "content": ""}),
        "messages[0].content",
        "empty",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(name: str) -> None:
    fields, param, words = REFUSED[name]
    error = refused(fields)
    assert error.param == param
    assert words in error.message


def closed(*required: str, **more: Any) -> Json:
    properties = {"a": {"type": "string"}, "properties": {"type": "integer"}}
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return schema | {"required": required} | more


STRICT: dict[str, tuple[Json, bool]] = {
    "nothing": ({}, True),
    "a text": ({"type": "string"}, True),
    "all members": (closed("a", "properties"), True),
    "one that need not be there": (closed("a"), False),
    "no list": (closed(required=None), False),
    "open": (closed("a", "properties", additionalProperties=True), False),
    "an object of anything": ({"type": "object"}, False),
    "deeper": (closed("x", properties={"x": {"anyOf": [closed("a")]}}), False),
    "deeper, all": (
        {"type": "array", "items": {"$ref": "#/$defs/A"}, "$defs": {"A": closed()}}
        | {"$defs": {"A": closed("a", "properties")}},
        True,
    ),
}


@pytest.mark.parametrize("name", STRICT)
def test_a_form_is_strict_where_openai_takes_it_as_such(name: str) -> None:
    """It refuses others, which Anthropic's API takes."""
    schema, is_strict = STRICT[name]
    chat = parsed(request(output_config={"format": {"type": "json_schema", "schema": schema}}))
    assert chat["response_format"]["json_schema"]["strict"] is is_strict


def test_the_request_is_kept_as_it_came() -> None:
    body = b'{ "max_tokens":8,"model":"m", "x-new":[1.0],\n'
    body += b'"messages":[{"role":"user","content":"hi"}]}'
    read = MESSAGES.parse(body)
    assert read.source == body
    assert read.format == "messages"


def test_blocks_of_other_vendors_do_not_go_to_anthropic() -> None:
    """They are ours, and it would refuse them. All else stays as it came."""
    fields = request(HI, assistant(packed(ENCRYPTED), SIGNED, text("a")), assistant(packed({})))
    body = json.dumps(fields, indent=1).encode()
    source = MESSAGES.parse(body).source
    assert source is not None
    assert json.loads(source) == request(HI, assistant(SIGNED, text("a")))
    assert source.startswith(body[:20])


def test_ids_of_calls_that_anthropic_refuses() -> None:
    """A session that another server began goes on there. The other bytes stay as they came."""
    odd, legal = "functions.sum:0", "functions_sum_0"
    turn = '{"id" : "%s", "type":"tool_use","name":"sum","input":{"id":"a.b", "n":1.0}}'
    answer = '{"type":"tool_result","tool_use_id":"%s","content":"a.b"}'
    body = (
        '{"model":"m",  "max_tokens":8,"messages":[{"role":"user",  "content":"hi"},'
        f'{{"role":"assistant","content":[{turn}]}},'
        f'{{"x":1.0, "role":"user","content":[{answer}]}}]}}'
    )
    read = MESSAGES.parse((body % (odd, odd)).encode())
    assert read.source == (body % (legal, legal)).encode()
    assert read.chat.messages[2].tool_call_id == odd
    read = MESSAGES.parse((body % (legal, legal)).encode())
    assert read.source == (body % (legal, legal)).encode()


def test_a_damaged_block_of_ours_is_left_out() -> None:
    damaged = packed(ENCRYPTED)
    damaged["data"] = damaged["data"][:-3] + "é"
    assert parsed(request(HI, assistant(damaged, text("a"))))["messages"][1] == {
        "role": "assistant",
        "content": "a",
    }


def test_a_request_of_an_agents_shape() -> None:
    """As Claude Code sends it: what is to be cached, hints, a turn with calls."""
    tools = [
        {"name": f"Tool{number}", "description": "x" * 2_000, "input_schema": SCHEMA}
        for number in range(25)
    ]
    tools[-1] |= CACHE
    fields = request(
        user(text("<system-reminder>Be careful.</system-reminder>"), text("Fix it.", **CACHE)),
        assistant(SIGNED, text("I look."), CALL, CALL | {"id": "t2"}),
        user(result("3"), result("4", tool_use_id="t2", is_error=False), text("Go on.", **CACHE)),
        {"role": "system", "content": "The date changed."},
        model="claude-sonnet-4-5",
        max_tokens=32_000,
        stream=True,
        system=[text("You are an agent."), text("Rules.", **CACHE)],
        thinking={"type": "adaptive"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        output_config={"effort": "high"},
        metadata={"user_id": '{"device_id":"d","session_id":"s"}'},
        temperature=1,
        tools=[*tools, SEARCH],
    )
    read = MESSAGES.parse(json.dumps(fields).encode())
    chat = read.chat
    assert (chat.model, chat.max_tokens, chat.stream) == ("claude-sonnet-4-5", 32_000, True)
    assert chat.reasoning_effort == "high"
    assert chat.user == '{"device_id":"d","session_id":"s"}'
    assert [each.role for each in chat.messages] == [
        *("system", "user", "assistant", "tool", "tool", "user", "system")
    ]
    assert len(chat.tools or []) == 25
    assert read.source is not None
    assert len(read.source) > 50_000
