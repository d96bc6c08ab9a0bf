"""Loads the settings from a file, the environment and flags, in ascending precedence.

Each source is validated on its own, so that an error names the line, the variable or the flag.
"""

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from legato.policy.limits import Limits
from legato.settings import (
    Alerts,
    Deployment,
    Engine,
    EngineModel,
    LimitChecks,
    Metrics,
    Owner,
    Price,
    Responses,
    Route,
    Server,
    Settings,
    SettingsError,
    Streams,
)
from legato.settings_check import check

DEFAULT_FILE: Final = "legato.toml"

#: Environment variables with short names, like the flags. All others are LEGATO_SECTION_KEY.
_SHORT_NAMES: Final = {
    "LEGATO_HOST": ("server", "host"),
    "LEGATO_PORT": ("server", "port"),
    "LEGATO_DATA": ("data",),
    "LEGATO_LIVE": ("live",),
    "LEGATO_DATABASE": ("database",),
    "LEGATO_RETENTION_DAYS": ("retention_days",),
    "LEGATO_MODELS": ("models",),
    "LEGATO_MODEL": ("engine", "models"),
    "LEGATO_TLS_CERT": ("server", "tls_cert"),
    "LEGATO_TLS_KEY": ("server", "tls_key"),
}
#: Environment variables with our prefix that are not settings.
_NOT_SETTINGS: Final = ("LEGATO_CONFIG", "LEGATO_API_KEY", "LEGATO_BASE_URL", "LEGATO_BENCH_PYTHON")

#: Keys whose value in the environment is a comma-separated list.
_LISTS: Final = ("cors_origins", "trusted_proxies")
_SECRETS: Final = ("api_key", "api_keys", "token", "secret", "webhook")


def load(
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """The effective settings. `flags`: values by dotted name (`server.port`); None: not given.

    Raises `SettingsError`.
    """
    environment = os.environ if environment is None else environment
    path, text = _read(config, environment)
    try:
        tree: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: {error}") from None
    _expand_variables(tree, environment, str(path))
    _convert(tree, lambda setting: f"{path}{_line_of(text, setting)}")
    for name, setting, value in _from_environment(environment):
        _set(tree, setting, value)
        _convert(tree, lambda setting, name=name: name)
    for dotted, value in (flags or {}).items():
        if value is not None:
            _set(tree, tuple(dotted.split(".")), value)
            _convert(tree, lambda setting, name=dotted: _flag(name))
    settings = _convert(tree, lambda setting: str(path))
    check(settings, str(path))
    return settings


def _flag(dotted: str) -> str:
    name = dotted.rpartition(".")[2]
    return "--model" if dotted == "engine.models" else f"--{name.replace('_', '-')}"


def engine_model(name: str) -> dict[str, str]:
    """The entry of `engine.models` for a value of `--model`; a file is named by its stem."""
    if "/" in name or name.endswith(".gguf"):
        return {"name": Path(name).stem, "path": name}
    return {"name": name}


def show(settings: Settings) -> dict[str, Any]:
    """The settings as builtin types, with secrets masked."""

    def masked(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: "********" if name in _SECRETS and each else masked(each)
                for name, each in value.items()
                if each is not None
            }
        if isinstance(value, str):
            return re.sub(r"(?<=://)[^/@]*@", "********@", value)
        return [masked(each) for each in value] if isinstance(value, list | tuple) else value

    tree = msgspec.to_builtins(settings)
    tree["engine"]["models"] = msgspec.to_builtins(settings.engine_models)
    return masked(tree)


def _read(config: Path | None, environment: Mapping[str, str]) -> tuple[str, str]:
    """(name, text) of the configuration file. Only the default file may be missing."""
    variable = environment.get("LEGATO_CONFIG")
    explicit = config or (Path(variable) if variable else None)
    path = explicit or Path(DEFAULT_FILE)
    if explicit is None and not path.is_file():
        return "default settings", ""
    try:
        return str(path), path.read_text()
    except FileNotFoundError:
        raise SettingsError(f"the configuration file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None


def _from_environment(
    environment: Mapping[str, str],
) -> list[tuple[str, tuple[str, ...], Any]]:
    """(variable, path of the setting, value) of each variable that is a setting."""
    found: list[tuple[str, tuple[str, ...], Any]] = []
    for name in sorted(environment):
        if not name.startswith("LEGATO_") or name in _NOT_SETTINGS:
            continue
        setting = _SHORT_NAMES.get(name) or _section_key(name)
        if setting is None:
            raise SettingsError(
                f"{name}: unknown setting; allowed are {', '.join((*_SHORT_NAMES, *_NOT_SETTINGS))}"
                " and LEGATO_SECTION_KEY for a key of [server], [streams], [limits],"
                " [metrics] or [engine]"
            )
        value: Any = environment[name]
        if setting == ("engine", "models"):
            value = [engine_model(each) for each in value.split(",")]
        elif setting[-1] in _LISTS:
            value = value.split(",")
        found.append((name, setting, value))
    return found


def _section_key(name: str) -> tuple[str, str] | None:
    """(section, key) of a variable LEGATO_SECTION_KEY; None if there is no such setting."""
    section, _, key = name.removeprefix("LEGATO_").lower().partition("_")
    sections: dict[str, type[Struct]] = {
        "server": Server,
        "streams": Streams,
        "limits": LimitChecks,
        "metrics": Metrics,
        "alerts": Alerts,
        "engine": Engine,
    }
    if section not in sections or key not in sections[section].__struct_fields__:
        return None
    return section, key


def _set(tree: dict[str, Any], setting: tuple[str, ...], value: Any) -> None:
    for name in setting[:-1]:
        tree = tree.setdefault(name, {})
    tree[setting[-1]] = value


def _expand_variables(
    tree: Any, environment: Mapping[str, str], path: str, parent: str = ""
) -> None:
    """Replaces `${NAME}` in strings by the value of the environment variable."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for name, value in list(items):
        setting = f"{parent}[{name}]" if isinstance(name, int) else f"{parent}.{name}".lstrip(".")
        if isinstance(value, dict | list):
            _expand_variables(value, environment, path, setting)
        elif isinstance(value, str):
            tree[name] = _expand(value, environment, f"{path}: {setting}")


def _expand(text: str, environment: Mapping[str, str], place: str) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in environment:
            raise SettingsError(f"{place}: the environment variable {match[1]} is not set")
        return environment[match[1]]

    return re.sub(r"\$\{(\w+)\}", value, text)


def _convert(tree: dict[str, Any], place: Callable[[str], str]) -> Settings:
    """Validates `tree`. `place`: where the user finds the setting with a given path, for errors."""
    try:
        return msgspec.convert(tree, Settings, strict=False)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `")
        owner = path.rstrip("`").removeprefix("$").removeprefix(".")
        for table, kind in (("tiers", Limits), ("owners", Owner)):
            owner = owner.replace(f"{table}[...]", f"{table}.{_wrong_name(tree, table, kind)}")
        setting, sentence = _sentence(problem, owner)
        raise SettingsError(f"{place(setting)}: {sentence}") from None


def _wrong_name(tree: dict[str, Any], table: str, kind: type[Struct]) -> str:
    """The name of the first entry of a table that is not valid, which msgspec does not tell."""
    for name, entry in tree.get(table, {}).items():
        try:
            msgspec.convert(entry, kind, strict=False)
        except msgspec.ValidationError:
            return name
    return "…"


def _sentence(problem: str, owner: str) -> tuple[str, str]:
    """(path of the setting, error message) for one of msgspec's validation errors."""
    if match := re.match(r"Object contains unknown field `(.*)`", problem):
        setting = f"{owner}.{match[1]}".lstrip(".")
        allowed = ", ".join(_struct_at(owner).__struct_encode_fields__)
        return setting, f"{setting}: unknown setting; allowed here: {allowed}"
    if match := re.match(r"Object missing required field `(.*)`", problem):
        setting = f"{owner}.{match[1]}".lstrip(".")
        return setting, f"{setting} is required"
    return owner, f"{owner}: {problem[:1].lower()}{problem[1:]}"


def _struct_at(setting: str) -> type[Struct]:
    """The type of the table with this path."""
    tables: dict[str, type[Struct]] = {
        "": Settings,
        "server": Server,
        "streams": Streams,
        "engine": Engine,
        "deployments": Deployment,
        "deployments.price": Price,
        "routes": Route,
        "routes.limits": Limits,
        "limits": LimitChecks,
        "metrics": Metrics,
        "alerts": Alerts,
        "owners": Owner,
        "responses": Responses,
        "tiers": Limits,
        "engine.models": EngineModel,
    }
    return tables[re.sub(r"\[[^]]*\]|(?<=^tiers)\..*|(?<=^owners)\..*", "", setting)]


def _line_of(text: str, setting: str) -> str:
    """`:LINE` of a setting in a TOML file, or nothing if it is not found. A heuristic: tomllib does
    not report positions."""
    *sections, key = re.sub(r"\[\d+\]", "", setting).split(".")
    number = int((re.findall(r"\[(\d+)\]", setting) or ["0"])[0])
    header = ".".join(sections)
    is_inside, occurrence = not sections, -1
    for line, content in enumerate(text.splitlines(), 1):
        match = re.match(r"\s*\[\[?\s*([\w.]+)\s*\]\]?", content)
        if match:
            is_same = match[1] == header
            occurrence += is_same
            is_inside = is_same and (occurrence == number or "[[" not in content)
        if is_inside and re.match(rf"\s*\"?{re.escape(key)}\"?\s*[=.]", content):
            return f":{line}"
        if match and match[1] == setting:
            return f":{line}"
    return ""
