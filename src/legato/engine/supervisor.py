"""The local engine: llama.cpp in a supervised child process, spoken to as an upstream.

A native crash kills one child, not the server. A child listens on a loopback port of its own
choosing, under a key made for that start; it is started before a request needs it, is ready when
its own health says so, and is started again, with backoff, when it dies.
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

#: Seconds between a death and the next start: the first, and the most.
BACKOFF: Final = (0.25, 15.0)

#: A child that lived this long was well; its next death is a first one again. Seconds.
PROVEN: Final = 60.0

#: Seconds within which the death of a child is known, once its connections are gone.
NOTICE: Final = 1.0

#: What llama.cpp takes and does.
LLAMA: Final = Quirks(
    effort_style="llama",
    has_n=False,
    reports_progress=True,
    continues="prefill",
    continues_reasoning=True,
    needs_alternatives=True,
    rejected_parameters=frozenset({"function_call", "functions"}),  # it reads neither
)

#: Bytes of an engine's log, beyond which the next start begins it anew.
LOG_LIMIT: Final = 8 * 1024 * 1024


class EngineModel(Struct, frozen=True):
    """One model to run. `context` is tokens per slot; `threads` 0 means all cores."""

    name: str
    path: Path
    context: int = 4096
    slots: int = 8
    threads: int = 0
    gpu_layers: int = -1
    template: str | None = None
    thinking_budget: int = -1
    thinking_end: str | None = None  # what the engine says for the model when the budget is spent
    temperature: float | None = None
    top_p: float | None = None
    repeat_penalty: float | None = None
    max_tokens: int | None = None

    def parameters(self, key: str, cache_mib: int) -> dict[str, Any]:
        """llama.cpp's parameters, by xllamacpp's names."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        threads = self.threads or cores or 1
        wanted: dict[str, Any] = {
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
            # llama.cpp keeps prompts of ended calls in host memory, 8 GiB of them if it is let.
            "cache_ram_mib": cache_mib,
            "fit_params": False,
            "endpoint_slots": True,
            "ui": False,
            "verbosity": 1,
        }
        if self.template is not None:
            wanted["chat_template"] = self.template
        if self.thinking_budget >= 0:
            wanted["sampling.reasoning_budget_tokens"] = self.thinking_budget
        optional = {
            "sampling.reasoning_budget_message": self.thinking_end,
            "sampling.temp": self.temperature,
            "sampling.top_p": self.top_p,
            "sampling.penalty_repeat": self.repeat_penalty,
            "n_predict": self.max_tokens,
        }
        wanted.update((name, value) for name, value in optional.items() if value is not None)
        return wanted


def cache_mib(models: int) -> int:
    """The host prompt cache of each engine, in MiB: all of them may have 1/32 of the memory."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = 4 << 30
    return max(64, memory // 32 // max(models, 1) >> 20)


class Engine:
    """Keeps one child alive and tells its upstream where the child is."""

    def __init__(
        self,
        model: EngineModel,
        *,
        clock: Callable[[], float],
        log_file: Path,
        cache: int,
        start_seconds: float = 60.0,
        options: DeploymentOptions | None = None,
        on_event: Callable[..., None] = lambda event, **quirks: None,
    ) -> None:
        """`on_event(event, **facts)` hears of starts and deaths."""
        self.model = model
        self.upstream = Upstream(
            model.name,
            model.name,
            wait=self.ready,
            quirks=LLAMA,
            options=options or DeploymentOptions(),
        )
        self.upstream.recover = self.recover
        self.upstream.amend = partial(
            tool_choice.adapt_request, call=chat_templates.call_of(model.template)
        )
        self.on_ready: Callable[[], None] = lambda: None
        """Called when a child can be asked; it is another one each time."""
        self.key = ""
        self.problem: str | None = None
        self._clock = clock
        self._log_file = log_file
        self._cache = cache
        self._start_seconds = start_seconds
        self._on_event = on_event
        self._up = asyncio.Event()
        self._fell = asyncio.Event()
        self._child: Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "up" if self._up.is_set() else self.problem or "starting"
        return f"<Engine {self.model.name}: {state}>"

    @property
    def is_up(self) -> bool:
        return self._up.is_set()

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    def start(self) -> None:
        self._keeper = asyncio.create_task(self._keep(), name=f"engine {self.model.name}")

    async def ready(self) -> None:
        """Comes back when the engine can be asked. Raises 503 where that takes too long."""
        try:
            async with asyncio.timeout(self._start_seconds):
                await self._up.wait()
        except TimeoutError:
            reason = f": {self.problem}" if self.problem else ""
            raise service_unavailable(
                f"The model `{self.model.name}` is not loaded yet{reason}.", code="model_loading"
            ) from None

    async def recover(self) -> None:
        """A call was dropped unanswered. Where that is because the child has died, comes back when
        there is another; its death may be known here only a moment later."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NOTICE):
                await self._fell.wait()
        await self.ready()

    async def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper

    async def _keep(self) -> None:
        wait = BACKOFF[0]
        while True:
            began = self._clock()
            try:
                await self._run()
            finally:
                self._down()
                await self._reap()
            if self._clock() - began > PROVEN:
                wait = BACKOFF[0]
            self._on_event(
                "engine_not_running",
                model=self.model.name,
                reason=self.problem,
                restart_in_seconds=wait,
            )
            await asyncio.sleep(wait)
            wait = min(wait * 2, BACKOFF[1])

    async def _run(self) -> None:
        """One life of a child, to its end."""
        self.key = secrets.token_urlsafe(24)
        began = self._clock()
        with self._log() as log:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "legato.engine.llama",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=os.environ | _openmp(),
                # A Ctrl-C at the terminal is the server's to answer: streams are finished first.
                start_new_session=True,
            )
        child = self._child
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(self.model.parameters(self.key, self._cache)).encode() + b"\n")
        said = await child.stdout.readline()
        try:
            answer = json.loads(said)
            endpoint = Endpoint.parse(answer["address"] + "/v1")
            await _healthy(endpoint, self.key)
        except (ValueError, KeyError, OSError):
            code = await child.wait()
            self.problem = f"llama.cpp did not start (exit {code}), see {self._log_file}"
            return
        self.problem = None
        self.upstream.target = Target.of(
            Pool(endpoint, clock=self._clock),
            openai,
            self.model.name,
            (self.key,),
            self.upstream.quirks,
        )
        self._fell.clear()
        self._up.set()
        self.on_ready()
        self._on_event(
            "engine_ready", model=self.model.name, seconds=round(self._clock() - began, 2)
        )
        code = await child.wait()
        self.problem = f"llama.cpp ended with exit code {code}"

    def _down(self) -> None:
        self._up.clear()
        self._fell.set()
        target, self.upstream.target = self.upstream.target, None
        if target is not None:
            target.pool.close()

    async def _reap(self) -> None:
        child, self._child = self._child, None
        if child is not None and child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await asyncio.shield(child.wait())

    def _log(self) -> IO[bytes]:
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        too_large = self._log_file.exists() and self._log_file.stat().st_size > LOG_LIMIT
        return self._log_file.open("wb" if too_large else "ab")


def _openmp() -> dict[str, str]:
    """The environment that gives llama.cpp LLVM's OpenMP, as a package brings it.

    The wheel needs a `libgomp.so.1` that a plain Debian does not have. Where there is one, GCC's
    threads spin while they wait, which lets two engines on the same cores take each other's time:
    12 instead of 60 tokens a second, measured (docs/performance.md).
    """
    try:
        prefix = importlib.metadata.distribution("cmeel-libomp").locate_file("cmeel.prefix/lib")
    except importlib.metadata.PackageNotFoundError:
        return {}
    before = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": f"{prefix}:{before}" if before else str(prefix)}


async def _healthy(endpoint: Endpoint, key: str) -> None:
    """Asks llama.cpp's `/health` until it says ok. Raises OSError when nobody answers any more."""
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
