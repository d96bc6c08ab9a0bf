"""Runs one workload against one gateway and measures latency, CPU time and memory."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import structs

from bench import proc, pyspy
from bench.gateways import BenchError, Gateway, Legato, environment
from bench.load import Job
from bench.upstream_formats import FormatName
from bench.workloads import SPARE_FILES, Workload

#: Seconds between the opening of the last stream and the reading of memory.
SETTLE: Final = 2.0
#: Share of a core that other processes may use before a run counts as disturbed; and the seconds
#: over which it is measured before a run.
NOISE: Final = 0.05
QUIET_WINDOW: Final = 0.4
#: How often a disturbed run is repeated, if it takes less than `SHORT` seconds. The least disturbed
#: run counts, whatever its figures are.
RETRIES: Final = 2
SHORT: Final = 10.0

Figures = dict[str, Any]


class Cores:
    """One core for the gateway, another for the upstream and the clients. A single core is
    shared."""

    def __init__(self) -> None:
        cores = sorted(os.sched_getaffinity(0))
        self.gateway = cores[0]
        self.driver = cores[-1] if len(cores) == 2 else cores[min(1, len(cores) - 1)]
        self.number = len(cores)

    def busy(self) -> list[int]:
        return [proc.busy_ns(self.gateway), proc.busy_ns(self.driver)]

    def foreign(self, before: list[int], ours: list[int]) -> float:
        """Nanoseconds of CPU that other processes have used since `before`, on the core on which
        they used more. The kernel counts in ticks of 10 ms, so a short run is measured roughly.
        """
        if self.number == 1:
            return 0.0
        return max(
            0, *(now - then - own for now, then, own in zip(self.busy(), before, ours, strict=True))
        )

    def await_quiet(self, patience: float) -> None:
        """Returns when other processes leave both cores idle, after `patience` seconds at most."""
        ends = time.monotonic() + patience
        while time.monotonic() < ends:
            before = self.busy()
            time.sleep(QUIET_WINDOW)
            if self.foreign(before, [0, 0]) <= NOISE * QUIET_WINDOW * 1e9:
                return


class Mock:
    """The upstream's process. `idle_priority`: it runs only while the clients on its core wait."""

    def __init__(
        self,
        cores: Cores,
        port: int,
        tick_us: int,
        *,
        idle_priority: bool = False,
        upstream_format: FormatName = "mix",
    ) -> None:
        """`upstream_format`: what the clients of this session ask for."""
        self.tick_us = tick_us
        self.format: FormatName = upstream_format
        with proc.pinned(cores.driver):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.mock", str(port), str(tick_us)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment(),
            )
        assert self._process.stdout is not None
        port_line = self._process.stdout.readline()
        if not port_line:
            raise BenchError("the mock upstream did not start")
        self.port = int(port_line)
        self.pid = self._process.pid
        if idle_priority:
            os.sched_setscheduler(self.pid, os.SCHED_IDLE, os.sched_param(0))

    def answers(self) -> dict[str, int]:
        """How many answers it has given in each format."""
        return self._statistics()["answers"]

    def flat_out(self) -> dict[str, Any]:
        """Of the last flat-out stream: chunks sent so far, and mean bytes of a chunk and its
        text."""
        return self._statistics()["flat_out"]

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _statistics(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=10) as answer:
            return json.loads(answer.read())


class Profile:
    """py-spy on a gateway. It slows the gateway down, so the figures of that run are not used."""

    def __init__(self, file: str, seconds: float) -> None:
        self.file = file
        self.seconds = max(1, round(seconds))

    def start(self, pid: int, cpu: int) -> subprocess.Popen[bytes]:
        shape = "flamegraph" if self.file.endswith(".svg") else "raw"
        options = ("-r", "400", "-d", str(self.seconds), "-f", shape, "-o", self.file)
        with proc.pinned(cpu):
            return subprocess.Popen(
                [pyspy.required(), "record", "-p", str(pid), *options, "--nonblocking"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )


class _Load:
    """The clients' process, and the events that it prints."""

    def __init__(self, job: Job, cores: Cores) -> None:
        with proc.pinned(cores.driver):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.load"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment(),
            )
        self.pid = self._process.pid
        # It has a deadline of its own; this one is for a process that hangs.
        self._watchdog = threading.Timer(job.deadline + 60, self._process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()
        self.send(msgspec.json.encode(job).decode())

    def send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def event(self) -> dict[str, Any]:
        """The next event."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchError("the clients' process ended early")
        return json.loads(line)

    def stop(self) -> None:
        self._watchdog.cancel()
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def measure(
    workload: Workload,
    gateway: Gateway,
    mock: Mock,
    cores: Cores,
    profile: Profile | None = None,
) -> Figures:
    """One round. The gateway is started before and stopped after it."""
    gateway.start(mock.port, cores.gateway, workload)
    try:
        return play(workload, gateway, mock, cores, profile=profile)
    finally:
        gateway.stop()


def fitted(workload: Workload) -> tuple[Workload, str | None]:
    """The workload with as many streams as this machine allows a gateway, and the reason if there
    are fewer. Raises the limit of open files where that is allowed."""
    files, ports = proc.allow_files(workload.files), proc.ports()
    most = min((files - SPARE_FILES) // 2, ports)
    if most >= workload.streams:
        return workload, None
    return structs.replace(workload, streams=most), (
        f"{most:,} streams in place of {workload.streams:,}: open files are limited to {files:,}"
        f" (ulimit -Hn), ports to {ports:,} (net.ipv4.ip_local_port_range)"
    )


def play(
    workload: Workload,
    gateway: Gateway,
    mock: Mock,
    cores: Cores,
    *,
    on_open: Callable[[], None] = lambda: None,
    profile: Profile | None = None,
) -> Figures:
    """The workload against a running gateway. `on_open` is called when all streams are open."""
    load = _Load(job(workload, gateway, mock), cores)
    try:
        return _measured(workload, gateway, load, mock, cores, on_open, profile)
    finally:
        load.stop()


def undisturbed(
    workload: Workload, once: Callable[[], Figures], cores: Cores, patience: float
) -> Figures:
    """A run (`once`) that other processes did not disturb; if there is none, the least
    disturbed."""
    tries: list[Figures] = []
    most = 1 + RETRIES if patience and workload.seconds < SHORT else 1
    while not tries or (tries[-1]["foreign_busy"] > NOISE and len(tries) < most):
        if patience:
            cores.await_quiet(patience)
        tries.append(once())
    best = min(tries, key=lambda figures: figures["foreign_busy"])
    # Failed streams count in every run, also in those that are discarded.
    return best | failures(tries)


def failures(runs: list[Figures]) -> Figures:
    """The failed calls of all runs together, and their reasons."""
    reasons = {reason for each in runs for reason in each["failures"]}
    return {
        "failed": sum(each["failed"] for each in runs),
        "failures": {
            reason: sum(each["failures"].get(reason, 0) for each in runs) for reason in reasons
        },
    }


def job(workload: Workload, gateway: Gateway, mock: Mock) -> Job:
    where = urlsplit(gateway.url)
    speaks_it = workload.front != "responses" or isinstance(gateway, Legato)
    return Job(
        host=where.hostname or "127.0.0.1",
        port=where.port or 80,
        path=where.path,
        key=gateway.key,
        model=gateway.model,
        streams=workload.streams,
        calls=workload.calls,
        chunks=workload.chunks,
        interval_us=workload.interval_us,
        first=workload.first,
        text=workload.text,
        format=mock.format,
        front=workload.front if speaks_it else "chat",
        ramp=workload.ramp,
        latency=workload.latency,
        deadline=workload.deadline,
        # Half of an address's ports may still be in TIME_WAIT.
        sources=max(1, -(-workload.streams // (proc.ports() // 2))),
    )


def _measured(
    workload: Workload,
    gateway: Gateway,
    load: _Load,
    mock: Mock,
    cores: Cores,
    on_open: Callable[[], None],
    profile: Profile | None,
) -> Figures:
    warm = load.event()
    pids = gateway.pids()
    memory_before = proc.memory_kb(pids)
    spy = profile.start(pids[0], cores.driver) if profile else None
    drivers = [mock.pid, load.pid]
    cpu, driver_cpu = proc.cpu_times(pids), proc.cpu_times(drivers)
    busy, answers = cores.busy(), Counter(mock.answers())
    began = time.monotonic()
    load.send("go")
    result: dict[str, Any] = {}
    figures: Figures = {}
    while result.get("event") != "result":
        result = load.event()
        if result["event"] == "open":
            on_open()
            figures |= _while_open(workload, gateway, memory_before)
    pids = gateway.pids()
    seconds = time.monotonic() - began
    ours = proc.spent(cpu, proc.cpu_times(pids))
    driver = proc.spent(driver_cpu, proc.cpu_times(drivers))
    foreign = cores.foreign(busy, [ours, driver]) / seconds / 1e9
    if spy is not None:
        spy.wait(60)
    figures |= failures([result, warm])
    figures |= {
        "completed": result["completed"],
        "chunks": result["chunks"],
        "seconds": result["seconds"],
        "chunks_per_second": result["chunks"] / result["seconds"],
        "driver_busy": driver / seconds / 1e9,
        "foreign_busy": foreign,
        "formats": dict(Counter(mock.answers()) - answers),
    }
    if gateway.start_seconds is not None:
        figures["start_seconds"] = gateway.start_seconds
    for name in ("latency", "ttft"):
        for part, value in (result[f"{name}_us"] or {}).items():
            figures[f"{name}_{part}_us"] = value
    if pids and result["completed"]:
        figures |= {
            "cpu_us_per_chunk": ours / 1000 / max(1, result["chunks"]),
            "cpu_us_per_call": ours / 1000 / result["completed"],
            "chunks_per_cpu_second": result["chunks"] / (ours / 1e9),
            "gateway_busy": ours / seconds / 1e9,
            "memory_mb_before": memory_before / 1024,
        }
    return figures


def _while_open(workload: Workload, gateway: Gateway, memory_before: float) -> Figures:
    """What is measured while all streams are open."""
    figures: Figures = {}
    if workload.memory or workload.steady:
        # Short streams: before the first of them ends.
        time.sleep(min(SETTLE, workload.chunks * workload.interval_us / 4e6))
    pids = gateway.pids()
    if workload.memory and pids:
        figures["kb_per_stream"] = (proc.memory_kb(pids) - memory_before) / workload.streams
    if workload.steady and pids:
        cpu, began = proc.cpu_times(pids), time.monotonic()
        time.sleep(workload.steady)
        spent, seconds = proc.spent(cpu, proc.cpu_times(pids)), time.monotonic() - began
        chunks = workload.streams * seconds / (workload.interval_us / 1e6)
        figures["cpu_us_per_chunk_open"] = spent / 1000 / chunks
    return figures
