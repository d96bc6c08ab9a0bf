"""Brings what is in the journals into the database: at the start of a server, and before usage is
shown."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from msgspec import Struct

from legato.store import instances, journal
from legato.store.daily_sums import last_received
from legato.store.database import Database
from legato.store.instances import Slot
from legato.store.tables import calls
from legato.store.upsert import Upsert

#: Rows in one transaction. Nothing streams yet, or another process does.
BATCH_ROWS: Final = 200

_RECEIVED: Final = [column.name for column in calls.c].index("received")


class Recovered(Struct):
    """What a replay did. `rows`: records that were read, one or two for each call; `interrupted`:
    calls that were open when their server ended; `damaged`: records that could not be read."""

    rows: int = 0
    interrupted: int = 0
    damaged: int = 0


class Recovery:
    """Replays journals. May be repeated: a row that is in the database already stays as it is, and
    one that was deleted since it was written does not come back."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        on_bug: Callable[[BaseException], None],
        on_damage: Callable[[Path, int], None],
    ) -> None:
        """`folder`: the data folder. `on_damage` is told how many records of a segment cannot be
        read."""
        self.done = Recovered()
        self._database = database
        self._folder = folder
        self._upsert = Upsert(database, on_bug)
        self._on_damage = on_damage

    async def close(self, names: Iterable[str]) -> None:
        """Replays the journals of slots that this process holds, closes their open calls, and
        deletes their segments; one with damage is kept under another name."""
        for name in names:
            segments = journal.segments(self._folder, name)
            damaged = await self.read(name)
            async with self._database.begin() as connection:
                result = await connection.execute(
                    calls.update()
                    .where(calls.c.outcome == "open", calls.c.instance == name)
                    .values(outcome="interrupted")
                )
            self.done.interrupted += result.rowcount
            if segments:
                await self._database.make_durable()
            for _, path in segments:
                if path in damaged:
                    path.replace(path.with_suffix(".damaged"))
                else:
                    path.unlink(missing_ok=True)

    async def read(self, name: str) -> list[Path]:
        """Replays the journal of a slot, and leaves it as it is: its server may be running.
        Returns the segments that are damaged."""
        damaged: list[Path] = []
        written = journal.written(self._folder, name)
        async with self._database.begin() as connection:
            deleted = await last_received(connection)
        for number, path in journal.segments(self._folder, name):
            found = journal.read(path)
            if found.damaged:
                damaged.append(path)
                self.done.damaged += found.damaged
                self._on_damage(path, found.damaged)
            self.done.rows += len(found.rows)
            # A row that was deleted is part of the sums: it would be added to them once more.
            # Newer ones are written again, since a power cut may have undone SQLite's last writes.
            rows = [
                row
                for row, end in zip(found.rows, found.ends, strict=True)
                if (number, end) > written or row[_RECEIVED] > deleted
            ]
            for begin in range(0, len(rows), BATCH_ROWS):
                await self._upsert.write(rows[begin : begin + BATCH_ROWS])
        return damaged


async def take_slot(recovery: Recovery, folder: Path) -> Slot:
    """A slot for this server. Closes what servers left behind that have ended."""
    slots = instances.free_slots(folder)
    if not slots:
        return instances.new_slot(folder)
    own, *others = slots
    try:
        with instances.holding(others) as names:
            await recovery.close([own.name, *names])
    except BaseException:
        own.release()
        raise
    return own


async def import_journals(recovery: Recovery, folder: Path) -> None:
    """Brings all journals of a data folder into the database, beside running servers and without
    them."""
    with instances.holding(instances.free_slots(folder)) as free:
        await recovery.close(free)
        for name in instances.names(folder):
            if name not in free:
                await recovery.read(name)
