"""llama.cpp's own server with the parameters that Legato gives it, or with some of them changed.

A process of its own: `python -m bench.llama` reads parameters by xllamacpp's names as one line of
JSON from stdin, prints the server's address as one line of JSON, and runs until it is killed.
"""

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

from bench.gateways import ROOT, BenchError, environment

KEY: Final = "bench"


class Llama:
    """The server, on all cores."""

    key = KEY

    def __init__(
        self, model: str, file: Path, log: Path, changes: dict[str, Any] | None = None
    ) -> None:
        """`changes`: parameters by xllamacpp's names, in place of Legato's."""
        self.model = model
        self._parameters = legato_parameters(model, file) | (changes or {})
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> None:
        """Returns when it is healthy. Raises `BenchError`."""
        with self._log.open("wb") as log:
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.llama"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**environment(), **_openmp()},
                cwd=ROOT,
            )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(self._parameters).encode() + b"\n")
        process.stdin.flush()
        started = json.loads(process.stdout.readline() or b"{}")
        if "address" not in started:
            self.stop()
            reason = started.get("error") or self._log.read_text(errors="replace")[-300:]
            raise BenchError(f"llama.cpp did not start: {' '.join(str(reason).split())}")
        self.url = f"{started['address']}/v1"
        while not self._is_healthy(started["address"]):
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


def legato_parameters(model: str, file: Path) -> dict[str, Any]:
    """What Legato gives llama.cpp for a model of its catalog that runs alone."""
    catalog, llama, supervisor = (
        importlib.import_module(f"legato.engine.{name}")
        for name in ("catalog", "llama", "supervisor")
    )
    known = catalog.KNOWN[model]
    engine = supervisor.EngineModel(
        name=model,
        path=file,
        context=known.context,
        template=known.template,
        temperature=known.temperature,
        top_p=known.top_p,
        repeat_penalty=known.repeat_penalty,
        max_tokens=known.max_tokens,
    )
    parameters = engine.parameters(KEY, supervisor.cache_mib(1))
    del parameters["parent"]
    return parameters | {"n_batch": llama.PREFILL_BATCH}


def _openmp() -> dict[str, str]:
    """The environment with LLVM's OpenMP for llama.cpp, as Legato has it."""
    try:
        folder = importlib.metadata.distribution("cmeel-libomp").locate_file("cmeel.prefix/lib")
    except importlib.metadata.PackageNotFoundError:
        return {}
    before = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": f"{folder}:{before}" if before else str(folder)}


def main() -> None:
    xllamacpp = importlib.import_module("xllamacpp")
    parameters = xllamacpp.CommonParams()
    for name, value in json.loads(sys.stdin.readline()).items():
        owner = parameters
        *path, last = name.split(".")
        for step in path:
            owner = getattr(owner, step)
        if name == "speculative.types":
            kinds = xllamacpp.common_speculative_type
            value = [getattr(kinds, f"COMMON_SPECULATIVE_TYPE_{each}") for each in value]
        setattr(owner, last, value)
    try:
        server = xllamacpp.Server(parameters)
    except (RuntimeError, ValueError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        os._exit(1)
    print(json.dumps({"address": server.listening_address}), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
