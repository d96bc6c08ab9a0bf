"""`legato keys`: straight on the database; a running server follows within a second."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from legato.cli.terminal import settings, stop
from legato.policy import keys as policy

app = typer.Typer(add_completion=False, no_args_is_help=True)
Data = Annotated[str | None, typer.Option(help="Folder for keys and usage.")]
Config = Annotated[Path | None, typer.Option(help="TOML file; else ./legato.toml.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]
T = TypeVar("T")


@app.command()
def create(name: str, as_json: Json = False, data: Data = None, config: Config = None) -> None:
    """Make a key and show it, once."""
    from legato.store import keys as store

    identity, key, digest = policy.create()
    if not 0 < len(name) <= 200:
        stop("a key's name has 1 to 200 characters", 2)
    _with_database(data, config, lambda database: store.add(database, identity, name, digest))
    if as_json:
        print(json.dumps({"id": identity, "name": name, "key": key}))
    else:
        print(f"{key}\n\nThe key `{name}` ({identity}) is shown this once and kept nowhere.")


@app.command("list")
def list_keys(as_json: Json = False, data: Data = None, config: Config = None) -> None:
    """Show all keys, without the secret."""
    from legato.store import keys as store

    rows = _with_database(data, config, store.all_keys)
    shown = [{name: row[name] for name in ("id", "name", "created", "revoked")} for row in rows]
    if as_json:
        print(json.dumps(shown))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("id", "name", "created", "state", box=None, pad_edge=False)
    for row in shown:
        table.add_row(
            row["id"],
            row["name"],
            time.strftime("%Y-%m-%d %H:%M", time.localtime(row["created"])),
            "in force" if row["revoked"] is None else "revoked",
        )
    Console().print(table)


@app.command()
def revoke(name: str, data: Data = None, config: Config = None) -> None:
    """Revoke a key by name or id; no call with it is taken any more."""
    from legato.store import keys as store

    number = _with_database(data, config, lambda database: store.revoke(database, name))
    if not number:
        stop(f"there is no key `{name}` in force")
    print(f"revoked {number} key{'s' if number > 1 else ''}")


def _with_database(
    data: str | None, config: Path | None, job: Callable[[Any], Awaitable[T]]
) -> Any:
    from sqlalchemy.exc import SQLAlchemyError

    from legato.store.database import Database

    folder = settings(config, data=data).data_dir

    async def run() -> T:
        database = await Database.open(folder)
        try:
            return await job(database)
        finally:
            await database.close()

    try:
        return asyncio.run(run())
    except (OSError, SQLAlchemyError) as error:
        stop(f"the database in {folder} cannot be opened: {error}")
