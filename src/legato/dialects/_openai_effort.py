"""The parameters for reasoning of servers that speak OpenAI's dialect."""

from typing import Any, Final

import msgspec

from legato.core.chunk import as_object
from legato.core.dialect import OutgoingRequest
from legato.core.effort import ReasoningRequest, reasoning_request
from legato.core.request import NULL

#: Budgets for llama.cpp, in tokens, by effort: its models are small.
_LLAMA_BUDGETS: Final = {"minimal": 32, "low": 64, "medium": 256, "high": 1024}


def set_effort(fields: dict[str, Any], outgoing: OutgoingRequest) -> None:
    """Replaces the client's parameters for reasoning by the upstream's own."""
    fields.pop("reasoning_effort", None)
    fields.pop("thinking", None)
    wanted = reasoning_request(outgoing.request)
    if wanted.thinks is None:
        return
    match outgoing.quirks.effort_style:
        case "effort":
            fields["reasoning_effort"] = wanted.word(most=outgoing.quirks.most)
        case "thinking":
            thinking: dict[str, Any] = {"type": "enabled" if wanted.thinks else "disabled"}
            if wanted.budget is not None:
                thinking["budget_tokens"] = wanted.budget
            fields["thinking"] = thinking
        case "openrouter":
            if fields.get("reasoning", NULL) == NULL:
                fields["reasoning"] = _for_openrouter(wanted)
        case "llama" if wanted.thinks:
            budget = wanted.tokens(_LLAMA_BUDGETS)
            if budget is not None:
                fields.setdefault("thinking_budget_tokens", budget)
        case "llama" | "template":
            given = as_object(msgspec.json.decode(fields.get("chat_template_kwargs", NULL)))
            fields["chat_template_kwargs"] = {"enable_thinking": wanted.thinks} | (given or {})
        case _:
            pass


def _for_openrouter(wanted: ReasoningRequest) -> dict[str, Any]:
    if not wanted.thinks:
        return {"enabled": False}
    if wanted.budget is not None:
        return {"max_tokens": wanted.budget}
    return {"effort": wanted.word(most="high")}
