"""`legato keys`: manages API keys in the database; a running server follows within a second."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

from legato.cli.options import Config, Data, Json
from legato.cli.terminal import settings, stop
from legato.policy import keys as policy

app = typer.Typer(add_completion=False, no_args_is_help=True)
T = TypeVar("T")

#: The longest name of a key, in characters.
MAX_NAME_LENGTH: Final = 200


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="A name for the key, such as its user.")],
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Create an API key and print it; it cannot be shown again."""
    from legato.store import keys as store

    identity, key, digest = policy.create()
    if not 0 < len(name) <= MAX_NAME_LENGTH:
        stop(f"the name of a key must have 1 to {MAX_NAME_LENGTH} characters", 2)
    _with_database(data, config, lambda database: store.add(database, identity, name, digest))
    if as_json:
        print(json.dumps({"id": identity, "name": name, "key": key}))
    else:
        print(f"{key}\n\nThis is the only time that the key `{name}` ({identity}) is shown.")


@app.command("list")
def list_keys(as_json: Json = False, data: Data = None, config: Config = None) -> None:
    """List all API keys, without their secrets."""
    from legato.store import keys as store

    rows = _with_database(data, config, store.all_keys)
    shown = [{name: row[name] for name in ("id", "name", "created", "revoked")} for row in rows]
    if as_json:
        print(json.dumps(shown))
        return
    from legato.cli.tables import Column, print_table

    columns = (
        Column("id", drop_order=2),
        Column("name", min_width=8),
        Column("created", drop_order=1),
        Column("state"),
    )
    print_table(
        columns,
        [
            (
                row["id"],
                row["name"],
                time.strftime("%Y-%m-%d %H:%M", time.localtime(row["created"])),
                "active" if row["revoked"] is None else "revoked",
            )
            for row in shown
        ],
    )


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The name or the id of the key.")],
    data: Data = None,
    config: Config = None,
) -> None:
    """Revoke an API key; all further calls with it are refused."""
    from legato.store import keys as store

    number = _with_database(data, config, lambda database: store.revoke(database, name))
    if not number:
        stop(f"there is no active key `{name}`")
    print(f"revoked {number} key{'s' if number > 1 else ''}")


def _with_database(
    data: str | None, config: Path | None, task: Callable[[Any], Awaitable[T]]
) -> Any:
    """Runs `task` with the opened database."""
    from sqlalchemy.exc import SQLAlchemyError

    from legato.store.database import Database, UnusableDatabase

    chosen = settings(config, data=data)

    async def run() -> T:
        database = await Database.open(chosen.data_dir, chosen.database)
        try:
            return await task(database)
        finally:
            await database.close()

    try:
        return asyncio.run(run())
    except (OSError, SQLAlchemyError) as error:
        stop(
            error
            if isinstance(error, UnusableDatabase)
            else f"the database cannot be used: {error}"
        )
