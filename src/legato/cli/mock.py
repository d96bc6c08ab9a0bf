"""`legato mock`: runs the mock upstream, to test clients and gateways against faulty streams."""

import asyncio
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from legato.cli.terminal import stop
from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer, Script

app = typer.Typer(add_completion=False)


@app.command()
def mock(
    script: Annotated[
        str | None,
        typer.Option(
            help="Script for models without a script of that name: a name of --list, or a TOML"
            " file."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free port.")] = 9000,
    show: Annotated[bool, typer.Option("--list", help="List the built-in scripts.")] = False,
) -> None:
    """Run a mock upstream that sends scripted streams, faulty ones included.

    The model of a request selects the script, its path the format: Chat Completions, Messages,
    Responses, Ollama's or Gemini's.
    """
    scripts, default = dict(SCRIPTS), script
    if script is not None and script not in scripts:
        default = Path(script).stem
        scripts[default] = _load(Path(script))
    if show:
        _print_scripts(scripts)
        return
    try:
        asyncio.run(_serve(MockServer(scripts, default=default), host, port))
    except KeyboardInterrupt:
        pass
    except OSError as error:
        stop(error)


def _load(path: Path) -> Script:
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Script)
    except FileNotFoundError:
        stop(f"`{path}` is neither a script of `legato mock --list` nor a file", 2)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        stop(f"{path}: {error}", 2)
    except msgspec.ValidationError as error:
        allowed = ", ".join(Script.__struct_fields__)
        stop(f"{path}: {error}; the keys of a script are {allowed}", 2)


def _print_scripts(scripts: dict[str, Script]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("script", "description", box=None, pad_edge=False)
    for name, script in scripts.items():
        table.add_row(name, script.description)
    Console(highlight=False).print(table)


async def _serve(server: MockServer, host: str, port: int) -> None:
    url = await server.start(host, port)
    print(
        f"The mock upstream listens at {url} (the model names the script; see --list)", flush=True
    )
    await asyncio.Event().wait()
