"""Coding agents that `legato launch` starts, as data: what each needs to use a server of ours.

An agent gets environment variables and, where it reads a configuration, files in a folder of its
own. No file has the API key: an agent finds it in its environment.
"""

import json
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from legato.server.model_lists import codex_models

#: The variable with the API key for agents that are told where to look.
KEY_VARIABLE: Final = "LEGATO_API_KEY"


#: Tokens that Claude Code and OpenCode ask for where the context is long.
_MOST_ROOM: Final = 32_000


class ServedModel(Struct, frozen=True):
    """A model of the server. `context_length` is in tokens, None if it is unknown."""

    name: str
    context_length: int | None = None
    reasons: bool = False


class Target(Struct, frozen=True):
    """What an agent is started against. `base_url` ends with `/v1`, `root_url` does not.

    `model`: the one that is used at first; `models`: all of the server, that one included.
    `folder`: the agent's own, where its files are.
    """

    root_url: str
    key: str
    model: str
    models: tuple[ServedModel, ...]
    folder: str

    @property
    def base_url(self) -> str:
        return f"{self.root_url}/v1"

    @property
    def context_length(self) -> int | None:
        """Of the model that is used at first."""
        return next((each.context_length for each in self.models if each.name == self.model), None)


class Agent(Struct, frozen=True):
    """`program` is its name on PATH, `install` the command that installs it.

    `environment` and `files` (text by name) are what it is given; `removed` are variables of the
    user's environment that would lead it elsewhere, or send credentials for another server.
    `certificate`: the variable with a PEM file of authorities to trust. `arguments` stand before
    the user's.
    """

    title: str
    program: str
    install: str
    environment: Callable[[Target], dict[str, str]]
    files: Callable[[Target], dict[str, str]]
    removed: tuple[str, ...]
    certificate: str
    arguments: Callable[[Target], tuple[str, ...]] = lambda _: ()


# Codex: a configuration folder with a provider, and a catalog of models. Without the catalog it
# warns of an unknown model, and assumes a context length.


def _codex_environment(target: Target) -> dict[str, str]:
    return {"CODEX_HOME": target.folder, KEY_VARIABLE: target.key}


def _codex_files(target: Target) -> dict[str, str]:
    catalog = f"{target.folder}/models.json"
    settings = f"""\
model = {_text(target.model)}
model_provider = "legato"
model_catalog_json = {_text(catalog)}
check_for_update_on_startup = false

[analytics]
enabled = false

[model_providers.legato]
name = "Legato"
base_url = {_text(target.base_url)}
wire_api = "responses"
env_key = "{KEY_VARIABLE}"
"""
    models = codex_models(_listed(each) for each in target.models)
    return {"config.toml": settings, "models.json": _json({"models": models})}


def _listed(model: ServedModel) -> dict[str, Any]:
    """A model as `GET /v1/models` lists it, as far as Codex is told of it."""
    return {
        "id": model.name,
        "capabilities": ["reasoning"] if model.reasons else [],
        "context_length": model.context_length,
    }


# Claude Code assumes 200,000 tokens of context for any model, and makes a conversation shorter when
# it is refused as too long. Told a length, it does so before. It keeps some 33,000 tokens free for
# an answer and a summary, and takes no length below 100,000. Of models whose names begin with
# `claude-` it knows the length itself.

_CLAUDE_LEAST_CONTEXT: Final = 100_000

#: Milliseconds without an event after which Claude Code gives up a stream and asks again without
#: one. A `ping` is no event to it, and its own five minutes are too short for a long prompt that is
#: read on a CPU. The server ends what makes no progress sooner.
_CLAUDE_IDLE: Final = 1_800_000


def _claude_environment(target: Target) -> dict[str, str]:
    context = target.context_length
    lengths = ("CLAUDE_CODE_MAX_CONTEXT_TOKENS", "CLAUDE_CODE_AUTO_COMPACT_WINDOW")
    told: dict[str, str] = {}
    if context is not None and context >= _CLAUDE_LEAST_CONTEXT:
        told |= dict.fromkeys(lengths, str(context))
    if context is not None and (room := _answer_room(context)) < _MOST_ROOM:
        told["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(room)
    models = ("MODEL", "SMALL_FAST_MODEL")
    defaults = [f"DEFAULT_{family}_MODEL" for family in ("HAIKU", "SONNET", "OPUS")]
    return {
        "ANTHROPIC_BASE_URL": target.root_url,
        "ANTHROPIC_AUTH_TOKEN": target.key,
        **{f"ANTHROPIC_{name}": target.model for name in (*models, *defaults)},
        **told,
        "CLAUDE_CONFIG_DIR": target.folder,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_STREAM_IDLE_TIMEOUT_MS": str(_CLAUDE_IDLE),
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_TELEMETRY": "1",
    }


#: Claude Code's settings of ours. A project's may set variables anew, and would lead it, with our
#: key, to another server; those that an argument names are stronger.
_CLAUDE_SETTINGS: Final = "legato.json"


def _claude_files(target: Target) -> dict[str, str]:
    variables = _claude_environment(target)
    del variables["ANTHROPIC_AUTH_TOKEN"]
    return {
        # Without it Claude Code begins with its questions for new users, a login among them.
        ".claude.json": _json({"hasCompletedOnboarding": True}),
        _CLAUDE_SETTINGS: _json({"env": variables}),
    }


def _claude_arguments(target: Target) -> tuple[str, ...]:
    return ("--settings", f"{target.folder}/{_CLAUDE_SETTINGS}")


# OpenCode: its own configuration files stay in force. A project's file is stronger than ours, so
# the choice of the model stands in the environment, which is stronger still.


def _opencode_environment(target: Target) -> dict[str, str]:
    model = f"legato/{target.model}"
    choice = {"model": model, "small_model": model}
    return {
        KEY_VARIABLE: target.key,
        "OPENCODE_CONFIG": f"{target.folder}/opencode.json",
        "OPENCODE_CONFIG_CONTENT": json.dumps(choice, ensure_ascii=False),
    }


def _opencode_files(target: Target) -> dict[str, str]:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Legato",
        "options": {"baseURL": target.base_url, "apiKey": f"{{env:{KEY_VARIABLE}}}"},
        "models": {each.name: _opencode_model(each) for each in target.models},
    }
    settings = {
        "$schema": "https://opencode.ai/config.json",
        "autoupdate": False,
        "share": "disabled",
        "provider": {"legato": provider},
    }
    return {"opencode.json": _json(settings)}


def _opencode_model(model: ServedModel) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": model.name, "tool_call": True, "reasoning": model.reasons}
    if (context := model.context_length) is not None:
        entry["limit"] = {"context": context, "output": _answer_room(context)}  # requires both
    return entry


# Qwen Code


def _qwen_environment(target: Target) -> dict[str, str]:
    return {
        "OPENAI_BASE_URL": target.base_url,
        "OPENAI_API_KEY": target.key,
        "OPENAI_MODEL": target.model,
        "QWEN_HOME": target.folder,
    }


def _qwen_files(target: Target) -> dict[str, str]:
    model: dict[str, Any] = {"name": target.model}
    if (context := target.context_length) is not None:
        model["generationConfig"] = {"contextWindowSize": context}
    settings = {
        "security": {"auth": {"selectedType": "openai"}},
        "model": model,
        "general": {"enableAutoUpdate": False},
        "privacy": {"usageStatisticsEnabled": False},
    }
    return {"settings.json": _json(settings)}


# aider takes each of its options from the environment, as `AIDER_…`, before it takes them from its
# own files, which stay in force. The names of the SDK are the weaker ones: `.env` and its files set
# them anew.

_AIDER_MODELS: Final = "models.json"


def _aider_environment(target: Target) -> dict[str, str]:
    model = f"openai/{target.model}"
    lengths = {"AIDER_MODEL_METADATA_FILE": f"{target.folder}/{_AIDER_MODELS}"}
    return {
        "OPENAI_API_BASE": target.base_url,
        "OPENAI_API_KEY": target.key,
        "AIDER_OPENAI_API_BASE": target.base_url,
        "AIDER_OPENAI_API_KEY": target.key,
        "AIDER_MODEL": model,
        "AIDER_WEAK_MODEL": model,
        **(lengths if _aider_files(target) else {}),
        "AIDER_ANALYTICS": "false",
        "AIDER_CHECK_UPDATE": "false",
        "AIDER_SHOW_MODEL_WARNINGS": "false",
    }


def _aider_files(target: Target) -> dict[str, str]:
    models = {
        f"openai/{each.name}": {
            "litellm_provider": "openai",
            "mode": "chat",
            "max_input_tokens": each.context_length,
            "max_output_tokens": each.context_length,  # only shown; without it as 0
        }
        for each in target.models
        if each.context_length is not None
    }
    return {_AIDER_MODELS: _json(models)} if models else {}


def _answer_room(context: int) -> int:
    """Tokens for an answer. A quarter of the context leaves the rest to the prompt: servers refuse
    a request for more than there is room for."""
    return max(1, min(_MOST_ROOM, context // 4))


def _text(value: str) -> str:
    """A string in TOML. JSON's escapes are valid in it."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


AGENTS: Final = {
    "codex": Agent(
        "Codex",
        "codex",
        "npm i -g @openai/codex",
        _codex_environment,
        _codex_files,
        ("CODEX_SQLITE_HOME",),
        "CODEX_CA_CERTIFICATE",
    ),
    "claude": Agent(
        "Claude Code",
        "claude",
        "npm i -g @anthropic-ai/claude-code",
        _claude_environment,
        _claude_files,
        (
            "ANTHROPIC_API_KEY",
            "ANTHROPIC_CUSTOM_HEADERS",
            "CLAUDE_CODE_OAUTH_TOKEN",
            "CLAUDE_CODE_USE_BEDROCK",
            "CLAUDE_CODE_USE_FOUNDRY",
            "CLAUDE_CODE_USE_VERTEX",
        ),
        "NODE_EXTRA_CA_CERTS",
        _claude_arguments,
    ),
    "opencode": Agent(
        "OpenCode",
        "opencode",
        "npm i -g opencode-ai",
        _opencode_environment,
        _opencode_files,
        (),
        "NODE_EXTRA_CA_CERTS",
    ),
    "qwen": Agent(
        "Qwen Code",
        "qwen",
        "npm i -g @qwen-code/qwen-code",
        _qwen_environment,
        _qwen_files,
        ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "QWEN_MODEL", "QWEN_DEFAULT_AUTH_TYPE"),
        "NODE_EXTRA_CA_CERTS",
    ),
    "aider": Agent(
        "aider",
        "aider",
        "pipx install aider-chat",
        _aider_environment,
        _aider_files,
        (
            *("OPENAI_API_TYPE", "OPENAI_ORGANIZATION", "AIDER_EDITOR_MODEL"),
            *("AIDER_OPENAI_API_TYPE", "AIDER_OPENAI_ORGANIZATION_ID"),
        ),
        "SSL_CERT_FILE",
    ),
}
