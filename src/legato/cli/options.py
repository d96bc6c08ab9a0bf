"""Command-line options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None, typer.Option(help="Settings file in TOML. Default: ./legato.toml, if it exists.")
]
Data = Annotated[str | None, typer.Option(help="Folder with the API keys and the ledger.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        envvar="LEGATO_BASE_URL",
        help="Base URL of the API. Default: the server of these settings.",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="LEGATO_API_KEY",
        help="API key. Default: the key that this machine's server created on its first start.",
    ),
]
