"""A chat request as Anthropic's Messages API has it (platform.claude.com/docs/en/api/messages)."""

import re
from typing import Any, Final, cast

import msgspec

from legato.core.chunk import as_object
from legato.core.dialect import OutgoingRequest
from legato.core.effort import BUDGETS, reasoning_request
from legato.core.errors import invalid
from legato.dialects._anthropic_messages import conversation, go_on

#: Tokens for an answer where the client sets no limit, which has to be set there.
_ROOM: Final = 4096
#: The same for models that decide themselves how much to think, out of the same number.
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
#: What is said there in other words, or is ours to say.
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
#: Values that ask for nothing: a parameter that is not taken does no harm with them.
_NEUTRAL: Final[dict[str, Any]] = {
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

Fields = dict[str, Any]


def encode(outgoing: OutgoingRequest) -> bytes:
    """The request's body (`core.dialect.Dialect.encode`).

    Raises `UpstreamError` `cannot_continue` where `asked.delivered` cannot be gone on with exactly.
    """
    said: dict[str, Any] = {
        name: value
        for name, value in msgspec.json.decode(outgoing.body).items()
        if value is not None and not (name in _NEUTRAL and value == _NEUTRAL[name])
    }
    if "n" in said:
        raise invalid("The model gives one choice: leave `n` out.", param="n")
    outgoing.leave_out(said, outgoing.quirks.rejected_parameters | (said.keys() - _TAKEN))
    claude = _version(outgoing.model)
    adapts = outgoing.quirks.effort_style == "effort" or (
        outgoing.quirks.effort_style != "thinking" and claude >= (4, 6)
    )
    config: dict[str, Any] = dict(as_object(said.get("output_config")) or {})
    system, turns = conversation(said["messages"])
    thinking = _thinking(outgoing, adapts, config, turns)
    _fit_sampling(
        outgoing, said, claude, thinks=(thinking or {}).get("type", "disabled") != "disabled"
    )
    schema = _schema(outgoing, said)
    if schema is not None:
        config["format"] = {"type": "json_schema", "schema": schema}
    if outgoing.delivered is not None:
        go_on(turns, outgoing.delivered, takes_prefill=claude < (4, 6))
    body: dict[str, Any] = {
        "model": outgoing.model,
        "max_tokens": _limit(said, adapts, (thinking or {}).get("budget_tokens", 0)),
        "messages": turns,
        "stream": True,
        "system": system,
        "thinking": thinking,
        "stop_sequences": _stops(outgoing),
        "metadata": {"user_id": outgoing.request.user} if outgoing.request.user else None,
    }
    body |= {name: said[name] for name in said if name in _NATIVE}
    body["output_config"] = config
    body |= _tools(outgoing, said)
    return msgspec.json.encode({name: each for name, each in body.items() if each not in _EMPTY})


_EMPTY: Final[tuple[Any, ...]] = (None, "", [], {})


def _version(model: str) -> tuple[int, int]:
    """Of Claude; (0, 0) where the name says none: others serve their models behind this API too.

    From 4.6 on models think by effort and not by budget, and do not go on with an answer that they
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
    spoken = [turn for turn in turns if turn["role"] == "assistant"]
    said: Any = spoken[-1]["content"] if spoken else []
    blocks = cast("list[Any]", said) if isinstance(said, list) else []
    kinds = [(as_object(block) or {}).get("type") for block in blocks]
    return "tool_use" in kinds and kinds[0] not in ("thinking", "redacted_thinking")


def _thinking(
    outgoing: OutgoingRequest, adapts: bool, config: dict[str, Any], turns: list[Fields]
) -> dict[str, Any] | None:
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
            word = "high"  # 4.6 knows `max`, and not this one
        config.setdefault("effort", "low" if word == "minimal" else word)
    # Its default is `omitted` for some models: thoughts without a word in them.
    return {"type": "adaptive", "display": "summarized"}


def _limit(said: dict[str, Any], adapts: bool, budget: int) -> int:
    """`max_tokens`, which counts thoughts too and has to be more than their budget. The body knows
    it better than the request: of an answer under way it has what is left."""
    limit: int | None = said.get("max_completion_tokens") or said.get("max_tokens")
    if limit is None:
        return _ADAPTIVE_ROOM if adapts else _ROOM + budget
    return limit if limit > budget else limit + budget


def _fit_sampling(
    outgoing: OutgoingRequest, said: dict[str, Any], claude: tuple[int, int], thinks: bool
) -> None:
    rejected_parameters: frozenset[str] = frozenset()
    if thinks or claude >= (4, 7):
        rejected_parameters = _SAMPLING
    elif claude >= (4, 1) and "temperature" in said:
        rejected_parameters = frozenset({"top_p"})  # one of the two
    for name in rejected_parameters & {"temperature", "top_p"}:
        if said.get(name) == 1:
            del said[name]  # as it is there in any case
    outgoing.leave_out(said, rejected_parameters)
    if "temperature" in said:
        said["temperature"] = min(said["temperature"], 1)  # OpenAI's goes to 2


def _stops(outgoing: OutgoingRequest) -> list[str]:
    """Only white space is no stop sequence there."""
    stop = outgoing.request.stop or []
    stops = [stop] if isinstance(stop, str) else stop
    kept = [each for each in stops if each.strip()]
    if len(kept) < len(stops):
        outgoing.leave_out({"stop": stops}, frozenset({"stop"}))
    return kept


def _schema(outgoing: OutgoingRequest, said: dict[str, Any]) -> dict[str, Any] | None:
    wanted = outgoing.request.response_format
    if wanted is None or wanted.type == "text":
        return None
    schema = wanted.json_schema.schema if wanted.json_schema is not None else None
    if not isinstance(schema, dict):
        outgoing.leave_out(said, frozenset({"response_format"}))  # any JSON, without a schema
        return None
    return schema


# Tools


def _tools(outgoing: OutgoingRequest, said: dict[str, Any]) -> dict[str, Any]:
    tools = [_tool(each) for each in said.get("tools") or ()]
    if not tools:
        return {}
    choice = _tool_choice(outgoing, said)
    if outgoing.request.parallel_tool_calls is False:
        choice = choice or {"type": "auto"}
        if choice["type"] != "none":
            choice["disable_parallel_tool_use"] = True
    return {"tools": tools, "tool_choice": choice}


def _tool(tool: Fields) -> Fields:
    function = as_object(tool.get("function"))
    if function is None:
        return tool  # one of the API's own, such as a search that it runs itself
    nothing: Fields = {"type": "object", "properties": {}}
    said: Fields = {
        "name": function.get("name"),
        "description": function.get("description"),
        "input_schema": function.get("parameters") or nothing,
        "strict": function.get("strict") or None,
        "cache_control": tool.get("cache_control"),
    }
    return {name: each for name, each in said.items() if each is not None}


def _tool_choice(outgoing: OutgoingRequest, said: dict[str, Any]) -> Fields | None:
    choice = said.get("tool_choice")
    if choice is None:
        return None
    if isinstance(choice, str):
        kind = {"auto": "auto", "none": "none", "required": "any"}.get(choice)
        if kind is not None:
            return {"type": kind}
    else:
        named = as_object((as_object(choice) or {}).get("function")) or {}
        if isinstance(named.get("name"), str):
            return {"type": "tool", "name": named["name"]}
    outgoing.leave_out(said, frozenset({"tool_choice"}))
    return None
