"""CPU time and memory of processes, from `/proc`, and limits of the machine."""

import contextlib
import os
import re
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

#: CPU time in ns by (process, thread); thread 0 if only that of the whole process is known.
CpuTimes = dict[tuple[int, int], int]


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for each in found:
        for tasks in _PROC.glob(f"{each}/task/*/children"):
            with contextlib.suppress(OSError):
                found += map(int, tasks.read_text().split())
    return found


def cpu_times(pids: Iterable[int]) -> CpuTimes:
    times: CpuTimes = {}
    for pid in pids:
        for task in _PROC.glob(f"{pid}/task/*/schedstat"):
            with contextlib.suppress(OSError):  # the thread has ended
                times[pid, int(task.parent.name)] = int(task.read_text().split()[0])
        if not any(each == pid for each, _ in times):
            times[pid, 0] = _coarse(pid)
    return times


def spent(before: CpuTimes, after: CpuTimes) -> int:
    """Nanoseconds between two readings."""
    return sum(time - before.get(thread, 0) for thread, time in after.items())


def memory_kb(pids: Iterable[int]) -> float:
    """Proportional set size: each page is divided among the processes that share it."""
    total = 0
    for pid in pids:
        for name, field in (("smaps_rollup", "Pss"), ("status", "VmRSS")):
            with contextlib.suppress(OSError):
                match = re.search(
                    rf"^{field}:\s+(\d+)", (_PROC / str(pid) / name).read_text(), re.M
                )
                if match:
                    total += int(match[1])
                    break
    return total


def busy_ns(cpu: int) -> int:
    """CPU time of all processes on a core since boot, without interrupts."""
    match = re.search(rf"^cpu{cpu} (.*)$", (_PROC / "stat").read_text(), re.M)
    if not match:
        return 0
    user, nice, system, *_ = map(int, match[1].split())
    return (user + nice + system) * _TICK_NS


def listeners(port: int) -> list[int]:
    """The processes that listen on a TCP port of this machine."""
    inodes = {
        fields[9]
        for table in ("tcp", "tcp6")
        for fields in _rows(_PROC / "net" / table)
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port
    }
    wanted = {f"socket:[{inode}]" for inode in inodes}
    return [pid for pid in _pids() if wanted and wanted & set(_open_files(pid))]


def queued(port: int) -> int:
    """Bytes in the kernel's buffers of connections to a port of this machine, at both ends."""
    total = 0
    for fields in _rows(_PROC / "net/tcp"):
        ends = [int(fields[end].rpartition(":")[2], 16) for end in (1, 2)]
        if port in ends and fields[3] != "0A":
            total += sum(int(number, 16) for number in fields[4].split(":"))
    return total


def allow_files(wanted: int) -> int:
    """Raises the limit of open files of this process and its children to `wanted` if allowed, and
    returns it. Root may raise the hard limit too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    if hard < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def ports() -> int:
    """How many connections one address may have to one port of another."""
    try:
        low, high = (_PROC / "sys/net/ipv4/ip_local_port_range").read_text().split()
    except OSError:
        return 16_000
    return int(high) - int(low) + 1


@contextlib.contextmanager
def pinned(cpu: int | None) -> Iterator[None]:
    """Processes started inside run on this core only; None: on any."""
    before = os.sched_getaffinity(0)
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _coarse(pid: int) -> int:
    with contextlib.suppress(OSError):
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_NS
    return 0


def _rows(table: Path) -> list[list[str]]:
    try:
        return [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []


def _pids() -> list[int]:
    return [int(each.name) for each in _PROC.iterdir() if each.name.isdigit()]


def _open_files(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for each in (_PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                yield os.readlink(each)
