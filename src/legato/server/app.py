"""Assembles the server from the settings, and starts and stops its parts."""

import asyncio
import ssl
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
import uvicorn
from starlette.routing import BaseRoute, Mount

from legato.core.signatures import Makers
from legato.core.timers import Timers
from legato.gateway.kept_responses import KeptResponses
from legato.gateway.services import Services
from legato.policy.keys import Keyring
from legato.policy.routing import Router
from legato.server import assembly, limiting
from legato.server.admin import PREFIX as ADMIN
from legato.server.admin import Admin
from legato.server.admin_keys import KeyOperations
from legato.server.admin_openapi import described
from legato.server.budget_alerts import BudgetAlerts
from legato.server.key_sync import KeySync
from legato.server.limits import Limits
from legato.server.protocol import protocols
from legato.server.rest import application
from legato.server.spending import Spending
from legato.server.timer_driver import TimerDriver
from legato.server.usage import paths as usage_paths
from legato.server.uvicorn_server import Server
from legato.settings import Settings
from legato.store.database import Database
from legato.store.instances import Slot
from legato.store.journal import Journal
from legato.store.ledger import Writer
from legato.store.live import Crossed
from legato.store.recovery import Recovery, take_slot
from legato.store.responses import ResponseStore
from legato.store.retention import Retention
from legato.store.urls import database_url

if TYPE_CHECKING:
    from legato.server.monitoring import Monitoring

#: Not the event loop's clock: uvloop's has a resolution of one millisecond.
CLOCK: Final[Callable[[], float]] = time.monotonic


class App:
    """All parts of one server. `open` starts them, `close` stops them."""

    def __init__(self, settings: Settings, model_files: dict[str, Path]) -> None:
        """`model_files`: the file of each of the engine's models, by name."""
        self.settings = settings
        self.log = structlog.get_logger("legato")
        self.timers = Timers()
        self.clock = CLOCK
        self._timer_driver = TimerDriver(asyncio.get_running_loop(), self.timers, CLOCK)
        self.database = Database(database_url(settings.data_dir, settings.database))
        self.ledger = Writer(self.database, self._on_bug, partial(self._on_database, "ledger"))
        self._without_database: set[str] = set()  # a full one, or a replica, can still be read
        self._slot: Slot | None = None
        self._retention = Retention(self.database, settings.retention_days, self._on_bug)
        self._alerts = BudgetAlerts(settings.alerts.webhook, settings.alerts.secret)
        self.live = limiting.live(
            settings,
            CLOCK,
            on_crossed=self._on_crossed,
            on_state=self._on_live_state,
            on_bug=self._on_bug,
        )
        self._spending = Spending(
            self.database,
            self.ledger,
            self.live,
            lambda: self.services.keyring,
            limiting.owners(settings),
            self._on_bug,
        )
        self._is_open = False
        self.engines = assembly.engines(settings, model_files, CLOCK, self.log.info)
        self.upstreams = {engine.model.name: engine.upstream for engine in self.engines}
        for deployment in settings.deployments:
            self.upstreams[deployment.name] = assembly.upstream(deployment, CLOCK)
        makers = Makers()
        for upstream in self.upstreams.values():
            upstream.fast_path = settings.streams.fast_path == "on"
            upstream.makers = makers
        router = Router(
            assembly.routes(settings, self.upstreams, self.engines),
            assembly.health(settings),
            aliases=settings.aliases,
        )
        self.services = Services(
            keyring=Keyring(),
            router=router,
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
            kept_responses=self._kept_responses(),
            limiter=limiting.limiter(settings, self.live, router, self.upstreams, CLOCK),
        )
        self._admins = Keyring()
        self._key_sync = KeySync(
            self.database,
            self.services.keyring,
            CLOCK,
            self._on_bug,
            partial(self._on_database, "keys"),
            self._admins,
            self._spending.budgets_changed,
        )
        self.monitoring = self._monitoring()
        for engine in self.engines:
            engine.on_ready = self.services.router.health[engine.model.name].reset

    def _kept_responses(self) -> KeptResponses | None:
        settings = self.settings.responses
        if not settings.store:
            return None
        seconds = settings.keep_days * 86_400
        return KeptResponses(ResponseStore(self.database), seconds, time.time)

    def _monitoring(self) -> "Monitoring | None":
        options = self.settings.metrics
        if not options.is_served:
            return None
        from legato.server.monitoring import Monitoring  # the metrics' library takes memory

        return Monitoring(
            self.services,
            self.ledger,
            self.engines,
            token=options.token,
            host=options.host,
            port=options.port,
        )

    @property
    def first_key(self) -> str | None:
        """The API key that `open` created because there was none, else None."""
        return self._key_sync.first_key

    async def open(self) -> None:
        """Raises `SettingsError` for a tokenizer that cannot be loaded."""
        assembly.load_tokenizers(self.settings, self.upstreams, self.engines)
        for engine in self.engines:
            engine.start()
        await self.database.prepare(self.settings.data_dir)
        await self._key_sync.create_first_key(self.settings.data_dir)
        await self._begin_journal()
        await self.live.start()
        await self._key_sync.start()
        await self._spending.load()
        self._is_open = True
        self._warn()
        self._retention.start()
        if self.monitoring is not None:
            await self.monitoring.start()

    def _warn(self) -> None:
        services = self.services
        for event, fields in limiting.warnings(
            self.settings, services.keyring, services.router, self.upstreams
        ):
            self.log.warning(event, **fields)

    async def close(self) -> None:
        if self.monitoring is not None:
            await self.monitoring.stop()
        await self._key_sync.stop()
        await self._spending.stop()
        await self._retention.stop()
        await asyncio.gather(*(engine.stop() for engine in self.engines))
        for upstream in self.upstreams.values():
            if upstream.target is not None:
                upstream.target.pool.close()
        await self.live.stop()
        await self._alerts.stop()
        await self.ledger.stop()
        if self._slot is not None:
            self._slot.release()
        await self.database.close()
        self._timer_driver.stop()
        self.timers.clear()

    def ready(self) -> dict[str, Any]:
        """The body of `/readyz`: whether all engines are ready, and which are not."""
        loading = [engine.model.name for engine in self.engines if not engine.is_ready]
        return {"ready": not loading, "loading": loading}

    def server(self) -> Server:
        """A uvicorn server for this application, not yet started."""
        options = self.settings.server
        limits = Limits(
            body=options.max_body_bytes,
            header=options.max_header_bytes,
            connections=options.max_connections,
            request_seconds=options.request_seconds,
            idle_seconds=options.idle_seconds,
            cors_origins=frozenset(origin.encode() for origin in options.cors_origins),
            trusted_proxies=frozenset(options.trusted_proxies),
        )
        asgi = application(
            keyring=self.services.keyring,
            router=self.services.router,
            upstreams=self.upstreams,
            health=self,
            clock=self.clock,
            kept=self.services.kept_responses,
            body_limit=limits.body,
            admit_count=lambda key: self.services.limiter.admit_count(key),
            more=self._paths(),
        )
        protocol: Any = protocols(self.services, limits)
        return Server(
            uvicorn.Config(
                asgi,
                host=options.host,
                port=options.port,
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=int(options.drain_seconds),
                ssl_certfile=options.tls_cert,
                ssl_keyfile=options.tls_key,
                ssl_version=ssl.PROTOCOL_TLS_SERVER,
            )
        )

    def _paths(self) -> list[BaseRoute]:
        """Endpoints for those who run and watch the server."""
        metrics = self.monitoring.paths if self.monitoring is not None else []
        usage = usage_paths(self.services, self.ledger, self.database)
        return [*usage, *metrics, Mount(ADMIN, self._admin())]

    def _admin(self) -> Admin:
        settings, tiers = self.settings, self.settings.all_tiers
        keys = KeyOperations(self.database, tiers, self._key_sync.refresh)
        return Admin(
            described(keys.operations(), tiers),
            admins=self._admins,
            keyring=self.services.keyring,
            trusted_proxies=frozenset(settings.server.trusted_proxies),
        )

    async def _begin_journal(self) -> None:
        """Takes a slot, brings what servers that have ended left in their journals into the
        database, and begins a journal of this server's own."""
        folder = self.settings.data_dir
        recovery = Recovery(self.database, folder, self._on_bug, self._on_damage)
        self._slot = await take_slot(recovery, folder)
        if recovery.done.rows or recovery.done.interrupted:
            self.log.info(
                "calls_interrupted" if recovery.done.interrupted else "journal_replayed",
                calls=recovery.done.interrupted,
                records=recovery.done.rows,
            )
        journal = Journal(folder, self._slot.name, self._on_journal_failure)
        self.ledger.use(journal, self._slot.name)

    def _on_crossed(self, passed: Crossed) -> None:
        self._alerts.crossed(passed)
        if self.monitoring is not None:
            self.monitoring.metrics.crossed(passed)

    def _on_live_state(self, problem: str | None) -> None:
        if problem is None:
            self.log.info("live_state_reachable")
            if self._is_open:  # else it is loaded at once
                self._spending.reload()
        else:
            fail = self.settings.limits.fail
            self.log.error("live_state_unreachable", fail=fail, error=problem)

    def _on_damage(self, path: Path, records: int) -> None:
        self.log.warning("journal_damaged", file=str(path), records=records)

    def _on_journal_failure(self, error: OSError) -> None:
        self.log.error("journal_failed", error=str(error))

    def _on_database(self, whose: str, error: BaseException | None) -> None:
        """Logs when the database goes away, and why, and when it is back for all that use it."""
        away, was_away = self._without_database, bool(self._without_database)
        if error is None:
            away.discard(whose)
        else:
            away.add(whose)
        if bool(away) == was_away:
            return
        if error is None:
            self.log.info("database_reachable")
        else:
            cause = getattr(error, "orig", None) or error  # without the statement
            self.log.error("database_unreachable", error=f"{type(cause).__name__}: {cause}")

    def _on_bug(self, error: BaseException) -> None:
        self.log.error("bug", exc_info=error)
