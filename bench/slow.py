"""One client that reads a byte a second of a stream that its upstream sends flat out, and what that
costs the gateway and the clients beside it."""

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
from bench.voices import PLAIN, TEXT_BYTES
from bench.workloads import Workload

#: Bytes that the kernel keeps for the slow client. It would keep megabytes: what is measured is the
#: gateway's memory.
BUFFER: Final = 4096

#: Seconds within which the gateway has to have taken all that it takes before its client reads on.
FULL: Final = 60.0


class Reader:
    """The slow client: a connection, and a thread that reads a byte a second of it."""

    def __init__(self, wish: Job) -> None:
        self._wish = wish
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def start(self) -> None:
        self._socket.connect((self._wish.host, self._wish.port))
        self._socket.sendall(request(self._wish))
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
    """One round: the others alone, then with the slow client from its first byte on, then while it
    goes on reading. CPU is that of the second.

    Where the upstream does not stand back for the clients, sending flat out on the core that they
    share it keeps them waiting for whole slices of the scheduler, whatever the gateway does.
    """
    if not workload.stands_back:
        return _measured(workload, gateway, mock, cores, profile)
    behind = Mock(cores, 0, mock.tick_us, stands_back=True)
    try:
        return _measured(workload, gateway, behind, cores, profile)
    finally:
        behind.stop()


def _measured(
    workload: Workload, gateway: Gateway, mock: Mock, cores: Cores, profile: Profile | None
) -> Figures:
    gateway.start(mock.port, cores.gateway, workload)
    try:
        play(workload, gateway, mock, cores)  # what a gateway grows by in its first runs is not it
        alone = play(workload, gateway, mock, cores)
        before = proc.memory_kb(gateway.pids())
        wish = structs.replace(job(workload, gateway), chunks=workload.slow, interval_us=0)
        with Reader(wish) as reader:
            filling = play(workload, gateway, mock, cores, on_open=reader.start, profile=profile)
            taken = _taken(mock)
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
    text = taken * TEXT_BYTES / 1024**2
    figures |= {"slow_taken": taken, "slow_text_mb": text}
    if before:
        figures |= {"slow_memory_mb": grown, "slow_above_mb": grown - text}
    return figures


def _taken(mock: Mock) -> int:
    """Chunks that the gateway has taken, once it takes no more. Those that the kernel holds between
    the two are not among them."""

    def now() -> int:
        return max(0, mock.flat_out() - proc.queued(mock.port) // len(PLAIN.flat()[0]))

    taken, ends = now(), time.monotonic() + FULL
    while time.monotonic() < ends:
        time.sleep(0.3)
        before, taken = taken, now()
        if taken <= before:
            break
    return taken
