"""`legato mock`: an upstream that plays scripts: slow streams, broken ones, strange ones."""

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
        typer.Option(help="Played whatever the model: a name of --list, or a TOML file."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.")] = 9000,
    show: Annotated[bool, typer.Option("--list", help="Show the scripts there are.")] = False,
) -> None:
    """Play scripts as an upstream; the request's model names the script."""
    scripts, default = dict(SCRIPTS), script
    if script is not None and script not in scripts:
        default = Path(script).stem
        scripts[default] = _load(Path(script))
    if show:
        _list(scripts)
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
        stop(f"{path}: {error}; a script has {', '.join(Script.__struct_fields__)}", 2)


def _list(scripts: dict[str, Script]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("script", "what it does", box=None, pad_edge=False)
    for name, script in scripts.items():
        table.add_row(name, script.description)
    Console().print(table)


async def _serve(server: MockServer, host: str, port: int) -> None:
    url = await server.start(host, port)
    print(
        f"The mock upstream listens at {url} (the model names the script; see --list)", flush=True
    )
    await asyncio.Event().wait()
