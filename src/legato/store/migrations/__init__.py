"""Alembic migrations of the database; run by `Database.migrate`."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from filelock import FileLock
from sqlalchemy import Connection


def upgrade(connection: Connection, lock: Path) -> None:
    """Upgrades the database to the newest revision; the lock serialises servers that start at the
    same time."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    with FileLock(lock):
        command.upgrade(config, "head")
        connection.commit()
