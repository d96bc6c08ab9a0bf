"""`legato usage`: shows calls, tokens and cost from the database, with or without a server."""

import asyncio
import json
import re
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from legato.cli.options import Config, Data, Json
from legato.cli.terminal import settings, stop
from legato.settings import Settings

app = typer.Typer(add_completion=False)

_UNITS: Final = {"m": 60, "h": 3600, "d": 86400, "w": 604800}

#: The most calls that are listed without --by; --json has all of them.
MAX_CALLS: Final = 50

_TOKEN_KINDS: Final = ("prompt", "completion", "reasoning", "cached")

_LEGEND: Final = "~: counted, not reported by the upstream; +: at least"


class By(StrEnum):
    key = "key"
    route = "route"
    outcome = "outcome"
    front = "front"
    session = "session"
    agent = "agent"


@app.command()
def usage(
    since: Annotated[
        str, typer.Option(help="Start of the period, as a time before now: 30m, 24h, 7d, 4w.")
    ] = "7d",
    by: Annotated[By | None, typer.Option(help="Print totals, grouped by this column.")] = None,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Show calls, tokens and cost.

    Without --by, the last 50 calls are listed. Cost is in US dollars. Cached tokens were read from
    a provider's cache, written ones were written to it; both are part of the prompt.
    Narrow terminals show fewer columns.
    """
    report = _read(settings(config, data=data), _start(since), by)
    if as_json:
        print(json.dumps(report))
    elif by is None:
        _print_calls(report)
    else:
        _print_totals(report, by)


def _start(since: str) -> float:
    match = re.fullmatch(r"(\d+)([mhdw])", since.strip())
    if match is None:
        stop(f"--since: `{since}` is not a time such as 30m, 24h, 7d or 4w", 2)
    return time.time() - int(match[1]) * _UNITS[match[2]]


def _read(chosen: Settings, since: float, by: By | None) -> dict[str, Any]:
    from sqlalchemy.exc import SQLAlchemyError

    from legato.store.database import Database
    from legato.store.ledger import summary
    from legato.store.recovery import Recovery, import_journals

    folder = chosen.data_dir

    async def run() -> dict[str, Any]:
        database = await Database.open(folder, chosen.database)
        try:
            # What the database does not have yet, of running servers and of those that were killed.
            await import_journals(Recovery(database, folder, _warn, _warn_of_damage), folder)
            return await summary(database, since, by.value if by else None)
        finally:
            await database.close()

    try:
        return asyncio.run(run())
    except (OSError, SQLAlchemyError) as error:
        stop(f"the ledger cannot be read: {error}")


def _warn(message: object) -> None:
    print(f"legato: {message}", file=sys.stderr)


def _warn_of_damage(path: Path, records: int) -> None:
    _warn(f"{path}: {records} damaged records were left out")


def _print_calls(report: dict[str, Any]) -> None:
    from legato.cli.tables import Column, print_table

    rows = report["rows"][-MAX_CALLS:]
    columns = {
        "received": Column("received"),
        "route": Column("route", min_width=8),
        "outcome": Column("outcome", drop_order=5),
        "error": Column("error", drop_order=4, min_width=12),
        "prompt": Column("prompt", is_number=True),
        "completion": Column("completion", is_number=True),
        "reasoning": Column("reasoning", drop_order=1, is_number=True),
        "ttft": Column("TTFT", is_number=True),
        "duration": Column("seconds", drop_order=2, is_number=True),
        "cost": Column("cost", drop_order=3, is_number=True),
    }
    if not any(row["error"] for row in rows):
        del columns["error"]
    if report["total"]["cost"] is None:
        del columns["cost"]
    cells = [_cells(row) for row in rows]
    print_table(list(columns.values()), [[each[name] for name in columns] for each in cells])
    outcomes = ", ".join(f"{number} {name}" for name, number in report["outcomes"].items())
    if any(mark in each[kind] for each in cells for kind in _TOKEN_KINDS[:3] for mark in "~+"):
        print(f"\n{_LEGEND}")
    print(f"\n{report['total']['calls']} calls: {outcomes or 'none'}")


def _cells(row: dict[str, Any]) -> dict[str, str]:
    return {
        "received": time.strftime("%m-%d %H:%M:%S", time.localtime(row["received"])),
        "route": row["route"] or "-",
        "outcome": row["outcome"],
        "error": row["error"] or "",
        **{kind: _tokens(row, kind) for kind in _TOKEN_KINDS},
        "ttft": _seconds(row["ttft"]),
        "duration": _seconds(row["duration"]),
        "cost": _dollars(row["cost"]),
    }


def _tokens(row: dict[str, Any], kind: str) -> str:
    """A token count, marked by its source."""
    number, source = row[f"{kind}_tokens"], row[f"{kind}_from"]
    marked = {"none": "-", "counted": f"~{number}", "partial": f"{number}+"}
    return marked.get(source, str(number))


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _dollars(cost: float | None) -> str:
    return "-" if cost is None else f"${cost:.2f}" if cost >= 1 else f"${cost:.6f}"


def _print_totals(report: dict[str, Any], by: By) -> None:
    from legato.cli.tables import Column, print_table

    columns = [
        Column(by.value, min_width=8),
        Column("calls", is_number=True),
        Column("prompt", is_number=True),
        Column("completion", is_number=True),
        Column("reasoning", drop_order=3, is_number=True),
        Column("cached", drop_order=2, is_number=True),
    ]
    kinds: list[str] = list(_TOKEN_KINDS)
    if report["total"]["cache_write_tokens"]:
        columns.append(Column("written", drop_order=1, is_number=True))
        kinds.append("cache_write")
    has_cost = report["total"]["cost"] is not None
    if has_cost:
        columns.append(Column("cost", is_number=True))
    rows: list[list[str]] = []
    for row in [*report["rows"], {by.value: "all", **report["total"]}]:
        cells = [row[by.value] or "-", str(row["calls"])]
        cells += [str(row[f"{kind}_tokens"]) for kind in kinds]
        rows.append([*cells, _dollars(row["cost"])] if has_cost else cells)
    print_table(columns, rows)
