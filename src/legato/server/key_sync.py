"""Keeps the keyring of a running server in sync with the API keys in the database."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from legato.policy import keys as key_policy
from legato.policy.keys import Key, Keyring
from legato.store import keys as key_store
from legato.store.database import Database

#: Seconds between checks for changes by other processes; a check reads the size of a file.
POLL_SECONDS: Final = 0.4

#: Seconds between checks in the database, in case the file is missing.
DATABASE_POLL_SECONDS: Final = 10.0

FIRST_KEY_FILE: Final = "key"


class KeySync:
    """Loads the keys, and reloads them when `legato keys` changes them. `first_key`: the key that
    was created because the database had none; None otherwise."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        clock: Callable[[], float],
        on_bug: Callable[[BaseException], None],
        on_database: Callable[[BaseException | None], None],
    ) -> None:
        """`on_database` is told of each check: None, or why the database cannot be read."""
        self.first_key: str | None = None
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._on_bug = on_bug
        self._on_database = on_database
        self._task: asyncio.Task[None] | None = None

    async def create_first_key(self, folder: Path) -> None:
        """Creates a key, and writes it to a file in `folder`, unless the database has keys."""
        if await key_store.all_keys(self._database):
            return
        identity, key, digest = key_policy.create()
        path = folder / FIRST_KEY_FILE
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text(key + "\n")
        await key_store.add(self._database, identity, "first", digest)
        self.first_key = key

    async def start(self) -> None:
        """Loads the keys and starts to watch for changes."""
        # Marks first, keys last: a change in between is detected by the first check.
        mark = self._database.change_mark(key_store.SUBJECT)
        version = await key_store.version(self._database)
        await self._load()
        self._task = asyncio.create_task(self._watch(mark, version), name="key sync")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _load(self) -> None:
        rows = await key_store.all_keys(self._database)
        self._keyring.replace(Key(**row) for row in rows)  # type: ignore[arg-type]

    async def _watch(self, mark: int, version: int) -> None:
        database, checked_at = self._database, self._clock()
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                new_mark = database.change_mark(key_store.SUBJECT)
                if new_mark == mark and self._clock() < checked_at + DATABASE_POLL_SECONDS:
                    continue
                if (new_version := await key_store.version(database)) != version:
                    await self._load()
                    version = new_version
                mark, checked_at = new_mark, self._clock()
                self._on_database(None)
            except (OSError, SQLAlchemyError) as error:
                self._on_database(error)
            except Exception as error:
                self._on_bug(error)
