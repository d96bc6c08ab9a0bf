"""The answers to `GET /v1/models`: in the shapes of OpenAI, Anthropic and Codex.

All are made from OpenAI's, which is `data` of the answer to any client.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from legato.policy.routing import Route
from legato.upstreams.upstream import Price, Upstream

#: A model as `GET /v1/models` lists it: `id`, `created`, `owned_by`, `context_length`, ...
Model = Mapping[str, Any]

#: Codex sends a model's own instructions, and has none for a model that it does not know.
_CODEX_INSTRUCTIONS: Final = """\
You are a coding agent in a terminal. You work in the user's folder until the task is done.

- Look before you change: read the files that matter, search with `rg` or `grep`.
- Run commands with the tool for it; write files with a tool for patches if there is one, else with
  a command. Never print a change as text in place of making it.
- Change as little as the task needs, in the style of the code around it.
- Check your work where the project has a way to: its tests, its linter, a run of the program.
- Do not commit, and do not undo changes of others, unless you are asked to.
- End with a short summary: what you changed, what you checked, what is left.
"""

_CODEX_EFFORTS: Final = {
    "low": "Answers soon, thinks little",
    "medium": "Balances speed and thought",
    "high": "Thinks longest",
}

#: Tokens of a command's output that Codex keeps.
_CODEX_OUTPUT_TOKENS: Final = 10_000


def openai_model(
    name: str, route: Route, price: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """`name`: what the client calls it: an alias, or what the route's pattern matches. `price`: US
    dollars per million tokens, by kind."""
    pricing = {"pricing": price} if price is not None else {}
    return {
        "id": name,
        "object": "model",
        "created": route.created,
        "owned_by": route.owned_by,
        "context_length": route.context_length,
        "capabilities": list(route.capabilities),
    } | pricing


def openai_list(models: Iterable[Model]) -> dict[str, Any]:
    return {"object": "list", "data": list(models)}


def anthropic_model(model: Model) -> dict[str, Any]:
    created = datetime.fromtimestamp(model["created"], UTC)
    return {
        "type": "model",
        "id": model["id"],
        "display_name": model["id"],
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": model["context_length"],
    }


def anthropic_list(models: Iterable[Model]) -> dict[str, Any]:
    """All of them on one page."""
    data = [anthropic_model(model) for model in models]
    return {
        "data": data,
        "has_more": False,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


def codex_models(models: Iterable[Model]) -> list[dict[str, Any]]:
    """The `models` array that Codex 0.171 reads, from its server or as `model_catalog_json`."""
    return [_codex_model(model, priority) for priority, model in enumerate(models)]


def _codex_model(model: Model, priority: int) -> dict[str, Any]:
    reasons = "reasoning" in model["capabilities"]
    efforts = _CODEX_EFFORTS if reasons else {}
    return {
        "slug": model["id"],
        "display_name": model["id"],
        "supported_reasoning_levels": [
            {"effort": effort, "description": text} for effort, text in efforts.items()
        ],
        "default_reasoning_level": "medium" if reasons else None,
        "shell_type": "unified_exec",
        "visibility": "list",
        "supported_in_api": True,
        "priority": priority,
        "base_instructions": _CODEX_INSTRUCTIONS,
        "supports_reasoning_summaries": reasons,
        "support_verbosity": False,
        "default_verbosity": None,
        "apply_patch_tool_type": None,  # as Codex has it for a model that it does not know
        "truncation_policy": {"mode": "tokens", "limit": _CODEX_OUTPUT_TOKENS},
        "supports_parallel_tool_calls": True,
        "context_window": model["context_length"],
        "experimental_supported_tools": [],
    }


def first_price(route: Route, model: str, upstreams: Mapping[str, Upstream]) -> Price | None:
    """The price of a route's first deployment that has one. `model`: without an alias."""
    known = (upstreams[each].price_of(model) for each in route.deployments)
    return next((each for each in known if each is not None), None)
