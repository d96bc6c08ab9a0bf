"""What metrics tell of the server's state: read when it is asked for."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Final, Protocol

from legato.core.errors import ApiError
from legato.engine.supervisor import Engine
from legato.gateway.services import Services
from legato.policy.routing import Router
from legato.server.metrics import Gauge

#: Names of models whose routes are kept. Clients send any.
_KNOWN_MODELS: Final = 1024

#: A longer name is looked up each time, so that none takes memory.
_LONGEST: Final = 200

_STATES: Final = ("closed", "open", "half-open")

Samples = Iterable[tuple[tuple[str, ...], float]]


class Ledger(Protocol):
    @property
    def waiting(self) -> int: ...
    @property
    def journal_bytes(self) -> int: ...
    @property
    def is_reachable(self) -> bool: ...


def route_of(router: Router) -> Callable[[str], str | None]:
    """Finds the configured name of the route of a model that a client asked for: that of a pattern
    or of what an alias stands for; None where there is none."""

    def find(model: str) -> str | None:
        try:
            return router.find(model).model
        except ApiError:
            return None

    known = lru_cache(maxsize=_KNOWN_MODELS)(find)
    return lambda model: known(model) if len(model) <= _LONGEST else find(model)


def gauges(services: Services, ledger: Ledger, engines: Sequence[Engine]) -> list[Gauge]:
    health = services.router.health

    def waiting() -> Samples:
        return [((route,), number) for route, number in services.limiter.waiting.items()]

    def breakers() -> Samples:
        now = services.clock()
        return [
            ((name, state), float(each.state(now) == state))
            for name, each in health.items()
            for state in _STATES
        ]

    return [
        Gauge(
            "open_streams",
            "Streamed answers in progress.",
            (),
            lambda: _one(services.open_streams),
        ),
        Gauge(
            "permits",
            "Calls in progress at a deployment.",
            ("deployment",),
            lambda: [((name,), each.busy) for name, each in health.items()],
        ),
        Gauge("waiting", "Calls that wait for their turn in a route's queue.", ("route",), waiting),
        Gauge(
            "breaker",
            "Circuit breakers: 1 for the state that a deployment's is in.",
            ("deployment", "state"),
            breakers,
        ),
        Gauge(
            "journal_rows",
            "Rows of the ledger that are not in the database yet.",
            (),
            lambda: _one(ledger.waiting),
        ),
        Gauge(
            "journal_bytes",
            "Size of the journal's files.",
            (),
            lambda: _one(ledger.journal_bytes),
        ),
        Gauge(
            "database_reachable",
            "1 if the database took the last rows.",
            (),
            lambda: _one(ledger.is_reachable),
        ),
        Gauge(
            "live_state_reachable",
            "1 if the shared state of limits can be reached, or is in memory.",
            (),
            lambda: _one(services.limiter.live.is_reachable),
        ),
        Gauge(
            "engine_ready",
            "1 if the local engine has loaded a model.",
            ("model",),
            lambda: [((engine.model.name,), engine.is_ready) for engine in engines],
        ),
    ]


def _one(value: float) -> Samples:
    return [((), value)]
