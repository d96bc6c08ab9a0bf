"""The `legato` command and its subcommands."""

import importlib
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from legato import __version__

#: Subcommands with their help. The module of a subcommand is imported only when it runs, so that
#: `legato serve` does not wait for what `legato chat` needs.
COMMANDS: Final = {
    "serve": "Start the server.",
    "chat": "Chat with a model in the terminal.",
    "launch": "Start a coding agent against the server.",
    "keys": "Create, list, change and revoke API keys.",
    "audit": "Show administrative acts.",
    "models": "List, download and delete model files; check deployments.",
    "routes": "Show the health of a running server's deployments.",
    "usage": "Show calls, tokens and cost.",
    "db": "Check or upgrade the database.",
    "mock": "Run a mock upstream that sends scripted streams, faulty ones included.",
    "config": "Show the effective settings, or write a commented settings file.",
}


class _LazyGroup(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"legato.cli.{cmd_name}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        command.help = command.help or COMMANDS[cmd_name]
        return command


app = typer.Typer(
    cls=_LazyGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"legato {__version__}")
        raise typer.Exit


@app.callback()
def legato(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Legato is a self-hosted, OpenAI-compatible gateway for streaming language models."""


def main() -> None:
    app()
