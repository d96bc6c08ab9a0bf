"""Alembic migrations of the database; run by `Database.migrate`."""

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from filelock import FileLock
from sqlalchemy import Connection

#: The number of PostgreSQL's advisory lock, which no other program should use.
_LOCK: Final = 0x4C656761746F  # "Legato"


def configuration(connection: Connection) -> Config:
    """What Alembic's commands need to run on this connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection, lock: Path) -> None:
    """Upgrades the database to the newest revision. Servers that start at the same time wait for
    each other: at the file `lock`, or at a lock in PostgreSQL, which the end of the transaction
    releases."""
    config = configuration(connection)
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        command.upgrade(config, "head")
        return
    with FileLock(lock):
        # Python's driver begins no transaction for statements on tables: a server that is killed
        # between two of them would leave what no migration goes on from.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        command.upgrade(config, "head")
        connection.commit()
