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
    costs = said["total"]["cost"] is not None
    if by is not None:
        numbers = [name for name in said["total"] if name != "cost"]
        table = Table(by.value, box=None, pad_edge=False)
        for name in [*numbers, *["cost"] * costs]:
            table.add_column(name.replace("_", " "), justify="right")
        for row in [*rows, {by.value: "all", **said["total"]}]:
            cells = [str(row[by.value] or "-"), *(str(row[name]) for name in numbers)]
            table.add_row(*cells, *[_dollars(row["cost"])] * costs)
    else:
        shown = rows[-SHOWN:]
        fails = any(row["error"] for row in shown)
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        for name in ["received", "route", "outcome", *["error"] * fails]:
            table.add_column(name, overflow="fold", min_width=8)
        for name in ["prompt", "completion", "reasoning", "TTFT", "seconds", *["cost"] * costs]:
            table.add_column(name, justify="right")
        for row in shown:
            first = [row["route"] or "-", row["outcome"], *[row["error"] or ""] * fails]
            table.add_row(_time(row), *first, *_cells(row), *[_dollars(row["cost"])] * costs)
    console.print(table)
    if by is None:
        outcomes = ", ".join(f"{number} {name}" for name, number in said["outcomes"].items())
        console.print(f"\n{said['total']['calls']} calls: {outcomes or 'none'}", highlight=False)


def _dollars(cost: float | None) -> str:
    return "-" if cost is None else f"${cost:.2f}" if cost >= 1 else f"${cost:.6f}"


def _time(row: dict[str, Any]) -> str:
    return time.strftime("%m-%d %H:%M:%S", time.localtime(row["received"]))


def _cells(row: dict[str, Any]) -> list[str]:
    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    def tokens(kind: str) -> str:
        number, source = row[f"{kind}_tokens"], row[f"{kind}_from"]
        return {"exact": str(number), "none": "-"}.get(source, f"{number} {source}")

    return [
        tokens("prompt"),
        tokens("completion"),
        tokens("reasoning"),
        seconds(row["ttft"]),
        seconds(row["duration"]),
    ]
