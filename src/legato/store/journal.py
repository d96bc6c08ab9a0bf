"""The journal: rows of the ledger are appended to files before they are in the database.

A record that is written survives the end of the process, SIGKILL included; `fsync` once a second
bounds what a power cut takes. A segment is deleted when all of its rows are in the database, so
that the journal is also what holds them while the database is away.

One record is one line: the CRC-32 of the text in hex, a space, the values of the row as a JSON
array, a newline. Nothing is ever changed in place. Blank lines mean nothing.

A mark is a line of the same form with two numbers: all records before this position, a segment and
an offset in it, are in the database. Such a record is not needed any more, and its row may even
have been deleted from the database since.
"""

import contextlib
import errno
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgspec

from legato.store.fitting import fitted

#: A segment that is larger is closed, and the next one begun. Also about what is read when
#: nothing waits for the database.
SEGMENT_BYTES: Final = 256 * 1024

#: All segments of one server. Beyond it the journal is full.
MAX_BYTES: Final = 256 * 1024 * 1024

#: A longer record has a value that its column would not take.
MAX_RECORD_BYTES: Final = 16 * 1024

#: Seconds between two calls of `fsync`.
SYNC_SECONDS: Final = 1.0

#: Written to find out whether there is room on the disk again: a blank line, for the reader.
PROBE: Final = b" " * 511 + b"\n"

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(list[Any]).decode
_NAME: Final = re.compile(r"([0-9a-f]+)-([0-9]+)\.log")
_MARK: Final = re.compile(rb"^[0-9a-f]{8} \[([0-9]+),([0-9]+)\]$", re.MULTILINE)

#: A place in a journal: the number of a segment, and bytes of it.
Position = tuple[int, int]


class Segment(NamedTuple):
    """What a segment has. `rows`: fitted to the table, in the order in which they were written;
    `damaged`: how many records cannot be read; `ends`: the offset behind each row."""

    rows: list[tuple[Any, ...]]
    damaged: int
    ends: list[int]


def record(values: Sequence[Any]) -> bytes:
    """The record of a row, whatever is in it."""
    try:
        text = _encode(values)
        if len(text) > MAX_RECORD_BYTES:
            text = _encode(fitted(values))
    except (OverflowError, TypeError, ValueError):  # what JSON has no form for
        text = _encode(fitted(values))
    return _line(text)


def mark(position: Position) -> bytes:
    """The mark of what is in the database."""
    return _line(_encode(position))


def _line(text: bytes) -> bytes:
    return b"%08x %b\n" % (crc32(text), text)


class Journal:
    """The segments that one server writes. `append` is one `os.write`; a thread calls `fsync`."""

    def __init__(
        self, folder: Path, instance: str, on_failure: Callable[[OSError], None] = lambda _: None
    ) -> None:
        """`folder`: the data folder. `on_failure` is told once when records cannot be written any
        more, or cannot be brought to the disk; it may be called by another thread. Raises OSError
        if the journal cannot be created."""
        self.is_failing = False
        self._folder = journal_folder(folder)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._instance = instance
        self._on_failure = on_failure
        self.number = max([number for number, _ in segments(folder, instance)], default=0)
        self._closed: dict[int, int] = {}  # sizes of segments that are not written any more
        self._retired: deque[int] = deque()  # their descriptors, until their last fsync
        self._size = 0
        self._is_torn = False  # the segment ends in the middle of a record
        self._descriptor = self._begin_segment()
        self._is_dirty = False
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sync_often, name="journal", daemon=True)
        self._thread.start()

    @property
    def position(self) -> Position:
        """Where the next record begins, or behind it: never too far."""
        return self.number, self._size

    @property
    def size(self) -> int:
        """Bytes in all segments."""
        return self._size + sum(self._closed.values())

    @property
    def is_full(self) -> bool:
        """Whether further records might not be kept: the disk is full, or there are too many."""
        return self.is_failing or (len(self._closed) > 0 and self.size >= MAX_BYTES)

    def append(self, data: bytes) -> bool:
        """Writes one record. Never raises; returns whether it is written."""
        if self._descriptor < 0:
            return False  # closed: a call that ended too late
        try:
            if self._size >= SEGMENT_BYTES:
                self._roll()
            whole = b"\n" + data if self._is_torn else data
            written = os.write(self._descriptor, whole)
            if written < len(whole):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._repair()
            self._fail(error)
            return False
        self._size += written
        self._is_torn = self.is_failing = False
        if not self._is_dirty:
            self._is_dirty = True
            self._wake.set()
        return True

    def delete_before(self, number: int) -> None:
        """Deletes the segments before this one: all of their rows are in the database."""
        for each in [each for each in self._closed if each < number]:
            self._path(each).unlink(missing_ok=True)
            del self._closed[each]

    def has_before(self, number: int) -> bool:
        """Whether there are segments before this one."""
        return any(each < number for each in self._closed)

    def close(self, *, delete: bool) -> None:
        """`delete`: all rows are in the database, and nothing is left to keep."""
        self._stop.set()
        self._wake.set()
        self._thread.join()
        self._sync()
        os.close(self._descriptor)
        self._descriptor = -1
        if delete:
            self._closed[self.number] = self._size
            self.delete_before(self.number + 1)

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._instance}-{number}.log"

    def _begin_segment(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0)
        descriptor = os.open(self._path(self.number + 1), flags, 0o600)
        self.number += 1
        return descriptor

    def _roll(self) -> None:
        descriptor, number = self._descriptor, self.number
        self._descriptor = self._begin_segment()
        self._closed[number] = self._size
        self._size, self._is_torn = 0, False
        self._retired.append(descriptor)

    def _repair(self) -> None:
        """Takes back the part of a record that was written."""
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            self._is_torn = True

    def _fail(self, error: OSError) -> None:
        if not self.is_failing:
            self.is_failing = True
            self._on_failure(error)

    # The thread. It alone closes descriptors while the journal is open, so that none is closed
    # which it is about to use.

    def _sync_often(self) -> None:
        while not self._stop.is_set():
            self._wake.wait()
            self._wake.clear()
            self._is_dirty = False  # what is appended from here on wakes the thread again
            self._sync()
            self._stop.wait(SYNC_SECONDS)

    def _sync(self) -> None:
        try:
            while self._retired:
                descriptor = self._retired.popleft()
                os.fsync(descriptor)
                os.close(descriptor)
            os.fsync(self._descriptor)
            _sync_folder(self._folder)
        except OSError as error:
            self._on_failure(error)


def _sync_folder(folder: Path) -> None:
    """Brings the names of new files to the disk. Not every platform can open a folder."""
    with contextlib.suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# Reading


def journal_folder(folder: Path) -> Path:
    return folder / "journal"


def segments(folder: Path, instance: str) -> list[tuple[int, Path]]:
    """(number, file) of each segment of one server, in the order of their records."""
    return sorted(
        (number, path) for name, number, path in _all_segments(folder) if name == instance
    )


def instances(folder: Path) -> set[str]:
    """The servers that have segments."""
    return {name for name, _, _ in _all_segments(folder)}


def _all_segments(folder: Path) -> Iterator[tuple[str, int, Path]]:
    with contextlib.suppress(FileNotFoundError):
        for path in journal_folder(folder).iterdir():
            if match := _NAME.fullmatch(path.name):
                yield match[1], int(match[2]), path


def read(path: Path) -> Segment:
    """Reads a segment. A torn or damaged record at its end is not counted: it was being written
    when the server ended. A segment that has been deleted has no rows."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return Segment([], 0, [])
    while len(lines) > 1 and not lines[-1].strip():
        lines.pop()
    found = Segment([], 0, [])
    end = damaged = 0
    is_damaged = False
    for line in lines:
        end += len(line) + 1
        damaged += is_damaged
        is_damaged = False
        if not line.strip() or _is_mark(line):
            continue
        row = _row(line)
        if row is None:
            is_damaged = True
        else:
            found.rows.append(fitted(row))
            found.ends.append(end)
    return found._replace(damaged=damaged)


def written(folder: Path, instance: str) -> Position:
    """Up to where the records of one server are in its database."""
    for _, path in reversed(segments(folder, instance)):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue
        marks = [each for each in _MARK.finditer(data) if _is_mark(each[0])]
        if marks:
            return int(marks[-1][1]), int(marks[-1][2])
    return 0, 0


def _is_mark(line: bytes) -> bool:
    return bool(_MARK.fullmatch(line)) and line == _line(line[9:])[:-1]


def _row(line: bytes) -> list[Any] | None:
    """The values of one record; None: it is damaged."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % crc32(text):
        return None
    try:
        values = _decode(text)
    except (msgspec.MsgspecError, ValueError):  # the latter: not UTF-8
        return None
    return values if values and isinstance(values[0], str) and values[0] else None
