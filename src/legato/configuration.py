"""Settings from a file, then the environment, then flags; a mistake is named where it was made."""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from legato.settings import (
    Deployment,
    Engine,
    EngineModel,
    Price,
    Route,
    Server,
    Settings,
    SettingsError,
    Streams,
    check,
)

DEFAULT_FILE: Final = "legato.toml"

#: Short names in the environment, as the flags have them. Others: LEGATO_SECTION_KEY.
_SHORT: Final = {
    "LEGATO_HOST": ("server", "host"),
    "LEGATO_PORT": ("server", "port"),
    "LEGATO_DATA": ("data",),
    "LEGATO_MODELS": ("models",),
    "LEGATO_MODEL": ("engine", "models"),
    "LEGATO_TLS_CERT": ("server", "tls_cert"),
    "LEGATO_TLS_KEY": ("server", "tls_key"),
}
#: Variables with our prefix that say something else than a setting.
_OTHER: Final = ("LEGATO_CONFIG", "LEGATO_API_KEY", "LEGATO_BASE_URL", "LEGATO_BENCH_PYTHON")

_LISTS: Final = ("cors_origins", "trusted_proxies")
_SECRET: Final = ("api_key", "api_keys")


def load(
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """The settings in force. `flags` has dotted names (`server.port`); None values are not said.

    Raises `SettingsError`.
    """
    environment = os.environ if environment is None else environment
    path, text = _read(config, environment)
    try:
        tree: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: {error}") from None
    # One source at a time, so that a mistake is named where it was made.
    _expand(tree, environment, str(path))
    _convert(tree, lambda where: f"{path}{_line_of(text, where)}")
    for name, where, value in _from_environment(environment):
        _put(tree, where, value)
        _convert(tree, lambda where, name=name: name)
    for dotted, value in (flags or {}).items():
        if value is not None:
            _put(tree, tuple(dotted.split(".")), value)
            _convert(tree, lambda where, name=dotted: _flag(name))
    settings = _convert(tree, lambda where: str(path))
    check(settings, str(path))
    return settings


def _flag(dotted: str) -> str:
    name = dotted.rpartition(".")[2]
    return "--model" if dotted == "engine.models" else f"--{name.replace('_', '-')}"


def engine_model(name: str) -> dict[str, str]:
    """What `--model` says: a known name is itself; a file is called by its stem."""
    if "/" in name or name.endswith(".gguf"):
        return {"name": Path(name).stem, "path": name}
    return {"name": name}


def show(settings: Settings) -> dict[str, Any]:
    """The settings as plain values, secrets hidden."""

    def hidden(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: "********" if name in _SECRET and each else hidden(each)
                for name, each in value.items()
                if each is not None
            }
        if isinstance(value, str):
            return re.sub(r"(?<=://)[^/@]*@", "********@", value)
        return [hidden(each) for each in value] if isinstance(value, list | tuple) else value

    tree = msgspec.to_builtins(settings)
    tree["engine"]["models"] = msgspec.to_builtins(settings.engine_models)
    return hidden(tree)


def _read(config: Path | None, environment: Mapping[str, str]) -> tuple[str, str]:
    said = environment.get("LEGATO_CONFIG")
    named = config or (Path(said) if said else None)
    path = named or Path(DEFAULT_FILE)
    if named is None and not path.is_file():
        return "built-in settings", ""
    try:
        return str(path), path.read_text()
    except FileNotFoundError:
        raise SettingsError(f"there is no configuration file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None


def _from_environment(
    environment: Mapping[str, str],
) -> list[tuple[str, tuple[str, ...], Any]]:
    found: list[tuple[str, tuple[str, ...], Any]] = []
    for name in sorted(environment):
        if not name.startswith("LEGATO_") or name in _OTHER:
            continue
        where = _SHORT.get(name) or _section(name)
        if where is None:
            raise SettingsError(
                f"{name}: unknown setting; allowed are {', '.join((*_SHORT, *_OTHER))}"
                " and LEGATO_SECTION_KEY for a key of [server], [streams] or [engine]"
            )
        value: Any = environment[name]
        if where == ("engine", "models"):
            value = [engine_model(each) for each in value.split(",")]
        elif where[-1] in _LISTS:
            value = value.split(",")
        found.append((name, where, value))
    return found


def _section(name: str) -> tuple[str, str] | None:
    section, _, key = name.removeprefix("LEGATO_").lower().partition("_")
    sections: dict[str, type[Struct]] = {"server": Server, "streams": Streams, "engine": Engine}
    if section not in sections or key not in sections[section].__struct_fields__:
        return None
    return section, key


def _put(tree: dict[str, Any], where: tuple[str, ...], value: Any) -> None:
    for name in where[:-1]:
        tree = tree.setdefault(name, {})
    tree[where[-1]] = value


def _expand(tree: Any, environment: Mapping[str, str], path: str, at: str = "") -> None:
    """Replaces `${NAME}` in strings by the environment's value."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in environment:
            raise SettingsError(f"{path}: {at}: the environment has no variable {match[1]}")
        return environment[match[1]]

    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for name, each in list(items):
        here = f"{at}[{name}]" if isinstance(name, int) else f"{at}.{name}".lstrip(".")
        if isinstance(each, dict | list):
            _expand(each, environment, path, here)
        elif isinstance(each, str):
            at, before = here, at
            tree[name] = re.sub(r"\$\{(\w+)\}", value, each)
            at = before


def _convert(tree: dict[str, Any], place: Any) -> Settings:
    """`place` tells, for a path of names, where a person finds that setting."""
    try:
        return msgspec.convert(tree, Settings, strict=False)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `")
        where = path.rstrip("`").removeprefix("$").removeprefix(".")
        unknown = re.match(r"Object contains unknown field `(.*)`", what)
        if unknown:
            owner = _struct_at(where)
            name = f"{where}.{unknown[1]}".lstrip(".")
            what = f"unknown setting; allowed here: {', '.join(owner.__struct_encode_fields__)}"
        else:
            missing = re.match(r"Object missing required field `(.*)`", what)
            name = f"{where}.{missing[1]}".lstrip(".") if missing else where
            what = "is required" if missing else what[:1].lower() + what[1:]
        raise SettingsError(f"{place(name)}: {name}: {what}") from None


def _struct_at(where: str) -> type[Struct]:
    known: dict[str, type[Struct]] = {
        "": Settings,
        "server": Server,
        "streams": Streams,
        "engine": Engine,
        "deployments": Deployment,
        "deployments.price": Price,
        "routes": Route,
        "engine.models": EngineModel,
    }
    return known[re.sub(r"\[[^]]*\]", "", where)]


def _line_of(text: str, where: str) -> str:
    """`:LINE` of a setting in a TOML file, as well as it can be told without a position parser."""
    *sections, key = re.sub(r"\[\d+\]", "", where).split(".")
    number = int((re.findall(r"\[(\d+)\]", where) or ["0"])[0])
    header = ".".join(sections)
    inside, seen = not sections, -1
    for line, content in enumerate(text.splitlines(), 1):
        begins = re.match(r"\s*\[\[?\s*([\w.]+)\s*\]\]?", content)
        if begins:
            same = begins[1] == header
            seen += same
            inside = same and (seen == number or "[[" not in content)
        if inside and re.match(rf"\s*\"?{re.escape(key)}\"?\s*[=.]", content):
            return f":{line}"
        if begins and begins[1] == where:
            return f":{line}"
    return ""
