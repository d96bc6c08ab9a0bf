"""`legato audit`: shows who changed which API key, from the database."""

import time
from typing import Annotated, Any, Final

import msgspec
import typer

from legato.cli.database import with_database
from legato.cli.key_options import duration
from legato.cli.options import Config, Data, Json
from legato.cli.terminal import settings

app = typer.Typer(add_completion=False)

#: Fields whose values are Unix seconds.
_TIMES: Final = ("created", "expires", "revoked", "previous_until")


@app.command()
def audit(
    since: Annotated[
        str | None,
        typer.Option(help="Start of the period, as a time before now: 30m, 24h, 7d. Default: all."),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Only acts on the key with this id.")] = None,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Show administrative acts: who did what, from where, and what it changed.

    Nobody can change or delete an entry. Secrets are never in them.
    """
    from legato.store import audit as store

    start = 0.0 if since is None else time.time() - duration("--since", since)
    found = with_database(
        settings(config, data=data),
        lambda database: store.entries(database, since=start, subject=key),
    )
    entries = found[::-1]
    if as_json:
        print(msgspec.json.encode(entries).decode())
        return
    from legato.cli.tables import Column, print_table

    columns = (
        Column("time"),
        Column("actor", drop_order=3, min_width=8),
        Column("origin", drop_order=1, min_width=8),
        Column("action"),
        Column("key", min_width=8),
        Column("id", drop_order=2),
        Column("changes", min_width=12),
    )
    print_table(
        columns,
        [
            (
                _moment(each.time),
                each.actor,
                each.origin,
                each.action,
                each.name or "-",
                each.subject,
                _changes(each.before, each.after),
            )
            for each in entries
        ],
    )


def _changes(before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
    """`tier: free → pro, owner: alice`"""
    parts: list[str] = []
    for name, value in (after or {}).items():
        if before is not None:
            parts.append(f"{name}: {_value(name, before.get(name))} → {_value(name, value)}")
        elif value and name not in ("name", "created"):
            parts.append(f"{name}: {_value(name, value)}")
    return ", ".join(parts)


def _value(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name in _TIMES:
        return _moment(value)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
