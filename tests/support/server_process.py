"""A server in a process of its own, which can be killed; and clients that note what they were told,
to hold the ledger against it."""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.wire import Wire, chat, request

#: What the clients ask for: answers that are whole, long, broken and refused.
KINDS = ("happy", "happy", "slow", "cut", "500", "stall", "thinking")


class ServerProcess:
    """`legato serve` with one deployment for each of `KINDS`."""

    def __init__(self, folder: Path, upstream: str, address: str | None, *settings: str) -> None:
        """`settings`: further lines of its file, at the top."""
        self.data = folder / "data"
        self._config = folder / "legato.toml"
        lines = [f"database = {json.dumps(address)}"] if address else []
        lines += settings
        for name in sorted(set(KINDS)):
            lines += ["[[deployments]]", f'name = "{name}"', f'model = "{name}"']
            lines += [f'base_url = "{upstream}"', "open_after = 0"]
        lines += ["[server]", "port = 0", "drain_seconds = 1.0"]
        folder.mkdir(parents=True, exist_ok=True)
        self._config.write_text("\n".join(lines))
        self.child: asyncio.subprocess.Process | None = None
        self.port = 0

    @property
    def key(self) -> str:
        return (self.data / "key").read_text().strip()

    async def start(self) -> None:
        """Returns when it listens."""
        self.child = await self._run("serve", stdout=asyncio.subprocess.PIPE)
        assert self.child.stdout is not None
        while True:
            line = (await self.child.stdout.readline()).decode()
            assert line or self.child.returncode is None, "the server has ended"
            if line.startswith("Legato is listening"):
                self.port = int(line.rpartition(":")[2])
                return

    async def kill(self) -> None:
        assert self.child is not None
        os.kill(self.child.pid, signal.SIGKILL)
        await self.child.communicate()

    async def stop(self) -> None:
        assert self.child is not None
        if self.child.returncode is None:
            self.child.terminate()
        await self.child.communicate()

    async def create_key(self, *words: str) -> str:
        """The secret of a new key: `legato keys create WORDS`."""
        words = ("keys", "create", *words, "--json")
        child = await self._run(*words, stdout=asyncio.subprocess.PIPE)
        out, _ = await child.communicate()
        assert child.returncode == 0
        return json.loads(out)["key"]

    async def usage(self) -> dict[str, Any]:
        """What `legato usage --json` prints."""
        child = await self._run("usage", "--json", stdout=asyncio.subprocess.PIPE)
        out, _ = await child.communicate()
        assert child.returncode == 0
        return json.loads(out)

    async def _run(self, *words: str, **options: Any) -> asyncio.subprocess.Process:
        data = ("--config", str(self._config), "--data", str(self.data))
        command = [sys.executable, "-m", "legato", *words, *data]
        inherited = {name: value for name, value in os.environ.items() if "LEGATO" not in name}
        return await asyncio.create_subprocess_exec(*command, env=inherited, **options)


class Clients:
    """Clients that ask one call after the other. `told`: what each was told, by the id of the row:
    "begun" when the head of the answer came, "complete" when its end did, or "failed"."""

    def __init__(self, server: ServerProcess, seed: int, count: int = 12) -> None:
        self.told: dict[str, str] = {}
        self.sent = 0
        self.statuses: Counter[int] = Counter()
        self._server = server
        self._draw = random.Random(seed)
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(count)]

    async def end(self) -> None:
        """Cancels what still runs; raises an error that is not the end of a connection."""
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def _ask(self) -> None:
        port, key = self._server.port, self._server.key
        while True:
            with contextlib.suppress(OSError, EOFError, ValueError, IndexError):
                async with await Wire.open(port) as wire:
                    await self._call(wire, key)
            await asyncio.sleep(0.001)

    async def _call(self, wire: Wire, key: str) -> None:
        kind = self._draw.choice(KINDS)
        wire.send(request(key, chat(kind, stream=kind != "thinking")))
        self.sent += 1
        status, headers = await wire.head()
        self.statuses[status] += 1
        identity = headers["x-request-id"].replace("req_", "chatcmpl-")
        self.told[identity] = "begun" if status == 200 else "failed"
        if status != 200 or kind == "stall" or self._draw.random() < 0.2:
            return
        last = b""
        while headers.get("transfer-encoding") == "chunked" and (piece := await wire.chunk()):
            last = piece
        if kind in ("happy", "slow") and last.endswith(b"data: [DONE]\n\n"):
            self.told[identity] = "complete"


def check(told: dict[str, str], rows: list[dict[str, Any]], sent: int) -> None:
    """No call that a client was told of is missing, none is twice, none is left open, and none has
    another end than the client was told."""
    ids = [row["id"] for row in rows]
    outcomes = {row["id"]: row["outcome"] for row in rows}
    assert len(ids) == len(set(ids)) <= sent
    missing = set(told) - set(ids)
    assert not missing, f"{len(missing)} of {len(told)} calls are missing"
    assert "open" not in outcomes.values()
    for identity, end in told.items():
        if end == "complete":  # its end is sent a moment before the call is settled
            assert outcomes[identity] in ("complete", "interrupted"), identity
        if end == "failed":
            assert outcomes[identity] in ("failed", "refused", "interrupted"), identity
