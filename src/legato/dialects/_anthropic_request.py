"""A chat request as Anthropic's Messages API has it (platform.claude.com/docs/en/api/messages)."""

import re
from typing import Any, Final

import msgspec

from legato.core.chunk import as_object
from legato.core.dialect import OutgoingRequest
from legato.core.effort import BUDGETS, reasoning_request
from legato.core.errors import invalid
from legato.dialects._anthropic_messages import conversation, go_on
from legato.dialects._openai_messages import unsupported

#: Tokens for an answer where the client sets no limit: the API requires one.
_ROOM: Final = 4096
#: The same for models that decide themselves how many of these tokens they think.
_ADAPTIVE_ROOM: Final = 32_000
#: The least budget for thinking.
_LEAST_BUDGET: Final = 1024

#: The API's own parameters that OpenAI's does not have: they go out as they came.
_NATIVE: Final = frozenset(
    {
        "cache_control",
        "container",
        "context_management",
        "diagnostics",
        "inference_geo",
        "mcp_servers",
        "output_config",
        "speed",
        "temperature",
        "top_k",
        "top_p",
    }
)
#: What has another name or shape there, or is set by us.
_TAKEN: Final = _NATIVE | {
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "model",
    "parallel_tool_calls",
    "reasoning_effort",
    "response_format",
    "stop",
    "stream",
    "stream_options",
    "thinking",
    "tool_choice",
    "tools",
    "user",
}
#: Default values: a parameter that is not taken is left out with them, and no error.
_DEFAULTS: Final[dict[str, Any]] = {
    "n": 1,
    "logprobs": False,
    "top_logprobs": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {},
    "store": False,
}

_SAMPLING: Final = frozenset({"temperature", "top_p", "top_k"})

#: `claude-3-5-haiku-20241022`, `claude-opus-4-20250514`, `anthropic.claude-sonnet-5`.
_CLAUDE: Final = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?")

_CHOICES: Final = {"auto": "auto", "none": "none", "required": "any"}

Fields = dict[str, Any]


def encode(outgoing: OutgoingRequest) -> bytes:
    """The request's body (`core.dialect.Dialect.encode`).

    Raises `UpstreamError` `cannot_continue` where `outgoing.delivered` cannot be continued exactly.
    """
    if outgoing.request.choices > 1:
        raise invalid("The model gives one choice: leave `n` out.", param="n")
    wanted = outgoing.parameters(_TAKEN, _DEFAULTS)
    claude = _version(outgoing.model)
    adapts = outgoing.quirks.effort_style == "effort" or (
        outgoing.quirks.effort_style != "thinking" and claude >= (4, 6)
    )
    config: Fields = dict(as_object(wanted.get("output_config")) or {})
    system, turns = conversation(wanted["messages"])
    thinking = _thinking(outgoing, adapts, config, turns)
    thinks = (thinking or {}).get("type", "disabled") != "disabled"
    _fit_sampling(outgoing, wanted, claude, thinks=thinks)
    schema = _schema(outgoing, wanted)
    if schema is not None:
        config["format"] = {"type": "json_schema", "schema": schema}
    if outgoing.delivered is not None:
        go_on(turns, outgoing.delivered, takes_prefill=claude < (4, 6))
    body: Fields = {
        "model": outgoing.model,
        "max_tokens": _limit(wanted, adapts, (thinking or {}).get("budget_tokens", 0)),
        "messages": turns,
        "stream": outgoing.streams,
        "system": system,
        "thinking": thinking,
        "stop_sequences": _stops(outgoing),
        "metadata": {"user_id": outgoing.request.user} if outgoing.request.user else None,
    }
    body |= {name: wanted[name] for name in wanted if name in _NATIVE}
    body["output_config"] = config
    body |= _tools(outgoing, wanted)
    return msgspec.json.encode({name: each for name, each in body.items() if each not in _EMPTY})


_EMPTY: Final[tuple[Any, ...]] = (None, "", [], {})


def _version(model: str) -> tuple[int, int]:
    """Of Claude; (0, 0) where the name has none: others serve their models behind this API too.

    From 4.6 on models think by effort and not by budget, and do not continue an answer that they
    did not begin. From 4.7 on their sampling is fixed.
    """
    found = _CLAUDE.search(model)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


# How much


def _may_not_think(outgoing: OutgoingRequest, turns: list[Fields]) -> bool:
    """With a budget it is a 400 to think where a call is demanded, and in the middle of a turn that
    called tools without the thoughts which led to them: clients seldom send those back."""
    choice = outgoing.request.tool_choice
    if choice is not None and choice not in ("auto", "none"):
        return True
    answers = [turn for turn in turns if turn["role"] == "assistant"]
    blocks: list[Fields] = answers[-1]["content"] if answers else []
    kinds = [block.get("type") for block in blocks]
    return "tool_use" in kinds and kinds[0] not in ("thinking", "redacted_thinking")


def _thinking(
    outgoing: OutgoingRequest, adapts: bool, config: Fields, turns: list[Fields]
) -> Fields | None:
    """`thinking`; the effort that goes with it is put into `config`. In the middle of an answer
    nothing more is thought."""
    wanted = reasoning_request(outgoing.request)
    begun = outgoing.delivered is not None and outgoing.delivered.content
    if wanted.thinks is None or outgoing.quirks.effort_style == "none" or begun:
        return None
    if not wanted.thinks:
        return {"type": "disabled"}
    if not adapts and _may_not_think(outgoing, turns):
        return None
    if not adapts:
        budget = wanted.tokens(BUDGETS) or BUDGETS["medium"]
        return {"type": "enabled", "budget_tokens": max(_LEAST_BUDGET, budget)}
    if wanted.effort is not None or wanted.budget is not None:
        word = wanted.word()
        if word == "xhigh" and _version(outgoing.model) < (4, 7):
            word = "high"  # 4.6 has `max`, and not this one
        config.setdefault("effort", "low" if word == "minimal" else word)
    # Its default is `omitted` for some models: thoughts without a word in them.
    return {"type": "adaptive", "display": "summarized"}


def _limit(wanted: Fields, adapts: bool, budget: int) -> int:
    """`max_tokens`, which counts thoughts too and has to be more than their budget. It is taken
    from the body, not from the typed request: a continuation has only the rest of its limit."""
    limit: int | None = wanted.get("max_completion_tokens") or wanted.get("max_tokens")
    if limit is None:
        return _ADAPTIVE_ROOM if adapts else _ROOM + budget
    return limit if limit > budget else limit + budget


def _fit_sampling(
    outgoing: OutgoingRequest, wanted: Fields, claude: tuple[int, int], thinks: bool
) -> None:
    rejected_parameters: frozenset[str] = frozenset()
    if thinks or claude >= (4, 7):
        rejected_parameters = _SAMPLING
    elif claude >= (4, 1) and "temperature" in wanted:
        rejected_parameters = frozenset({"top_p"})  # one of the two
    for name in rejected_parameters & {"temperature", "top_p"}:
        if wanted.get(name) == 1:
            del wanted[name]  # the default
    outgoing.leave_out(wanted, rejected_parameters)
    if "temperature" in wanted:
        wanted["temperature"] = min(wanted["temperature"], 1)  # OpenAI's goes to 2


def _stops(outgoing: OutgoingRequest) -> list[str]:
    """The API refuses a stop sequence of white space."""
    stop = outgoing.request.stop or []
    stops = [stop] if isinstance(stop, str) else stop
    taken = [each for each in stops if each.strip()]
    if len(taken) < len(stops):
        outgoing.leave_out({"stop": stops}, frozenset({"stop"}))
    return taken


def _schema(outgoing: OutgoingRequest, wanted: Fields) -> Fields | None:
    form = outgoing.request.response_format
    if form is None or form.type == "text":
        return None
    schema = form.json_schema.schema if form.json_schema is not None else None
    if not isinstance(schema, dict):
        outgoing.leave_out(wanted, frozenset({"response_format"}))  # any JSON, without a schema
        return None
    return schema


# Tools


def _tools(outgoing: OutgoingRequest, wanted: Fields) -> Fields:
    tools = [_tool(index, each) for index, each in enumerate(wanted.get("tools") or ())]
    if not tools:
        return {}
    choice = _tool_choice(outgoing)
    if outgoing.request.parallel_tool_calls is False:
        choice = choice or {"type": "auto"}
        if choice["type"] != "none":
            choice["disable_parallel_tool_use"] = True
    return {"tools": tools, "tool_choice": choice}


def _tool(index: int, tool: Fields) -> Fields:
    if tool["type"] != "function":
        if "custom" in tool:  # OpenAI's; a tool of this API has its members beside its type
            raise unsupported("a tool of type `custom`", f"tools[{index}]")
        return tool  # one of the API's own, such as a search that it runs itself
    function = as_object(tool.get("function")) or {}
    empty: Fields = {"type": "object", "properties": {}}
    fields: Fields = {
        "name": function.get("name"),
        "description": function.get("description"),
        "input_schema": function.get("parameters") or empty,
        "strict": function.get("strict") or None,
        "cache_control": tool.get("cache_control"),
    }
    return {name: each for name, each in fields.items() if each is not None}


def _tool_choice(outgoing: OutgoingRequest) -> Fields | None:
    choice = outgoing.request.tool_choice
    if choice is None:
        return None
    if isinstance(choice, str) and choice in _CHOICES:
        return {"type": _CHOICES[choice]}
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "tool", "name": choice["function"]["name"]}
    raise outgoing.refuse_tool_choice("`auto`, `none`, `required` and the name of a function")
