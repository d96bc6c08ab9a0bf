"""A chat request as Ollama's own API has it (docs.ollama.com/api/chat)."""

import re
from typing import Any, Final, cast

import msgspec

from legato.core.chunk import as_object
from legato.core.dialect import OutgoingRequest
from legato.core.effort import reasoning_request
from legato.core.errors import ApiError, invalid

_DATA_URL: Final = re.compile(r"data:[^;,]+;base64,(.+)", re.DOTALL)

#: The API's own parameters that OpenAI's does not have: they go out as they came.
_NATIVE: Final = frozenset({"keep_alive", "logprobs", "shift", "top_logprobs", "truncate"})

#: Members of `options`, by the names that clients of OpenAI's API say them with.
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
#: What is said there in other words, or is ours to say.
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
#: Values that ask for nothing.
_NEUTRAL: Final[dict[str, Any]] = {
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
    said: Fields = {
        name: value
        for name, value in msgspec.json.decode(outgoing.body).items()
        if value is not None and not (name in _NEUTRAL and value == _NEUTRAL[name])
    }
    if "n" in said:
        raise invalid("The model gives one choice: leave `n` out.", param="n")
    outgoing.leave_out(said, outgoing.quirks.rejected_parameters | (said.keys() - _TAKEN))
    body: Fields = {
        "model": outgoing.model,
        "messages": _conversation(outgoing, said),
        "stream": True,
        "truncate": False,  # a prompt that is too long is refused, and not shortened in silence
        "think": _think(outgoing),
        "format": _format(outgoing),
        "tools": _tools(outgoing, said),
        "options": _options(said),
    }
    body |= {name: said[name] for name in said if name in _NATIVE}
    return msgspec.json.encode({name: each for name, each in body.items() if each not in _EMPTY})


def _options(said: Fields) -> Fields:
    options: Fields = dict(as_object(said.get("options")) or {})
    options |= {there: said[here] for here, there in _OPTIONS.items() if here in said}
    if isinstance(options.get("stop"), str):
        options["stop"] = [options["stop"]]  # only a list is taken
    return options


def _think(outgoing: OutgoingRequest) -> bool | str | None:
    """A model that knows no levels takes each of them for a yes."""
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
    wanted = outgoing.request.response_format
    if wanted is None or wanted.type == "text":
        return None
    schema = wanted.json_schema.schema if wanted.json_schema is not None else None
    return schema if isinstance(schema, dict) and schema else "json"


def _tools(outgoing: OutgoingRequest, said: Fields) -> list[Fields]:
    tools = cast("list[Fields]", said.get("tools") or [])
    choice = said.get("tool_choice")
    if choice == "none":
        return []
    if choice is not None and tools:
        outgoing.leave_out(said, frozenset({"tool_choice"}))  # nothing there makes a model call one
    if any(each.get("type") != "function" for each in tools):
        outgoing.leave_out(said, frozenset({"tools"}))
    return tools


# Messages


def _conversation(outgoing: OutgoingRequest, said: Fields) -> list[Fields]:
    """Raises `ApiError` 400 for content that the API has no place for."""
    names: dict[str, str] = {}  # of the functions that were called, by the call's id
    messages = [_message(each, names) for each in said["messages"]]
    delivered = outgoing.delivered
    if delivered is not None and (delivered.content or delivered.reasoning):
        # A last message of the assistant is gone on with.
        last = messages[-1]
        if last["role"] != "assistant" or "tool_calls" in last:
            last = {"role": "assistant", "content": ""}
            messages.append(last)
        last["content"] += delivered.content
        if delivered.reasoning:
            last["thinking"] = last.get("thinking", "") + delivered.reasoning
    return messages


def _message(message: Fields, names: dict[str, str]) -> Fields:
    content, images = _content(message.get("content"))
    role = message["role"]
    said: Fields = {"role": "system" if role == "developer" else role, "content": content}
    if images:
        said["images"] = images
    if role == "assistant":
        if message.get("reasoning_content"):
            said["thinking"] = message["reasoning_content"]
        calls = [_call(each, names) for each in message.get("tool_calls") or ()]
        if calls:
            said["tool_calls"] = calls
    elif role == "tool":
        said["tool_call_id"] = message.get("tool_call_id")
        said["tool_name"] = names.get(str(message.get("tool_call_id"))) or message.get("name") or ""
    elif role == "function":
        raise _untaken("a message of role `function`")
    return said


def _content(content: Any) -> tuple[str, list[str]]:
    """Text and images, apart; what stood where among them is not told there."""
    if not isinstance(content, list):
        return content or "", []
    texts: list[str] = []
    images: list[str] = []
    for each in cast("list[Fields]", content):
        match each["type"]:
            case "text":
                texts.append(each.get("text") or "")
            case "refusal":
                texts.append(str(each.get("refusal") or ""))
            case "image_url":
                images.append(_image(each.get("image_url")))
            case kind:
                raise _untaken(f"content of type `{kind}`")
    return "\n".join(texts), images


def _image(image: Any) -> str:
    url = (as_object(image) or {"url": image}).get("url")
    data = _DATA_URL.fullmatch(url) if isinstance(url, str) else None
    if data is None:
        raise invalid("An image is a `data:` URL in base64, or an `https:` URL.", param="messages")
    return data[1]


def _call(call: Fields, names: dict[str, str]) -> Fields:
    function = as_object(call.get("function"))
    if function is None:
        raise _untaken(f"a tool call of type `{call.get('type')}`")
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments)
        except (msgspec.DecodeError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        raise invalid("The `arguments` of a tool call are no JSON object.", param="messages")
    name, identity = function.get("name"), call.get("id")
    names[str(identity)] = str(name)
    said: Fields = {"function": {"name": name, "arguments": arguments}}
    return said | {"id": identity} if isinstance(identity, str) else said


def _untaken(what: str) -> ApiError:
    return invalid(
        f"The model does not take {what}.", param="messages", code="unsupported_parameter"
    )
