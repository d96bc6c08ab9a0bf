"""A chat request as OpenAI's Responses API has it
(platform.openai.com/docs/api-reference/responses/create)."""

from typing import Any, Final, cast

import msgspec

from legato.core.chunk import as_object
from legato.core.dialect import OutgoingRequest
from legato.core.effort import reasoning_request
from legato.core.errors import cannot_continue, invalid
from legato.dialects._openai_responses_input import input_items

Fields = dict[str, Any]

#: Parameters that both APIs have, and the API's own: they go out as they came. `include` and
#: `reasoning` are ours to set: the quirks say which of their values an upstream has refused.
_NATIVE: Final = frozenset(
    {
        "context_management",
        "conversation",
        "max_tool_calls",
        "metadata",
        "moderation",
        "previous_response_id",
        "prompt",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "temperature",
        "top_p",
        "truncation",
        "user",
    }
)
#: What has another name or shape there, or is set by us.
_TAKEN: Final = _NATIVE | {
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "model",
    "parallel_tool_calls",
    "reasoning_effort",
    "response_format",
    "store",
    "stream",
    "stream_options",
    "text",
    "thinking",
    "tool_choice",
    "tools",
    "top_logprobs",
    "verbosity",
}
#: Default values: a parameter that is not taken is left out with them, and no error.
_DEFAULTS: Final[dict[str, Any]] = {
    "n": 1,
    "logprobs": False,
    "top_logprobs": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {},
    "modalities": ["text"],
    "stop": [],
}

_EMPTY: Final[tuple[Any, ...]] = (None, [], {})


def encode(outgoing: OutgoingRequest) -> bytes:
    """The request's body (`core.dialect.Dialect.encode`).

    Raises `UpstreamError` `cannot_continue` where `outgoing.delivered` is set.
    """
    if outgoing.request.choices > 1:
        raise invalid("The model gives one choice: leave `n` out.", param="n")
    if outgoing.delivered is not None:
        raise cannot_continue("the Responses API does not take the beginning of an answer")
    wanted = outgoing.parameters(_TAKEN, _DEFAULTS)
    quirks = outgoing.quirks
    limit = wanted.get("max_completion_tokens") or wanted.get("max_tokens")
    body: Fields = {
        "model": outgoing.model,
        "input": input_items(wanted["messages"], with_encrypted=quirks.encrypts_reasoning),
        "stream": outgoing.streams,
        "store": wanted.get("store", False),
        "max_output_tokens": limit,
        "include": _include(outgoing, wanted),
        "reasoning": _reasoning(outgoing),
        "text": _text(wanted),
        "top_logprobs": _top_logprobs(outgoing, wanted),
    }
    if outgoing.streams and quirks.pads and quirks.includes_usage:
        body["stream_options"] = {"include_obfuscation": False}
    body |= {name: wanted[name] for name in wanted if name in _NATIVE}
    body |= _tools(outgoing, wanted)
    return msgspec.json.encode({name: each for name, each in body.items() if each not in _EMPTY})


def _include(outgoing: OutgoingRequest, wanted: Fields) -> list[str]:
    include: list[str] = []
    if outgoing.quirks.encrypts_reasoning:
        include.append("reasoning.encrypted_content")
    if wanted.get("logprobs"):
        include.append("message.output_text.logprobs")
    return include


def _top_logprobs(outgoing: OutgoingRequest, wanted: Fields) -> int | None:
    if not wanted.get("logprobs"):
        return None
    return 1 if outgoing.hides_alternatives else wanted.get("top_logprobs")


def _reasoning(outgoing: OutgoingRequest) -> Fields | None:
    wanted = reasoning_request(outgoing.request)
    if wanted.thinks is None or outgoing.quirks.effort_style == "none":
        return None
    reasoning: Fields = {"effort": wanted.word(most=outgoing.quirks.most)}
    if wanted.thinks and outgoing.quirks.summarizes_reasoning:
        reasoning["summary"] = "auto"  # without it no reasoning is shown
    return reasoning


def _text(wanted: Fields) -> Fields:
    text: Fields = dict(as_object(wanted.get("text")) or {})
    if "verbosity" in wanted:
        text["verbosity"] = wanted["verbosity"]
    form = as_object(wanted.get("response_format"))
    if form is not None and form["type"] != "text":
        schema = as_object(form.get("json_schema")) or {}
        members = {name: value for name, value in schema.items() if value is not None}
        text["format"] = members | {"type": form["type"]}
    return text


# Tools


def _tools(outgoing: OutgoingRequest, wanted: Fields) -> Fields:
    tools = [_tool(each) for each in wanted.get("tools") or ()]
    if not tools:
        return {}
    return {
        "tools": tools,
        "tool_choice": _tool_choice(outgoing),
        "parallel_tool_calls": wanted.get("parallel_tool_calls"),
    }


def _tool(tool: Fields) -> Fields:
    """Functions and custom tools without the object that holds their members in a chat request.
    Tools of other types are the API's own, such as `web_search`."""
    kind, fields = tool["type"], as_object(tool.get(str(tool["type"])))
    if kind not in ("function", "custom") or fields is None:
        return tool
    members = {name: value for name, value in fields.items() if value is not None}
    if kind == "custom":
        if (form := _custom_format(members.get("format"))) is not None:
            members["format"] = form
        return members | {"type": "custom"}
    empty: Fields = {"type": "object", "properties": {}}
    members["parameters"] = members.get("parameters") or empty
    # The default is true here, and false in a chat request.
    members["strict"] = bool(members.get("strict"))
    return members | {"type": "function"}


def _custom_format(form: Any) -> Any:
    """A grammar without the object that holds its members; other formats as they are."""
    fields = as_object(form) or {}
    grammar = as_object(fields.get("grammar"))
    return form if grammar is None else grammar | {"type": "grammar"}


def _tool_choice(outgoing: OutgoingRequest) -> Any:
    choice = outgoing.request.tool_choice
    if choice is None or choice in ("auto", "none", "required"):
        return choice
    fields = as_object(choice) or {}
    kind = fields.get("type")
    if not isinstance(kind, str):
        taken = "`auto`, `none`, `required` and an object with the `type` of a tool"
        raise outgoing.refuse_tool_choice(taken)
    if kind not in ("function", "custom", "allowed_tools"):
        return fields
    flat = _flat(fields)
    tools = flat.get("tools")
    if isinstance(tools, list):
        flat["tools"] = [_flat(as_object(each) or {}) for each in cast("list[Any]", tools)]
    return flat


def _flat(fields: Fields) -> Fields:
    """`{"type": "function", "function": {"name": …}}` as `{"type": "function", "name": …}`."""
    kind = fields.get("type")
    inner = as_object(fields.get(kind)) if isinstance(kind, str) else None
    return dict(fields) if inner is None else {"type": kind} | inner
