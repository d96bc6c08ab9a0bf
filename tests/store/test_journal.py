"""The journal: records torn, damaged and repeated; disks that are full; segments that are deleted
when their rows are in the database."""

import asyncio
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import asdict, astuple

from legato.policy.ledger import Row
from legato.store import journal as module
from legato.store.database import Database
from legato.store.instances import Slot, free_slots, names, new_slot
from legato.store.journal import Journal, mark, read, record, segments, written
from legato.store.ledger import Writer, spent, summary
from legato.store.recovery import Recovery, import_journals, take_slot
from legato.store.retention import delete_batch
from tests.conftest import until
from tests.support.postgres import BOTH

NAME = "0123456789ab"

both = pytest.mark.parametrize("address", BOTH, indirect=True)


def row(identity: str, outcome: Any = "open", **values: Any) -> Row:
    return Row(identity, 1_795_000_000.0, "key_1", outcome=outcome, instance=NAME, **values)


def fails(*arguments: object) -> None:
    pytest.fail(str(arguments))


def write(folder: Path, data: bytes, number: int = 1) -> Path:
    """A segment with this content."""
    path = folder / "journal" / f"{NAME}-{number}.log"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


ROWS = [
    row("one", prompt_tokens=7, cost=0.1),
    row("two", "complete", upstream_id='"\n\\ é 😀 \u2028'),
    row("three", "failed", ttft=0.25),
]
RECORDS = [record(astuple(each)) for each in ROWS]


# Reading


def test_what_is_written_is_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path, NAME, fails)
    for each in RECORDS:
        assert journal.append(each)
    ((number, path),) = segments(tmp_path, NAME)
    assert (number, journal.number, journal.size) == (1, 1, path.stat().st_size)
    assert path.stat().st_mode & 0o077 == 0
    assert read(path)[:2] == ([astuple(each) for each in ROWS], 0)
    journal.close(delete=False)
    assert read(path)[:2] == ([astuple(each) for each in ROWS], 0)


def test_torn_at_every_byte(tmp_path: Path) -> None:
    data = b"".join(RECORDS)
    ends = [len(b"".join(RECORDS[:number])) for number in range(4)]
    for length in range(len(data) + 1):
        rows, damaged, _ = read(write(tmp_path, data[:length]))
        # A record that lacks nothing but its newline is whole.
        whole = sum(length >= end - 1 for end in ends[1:])
        assert rows == [astuple(each) for each in ROWS[:whole]], length
        assert damaged == 0, length


def test_damaged_at_every_byte_of_the_record_in_the_middle(tmp_path: Path) -> None:
    first, middle, last = RECORDS
    for place in range(len(middle)):
        for changed in (0, 0xFF, middle[place] ^ 1, 0x0A):
            if changed == middle[place]:
                continue
            bad = middle[:place] + bytes([changed]) + middle[place + 1 :]
            rows, damaged, _ = read(
                write(tmp_path, first + bad + last + record(astuple(row("end"))))
            )
            kept = [each[0] for each in rows]
            assert damaged >= 1, (place, changed)
            # Without its newline the record takes the next one with it.
            merged = place == len(middle) - 1
            assert kept == (["one", "end"] if merged else ["one", "three", "end"])


@pytest.mark.parametrize(
    "tail", [b"\0" * 4096, b"garbage\n", RECORDS[0][:-5] + b"\n", b"\n\n", b" " * 511 + b"\n"]
)
def test_noise_at_the_end_is_no_damage(tmp_path: Path, tail: bytes) -> None:
    rows, damaged, _ = read(write(tmp_path, b"".join(RECORDS) + tail))
    assert ([each[0] for each in rows], damaged) == (["one", "two", "three"], 0)


@pytest.mark.parametrize(
    "text", [b"{}", b"[]", b"7", b'[""]', b"[1]", b"[", b'["a"]x', b'["\xff"]']
)
def test_a_right_checksum_is_not_enough(tmp_path: Path, text: bytes) -> None:
    line = b"%08x %b\n" % (module.crc32(text), text)
    rows, damaged, _ = read(write(tmp_path, RECORDS[0] + line + RECORDS[1]))
    assert ([each[0] for each in rows], damaged) == (["one", "two"], 1)


def test_a_segment_that_is_gone_has_no_rows(tmp_path: Path) -> None:
    assert read(tmp_path / "none.log") == ([], 0, [])
    assert written(tmp_path, NAME) == (0, 0)
    assert segments(tmp_path, NAME) == []


def test_marks_are_no_rows_and_no_damage(tmp_path: Path) -> None:
    one, two, three = RECORDS
    write(tmp_path, one + mark((1, len(one))), 1)
    path = write(tmp_path, two + mark((2, 7)) + three, 2)
    rows, damaged, ends = read(path)
    assert ([each[0] for each in rows], damaged) == (["two", "three"], 0)
    assert ends == [len(two), path.stat().st_size]
    assert written(tmp_path, NAME) == (2, 7)
    path.write_bytes(two)
    assert written(tmp_path, NAME) == (1, len(one)), "of the last segment that has one"


@pytest.mark.parametrize("bad", [mark((9, 9))[:-2], mark((9, 9)).replace(b"9", b"8"), b"[9,9]\n"])
def test_a_damaged_mark_marks_nothing(tmp_path: Path, bad: bytes) -> None:
    path = write(tmp_path, mark((1, 5)) + bad)
    assert written(tmp_path, NAME) == (1, 5)
    assert read(path) == ([], 0, [])


HOSTILE: dict[str, Any] = {
    "a lone surrogate": "\ud83d",
    "an object": object(),
    "a long value": "x" * 1_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_is_in_a_row_it_has_a_record(tmp_path: Path, name: str) -> None:
    one = row("one", "complete", prompt_tokens=2**70, duration=float("inf"))
    one.upstream_id = HOSTILE[name]
    data = record(astuple(one))
    assert len(data) < module.MAX_RECORD_BYTES
    assert data.count(b"\n") == 1
    ((identity, *_), *_), damaged, _ = read(write(tmp_path, data + RECORDS[1]))
    assert (identity, damaged) == ("one", 0)


# Writing


class Disk:
    """Stands for `os.write`: takes only so many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int, *, torn: bool) -> None:
        self.room = room
        self._torn = torn
        self._write = os.write
        monkeypatch.setattr(module.os, "write", self)
        if torn:
            monkeypatch.setattr(module.os, "ftruncate", self._refuse)

    def __call__(self, descriptor: int, data: bytes) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._write(descriptor, data[: self.room])
        self.room -= written
        return written

    def _refuse(self, *_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("torn", [False, True], ids=["taken back", "not taken back"])
@pytest.mark.parametrize("room", [0, 1, len(RECORDS[1]) - 1])
def test_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, torn: bool
) -> None:
    failures: list[OSError] = []
    journal = Journal(tmp_path, NAME, failures.append)
    assert journal.append(RECORDS[0])
    disk = Disk(monkeypatch, room, torn=torn)
    assert not journal.append(RECORDS[1])
    assert journal.is_full
    assert not journal.append(RECORDS[1])
    assert [error.errno for error in failures] == [errno.ENOSPC], "it is said once"
    disk.room = 10_000
    assert journal.append(RECORDS[1])
    assert not journal.is_full
    journal.append(RECORDS[2])
    journal.close(delete=False)
    ((_, path),) = segments(tmp_path, NAME)
    rows, damaged, _ = read(path)
    # A record that lacked its newline alone is there twice, which does no harm.
    twice = torn and room == len(RECORDS[1]) - 1
    assert [each[0] for each in rows] == ["one", "two", *(["two"] if twice else []), "three"]
    assert damaged == (torn and room == 1)


def test_a_segment_that_is_large_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 1000)
    journal = Journal(tmp_path, NAME, fails)
    for number in range(30):
        assert journal.append(record(astuple(row(f"r{number}"))))
    found = segments(tmp_path, NAME)
    assert [number for number, _ in found] == list(range(1, journal.number + 1))
    rows = [each[0] for _, path in found for each in read(path)[0]]
    assert rows == [f"r{number}" for number in range(30)]
    assert journal.size == sum(path.stat().st_size for _, path in found)
    assert journal.has_before(3)
    journal.delete_before(3)
    assert next(number for number, _ in segments(tmp_path, NAME)) == 3
    assert not journal.has_before(3)
    journal.close(delete=True)
    assert segments(tmp_path, NAME) == []


def test_a_journal_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 1000)
    monkeypatch.setattr(module, "MAX_BYTES", 3000)
    journal = Journal(tmp_path, NAME, fails)
    while not journal.is_full:
        assert journal.append(RECORDS[0])
    assert 3000 <= journal.size < 4000
    assert journal.append(RECORDS[0]), "calls that run are still journaled"
    journal.delete_before(journal.number)
    assert not journal.is_full
    journal.close(delete=True)


def test_records_are_brought_to_the_disk_by_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    done = threading.Event()

    def fsync(descriptor: int) -> None:
        synced.append(threading.current_thread().name)
        done.set()

    monkeypatch.setattr(module.os, "fsync", fsync)
    journal = Journal(tmp_path, NAME, fails)
    journal.append(RECORDS[0])
    assert done.wait(10)
    assert set(synced) == {"journal"}
    journal.close(delete=True)


# Slots


def test_a_slot_is_held_by_one_server_and_outlives_it(tmp_path: Path) -> None:
    one, two = new_slot(tmp_path), new_slot(tmp_path)
    assert len({one.name, two.name}) == 2
    assert free_slots(tmp_path) == []
    one.release()
    (again,) = free_slots(tmp_path)
    assert again.name == one.name
    assert names(tmp_path) == sorted([one.name, two.name])
    again.release()
    two.release()


def test_a_journal_whose_slot_is_lost_is_found(tmp_path: Path) -> None:
    write(tmp_path, RECORDS[0])
    (slot,) = free_slots(tmp_path)
    assert slot.name == NAME
    slot.release()


# Replaying


async def outcomes(database: Database) -> dict[str, str]:
    return {each["id"]: each["outcome"] for each in (await summary(database, 0))["rows"]}


@both
async def test_a_replay_may_be_repeated(tmp_path: Path, address: str | None) -> None:
    database = await Database.open(tmp_path, address)
    settled = row("one", "complete", prompt_tokens=7)
    data = [*RECORDS, record(astuple(settled)), record(astuple(row("four")))]
    for _ in range(2):
        write(tmp_path, b"".join(data[:2]), 9)
        write(tmp_path, b"".join(data[2:]), 10)
        recovery = Recovery(database, tmp_path, fails, fails)
        (await take_slot(recovery, tmp_path)).release()
        assert recovery.done.rows == 5
        rows = {each["id"]: each for each in (await summary(database, 0))["rows"]}
        assert rows["one"] == asdict(settled)
        assert {name: each["outcome"] for name, each in rows.items()} == {
            "one": "complete",
            "two": "complete",
            "three": "failed",
            "four": "interrupted",
        }
        assert segments(tmp_path, NAME) == []
    await database.close()


async def test_damage_is_reported_and_the_segment_is_kept(tmp_path: Path) -> None:
    database = await Database.open(tmp_path)
    path = write(tmp_path, RECORDS[0] + b"damage\n" + RECORDS[1])
    reported: list[tuple[Path, int]] = []
    recovery = Recovery(database, tmp_path, fails, lambda *damage: reported.append(damage))
    (await take_slot(recovery, tmp_path)).release()
    assert reported == [(path, 1)]
    assert await outcomes(database) == {"one": "interrupted", "two": "complete"}
    assert [each.name for each in path.parent.iterdir()] == [f"{NAME}-1.damaged"]
    await database.close()


@both
async def test_servers_of_one_folder_do_not_close_each_others_calls(
    tmp_path: Path, address: str | None
) -> None:
    database = await Database.open(tmp_path, address)
    writers: list[Writer] = []
    slots: list[Slot] = []
    for number in range(2):
        recovery = Recovery(database, tmp_path, fails, fails)
        slot = await take_slot(recovery, tmp_path)
        slots.append(slot)
        writer = Writer(database, fails)
        writer.use(Journal(tmp_path, slot.name), slot.name)
        writer.put(f"call-{number}", row(f"call-{number}"))
        await writer.flush()
        writers.append(writer)
        assert recovery.done.interrupted == 0
    await import_journals(Recovery(database, tmp_path, fails, fails), tmp_path)
    assert await outcomes(database) == {"call-0": "open", "call-1": "open"}
    instances = {each["instance"] for each in (await summary(database, 0))["rows"]}
    assert instances == set(names(tmp_path))
    for writer, slot in zip(writers, slots, strict=True):
        await writer.stop()
        slot.release()
    await database.close()


async def test_what_the_database_does_not_have_yet_is_imported(tmp_path: Path) -> None:
    """Beside a running server: its journal stays as it is."""
    database = await Database.open(tmp_path)
    slot = new_slot(tmp_path)
    journal = Journal(tmp_path, slot.name)
    journal.append(RECORDS[0])
    journal.append(RECORDS[1])
    for _ in range(2):
        await import_journals(Recovery(database, tmp_path, fails, fails), tmp_path)
        assert await outcomes(database) == {"one": "open", "two": "complete"}
    assert journal.size == segments(tmp_path, slot.name)[0][1].stat().st_size
    journal.close(delete=False)
    slot.release()
    await import_journals(Recovery(database, tmp_path, fails, fails), tmp_path)
    assert await outcomes(database) == {"one": "open", "two": "complete"}, "another instance's row"
    assert segments(tmp_path, slot.name) == []
    await database.close()


@both
@pytest.mark.parametrize("running", [True, False], ids=["running", "dead"])
async def test_rows_that_retention_deleted_do_not_come_back(
    tmp_path: Path, address: str | None, running: bool
) -> None:
    """They would be counted once more when they are deleted again."""
    database = await Database.open(tmp_path, address)
    slot = new_slot(tmp_path)
    journal = Journal(tmp_path, slot.name)
    writer = Writer(database, fails)
    writer.use(journal, slot.name)
    for each in ("one", "two"):
        writer.put(each, Row(each, 1_000.0, "key_1", outcome="complete", prompt_tokens=7))
    await writer.flush()
    # Which the server was killed too early to write.
    late = Row("late", 1_001.0, "key_1", outcome="complete", prompt_tokens=100)
    journal.append(record(astuple(late)))
    assert await delete_batch(database, 2_000.0) == 2
    if not running:
        journal.close(delete=False)
        slot.release()
    for _ in range(2):
        await import_journals(Recovery(database, tmp_path, fails, fails), tmp_path)
        assert set(await outcomes(database)) == {"late"}
        assert await spent(database, "key", 0.0) == {"key_1": (0.0, 114)}
    assert await delete_batch(database, 2_000.0) == 1
    assert await spent(database, "key", 0.0) == {"key_1": (0.0, 114)}
    if running:
        journal.close(delete=True)
        slot.release()
    await database.close()


# The writer


class Stage:
    """A writer with a journal, and a database that can be away."""

    def __init__(self, database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = database
        self.is_away = False
        self.states: list[BaseException | None] = []
        self._write = database.write
        monkeypatch.setattr(database, "write", self._may_fail)
        monkeypatch.setattr("legato.store.ledger.BATCH_SECONDS", 0.0)
        monkeypatch.setattr("legato.store.ledger.RETRY_SECONDS", 0.01)
        monkeypatch.setattr(module, "SEGMENT_BYTES", 2000)
        self.folder = folder
        self.writer = Writer(database, fails, self.states.append)
        self.journal = Journal(folder, NAME)
        self.writer.use(self.journal, NAME)

    async def _may_fail(self, *arguments: Any) -> None:
        if self.is_away:
            raise ConnectionRefusedError("nobody listens")
        await self._write(*arguments)

    def journaled(self) -> set[str]:
        return {each[0] for _, path in segments(self.folder, NAME) for each in read(path)[0]}


async def test_rows_wait_in_the_journal_while_the_database_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("legato.store.ledger.MAX_QUEUE", 50)
    stage = Stage(await Database.open(tmp_path), tmp_path, monkeypatch)
    writer = stage.writer
    stage.is_away = True
    put = 0
    while not writer.is_full:
        writer.put(f"r{put}", row(f"r{put}", "complete"))
        put += 1
        await asyncio.sleep(0)
    assert (put, writer.waiting) == (50, 50)
    await until(lambda: stage.states, "the database is away")
    assert len(stage.journaled()) == 50
    assert written(tmp_path, NAME) == (0, 0)
    stage.is_away = False
    await until(lambda: not writer.waiting, "all rows are written")
    assert not writer.is_full
    await until(lambda: len(stage.states) == 2, "the database is back")
    await until(lambda: len(segments(tmp_path, NAME)) == 1, "segments are deleted")
    assert len(await outcomes(stage.database)) == 50
    await writer.stop()
    assert segments(tmp_path, NAME) == []
    await stage.database.close()


async def test_a_mark_is_of_what_was_written_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await Database.open(tmp_path)
    write, journal, writer = database.write, Journal(tmp_path, NAME), Writer(database, fails)
    writer.use(journal, NAME)

    async def slow(*arguments: Any) -> None:
        monkeypatch.setattr(database, "write", write)
        await write(*arguments)
        writer.put("two", row("two"))

    async def away(*_: Any) -> None:
        raise ConnectionRefusedError("nobody listens")

    writer.put("one", row("one"))
    end = journal.position
    monkeypatch.setattr(database, "write", away)
    with pytest.raises(ConnectionRefusedError):
        await writer.flush()
    assert written(tmp_path, NAME) == (0, 0)
    monkeypatch.setattr(database, "write", slow)
    await writer.flush()
    assert written(tmp_path, NAME) == end
    size = journal.size
    await writer.flush()
    assert written(tmp_path, NAME) == (1, size)
    size = journal.size
    await writer.flush()
    assert journal.size == size, "there was nothing to write"
    await writer.stop()
    await database.close()


async def test_a_server_that_stops_while_the_database_is_away_leaves_its_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await Database.open(tmp_path)
    stage = Stage(database, tmp_path, monkeypatch)
    stage.is_away = True
    stage.writer.put("one", row("one", "complete"))
    await stage.writer.stop()
    assert stage.journaled() == {"one"}
    stage.is_away = False
    await import_journals(Recovery(database, tmp_path, fails, fails), tmp_path)
    assert await outcomes(database) == {"one": "complete"}
    await database.close()


async def test_a_disk_that_is_full_stops_admission_until_it_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await Database.open(tmp_path)
    stage = Stage(database, tmp_path, monkeypatch)
    writer = stage.writer
    stage.is_away = True
    writer.put("one", row("one"))
    disk = Disk(monkeypatch, 0, torn=False)
    writer.put("two", row("two", "complete"))
    assert writer.is_full
    disk.room = 1_000_000
    await until(lambda: not writer.is_full, "there is room again")
    assert stage.journaled() == {"one", "two"}, "what was missing is appended"
    disk.room = 0
    writer.put("three", row("three", "complete"))
    assert writer.is_full
    stage.is_away = False
    await until(lambda: not writer.waiting, "the database has it all the same")
    assert writer.is_full
    disk.room = 1_000_000
    await until(lambda: not writer.is_full, "there is room again")
    await writer.stop()
    assert set(await outcomes(database)) == {"one", "two", "three"}
    await database.close()


async def test_segments_stay_until_their_rows_are_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await Database.open(tmp_path)
    stage = Stage(database, tmp_path, monkeypatch)
    kept: list[int] = []

    async def make_durable() -> None:
        kept.append(len(segments(tmp_path, NAME)))

    monkeypatch.setattr(database, "make_durable", make_durable)
    for number in range(60):
        stage.writer.put(f"r{number}", row(f"r{number}", "complete"))
    before = len(segments(tmp_path, NAME))
    assert before > 3
    await stage.writer.flush()
    assert kept == [before]
    assert len(segments(tmp_path, NAME)) == 1
    await stage.writer.stop()
    await database.close()
