"""llama.cpp's own server as Legato starts it, without Legato before it; and with other settings.

A process of its own: `python -m bench.llama '{"n_ubatch": 128}'` is `legato.engine.llama` with
these settings of xllamacpp's put over Legato's.
"""

import importlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

from bench.gateways import BenchError, environment
from legato.engine import llama
from legato.engine import supervisor as engine
from legato.server.assembly import engines
from legato.settings import Engine, EngineModel, Settings

KEY: Final = "bench"


class Llama:
    """The server, on all cores, with the parameters that Legato gives it for `model`."""

    key = KEY

    def __init__(
        self, model: str, file: Path, log: Path, changes: dict[str, Any] | None = None
    ) -> None:
        """`changes`: settings by xllamacpp's names, in place of Legato's."""
        settings = Settings(engine=Engine(models=(EngineModel(model),)), data=str(log.parent))
        (wanted,) = engines(settings, {model: file}, time.monotonic, lambda *_, **__: None)
        self.model = model
        self._parameters = wanted.model.parameters(KEY, engine.cache_mib(1))
        self._log = log
        self._changes = changes or {}
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> None:
        """Comes back when its health says so. Raises `BenchError`."""
        with self._log.open("wb") as log:
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.llama", json.dumps(self._changes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**environment(), **engine._openmp()},
            )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(self._parameters).encode() + b"\n")
        process.stdin.flush()
        said = json.loads(process.stdout.readline() or b"{}")
        if "address" not in said:
            self.stop()
            reason = said.get("error") or self._log.read_text(errors="replace")[-300:]
            raise BenchError(f"llama.cpp did not start: {' '.join(str(reason).split())}")
        self.url = f"{said['address']}/v1"
        while not self._is_healthy(said["address"]):
            time.sleep(0.05)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _is_healthy(self, address: str) -> bool:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False


def _changed(parameters: Any, changes: dict[str, Any]) -> Any:
    """Names of speculation are made into what xllamacpp calls them."""
    kinds = importlib.import_module("xllamacpp").common_speculative_type
    for name, value in changes.items():
        owner = parameters
        *path, last = name.split(".")
        for step in path:
            owner = getattr(owner, step)
        if name == "speculative.types":
            value = [getattr(kinds, f"COMMON_SPECULATIVE_TYPE_{each}") for each in value]
        setattr(owner, last, value)
    return parameters


def main() -> None:
    changes, usual = json.loads(sys.argv[1]), llama._parameters
    llama._parameters = lambda wanted: _changed(usual(wanted), changes)
    llama.main()


if __name__ == "__main__":
    main()
