"""Keeps the keyrings of a running server in sync with the API keys in the database."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from legato.policy import key_fields
from legato.policy import keys as key_policy
from legato.policy.keys import Key, Keyring
from legato.store import keys as key_store
from legato.store.database import ANSWER_SECONDS, Database

#: Seconds between checks for changes by other processes; a check reads the size of a file, or a
#: number from PostgreSQL.
POLL_SECONDS: Final = 0.4

#: Seconds between checks in the database, in case the file is missing.
DATABASE_POLL_SECONDS: Final = 10.0

FIRST_KEY_FILE: Final = "key"


class KeySync:
    """Loads the keys, and afterwards those that change. `first_key`: the key that was created
    because the database had none; None otherwise."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        clock: Callable[[], float],
        on_bug: Callable[[BaseException], None],
        on_database: Callable[[BaseException | None], None],
        admins: Keyring | None = None,
        on_budgets: Callable[[Sequence[Key]], None] | None = None,
    ) -> None:
        """`keyring`: of the keys that make calls. `on_database` is told of each check: None, or why
        the database cannot be read. `admins`: the keys of the admin API. `on_budgets` gets keys
        that were known, and now have a budget that counts something else."""
        self.first_key: str | None = None
        self._database = database
        self._keyring = keyring
        self._admins = Keyring() if admins is None else admins
        self._clock = clock
        self._on_bug = on_bug
        self._on_database = on_database
        self._on_budgets = on_budgets
        self._task: asyncio.Task[None] | None = None
        self._version = -1
        self._loading = asyncio.Lock()

    async def create_first_key(self, folder: Path) -> None:
        """Creates a key, and writes it to a file in `folder`, unless the database has keys."""
        if not await key_store.is_empty(self._database):
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
        # The mark first: a change in between is detected by the first check.
        mark = self._database.change_mark(key_store.SUBJECT)
        await self.refresh()
        self._task = asyncio.create_task(self._watch(mark), name="key sync")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def refresh(self) -> None:
        """Loads what has changed since the last time. Raises the database's errors."""
        async with self._loading:
            async with asyncio.timeout(ANSWER_SECONDS):
                version = await key_store.version(self._database)
            if version == self._version:
                return
            is_older = version < self._version  # a copy of the database was put back
            seen: set[str] = set()
            start = -1 if is_older else self._version
            async for rows in key_store.changed_since(self._database, start):
                seen.update(self._take(rows))
                await asyncio.sleep(0)  # streams go on between two pages
            if is_older:
                for ring in (self._keyring, self._admins):
                    ring.replace([key for key in ring if key.id in seen])
            self._version = version

    def _take(self, rows: Sequence[Sequence[Any]]) -> list[str]:
        """Returns the ids of the keys."""
        keys = [self._key(row) for row in rows]
        counted = [key for key in keys if _counts_anew(self._keyring.get(key.id), key)]
        self._keyring.update(key for key in keys if key.role is None)
        self._admins.update(key for key in keys if key.role is not None)
        if counted and self._on_budgets is not None:
            self._on_budgets(counted)
        return [key.id for key in keys]

    def _key(self, row: Sequence[Any]) -> Key:
        try:
            return key_fields.from_row(row)
        except ValueError as error:  # the other keys are loaded all the same
            self._on_bug(error)
            return key_fields.disabled(row)

    async def _watch(self, mark: int) -> None:
        database, checked_at = self._database, self._clock()
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                new_mark = database.change_mark(key_store.SUBJECT)
                if new_mark == mark and self._clock() < checked_at + DATABASE_POLL_SECONDS:
                    continue
                await self.refresh()
                mark, checked_at = new_mark, self._clock()
                self._on_database(None)
            except (OSError, SQLAlchemyError) as error:
                self._on_database(error)
            except Exception as error:
                self._on_bug(error)


def _counts_anew(old: Key | None, new: Key) -> bool:
    """Whether the budget of a key counts what nobody has counted since the server's start."""
    if old is None or new.budget is None:
        return False
    before = old.budget and (old.budget.unit, old.budget.period)
    return before != (new.budget.unit, new.budget.period)
