"""`legato models`: manages the engine's model files, and checks deployments."""

from pathlib import Path
from typing import Annotated

import typer

from legato.cli.options import Config, Json
from legato.cli.terminal import ProgressBar, settings, stop
from legato.engine.catalog import KNOWN, Catalog, UnknownModel
from legato.engine.download import FetchError

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.command("list")
def list_models(config: Config = None) -> None:
    """List the models that are known by name, and their files."""
    from legato.cli.tables import Column, print_table

    catalog = _catalog(config)
    columns = (
        Column("name"),
        Column("size", drop_order=2, is_number=True),
        Column("license", drop_order=1),
        Column("description", drop_order=3, min_width=20),
        Column("file", min_width=14, keeps_end=True),
    )
    print_table(
        columns,
        [
            (
                known.name,
                f"{known.file.size / 1e6:.0f} MB",
                known.license,
                known.description,
                str(catalog.find(known.name) or "not downloaded"),
            )
            for known in KNOWN.values()
        ],
    )


@app.command()
def pull(
    name: Annotated[
        str,
        typer.Argument(help="A name of `legato models list`, or hf:owner/repository/file.gguf."),
    ],
    config: Config = None,
) -> None:
    """Download a model file and print its path."""
    try:
        print(_catalog(config).pull(name))
    except UnknownModel as error:
        stop(error, 2)
    except (FetchError, OSError) as error:
        stop(error)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="The name that was given to `legato models pull`.")],
    config: Config = None,
) -> None:
    """Delete a downloaded model file."""
    try:
        existed = _catalog(config).remove(name)
    except UnknownModel as error:
        stop(error, 2)
    if not existed:
        stop(f"there is no downloaded file of {name}")
    print(f"removed {name}")


@app.command()
def check(
    as_json: Json = False,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Longest time for one answer, in seconds.")
    ] = 30.0,
    config: Config = None,
) -> None:
    """Send a short request to each configured deployment and show what it supports.

    The requests may cost money.
    """
    from legato.cli.check import run

    run(config, as_json, seconds)


def _catalog(config: Path | None) -> Catalog:
    return Catalog(settings(config).models_dir, ProgressBar)
