"""The metrics of one server: what fills them, and where they are served."""

from collections.abc import Sequence

import structlog
from starlette.routing import Route as Path

from legato.engine.supervisor import Engine
from legato.gateway.services import Services
from legato.policy.ledger import Row
from legato.server.gauges import Ledger, gauges, route_of
from legato.server.metrics import Metrics
from legato.server.metrics_endpoint import MetricsServer, paths


class Monitoring:
    """Counts each call that ends from now on. `paths`: the endpoint at the server's own port, where
    the metrics have no port of their own."""

    def __init__(
        self,
        services: Services,
        ledger: Ledger,
        engines: Sequence[Engine],
        *,
        token: str | None,
        host: str,
        port: int | None,
    ) -> None:
        """`token` and `port`: at least one of them. With a port the metrics are served there alone,
        and need the token if there is one."""
        metrics = self.metrics = Metrics(
            route_of(services.router), gauges(services, ledger, engines)
        )
        self._services = services
        services.on_settled = self._settled
        self.paths: list[Path] = paths(metrics, token) if port is None else []
        self.server = None if port is None else MetricsServer(metrics, host, port, token)

    async def start(self) -> None:
        """Raises OSError if the port cannot be used."""
        if self.server is not None:
            await self.server.start()
            structlog.get_logger("legato").info("metrics_served", url=self.server.url)

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop()

    def _settled(self, row: Row) -> None:
        try:
            self.metrics.observe(row)
        except Exception as error:  # the call is settled all the same
            self._services.on_bug(error)
