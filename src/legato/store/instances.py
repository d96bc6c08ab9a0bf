"""Slots: the names under which the servers of one data folder write rows.

A server holds the lock of its slot for as long as it lives. A slot that nobody holds is that of a
server that has ended, or was killed: its journal is replayed, and its open calls are closed.
"""

import contextlib
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from legato.store.journal import instances

#: Random bytes of a name.
_NAME_BYTES: Final = 6
_NAME: Final = re.compile(r"[0-9a-f]{12}")


class Slot:
    """A slot whose lock this process holds."""

    def __init__(self, name: str, lock: FileLock) -> None:
        self.name = name
        self._lock = lock

    def release(self) -> None:
        self._lock.release()


def slots_folder(folder: Path) -> Path:
    return folder / "instances"


def names(folder: Path) -> list[str]:
    """The names of all slots, held or not."""
    found = instances(folder)  # a lost file of a slot must not hide its journal
    with contextlib.suppress(FileNotFoundError):
        files = [path.name for path in slots_folder(folder).iterdir()]
        found |= {name for name in files if _NAME.fullmatch(name)}
    return sorted(found)


def free_slots(folder: Path) -> list[Slot]:
    """Takes all slots that nobody holds."""
    held = (_take(folder, name) for name in names(folder))
    return [slot for slot in held if slot is not None]


def new_slot(folder: Path) -> Slot:
    while (slot := _take(folder, secrets.token_hex(_NAME_BYTES))) is None:
        pass  # another process that looks for slots was quicker
    return slot


@contextlib.contextmanager
def holding(slots: list[Slot]) -> Iterator[list[str]]:
    """The names of the slots; they are released at the end."""
    try:
        yield [slot.name for slot in slots]
    finally:
        for slot in slots:
            slot.release()


def _take(folder: Path, name: str) -> Slot | None:
    slots_folder(folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(slots_folder(folder) / name, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return Slot(name, lock)
