"""`legato models`: the files that the engine can run, and what deployments answer."""

from pathlib import Path
from typing import Annotated

import typer

from legato.cli.terminal import Bar, settings, stop
from legato.engine.catalog import KNOWN, Catalog, UnknownModel
from legato.engine.download import FetchError

app = typer.Typer(add_completion=False, no_args_is_help=True)
Config = Annotated[Path | None, typer.Option(help="TOML file; else ./legato.toml.")]


@app.command("list")
def list_models(config: Config = None) -> None:
    """Show the models known by name, and where their files are."""
    from rich.console import Console
    from rich.table import Table

    catalog = _catalog(config)
    table = Table("name", "size", "license", "what", "file", box=None, pad_edge=False)
    for known in KNOWN.values():
        path = catalog.find(known.name)
        size = f"{known.file.size / 1e6:.0f} MB"
        table.add_row(
            known.name, size, known.license, known.description, str(path) if path else "not fetched"
        )
    Console().print(table)


@app.command()
def pull(name: str, config: Config = None) -> None:
    """Fetch a model: a name of the list, or hf:owner/repo/file.gguf."""
    try:
        print(_catalog(config).pull(name))
    except UnknownModel as error:
        stop(error, 2)
    except (FetchError, OSError) as error:
        stop(error)


@app.command()
def remove(name: str, config: Config = None) -> None:
    """Remove a fetched file."""
    try:
        there = _catalog(config).remove(name)
    except UnknownModel as error:
        stop(error, 2)
    if not there:
        stop(f"nothing was fetched for {name}")
    print(f"removed {name}")


@app.command()
def check(
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array.")] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time that one answer may take.")] = 30.0,
    config: Config = None,
) -> None:
    """Ask each deployment of the settings for a few tokens; those may cost money."""
    from legato.cli.check import run

    run(config, as_json, seconds)


def _catalog(config: Path | None) -> Catalog:
    return Catalog(settings(config).models_dir, Bar)
