"""`legato usage`: what was called, by whom, how it ended. Reads the database, asks no server."""

import asyncio
import json
import re
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from legato.cli.terminal import settings, stop

app = typer.Typer(add_completion=False)

_UNITS: Final = {"m": 60, "h": 3600, "d": 86400, "w": 604800}

#: Rows that a terminal is shown without --by; --json gives all.
SHOWN: Final = 50


class By(StrEnum):
    key = "key"
    route = "route"
    outcome = "outcome"


@app.command()
def usage(
    since: Annotated[str, typer.Option(help="How far back: 30m, 24h, 7d, 4w.")] = "7d",
    by: Annotated[By | None, typer.Option(help="One line for each of these.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    data: Annotated[str | None, typer.Option(help="Folder for keys and usage.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file; else ./legato.toml.")] = None,
) -> None:
    """Show the calls and their tokens."""
    said = _read(settings(config, data=data).data_dir, _start(since), by)
    if as_json:
        print(json.dumps(said))
    else:
        _show(said, by)


def _start(since: str) -> float:
    parts = re.fullmatch(r"(\d+)([mhdw])", since.strip())
    if parts is None:
        stop(f"--since: `{since}` is no time like 30m, 24h, 7d or 4w", 2)
    return time.time() - int(parts[1]) * _UNITS[parts[2]]


def _read(folder: Path, since: float, by: By | None) -> dict[str, Any]:
    from legato.store.database import Database
    from legato.store.ledger import summary

    async def run() -> dict[str, Any]:
        database = await Database.open(folder)
        try:
            return await summary(database, since, by.value if by else None)
        finally:
            await database.close()

    return asyncio.run(run())


def _show(said: dict[str, Any], by: By | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    rows = said["rows"]
    if by is not None:
        table = Table(by.value, box=None, pad_edge=False)
        for name in said["total"]:
            table.add_column(name.replace("_", " "), justify="right")
        for row in [*rows, {by.value: "all", **said["total"]}]:
            table.add_row(str(row[by.value] or "-"), *(str(row[name]) for name in said["total"]))
    else:
        table = Table("received", "route", "outcome", "error", box=None, pad_edge=False)
        for name in ("prompt", "completion", "reasoning", "TTFT", "seconds"):
            table.add_column(name, justify="right")
        for row in rows[-SHOWN:]:
            table.add_row(*_cells(row))
    console.print(table)
    if by is None:
        outcomes = ", ".join(f"{number} {name}" for name, number in said["outcomes"].items())
        console.print(f"\n{said['total']['calls']} calls: {outcomes or 'none'}", highlight=False)


def _cells(row: dict[str, Any]) -> list[str]:
    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    def tokens(kind: str) -> str:
        number, source = row[f"{kind}_tokens"], row[f"{kind}_from"]
        return {"exact": str(number), "none": "-"}.get(source, f"{number} {source}")

    return [
        time.strftime("%m-%d %H:%M:%S", time.localtime(row["received"])),
        row["route"] or "-",
        row["outcome"],
        row["error"] or "",
        tokens("prompt"),
        tokens("completion"),
        tokens("reasoning"),
        seconds(row["ttft"]),
        seconds(row["duration"]),
    ]
