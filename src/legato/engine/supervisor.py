"""Supervises a local engine: llama.cpp in a child process, used like any other upstream.

A native crash kills one child, not the server. The child listens on a free loopback port and
requires a key that is generated for each start. It is started with the server, is ready when its
`/health` returns 200, and is restarted with backoff when it exits.
"""

import asyncio
import contextlib
import importlib.metadata
import json
import os
import secrets
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from msgspec import Struct

from legato.core.dialect import Quirks
from legato.core.errors import service_unavailable
from legato.dialects import openai
from legato.engine import chat_templates, tool_choice
from legato.upstreams.endpoint import Endpoint
from legato.upstreams.pool import Pool
from legato.upstreams.upstream import DeploymentOptions, Target, Upstream

#: Seconds before a restart: after the first exit, and the longest.
BACKOFF: Final = (0.25, 15.0)

#: Seconds of running after which the backoff is reset.
STABLE_SECONDS: Final = 60.0

#: Seconds within which the exit of a child is detected after its connections broke.
EXIT_NOTICE_SECONDS: Final = 1.0

#: What llama.cpp's server supports.
LLAMA: Final = Quirks(
    effort_style="llama",
    has_n=False,
    reports_progress=True,
    continues="prefill",
    continues_reasoning=True,
    needs_alternatives=True,
    rejected_parameters=frozenset({"function_call", "functions"}),  # it ignores both
    completes="prompt",
    counts_tokens=True,
)

#: Bytes of an engine's log after which the next start truncates it.
LOG_LIMIT: Final = 8 * 1024 * 1024


class EngineModel(Struct, frozen=True):
    """One model to run. `context`: tokens per slot; `threads` 0: all cores; `gpu_layers` -1: as
    many as fit; `thinking_budget`: tokens, -1: unlimited."""

    name: str
    path: Path
    context: int = 4096
    slots: int = 8
    threads: int = 0
    gpu_layers: int = -1
    template: str | None = None
    thinking_budget: int = -1
    thinking_end: str | None = None  # text that the engine inserts when the budget is used up
    temperature: float | None = None
    top_p: float | None = None
    repeat_penalty: float | None = None
    max_tokens: int | None = None

    def parameters(self, key: str, cache_mib: int) -> dict[str, Any]:
        """llama.cpp's parameters, under xllamacpp's names. `key`: the API key that it requires."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        threads = self.threads or cores or 1
        parameters: dict[str, Any] = {
            "parent": os.getpid(),
            "model.path": str(self.path),
            "port": 0,
            "api_keys": [key],
            "n_parallel": self.slots,
            "n_ctx": self.context * self.slots,
            "cpuparams.n_threads": threads,
            "cpuparams_batch.n_threads": threads,
            "n_gpu_layers": self.gpu_layers,
            "n_threads_http": self.slots * 2 + 8,
            # The cache of prompts in host memory; llama.cpp's default is 8 GiB.
            "cache_ram_mib": cache_mib,
            "fit_params": False,
            "endpoint_slots": True,
            "ui": False,
            "verbosity": 1,
        }
        if self.template is not None:
            parameters["chat_template"] = self.template
        if self.thinking_budget >= 0:
            parameters["sampling.reasoning_budget_tokens"] = self.thinking_budget
        optional = {
            "sampling.reasoning_budget_message": self.thinking_end,
            "sampling.temp": self.temperature,
            "sampling.top_p": self.top_p,
            "sampling.penalty_repeat": self.repeat_penalty,
            "n_predict": self.max_tokens,
        }
        parameters.update((name, value) for name, value in optional.items() if value is not None)
        return parameters


def cache_mib(models: int) -> int:
    """Size of each engine's prompt cache in MiB; all of them together get 1/32 of the memory."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = 4 << 30
    return max(64, memory // 32 // max(models, 1) >> 20)


class Engine:
    """Runs one child process, restarts it, and points `upstream` at its current address."""

    def __init__(
        self,
        model: EngineModel,
        *,
        clock: Callable[[], float],
        log_file: Path,
        cache: int,
        start_seconds: float = 60.0,
        options: DeploymentOptions | None = None,
        on_event: Callable[..., None] = lambda event, **fields: None,
    ) -> None:
        """`cache`: MiB. `on_event(event, **fields)` is called at each start and exit, for the
        log."""
        self.model = model
        self.upstream = Upstream(
            model.name,
            model.name,
            wait=self.wait_ready,
            quirks=LLAMA,
            options=options or DeploymentOptions(),
        )
        self.upstream.recover = self.recover
        self.upstream.amend = partial(
            tool_choice.adapt_request, call_prefix=chat_templates.tool_call_prefix(model.template)
        )
        self.on_ready: Callable[[], None] = lambda: None
        """Called each time a new child is ready."""
        self.key = ""
        self.problem: str | None = None
        self._clock = clock
        self._log_file = log_file
        self._cache = cache
        self._start_seconds = start_seconds
        self._on_event = on_event
        self._ready = asyncio.Event()
        self._exited = asyncio.Event()
        self._child: Process | None = None
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "ready" if self._ready.is_set() else self.problem or "starting"
        return f"<Engine {self.model.name}: {state}>"

    @property
    def is_ready(self) -> bool:
        return self._ready.is_set()

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    def start(self) -> None:
        self._task = asyncio.create_task(self._supervise(), name=f"engine {self.model.name}")

    async def wait_ready(self) -> None:
        """Returns when the engine is ready. Raises `ApiError` 503 if that takes too long."""
        try:
            async with asyncio.timeout(self._start_seconds):
                await self._ready.wait()
        except TimeoutError:
            reason = f": {self.problem}" if self.problem else ""
            raise service_unavailable(
                f"The model `{self.model.name}` is not loaded yet{reason}.", code="model_loading"
            ) from None

    async def recover(self) -> None:
        """Called after a call's connection broke. If the child has exited, returns when the next
        one is ready; the exit may be detected a moment after the connection broke."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXIT_NOTICE_SECONDS):
                await self._exited.wait()
        await self.wait_ready()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _supervise(self) -> None:
        delay = BACKOFF[0]
        while True:
            started_at = self._clock()
            try:
                await self._run()
            finally:
                self._disconnect()
                await self._kill()
            if self._clock() - started_at > STABLE_SECONDS:
                delay = BACKOFF[0]
            self._on_event(
                "engine_not_running",
                model=self.model.name,
                reason=self.problem,
                restart_in_seconds=delay,
            )
            await asyncio.sleep(delay)
            delay = min(delay * 2, BACKOFF[1])

    async def _run(self) -> None:
        """Starts a child and returns when it has exited."""
        self.key = secrets.token_urlsafe(24)
        started_at = self._clock()
        with self._open_log() as log:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "legato.engine.llama",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=os.environ | _openmp(),
                # Its own session, so that Ctrl-C at the terminal does not kill it before the drain.
                start_new_session=True,
            )
        child = self._child
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(self.model.parameters(self.key, self._cache)).encode() + b"\n")
        line = await child.stdout.readline()
        try:
            endpoint = Endpoint.parse(json.loads(line)["address"] + "/v1")
            await _wait_healthy(endpoint, self.key)
        except (ValueError, KeyError, OSError):
            code = await child.wait()
            self.problem = f"llama.cpp did not start (exit code {code}), see {self._log_file}"
            return
        self.problem = None
        self.upstream.target = Target.of(
            Pool(endpoint, clock=self._clock),
            openai,
            self.model.name,
            (self.key,),
            self.upstream.quirks,
        )
        self._exited.clear()
        self._ready.set()
        self.on_ready()
        self._on_event(
            "engine_ready", model=self.model.name, seconds=round(self._clock() - started_at, 2)
        )
        code = await child.wait()
        self.problem = f"llama.cpp exited with code {code}"

    def _disconnect(self) -> None:
        """Takes the address of the exited child from the upstream."""
        self._ready.clear()
        self._exited.set()
        target, self.upstream.target = self.upstream.target, None
        if target is not None:
            target.pool.close()

    async def _kill(self) -> None:
        """Kills the child if it still runs, and waits for it."""
        child, self._child = self._child, None
        if child is not None and child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await asyncio.shield(child.wait())

    def _open_log(self) -> IO[bytes]:
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        is_too_large = self._log_file.exists() and self._log_file.stat().st_size > LOG_LIMIT
        return self._log_file.open("wb" if is_too_large else "ab")


def _openmp() -> dict[str, str]:
    """Environment variables that make llama.cpp use LLVM's OpenMP from the package cmeel-libomp.

    xllamacpp needs a `libgomp.so.1`, which a minimal Debian does not have. With GCC's libgomp,
    waiting threads spin, so that two engines on the same cores slow each other down: measured, 12
    instead of 60 tokens a second (docs/performance.md).
    """
    try:
        prefix = importlib.metadata.distribution("cmeel-libomp").locate_file("cmeel.prefix/lib")
    except importlib.metadata.PackageNotFoundError:
        return {}
    before = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": f"{prefix}:{before}" if before else str(prefix)}


async def _wait_healthy(endpoint: Endpoint, key: str) -> None:
    """Polls llama.cpp's `/health` until it returns 200. Raises OSError if the child has exited."""
    request = f"GET /health HTTP/1.0\r\nauthorization: Bearer {key}\r\n\r\n".encode()
    while True:
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        try:
            writer.write(request)
            if b" 200 " in await reader.readline():
                return
        finally:
            writer.close()
        await asyncio.sleep(0.05)
