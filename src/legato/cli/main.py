"""`legato VERB ...`."""

import importlib
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from legato import __version__

#: verb -> (module, what it does). A verb's module is imported only when it runs: `legato serve`
#: does not wait for what `legato chat` needs.
VERBS: Final = {
    "serve": "Start the server.",
    "chat": "Chat with a model in the terminal.",
    "keys": "Make, list and revoke API keys.",
    "models": "List, fetch and remove model files; check deployments.",
    "routes": "Show how the deployments of a running server are doing.",
    "usage": "Show the calls and their tokens.",
    "mock": "Play scripted streams, broken ones too, to try a client against.",
    "config": "Show the settings in force, or write a commented file.",
}


class _Lazy(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"legato.cli.{cmd_name}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        command.help = command.help or VERBS[cmd_name]
        return command


app = typer.Typer(
    cls=_Lazy, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"legato {__version__}")
        raise typer.Exit


@app.callback()
def legato(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A self-hosted, OpenAI-compatible streaming chat API."""


def main() -> None:
    app()
