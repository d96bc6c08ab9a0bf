"""The stage of the fault matrix: its cells, and the one server on which they are played."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from msgspec import Struct

from legato.core import timers as timers
from legato.gateway import dispatch as asking
from legato.mock.server import MockServer
from legato.mock.steps import Script
from legato.store.ledger import summary
from tests.conftest import DEADLINE, Running, serving, settings_for, until
from tests.support.fault_table import FAT, FAULTS, HELD, LATE, Fault, Moment
from tests.support.hostile_peers import Stranger, nobody

#: Seconds after which a 200 is committed, and between comments, where a fault comes late.
GATE: Final = 0.01

#: Seconds that nobody waits for, however busy the machine is.
PATIENT: Final = 5.0

#: Seconds of silence after which an impatient deployment is given up.
IMPATIENT: Final = 0.2

#: Bytes that may wait for a slow client.
BACKLOG: Final = 65_536

Client = Literal["stays", "leaves", "slow"]


class Cell(Struct, frozen=True):
    fault: Fault
    moment: Moment
    streamed: bool
    client: Client

    @property
    def identity(self) -> str:
        stream = "stream" if self.streamed else "whole"
        return f"{self.fault.name}, {self.moment}, {stream}, {self.client}"

    @property
    def fills(self) -> bool:
        """There is so much text that a slow client's line is full."""
        gets_text = self.streamed or self.fault.error is None
        return self.client == "slow" and gets_text and self.fault.says_much

    @property
    def holds_back(self) -> bool:
        """There is more of it than a backlog may hold: the upstream waits too."""
        return self.fills and self.streamed and self.moment == "after" and not self.script.gzip

    @property
    def may_hold_back(self) -> bool:
        """One chunk is more than a backlog may hold: the upstream waits if the client's line was
        full before it came, and not if it filled the line itself."""
        script = self.script
        return (
            self.fills
            and script is not None
            and any(len(step.say or "") > BACKLOG for step in script.steps if step.say != FAT)
        )

    @property
    def is_told_by_comments(self) -> bool:
        """A stream's 200 is out before anything has come."""
        late = self.streamed and self.moment == "after"
        return late and self.fault.seen_before() != "counted" and not self.fills

    @property
    def is_framed(self) -> bool:
        """The error is a stream's last frame, since its 200 is out."""
        return self.streamed and (self.moment == "after" or self.fault.has_begun)

    @property
    def never_comes(self) -> bool:
        """The client leaves while the fault is still to come."""
        return self.client == "leaves" and self.moment == "after"

    @property
    def script(self) -> Script | None:
        if self.fault.script is None:
            return None
        return self.fault.played(self.moment, fat=self.fills, held=self.never_comes)


CELLS = [
    Cell(fault, moment, streamed, client)
    for fault in FAULTS
    for moment in ("before", "after")
    if fault.happens(moment)
    for streamed in (True, False)
    for client in ("stays", "leaves", "slow")
]


class Matrix:
    """One server for all cells, in front of one scripted upstream and of strangers."""

    def __init__(self, legato: Running, scripted: MockServer, stranger: Stranger) -> None:
        self.legato = legato
        self.scripted = scripted
        self.stranger = stranger

    def prepare(self, cell: Cell) -> str:
        """Sets the stage; gives the model to ask for."""
        fault, late = cell.fault, cell.moment == "after"
        # No race between gate and fault: it is far off, or over long before.
        self.legato.app.services.gate_seconds = GATE if late else HELD
        # Waited out where the end of the body never comes, and nowhere else.
        asking.LINGER = LATE if fault.name == "finish-hang" else PATIENT  # type: ignore[misc]
        if cell.script is not None:
            self.scripted.scripts["fault"] = cell.script
            return "impatient" if fault.timer and cell.client != "leaves" else "patient"
        if fault.name == "refused":
            return "nobody"
        self.stranger.manner = fault.name
        self.stranger.after = (HELD if cell.never_comes else LATE) if late else 0.0
        return "impatient-stranger" if fault.timer and cell.client != "leaves" else "stranger"

    @property
    def asked(self) -> int:
        """How often somebody behind the server was spoken to."""
        return len(self.scripted.requests) + self.stranger.taken

    @property
    def is_full(self) -> bool:
        """A client's line takes no more."""
        return any(each.write_paused for each in self.legato.server.server_state.connections)

    @property
    def holds_back(self) -> bool:
        """Nothing is read from an upstream that is not done."""
        return any(
            not each.transport.is_reading()
            for pool in self._pools
            for each in pool._open - pool._idle.keys()
        )

    @property
    def tasks(self) -> set[Any]:
        return asyncio.all_tasks() - {asyncio.current_task()}

    async def rows(self, since: float) -> list[dict[str, Any]]:
        """The ledger's, as soon as there are any and none is open."""
        async with asyncio.timeout(DEADLINE):
            while True:
                await self.legato.app.ledger.flush()
                rows = (await summary(self.legato.app.database, since))["rows"]
                if rows and all(row["outcome"] != "open" for row in rows):
                    return rows

    async def nothing_is_left(self, tasks: set[Any]) -> None:
        """No task, no permit, no socket but idle ones, which are good for the next call."""
        legato, state = self.legato, self.legato.server.server_state
        await until(lambda: not state.tasks, "calls are settled")
        await until(lambda: legato.busy == 0, "upstream connections are given back")
        await until(lambda: not state.connections, "the client's connection is closed")
        await until(lambda: not self.stranger.open_connections, "nobody speaks to strangers")
        await until(lambda: self.scripted.open_connections == len(self._idle), "no more are open")
        await until(lambda: not self.tasks - tasks, "tasks are over")
        assert all(each.transport.is_reading() for each in self._idle)
        assert not any(each.busy for each in legato.app.services.router.health.values())

    @property
    def _pools(self) -> list[Any]:
        targets = [each.target for each in self.legato.app.upstreams.values()]
        return [target.pool for target in targets if target is not None]

    @property
    def _idle(self) -> list[Any]:
        return [each for pool in self._pools for each in pool._idle]


@asynccontextmanager
async def staged(data: Path, *, is_narrow: bool = True) -> AsyncIterator[Matrix]:
    """`is_narrow`: clients' connections take little before they are full, as slow clients need it.
    The kernel then sends one segment for each (late) acknowledgement: megabytes take seconds."""
    scripted, stranger = MockServer({}, default="fault"), Stranger()
    patient = dict.fromkeys(("first_token_seconds", "stall_seconds", "connect_seconds"), PATIENT)
    impatient = dict.fromkeys(patient, IMPATIENT)
    base, elsewhere = await scripted.start(), await stranger.start()
    with nobody() as refuses, pytest.MonkeyPatch.context() as patch:
        addresses = {
            "patient": (base, patient),
            "impatient": (base, impatient),
            "nobody": (refuses, patient),
            "stranger": (elsewhere, patient),
            "impatient-stranger": (elsewhere, impatient),
        }
        flags: dict[str, Any] = {
            # Nobody is asked twice, and nobody is left alone for having failed.
            "deployments": [
                {"name": name, "model": name, "base_url": url, "open_after": 0} | timers
                for name, (url, timers) in addresses.items()
            ],
            "routes": [{"model": name, "deployments": [name], "attempts": 1} for name in addresses],
            "streams.heartbeat_seconds": GATE,
            "streams.backlog_bytes": BACKLOG,
        }
        settings = settings_for(data, None, **flags)
        async with serving(settings) as legato:
            if is_narrow:
                _narrow(legato)
            patch.setattr(timers, "RESOLUTION", GATE / 2)  # timers that short are kept
            patch.setattr(asking, "LINGER", LATE)
            yield Matrix(legato, scripted, stranger)
    await until(lambda: scripted.open_connections == 0, "no connection to the upstream is left")
    await scripted.stop()
    await stranger.stop()


def _narrow(legato: Running) -> None:
    """Connections of clients take little before they are full."""
    for listener in legato.server.servers[0].sockets:
        with socket.socket(fileno=os.dup(listener.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
