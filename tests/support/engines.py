"""Servers with real llama.cpp engines: as a person starts one, and in the test's own event loop."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from legato.configuration import load
from legato.engine.catalog import Catalog
from tests.conftest import Running, serving

MODEL, THINKING = "smollm2-135m", "smollm2-135m-thinking"


class Process:
    """`legato serve` as a person starts it."""

    def __init__(self, data: Path, *arguments: str) -> None:
        self.data = data
        self.child = subprocess.Popen(
            [sys.executable, "-m", "legato", "serve", "--port", "0", "--data", data, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=data,
        )
        assert self.child.stdout is not None
        self.output = ""
        for line in self.child.stdout:
            self.output += line
            if line.startswith("Or chat"):
                break
        lines = self.output.splitlines()
        assert lines, self.child.communicate()[1]
        self.url = lines[1].removeprefix("Legato is listening on ")
        self.key = (data / "key").read_text().strip()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def engines(self) -> list[psutil.Process]:
        return psutil.Process(self.child.pid).children()

    def end(self) -> str:
        self.child.terminate()
        _, errors = self.child.communicate(timeout=20)
        return errors


@asynccontextmanager
async def engines(folder: Path, *models: dict[str, Any], **flags: Any) -> AsyncIterator[Running]:
    """A server in this event loop whose engines are loaded. `models`: as in the settings."""
    empty = folder / "empty.toml"
    empty.write_text("")
    wanted = {
        "data": str(folder / "data"),
        "server.port": 0,
        "engine.models": list(models),
        "engine.slots": 2,
        "engine.threads": 1,
        **flags,
    }
    settings = load(empty, wanted, {})
    catalog = Catalog(load(empty).models_dir)
    files = {each["name"]: catalog.pull(each.get("path", each["name"])) for each in models}
    async with serving(settings, files) as running:
        for engine in running.app.engines:
            await engine.wait_ready()
        yield running
