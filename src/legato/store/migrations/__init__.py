"""How the tables came to be, step by step; run by `Database.migrate`."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from filelock import FileLock
from sqlalchemy import Connection


def upgrade(connection: Connection, lock: Path) -> None:
    """Brings the database to its newest form; two servers that start at once do it once."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    with FileLock(lock):
        command.upgrade(config, "head")
        connection.commit()
