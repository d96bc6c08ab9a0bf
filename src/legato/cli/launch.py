"""`legato launch`: starts a coding agent against a server, with a configuration of its own.

The agent gets the terminal, and its exit code is ours. What it writes into its folder (sessions,
logs) is removed when it ends; no file of the user's configuration is read or changed for it.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import platformdirs
import typer
from msgspec.structs import replace

from legato.cli.agents import AGENTS, Agent, ServedModel, Target
from legato.cli.conversation import Api, ChatError
from legato.cli.options import ApiKey, BaseUrl, Config, Data
from legato.cli.server_address import ServerAddress, server_address
from legato.cli.terminal import clean, settings, stop
from legato.settings import Settings

app = typer.Typer(add_completion=False)

#: Exit code where the agent is not installed, as of a shell for an unknown command.
_NOT_FOUND: Final = 127

#: The code of an error for a model that a server does not know.
_UNKNOWN_MODEL: Final = "model_not_found"

#: What --print shows in place of the folder and of the key.
_FOLDER: Final = "TEMPORARY_FOLDER"
_HIDDEN_KEY: Final = "***"

_PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class Name(StrEnum):
    codex = "codex"
    claude = "claude"
    opencode = "opencode"
    qwen = "qwen"
    aider = "aider"


@app.command()
def launch(
    agent: Annotated[Name, typer.Argument(help="The agent.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Arguments of the agent, after `--`.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("-m", "--model", help="Id of the model. Default: the server's first one."),
    ] = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print what would be set; start nothing.")
    ] = False,
    show_key: Annotated[
        bool, typer.Option("--show-key", help="With --print: print the API key too.")
    ] = False,
    base_url: BaseUrl = None,
    key: ApiKey = None,
    data: Data = None,
    config: Config = None,
) -> None:
    """Start a coding agent against the server.

    It runs with an environment and a temporary configuration of its own; your files stay as they
    are. `legato launch codex -- exec "Fix the tests"` passes arguments on.
    """
    chosen, chosen_settings = AGENTS[agent.value], settings(config, data=data)
    server = server_address(chosen_settings, base_url, key)
    server = replace(server, base_url=f"{_root(server)}/v1")
    if model is not None and not model.strip():
        stop("--model is empty: name a model, or leave it out for the server's first one", 2)
    if only_print:
        models = _known_models(server, chosen_settings, model)
        shown = server.key if show_key else _HIDDEN_KEY
        target = _target(server, shown or _HIDDEN_KEY, model, models, _FOLDER)
        _print_plan(chosen, target, server, arguments or [])
        return
    program = shutil.which(chosen.program)
    if program is None:
        stop(
            f"{chosen.title} is not installed (there is no `{chosen.program}` on PATH):"
            f" install it with `{chosen.install}`",
            _NOT_FOUND,
        )
    if not server.key:
        stop("there is no API key for this server: give one with --key or LEGATO_API_KEY", 2)
    try:
        models = _server_models(server, model)
    except ChatError as error:
        stop(error)
    with _folder() as folder:
        target = _target(server, server.key, model, models, str(folder))
        for name, text in chosen.files(target).items():
            (folder / name).write_text(text, encoding="utf-8")
        environment = _environment(chosen, target, server, os.environ)
        code = run([program, *chosen.arguments(target), *(arguments or [])], environment)
    raise SystemExit(code)


# What the agent is told


def _root(server: ServerAddress) -> str:
    """The server's URL without `/v1`: with it or without it, it may be given."""
    return server.base_url.rstrip("/").removesuffix("/v1").rstrip("/")


def _server_models(server: ServerAddress, model: str | None) -> list[ServedModel]:
    """The models that the server lists, and `model`, which it may know all the same. Raises
    `ChatError` if it cannot be asked, or does not know `model`."""
    try:
        api = Api(server)
    except OSError as error:
        stop(f"the certificate {server.certificate} cannot be used: {error}", 2)
    models = [_served(each) for each in api.listed()]
    names = [each.name for each in models]
    if model is None or model in names:
        return models
    try:
        return [_served(api.model(model) | {"id": model}), *models]
    except ChatError as error:
        if error.code != _UNKNOWN_MODEL:
            raise
        known = f"it has {', '.join(names)}" if names else "it lists none"
        problem = f"The server has no model `{clean(model)}`: {known}."
        raise ChatError(_UNKNOWN_MODEL, problem) from None


def _served(listed: dict[str, Any]) -> ServedModel:
    context, capabilities = listed.get("context_length"), listed.get("capabilities")
    return ServedModel(
        listed["id"],
        context if isinstance(context, int) and context > 0 else None,
        isinstance(capabilities, list) and "reasoning" in capabilities,
    )


def _known_models(server: ServerAddress, chosen: Settings, model: str | None) -> list[ServedModel]:
    """The models of the server if it runs, else those of the settings."""
    try:
        return _server_models(server, model)
    except ChatError as error:
        if error.code == _UNKNOWN_MODEL:
            stop(error)
        routed = {name for route in chosen.routes for name in route.deployments}
        names = [route.model for route in chosen.routes]
        deployments = (*chosen.deployments, *chosen.engine_models)
        names += [each.name for each in deployments if each.name not in routed]
        return [ServedModel(name) for name in names]


def _target(
    server: ServerAddress, key: str, model: str | None, models: list[ServedModel], folder: str
) -> Target:
    names = [each.name for each in models if "*" not in each.name]  # a pattern is no model
    if model is None:
        model = names[0] if names else stop("the server has no models: name one with --model")
    known = [each for each in models if each.name in names]
    if model not in names:  # a name that the server knows and does not list
        known.insert(0, ServedModel(model))
    return Target(_root(server), key, model, tuple(known), folder)


def _environment(
    agent: Agent, target: Target, server: ServerAddress, inherited: Mapping[str, str]
) -> dict[str, str]:
    """The whole environment of the agent."""
    kept = {name: value for name, value in inherited.items() if name not in agent.removed}
    return kept | _settings_of(agent, target, server, inherited)


def _settings_of(
    agent: Agent, target: Target, server: ServerAddress, inherited: Mapping[str, str]
) -> dict[str, str]:
    """The variables that are set for the agent."""
    variables = agent.environment(target)
    if server.certificate is not None:
        variables[agent.certificate] = os.path.abspath(server.certificate)
    if server.is_local:
        variables |= _without_proxy(urlsplit(server.base_url).hostname or "", inherited)
    return variables


def _without_proxy(host: str, inherited: Mapping[str, str]) -> dict[str, str]:
    """Variables that keep an agent from asking a server on this machine through a proxy."""
    if not any(name in inherited or name.lower() in inherited for name in _PROXIES):
        return {}
    exempt = inherited.get("no_proxy") or inherited.get("NO_PROXY") or ""
    hosts = ",".join(filter(None, (exempt, host)))
    return {"NO_PROXY": hosts, "no_proxy": hosts}


def _print_plan(agent: Agent, target: Target, server: ServerAddress, arguments: list[str]) -> None:
    """Prints environment, files and command. The folder's name is a placeholder."""
    for name, value in _settings_of(agent, target, server, os.environ).items():
        print(clean(f"{name}={shlex.quote(value)}"))
    if removed := [name for name in agent.removed if name in os.environ]:
        print(f"\n# removed from the environment: {', '.join(removed)}")
    for name, text in agent.files(target).items():
        print(clean(f"\n# {target.folder}/{name}\n{text}"), end="")
    print(clean(f"\n# {shlex.join([agent.program, *agent.arguments(target), *arguments])}"))
    sys.stdout.flush()


@contextmanager
def _folder() -> Iterator[Path]:
    """A new folder, removed in the end. It is not among the system's temporary files if that can
    be: Codex refuses to keep its helper programs there."""
    parent: Path | None = Path(platformdirs.user_cache_dir("legato"))
    try:
        parent.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(prefix="launch-", dir=parent)
    except OSError:
        made = tempfile.mkdtemp(prefix="legato-launch-")
    try:
        yield Path(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


# The process

#: Signals that are passed on to the agent.
_FORWARDED: Final = ("SIGTERM", "SIGHUP")
#: Signals that a terminal sends to the agent as well, and that end it alone.
_LEFT_TO_AGENT: Final = ("SIGINT", "SIGQUIT")


def run(command: list[str], environment: dict[str, str]) -> int:
    """Runs a program on this terminal until it ends. Returns its exit code; 128 and the number of
    the signal that ended it, as shells do. Exits with a message if it cannot be started."""
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []  # signals that came before the program was started

    def forward(number: int, _: FrameType | None) -> None:
        if child is None:
            early.append(number)
        else:
            _send(child, number)

    def ignore(_: int, __: FrameType | None) -> None:
        """Unlike SIG_IGN, the program does not inherit a function."""

    with _handling(forward, _FORWARDED), _handling(ignore, _LEFT_TO_AGENT):
        try:
            child = subprocess.Popen(command, env=environment)
        except OSError as error:
            stop(f"{command[0]} cannot be started: {error.strerror}", 126)
        for number in early:
            _send(child, number)
        code = _wait(child)
    return 128 - code if code < 0 else code


@contextmanager
def _handling(
    handler: Callable[[int, FrameType | None], None], names: tuple[str, ...]
) -> Iterator[None]:
    """Handles the signals of these names, as far as this system has them."""
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _send(child: subprocess.Popen[bytes], number: int) -> None:
    # Not `send_signal`, which collects the exit code of a program that has ended.
    if child.returncode is None:
        os.kill(child.pid, number)


def _wait(child: subprocess.Popen[bytes]) -> int:
    """Waits for the end. Where the program stops itself (Ctrl-Z), this process stops with it, so
    that the shell gets its terminal back."""
    if sys.platform == "win32":
        return child.wait()
    while True:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            os.kill(os.getpid(), signal.SIGSTOP)
            os.kill(child.pid, signal.SIGCONT)
        else:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode
