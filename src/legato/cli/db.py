"""`legato db`: checks or upgrades the database, and shows the journals of the data folder."""

import json
from typing import Annotated, Any

import typer

from legato.cli.database import with_database
from legato.cli.options import Config, Data, Json
from legato.cli.terminal import settings

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.command()
def upgrade(data: Data = None, config: Config = None) -> None:
    """Bring the tables of the database to this version.

    A server does the same at its start; this does it before one is started.
    """
    from legato.store.database import Database
    from legato.store.tables import HEAD

    chosen = settings(config, data=data)

    async def run(database: Database) -> str | None:
        before = await database.revision()
        await database.prepare(chosen.data_dir)
        return before

    before = with_database(chosen, run, migrates=False)
    if before == HEAD:
        print(f"the database is at revision {HEAD} already")
    else:
        print(f"upgraded the database from {before or 'nothing'} to revision {HEAD}")


@app.command()
def check(
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not read all pages of an SQLite database.")
    ] = False,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Check the database and the journals; exits with 1 if something is wrong. Changes nothing."""
    from legato.store.check import examine

    chosen = settings(config, data=data)
    report = with_database(
        chosen, lambda database: examine(database, chosen.data_dir, quick=quick), migrates=False
    )
    if as_json:
        print(json.dumps(report))
    else:
        _print(report)
    if report["problems"]:
        raise SystemExit(1)


def _print(report: dict[str, Any]) -> None:
    from legato.cli.tables import Column, print_table

    print(f"database  {report['database']}")
    print(f"revision  {report['revision'] or '-'} (this version of Legato: {report['head']})")
    if report["instances"]:
        columns = (
            Column("instance", min_width=12),
            Column("state"),
            Column("segments", is_number=True),
            Column("records", is_number=True),
            Column("damaged", is_number=True),
        )
        print()
        print_table(
            columns,
            [
                (
                    each["name"],
                    "running" if each["running"] else "ended",
                    *(str(each[name]) for name in ("segments", "records", "damaged")),
                )
                for each in report["instances"]
            ],
        )
    print()
    for problem in report["problems"]:
        print(f"problem: {problem}")
    if not report["problems"]:
        print("no problems")
