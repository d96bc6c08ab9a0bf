"""Runs a command's task with the database of the settings, and tells the audit log who acts."""

import asyncio
import getpass
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from legato.cli.terminal import stop
from legato.settings import Settings

T = TypeVar("T")


def with_database(
    chosen: Settings, task: Callable[[Any], Awaitable[T]], *, migrates: bool = True
) -> T:
    """Runs `task` with the opened database, which is created or migrated first unless `migrates`
    is false; exits with 1 if it cannot be used."""
    from sqlalchemy.exc import SQLAlchemyError

    from legato.store.database import Database, UnusableDatabase
    from legato.store.urls import database_url

    async def run() -> T:
        database = Database(database_url(chosen.data_dir, chosen.database))
        try:
            if migrates:
                await database.prepare(chosen.data_dir)
            return await task(database)
        finally:
            await database.close()

    try:
        return asyncio.run(run())
    except UnicodeEncodeError:  # what the command line has in place of bytes that are no text
        stop("an argument is not UTF-8", 2)
    except UnusableDatabase as error:
        stop(error)
    except (OSError, SQLAlchemyError) as error:
        stop(f"the database cannot be used: {error}")


def actor() -> Any:
    """The user at the command line (`store.audit.Actor`)."""
    from legato.store.audit import Actor

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        user = str(os.getuid())
    return Actor(f"user:{user}", socket.gethostname() or "localhost")
