"""A chat request as Ollama's own API has it (docs.ollama.com/api/chat)."""

from typing import Any, Final, cast

import msgspec

from legato.core.chunk import as_object
from legato.core.dialect import OutgoingRequest
from legato.core.effort import reasoning_request
from legato.core.errors import invalid
from legato.core.media_types import parse_data_url
from legato.dialects._openai_messages import (
    assistant_parts,
    content_parts,
    image_url,
    kind,
    text_of,
    tool_call,
    unsupported,
)

#: The API's own parameters that OpenAI's does not have: they go out as they came.
_NATIVE: Final = frozenset({"keep_alive", "logprobs", "shift", "top_logprobs", "truncate"})

#: Members of `options`, by the names that clients of OpenAI's API have for them.
_OPTIONS: Final = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "max_tokens": "num_predict",
    "max_completion_tokens": "num_predict",
    "stop": "stop",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repeat_penalty": "repeat_penalty",
}
#: What has another name or shape there, or is set by us.
_TAKEN: Final = (
    _NATIVE
    | _OPTIONS.keys()
    | {
        "messages",
        "model",
        "options",
        "reasoning_effort",
        "response_format",
        "stream",
        "stream_options",
        "thinking",
        "tool_choice",
        "tools",
    }
)
#: Default values: the parameter is left out with them.
_DEFAULTS: Final[dict[str, Any]] = {
    "n": 1,
    "logprobs": False,
    "top_logprobs": 0,
    "logit_bias": {},
    "parallel_tool_calls": True,
    "store": False,
    "tool_choice": "auto",
}
_EMPTY: Final[tuple[Any, ...]] = (None, [], {})

Fields = dict[str, Any]


def encode(outgoing: OutgoingRequest) -> bytes:
    """The request's body (`core.dialect.Dialect.encode`)."""
    if outgoing.request.choices > 1:
        raise invalid("The model gives one choice: leave `n` out.", param="n")
    wanted = outgoing.parameters(_TAKEN, _DEFAULTS)
    body: Fields = {
        "model": outgoing.model,
        "messages": _conversation(outgoing, wanted),
        "stream": outgoing.streams,
        "truncate": False,  # a prompt that is too long is refused, and not shortened in silence
        "think": _think(outgoing),
        "format": _format(outgoing),
        "tools": _tools(outgoing, wanted),
        "options": _options(wanted),
    }
    body |= {name: wanted[name] for name in wanted if name in _NATIVE}
    return msgspec.json.encode({name: each for name, each in body.items() if each not in _EMPTY})


def _options(wanted: Fields) -> Fields:
    options: Fields = dict(as_object(wanted.get("options")) or {})
    options |= {theirs: wanted[ours] for ours, theirs in _OPTIONS.items() if ours in wanted}
    if isinstance(options.get("stop"), str):
        options["stop"] = [options["stop"]]  # only a list is taken
    return options


def _think(outgoing: OutgoingRequest) -> bool | str | None:
    """A model without levels takes each of them for `true`."""
    wanted, effort_style = reasoning_request(outgoing.request), outgoing.quirks.effort_style
    if wanted.thinks is None or effort_style == "none":
        return None
    if (
        not wanted.thinks
        or effort_style == "thinking"
        or (wanted.effort is None and wanted.budget is None)
    ):
        return wanted.thinks
    word = wanted.word(most="high")
    return "low" if word == "minimal" else word


def _format(outgoing: OutgoingRequest) -> Any:
    form = outgoing.request.response_format
    if form is None or form.type == "text":
        return None
    schema = form.json_schema.schema if form.json_schema is not None else None
    return schema if isinstance(schema, dict) and schema else "json"


def _tools(outgoing: OutgoingRequest, wanted: Fields) -> list[Fields]:
    tools = cast("list[Fields]", wanted.get("tools") or [])
    choice = outgoing.request.tool_choice
    if choice == "none":
        return []
    if choice not in (None, "auto"):
        raise outgoing.refuse_tool_choice("`auto` and `none`")
    for each in tools:
        if each["type"] != "function":
            raise unsupported(f"a tool of type `{each['type']}`", "tools")
    return tools


# Messages


def _conversation(outgoing: OutgoingRequest, wanted: Fields) -> list[Fields]:
    """Raises `ApiError` 400 for content that the API has no place for."""
    names: dict[str, str] = {}  # of the functions that were called, by the call's id
    messages = [_message(each, names) for each in wanted["messages"]]
    delivered = outgoing.delivered
    if delivered is not None and (delivered.content or delivered.reasoning):
        # The model continues a last message of the assistant.
        last = messages[-1]
        if last["role"] != "assistant" or "tool_calls" in last:
            last = {"role": "assistant", "content": ""}
            messages.append(last)
        last["content"] += delivered.content
        if delivered.reasoning:
            last["thinking"] = last.get("thinking", "") + delivered.reasoning
    return messages


def _message(message: Fields, names: dict[str, str]) -> Fields:
    role = message["role"]
    if role == "function":
        raise unsupported("a message of role `function`")
    is_answer = role == "assistant"
    parts = assistant_parts(message) if is_answer else content_parts(message.get("content"))
    content, images = _content(parts)
    fields: Fields = {"role": "system" if role == "developer" else role, "content": content}
    if images:
        fields["images"] = images
    if is_answer:
        if message.get("reasoning_content"):
            fields["thinking"] = message["reasoning_content"]
        calls = [_call(each, names) for each in message.get("tool_calls") or ()]
        if calls:
            fields["tool_calls"] = calls
    elif role == "tool":
        identity: str = message["tool_call_id"]
        fields["tool_call_id"] = identity
        fields["tool_name"] = names.get(identity) or message.get("name") or ""
    return fields


def _content(parts: list[Fields]) -> tuple[str, list[str]]:
    """Text and images, apart: the API has no place for their order."""
    texts: list[str] = []
    images: list[str] = []
    for each in parts:
        text = text_of(each)
        if text is not None:
            texts.append(text)
        elif each.get("type") == "image_url":
            images.append(_image(image_url(each)))
        else:
            raise unsupported(f"content of {kind(each)}")
    return "\n".join(texts), images


def _image(url: Any) -> str:
    found = parse_data_url(url)
    if found is None:
        raise invalid("An image is a `data:` URL in base64, or an `https:` URL.", param="messages")
    return found[1]


def _call(call: Fields, names: dict[str, str]) -> Fields:
    found = tool_call(call)
    fields: Fields = {"function": {"name": found.name, "arguments": found.arguments}}
    if found.identity is None:
        return fields
    names[found.identity] = found.name
    return fields | {"id": found.identity}
