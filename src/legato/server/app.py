"""The server put together: settings in, a listening server out, and back down again."""

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

import structlog
import uvicorn
from filelock import FileLock, Timeout

from legato.core.timers import Timers
from legato.gateway.services import Services
from legato.policy import keys as key_policy
from legato.policy.keys import Key, Keyring
from legato.policy.routing import Router
from legato.server import assembly
from legato.server.limits import Limits
from legato.server.protocol import protocols
from legato.server.rest import application
from legato.settings import Settings
from legato.store import keys as key_store
from legato.store import ledger as ledger_store
from legato.store.database import Database, sqlite_url

#: Seconds between looks at whether a key was made or revoked elsewhere; a look is at a file's size.
KEY_POLL_SECONDS: Final = 0.4

#: Seconds after which the database is asked all the same.
KEY_DOUBT_SECONDS: Final = 10.0

#: Bytes that the kernel takes for a client without having sent them. For one that reads slowly it
#: would take megabytes, as fast as its upstream sends them; here they are merged with what follows.
UNSENT: Final = 64 * 1024

#: Seconds for which the `date` of answers is right.
TICK_SECONDS: Final = 1.0

FIRST_KEY_FILE = "key"

#: Not the loop's own: that of uvloop counts whole milliseconds.
CLOCK: Final[Callable[[], float]] = time.monotonic


class TimerDriver:
    """Drives a wheel from an event loop: one timer, for the earliest deadline of all."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timers: Timers) -> None:
        self._loop = loop
        self._wheel = timers
        self._handle: asyncio.TimerHandle | None = None
        timers.on_earlier = self._set

    def _set(self, deadline: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_later(max(0.0, deadline - CLOCK()), self._ring)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self) -> None:
        self._handle = None
        self._wheel.advance(CLOCK())
        if self._handle is None and (due := self._wheel.next_due) is not None:
            self._set(due)


class App:
    """All parts of one server. `open` makes them, `close` puts them away."""

    def __init__(self, settings: Settings, model_files: dict[str, Path]) -> None:
        """`model_files`: where the file of each of the engine's models is."""
        loop = asyncio.get_running_loop()
        self.settings = settings
        self.log = structlog.get_logger("legato")
        self.timers = Timers()
        self.clock = CLOCK
        self.first_key: str | None = None
        self._alarm = TimerDriver(loop, self.timers)
        self._database = Database(sqlite_url(settings.data_dir))
        self.ledger = ledger_store.Writer(self._database, self._on_bug)
        self._alone = FileLock(settings.data_dir / "serve.lock", blocking=False)
        self._tasks: list[asyncio.Task[None]] = []
        self.engines = assembly.engines(settings, model_files, CLOCK, self.log.info)
        self.upstreams = {engine.model.name: engine.upstream for engine in self.engines}
        for deployment in settings.deployments:
            self.upstreams[deployment.name] = assembly.upstream(deployment, CLOCK)
        for upstream in self.upstreams.values():
            upstream.fast_path = settings.streams.fast_path == "on"
        self.services = Services(
            keyring=Keyring(),
            router=Router(
                assembly.routes(settings, self.upstreams, self.engines),
                assembly.health(settings),
            ),
            ledger=self.ledger,
            upstreams=self.upstreams,
            timers=self.timers,
            clock=self.clock,
            on_bug=self._on_bug,
            gate_seconds=settings.streams.gate_seconds,
            heartbeat_seconds=settings.streams.heartbeat_seconds,
            heartbeat=settings.streams.heartbeat,
            stall_client_seconds=settings.streams.stall_client_seconds,
            backlog_bytes=settings.streams.backlog_bytes,
            padding=settings.streams.padding,
        )

        for engine in self.engines:
            engine.on_ready = self.services.router.health[engine.model.name].reset

    async def open(self) -> None:
        """Raises `SettingsError` for a tokenizer that cannot be had."""
        assembly.load_tokenizers(self.settings, self.upstreams, self.engines)
        for engine in self.engines:
            engine.start()
        await self._database.prepare(self.settings.data_dir)
        await self._make_first_key(self._database)
        await self._close_interrupted()
        # In this order: a key that is made meanwhile is seen later.
        stamp = self._database.change_mark(key_store.SUBJECT)
        version = await key_store.version(self._database)
        await self._load_keys(self._database)
        follow = self._follow_keys(self._database, stamp, version)
        self._tasks.append(asyncio.create_task(follow))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(engine.stop() for engine in self.engines))
        for upstream in self.upstreams.values():
            if upstream.target is not None:
                upstream.target.pool.close()
        await self.ledger.stop()
        self._alone.release()
        await self._database.close()
        self._alarm.stop()
        self.timers.clear()

    def ready(self) -> dict[str, Any]:
        waiting = [engine.model.name for engine in self.engines if not engine.is_ready]
        return {"ready": not waiting, "loading": waiting}

    def server(self) -> "Server":
        """A uvicorn server with this application behind it, not yet started."""
        wanted = self.settings.server
        limits = Limits(
            body=wanted.max_body_bytes,
            header=wanted.max_header_bytes,
            connections=wanted.max_connections,
            request_seconds=wanted.request_seconds,
            idle_seconds=wanted.idle_seconds,
            cors_origins=frozenset(origin.encode() for origin in wanted.cors_origins),
            trusted_proxies=frozenset(wanted.trusted_proxies),
        )
        asgi = application(
            keyring=self.services.keyring,
            router=self.services.router,
            health=self,
            clock=self.clock,
        )
        protocol: Any = protocols(self.services, limits)
        return Server(
            uvicorn.Config(
                asgi,
                host=wanted.host,
                port=wanted.port,
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=int(wanted.drain_seconds),
                ssl_certfile=wanted.tls_cert,
                ssl_keyfile=wanted.tls_key,
                ssl_version=ssl.PROTOCOL_TLS_SERVER,
            )
        )

    # Keys

    async def _make_first_key(self, database: Database) -> None:
        if await key_store.all_keys(database):
            return
        identity, key, digest = key_policy.create()
        path = self.settings.data_dir / FIRST_KEY_FILE
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text(key + "\n")
        await key_store.add(database, identity, "first", digest)
        self.first_key = key

    async def _close_interrupted(self) -> None:
        """Rows that no server is working on any more: only where this is the one on the data."""
        try:
            self._alone.acquire()
        except Timeout:
            return
        left = await ledger_store.close_interrupted(self._database)
        if left:
            self.log.info("calls_interrupted", calls=left)

    async def _load_keys(self, database: Database) -> None:
        rows = await key_store.all_keys(database)
        self.services.keyring.replace(Key(**row) for row in rows)  # type: ignore[arg-type]

    async def _follow_keys(self, database: Database, stamp: int, known: int) -> None:
        """A key made or revoked by the command line is in force here within a second."""
        asked = CLOCK()
        while True:
            await asyncio.sleep(KEY_POLL_SECONDS)
            try:
                now = database.change_mark(key_store.SUBJECT)
                if now == stamp and CLOCK() < asked + KEY_DOUBT_SECONDS:
                    continue
                if (version := await key_store.version(database)) != known:
                    await self._load_keys(database)
                    known = version
                stamp, asked = now, CLOCK()
            except Exception as error:
                self._on_bug(error)

    def _on_bug(self, error: BaseException) -> None:
        self.log.error("bug", exc_info=error)


class Server(uvicorn.Server):
    """uvicorn's server; a signal ends it in order, and is not raised again behind its back."""

    def __init__(self, config: uvicorn.Config) -> None:
        self._loop = asyncio.get_running_loop()
        self._exit = asyncio.Event()
        super().__init__(config)

    @property
    def should_exit(self) -> bool:
        """Whether it is to end; it begins to at once."""
        return self._exit.is_set()

    @should_exit.setter
    def should_exit(self, value: bool) -> None:  # type: ignore[override]
        if value:
            self._exit.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            for listening in (each for server in self.servers for each in server.sockets):
                # Connections have it from the socket that takes them.
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)

    async def main_loop(self) -> None:
        # uvicorn looks ten times a second whether it is to end.
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._exit.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        def handle(number: int, frame: FrameType | None) -> None:
            self._loop.call_soon_threadsafe(end)

        def end() -> None:
            # A second signal means now.
            self.force_exit = self.should_exit
            self.should_exit = True

        wanted = (signal.SIGINT, signal.SIGTERM)
        before = {each: signal.signal(each, handle) for each in wanted}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    @property
    def url(self) -> str:
        """Where it listens; with port 0 in the settings, the port that the system chose."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(
            host, f"[{host}]" if ":" in host else host
        )
        return f"{'https' if self.config.ssl else 'http'}://{host}:{port}"


def set_up_logs() -> None:
    """Events on standard error: readable at a terminal, one JSON object a line elsewhere."""
    readable = sys.stderr.isatty()
    # The usual tracebacks at a terminal show all local variables: prompts, answers and keys.
    terminal = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[
            structlog.processors.TimeStamper(
                fmt="iso" if not readable else "%H:%M:%S", utc=not readable
            ),
            structlog.processors.add_log_level,
            *(() if readable else (structlog.processors.format_exc_info,)),
            terminal if readable else structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
