"""A chat request as Gemini's API has it (ai.google.dev/api/generate-content)."""

import re
from typing import Any, Final, cast

import msgspec

from legato.core.chunk import as_object
from legato.core.dialect import OutgoingRequest
from legato.core.effort import BUDGETS, ReasoningRequest, reasoning_request
from legato.core.errors import bad_gateway
from legato.dialects._gemini_messages import conversation
from legato.dialects._openai_messages import unsupported

#: The API's own parameters that OpenAI's does not have: they go out as they came.
_NATIVE: Final = frozenset({"cachedContent", "generationConfig", "labels", "safetySettings"})

#: Members of `generationConfig`, by their names in OpenAI's API.
_GENERATION: Final = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "n": "candidateCount",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
    "logprobs": "responseLogprobs",
    "top_logprobs": "logprobs",
}
#: What has another name or shape there, or is set by us.
_TAKEN: Final = (
    _NATIVE
    | _GENERATION.keys()
    | {
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "model",
        "reasoning_effort",
        "response_format",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "thinking",
        "tool_choice",
        "tools",
    }
)
#: Default values: not every model takes the parameter.
_DEFAULTS: Final[dict[str, Any]] = {
    "n": 1,
    "logprobs": False,
    "top_logprobs": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {},
    "parallel_tool_calls": True,
    "store": False,
}
_EMPTY: Final[tuple[Any, ...]] = (None, [], {})

_GEMINI: Final = re.compile(r"gemini-(\d+)(?!\d)")

#: The least and the most that a model may be given to think, in tokens, by a word in its name.
_BUDGETS: Final = {"lite": (512, 24_576), "pro": (128, 32_768)}

_CHOICES: Final = {"auto": "AUTO", "none": "NONE", "required": "ANY"}

Fields = dict[str, Any]


def encode(outgoing: OutgoingRequest) -> bytes:
    """The request's body (`core.dialect.Dialect.encode`). The path says whether it is a stream."""
    if outgoing.delivered is not None and (
        outgoing.delivered.content or outgoing.delivered.reasoning
    ):
        raise bad_gateway(
            "The answer cannot be continued here: the model does not go on exactly where another"
            " stopped.",
            code="cannot_continue",
        )
    wanted = outgoing.parameters(_TAKEN, _DEFAULTS)
    system, turns = conversation(wanted["messages"], signed=_generation(outgoing.model) >= 3)
    body: Fields = {"contents": turns}
    body |= {name: wanted[name] for name in wanted if name in _NATIVE}
    body["systemInstruction"] = {"parts": system} if system else None
    body |= _tools(outgoing, wanted)
    body["generationConfig"] = _config(outgoing, wanted)
    return msgspec.json.encode({name: each for name, each in body.items() if each not in _EMPTY})


def _generation(model: str) -> int:
    """Of Gemini. A name without a number means the newest."""
    found = _GEMINI.search(model)
    return int(found[1]) if found else 3


def _config(outgoing: OutgoingRequest, wanted: Fields) -> Fields:
    config: Fields = dict(as_object(wanted.get("generationConfig")) or {})
    config.pop("candidateCount", None)  # it is `n`, which is counted on and limited
    config |= {theirs: wanted[ours] for ours, theirs in _GENERATION.items() if ours in wanted}
    if outgoing.request.seed is not None:
        config["seed"] = outgoing.request.seed % 2**31  # it has 32 bits there
    limit = wanted.get("max_completion_tokens") or wanted.get("max_tokens")
    if limit is not None:
        config["maxOutputTokens"] = limit
    if wanted.get("stop"):
        stop = wanted["stop"]
        config["stopSequences"] = [stop] if isinstance(stop, str) else stop
    form = outgoing.request.response_format
    if form is not None and form.type != "text":
        config["responseMimeType"] = "application/json"
        if form.json_schema is not None and isinstance(form.json_schema.schema, dict):
            config["responseJsonSchema"] = form.json_schema.schema
    thinking = _thinking(outgoing)
    if thinking is not None:
        config["thinkingConfig"] = thinking
    return config


def _thinking(outgoing: OutgoingRequest) -> Fields | None:
    """`thinkingConfig`: a level from Gemini 3 on, a number of tokens before it."""
    wanted, effort_style = reasoning_request(outgoing.request), outgoing.quirks.effort_style
    if wanted.thinks is None or effort_style == "none":
        return None
    by_level = effort_style == "effort" or (
        effort_style != "thinking" and _generation(outgoing.model) >= 3
    )
    amount = _level(wanted, outgoing.model) if by_level else _budget(wanted, outgoing.model)
    return {"includeThoughts": wanted.thinks} | amount


def _level(wanted: ReasoningRequest, model: str) -> Fields:
    """Models that think by level always think; the least of it has another name for the larger."""
    if wanted.thinks and wanted.effort is None and wanted.budget is None:
        return {}  # as much as it likes
    word = wanted.word(most="high") or "none"
    if word in ("none", "minimal"):
        word = "low" if "pro" in model else "minimal"
    return {"thinkingLevel": word.upper()}


def _budget(wanted: ReasoningRequest, model: str) -> Fields:
    least, most = next((_BUDGETS[word] for word in _BUDGETS if word in model), (0, 24_576))
    if not wanted.thinks:
        return {"thinkingBudget": least if "pro" in model else 0}
    tokens = wanted.tokens(BUDGETS)
    return {"thinkingBudget": -1 if tokens is None else max(least, min(tokens, most))}


# Tools


def _tools(outgoing: OutgoingRequest, wanted: Fields) -> Fields:
    tools = cast("list[Fields]", wanted.get("tools") or [])
    functions = [_declaration(each) for each in tools if each["type"] == "function"]
    others = [_own_tool(n, each) for n, each in enumerate(tools) if each["type"] != "function"]
    choice = outgoing.request.tool_choice
    if functions:
        config = {"functionCallingConfig": _calling(outgoing)} if choice is not None else None
        return {"tools": [*others, {"functionDeclarations": functions}], "toolConfig": config}
    if choice == "none":
        return {}
    if others and choice not in (None, "auto"):
        raise outgoing.refuse_tool_choice("`auto` and `none` where no tool is a function")
    return {"tools": others}


def _declaration(tool: Fields) -> Fields:
    function = as_object(tool.get("function")) or {}
    fields: Fields = {
        "name": function.get("name"),
        "description": function.get("description"),
        "parametersJsonSchema": function.get("parameters"),
    }
    return {name: each for name, each in fields.items() if each not in _EMPTY}


def _own_tool(index: int, tool: Fields) -> Fields:
    """One of the API's own, such as a search that it runs itself: {"type": "googleSearch"}."""
    kind: str = tool["type"]
    if kind == "custom" or tool.keys() - {"type", kind}:
        raise unsupported(f"a tool of type `{kind}`", f"tools[{index}]")
    return {kind: tool.get(kind) or {}}


def _calling(outgoing: OutgoingRequest) -> Fields:
    choice = outgoing.request.tool_choice
    if isinstance(choice, str) and choice in _CHOICES:
        return {"mode": _CHOICES[choice]}
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"mode": "ANY", "allowedFunctionNames": [choice["function"]["name"]]}
    raise outgoing.refuse_tool_choice("`auto`, `none`, `required` and the name of a function")
