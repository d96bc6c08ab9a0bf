"""`legato usage`: shows calls, tokens and cost from the database, with or without a server."""

import asyncio
import csv
import json
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from legato.cli.options import Config, Data, Json
from legato.cli.terminal import clean, settings, stop
from legato.policy.ledger import Row
from legato.policy.periods import seconds
from legato.settings import Settings

app = typer.Typer(add_completion=False)

#: The most calls that are listed without --by; --json and --csv have all of them.
MAX_CALLS: Final = 50

#: What a spreadsheet takes for the begin of a formula, in their wide forms too.
_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001


class By(StrEnum):
    key = "key"
    owner = "owner"
    route = "route"
    outcome = "outcome"
    deployment = "deployment"
    front = "front"
    session = "session"
    agent = "agent"
    day = "day"


@app.command()
def usage(
    since: Annotated[
        str, typer.Option(help="Start of the period, as a time before now: 30m, 24h, 7d, 4w.")
    ] = "7d",
    by: Annotated[By | None, typer.Option(help="Print totals, grouped by this column.")] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the rows as CSV.")] = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Show calls, tokens and cost.

    Without --by, the last 50 calls are listed. Cost is in US dollars. Cached tokens were read from
    a provider's cache, written ones were written to it; both are part of the prompt. A call counts
    for the last deployment that was asked, and for the day in UTC on which it came.
    Narrow terminals show fewer columns.
    """
    if as_json and as_csv:
        stop("choose one of --json and --csv", 2)
    lists_all = as_json or as_csv
    report = _read(settings(config, data=data), _start(since), by, None if lists_all else MAX_CALLS)
    names = report.pop("names")
    if as_json:
        print(json.dumps({name: each for name, each in report.items() if each is not None}))
    elif as_csv:
        _print_csv(report, by)
        if report["deleted"] is not None:
            from legato.cli.usage_tables import said_of_deleted

            _warn(said_of_deleted(report["deleted"]))
    else:
        from legato.cli.usage_tables import print_calls, print_groups

        if by is None:
            print_calls(report)
        else:
            print_groups(report, by.value, since.strip(), names)


def _start(since: str) -> float:
    try:
        return time.time() - seconds(since)
    except ValueError as error:
        stop(f"--since: {error}", 2)


def _read(chosen: Settings, since: float, by: By | None, limit: int | None) -> dict[str, Any]:
    from sqlalchemy.exc import SQLAlchemyError

    from legato.store.database import Database
    from legato.store.keys import names
    from legato.store.ledger import summary
    from legato.store.recovery import Recovery, import_journals

    folder = chosen.data_dir

    async def run() -> dict[str, Any]:
        database = await Database.open(folder, chosen.database)
        try:
            # What the database does not have yet, of running servers and of those that were killed.
            await import_journals(Recovery(database, folder, _warn, _warn_of_damage), folder)
            report = await summary(database, since, by.value if by else None, limit=limit)
            return report | {"names": await names(database) if by is By.key else {}}
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


def _print_csv(report: dict[str, Any], by: By | None) -> None:
    """The rows, below the names of their columns. What is unknown is an empty cell."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(Row.__struct_fields__ if by is None else (by.value, *report["total"]))
    writer.writerows([[cell(value) for value in row.values()] for row in report["rows"]])


def cell(value: Any) -> Any:
    """Clients choose sessions and models' names: none may become a formula in a spreadsheet."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = clean(value)
        return f"'{text}" if text.startswith(_FORMULAS) else text
    return value
