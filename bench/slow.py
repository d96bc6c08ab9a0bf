"""A client that reads one byte a second of a flat-out stream: what it costs the gateway in memory,
and the other clients in latency."""

import socket
import threading
import time
from types import TracebackType
from typing import Final

from msgspec import structs

from bench import proc
from bench.gateways import Gateway
from bench.load import Job, request
from bench.session import (
    Cores,
    Figures,
    Mock,
    Profile,
    failures,
    job,
    play,
)
from bench.workloads import Workload

#: Bytes of the slow client's receive buffer. The kernel would keep megabytes, and what is measured
#: is the gateway's memory.
BUFFER: Final = 4096

#: Seconds after which the gateway is taken to have read all that it reads ahead of its client.
FULL: Final = 60.0


class Reader:
    """The slow client: a connection, and a thread that reads one byte of it each second."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def start(self) -> None:
        self._socket.connect((self._job.host, self._job.port))
        self._socket.sendall(request(self._job))
        self._thread.start()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._over.set()
        self._socket.close()

    def _read(self) -> None:
        while not self._over.wait(1.0):
            try:
                self._socket.recv(1)
            except OSError:
                return


def measure(
    workload: Workload, gateway: Gateway, mock: Mock, cores: Cores, profile: Profile | None = None
) -> Figures:
    """One round: the other clients alone, then with the slow client from its first byte on, then
    while it goes on reading. CPU is that of the second.

    The upstream gets idle priority: sending flat out on the core that it shares with the clients,
    it would keep them waiting for whole time slices, whatever the gateway does.
    """
    if not workload.idle_upstream:
        return _measured(workload, gateway, mock, cores, profile)
    idle = Mock(cores, 0, mock.tick_us, idle_priority=True, upstream_format=mock.format)
    try:
        return _measured(workload, gateway, idle, cores, profile)
    finally:
        idle.stop()


def _measured(
    workload: Workload, gateway: Gateway, mock: Mock, cores: Cores, profile: Profile | None
) -> Figures:
    gateway.start(mock.port, cores.gateway, workload)
    try:
        play(workload, gateway, mock, cores)  # a gateway grows in its first run
        alone = play(workload, gateway, mock, cores)
        before = proc.memory_kb(gateway.pids())
        # One format, so that a chunk of the slow stream is as long for every gateway.
        slow = structs.replace(
            job(workload, gateway, mock),
            chunks=workload.slow,
            interval_us=0,
            format="openai" if mock.format == "mix" else mock.format,
        )
        with Reader(slow) as reader:
            filling = play(workload, gateway, mock, cores, on_open=reader.start, profile=profile)
            taken, text_bytes = _taken(mock)
            grown = (proc.memory_kb(gateway.pids()) - before) / 1024
            reading = play(workload, gateway, mock, cores)
    finally:
        gateway.stop()
    figures = filling | failures([alone, filling, reading])
    runs = {"alone": alone, "filling": filling, "reading": reading}
    figures["foreign_busy"] = max(each["foreign_busy"] for each in runs.values())
    for name, each in runs.items():
        if "latency_p99_us" in each:
            figures[f"{name}_p99_us"] = each["latency_p99_us"]
    text = taken * text_bytes / 1024**2
    figures |= {"slow_taken": taken, "slow_text_mb": text}
    if before:
        figures |= {"slow_memory_mb": grown, "slow_above_mb": grown - text}
    return figures


def _taken(mock: Mock) -> tuple[int, float]:
    """How many chunks the gateway has read once it reads no more, without those that the kernel
    holds between the two; and the mean bytes of text in one."""

    def now() -> tuple[int, float]:
        stream = mock.flat_out()
        queued = proc.queued(mock.port) / max(1.0, stream["chunk_bytes"])
        return max(0, stream["sent"] - round(queued)), stream["text_bytes"]

    (taken, text_bytes), ends = now(), time.monotonic() + FULL
    while time.monotonic() < ends:
        time.sleep(0.3)
        before, (taken, text_bytes) = taken, now()
        if taken <= before:
            break
    return taken, text_bytes
