"""One workload against one gateway: what went in, what came out, what it cost."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import structs

from bench import proc
from bench.gateways import BenchError, Gateway, environment
from bench.load import Job
from bench.workloads import SPARE_FILES, Workload

#: Seconds after all streams are open in which they settle, before memory is read.
SETTLE: Final = 2.0
#: Share of a core that others may take before a round counts as disturbed, and how long is looked.
NOISE: Final = 0.05
QUIET_WINDOW: Final = 0.4
#: How often a disturbed run is repeated, where it is short. Which one counts is decided by the
#: disturbance alone.
AGAIN: Final = 2
SHORT: Final = 10.0

Figures = dict[str, Any]


class Cores:
    """One core for the gateway, one for upstream and clients; a single core is shared."""

    def __init__(self) -> None:
        cores = sorted(os.sched_getaffinity(0))
        self.gateway = cores[0]
        self.driver = cores[-1] if len(cores) == 2 else cores[min(1, len(cores) - 1)]
        self.number = len(cores)

    def busy(self) -> list[int]:
        return [proc.busy_ns(self.gateway), proc.busy_ns(self.driver)]

    def foreign(self, before: list[int], ours: list[int]) -> float:
        """Nanoseconds that others took since `before` of the core of which they took more.

        Read from the kernel's clock ticks, which are 10 ms: rough in a short run.
        """
        if self.number == 1:
            return 0.0
        return max(
            0, *(now - then - own for now, then, own in zip(self.busy(), before, ours, strict=True))
        )

    def await_quiet(self, patience: float) -> None:
        """Comes back when others leave both cores alone, or when patience ends."""
        ends = time.monotonic() + patience
        while time.monotonic() < ends:
            before = self.busy()
            time.sleep(QUIET_WINDOW)
            if self.foreign(before, [0, 0]) <= NOISE * QUIET_WINDOW * 1e9:
                return


class Mock:
    """The upstream's process. `stands_back`: for the clients', on their core."""

    def __init__(self, cores: Cores, port: int, tick_us: int, *, stands_back: bool = False) -> None:
        self.tick_us = tick_us
        with proc.pinned(cores.driver):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.mock", str(port), str(tick_us)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment(),
            )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            raise BenchError("the mock upstream did not start")
        self.port = int(said)
        self.pid = self._process.pid
        if stands_back:
            os.sched_setscheduler(self.pid, os.SCHED_IDLE, os.sched_param(0))

    def flat_out(self) -> int:
        """Chunks so far of the last stream that was sent flat out."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=10) as answer:
            return json.loads(answer.read())["flat_out"]

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


class Profile:
    """py-spy on a gateway while it works; it slows the gateway, so that run counts for nothing."""

    def __init__(self, file: str, seconds: float) -> None:
        self.file = file
        self.seconds = max(1, round(seconds))

    def start(self, pid: int, cpu: int) -> subprocess.Popen[bytes]:
        shape = "flamegraph" if self.file.endswith(".svg") else "raw"
        wish = ("-r", "400", "-d", str(self.seconds), "-f", shape, "-o", self.file, "--nonblocking")
        with proc.pinned(cpu):
            return subprocess.Popen(
                [sys.executable, "-m", "bench.pyspy", "record", "-p", str(pid), *wish],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )


class _Load:
    """The clients' process, as its lines tell of it."""

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
        # It has a deadline of its own; this is for the case that it hangs.
        self._watchdog = threading.Timer(job.deadline + 60, self._process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()
        self.tell(msgspec.json.encode(job).decode())

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def heard(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchError("the clients' process ended before its time")
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
    """The workload with as many streams as this machine lets a gateway have, and why they are
    fewer. Raises the limit of open files where that is allowed."""
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
    """The workload against a gateway that runs. `on_open` is called when all streams are open."""
    load = _Load(job(workload, gateway), cores)
    try:
        return _measured(workload, gateway, load, mock, cores, on_open, profile)
    finally:
        load.stop()


def undisturbed(
    workload: Workload, once: Callable[[], Figures], cores: Cores, patience: float
) -> Figures:
    """A round (`once`) in which others left the cores alone; where there was none, the nearest."""
    tries: list[Figures] = []
    most = 1 + AGAIN if patience and workload.seconds < SHORT else 1
    while not tries or (tries[-1]["foreign_busy"] > NOISE and len(tries) < most):
        if patience:
            cores.await_quiet(patience)
        tries.append(once())
    best = min(tries, key=lambda figures: figures["foreign_busy"])
    # A failed stream is never forgotten with its round.
    return best | failures(tries)


def failures(runs: list[Figures]) -> Figures:
    """What failed in all of them together."""
    reasons = {reason for each in runs for reason in each["failures"]}
    return {
        "failed": sum(each["failed"] for each in runs),
        "failures": {
            reason: sum(each["failures"].get(reason, 0) for each in runs) for reason in reasons
        },
    }


def job(workload: Workload, gateway: Gateway) -> Job:
    where = urlsplit(gateway.url)
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
    warm = load.heard()
    pids = gateway.pids()
    memory_before = proc.memory_kb(pids)
    spy = profile.start(pids[0], cores.driver) if profile else None
    drivers = [mock.pid, load.pid]
    cpu, driver_cpu = proc.cpu_times(pids), proc.cpu_times(drivers)
    busy = cores.busy()
    began = time.monotonic()
    load.tell("go")
    result: dict[str, Any] = {}
    figures: Figures = {}
    while result.get("event") != "result":
        result = load.heard()
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
        # Where streams are short, before the first of them ends.
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
