"""Prometheus metrics: one fold for each call that is settled, nothing for each chunk.

Labels are bounded: configured names, outcomes, client formats. No key, session or client's text is
one.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from msgspec import Struct
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from legato.policy.ledger import Row
from legato.store.live import Crossed

#: Prometheus' text format in the version that all of its versions read.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

#: The label of a route or a deployment that there is none of: the call was refused before.
NONE: Final = "none"

#: Upper bounds in seconds. A first token takes from milliseconds (a local model, a cached prompt)
#: to minutes (a long prompt on a small machine).
_FIRST_TOKEN: Final = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
_DURATION: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)

# Without it each counter would have a second series, with the time at which it was created.
disable_created_metrics()

_TOKENS: Final = ("prompt", "completion", "reasoning", "cached", "cache_write")


class Labels(NamedTuple):
    outcome: str
    route: str
    deployment: str
    front: str


class _Bound(Struct, frozen=True):
    """The metrics of one set of labels: looking each up by its labels costs more than adding."""

    calls: Counter
    tokens: tuple[Counter, ...]
    cost: Counter
    first_token: Histogram
    duration: Histogram


class Gauge(Struct, frozen=True):
    """A number that is read when it is asked for. `read` gives (labels, value) pairs."""

    name: str
    says: str
    labels: tuple[str, ...]
    read: Callable[[], Iterable[tuple[tuple[str, ...], float]]]


class Metrics:
    """`route_of`: the configured name of the route of a model that a client asked for; None where
    there is none."""

    def __init__(self, route_of: Callable[[str], str | None], gauges: Iterable[Gauge] = ()) -> None:
        registry = self._registry = CollectorRegistry()
        self._gauges = _Gauges(tuple(gauges))
        registry.register(self._gauges)
        self._route_of = route_of
        self._bound: dict[Labels, _Bound] = {}
        where = ("route", "deployment", "front")

        def counter(name: str, says: str, *labels: str) -> Counter:
            return Counter(f"legato_{name}", says, labels, registry=registry)

        def histogram(name: str, says: str, bounds: tuple[float, ...]) -> Histogram:
            return Histogram(f"legato_{name}", says, where, registry=registry, buckets=bounds)

        self._calls = counter("calls", "Calls that have ended.", "outcome", *where)
        self._tokens = counter("tokens", "Tokens, by the ledger.", "kind", *where)
        self._cost = counter("cost_dollars", "US dollars, by the price lists.", *where)
        self._alerts = counter(
            "budget_alerts", "Budgets that have passed a threshold.", "percent", "unit"
        )
        self._first_token = histogram(
            "first_token_seconds", "From the request to the first token.", _FIRST_TOKEN
        )
        self._duration = histogram(
            "call_seconds", "From the request to the end of the answer.", _DURATION
        )

    def observe(self, row: Row) -> None:
        """A call is settled."""
        route = self._route_of(row.route) if row.route is not None else None
        deployment = row.deployments.rpartition(",")[2]
        labels = Labels(row.outcome, route or NONE, deployment or NONE, row.front)
        bound = self._bound.get(labels) or self._bind(labels)
        bound.calls.inc()
        for kind, metric in zip(_TOKENS, bound.tokens, strict=True):
            if number := getattr(row, f"{kind}_tokens"):
                metric.inc(number)
        if row.cost:
            bound.cost.inc(row.cost)
        if row.ttft is not None:
            bound.first_token.observe(row.ttft)
        if row.duration is not None:
            bound.duration.observe(row.duration)

    def crossed(self, passed: Crossed) -> None:
        """A budget has passed a threshold. Whose it is, is in the log."""
        unit = "usd" if passed.kind == "budget_usd" else "tokens"
        self._alerts.labels(str(passed.percent), unit).inc()

    def render(self) -> bytes:
        """All of them, in Prometheus' text format."""
        self._gauges.read()
        return generate_latest(self._registry)

    async def scrape(self) -> bytes:
        """The same, written by a thread: thousands of lines would keep streams waiting."""
        self._gauges.read()
        return await asyncio.to_thread(generate_latest, self._registry)

    def _bind(self, labels: Labels) -> _Bound:
        where = labels[1:]
        bound = self._bound[labels] = _Bound(
            self._calls.labels(*labels),
            tuple([self._tokens.labels(kind, *where) for kind in _TOKENS]),
            self._cost.labels(*where),
            self._first_token.labels(*where),
            self._duration.labels(*where),
        )
        return bound


class _Gauges(Collector):
    """`read` is called by the event loop's thread, `collect` may be by another one."""

    def __init__(self, gauges: tuple[Gauge, ...]) -> None:
        self._gauges = gauges
        self._families = [_family(each) for each in gauges]

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return [_family(each) for each in self._gauges]

    def read(self) -> None:
        families: list[GaugeMetricFamily] = []
        for each in self._gauges:
            family = _family(each)
            for labels, value in each.read():
                family.add_metric(labels, value)
            families.append(family)
        self._families = families

    def collect(self) -> Iterable[GaugeMetricFamily]:
        return self._families


def _family(gauge: Gauge) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"legato_{gauge.name}", gauge.says, labels=gauge.labels)
