"""Plays all calls against a real server, in front of the upstream, with a key that has limits."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from legato.gateway.limiter import Limiter
from legato.mock.server import MockServer, RecordedRequest
from legato.policy.budgets import parse
from legato.policy.limits import Limits
from legato.store.live import Bucket, Live
from legato.store.live_memory import LiveMemory
from legato.store.live_valkey import LiveValkey
from tests.conftest import Running, serving, settings_for, until
from tests.store.test_ledger import usage
from tests.support.books.check import BOOKS, reconcile
from tests.support.books.played import Plan, Stage, deployed, planned, staged
from tests.support.wire import Wire, request

#: Calls at a time.
ROOM: Final = 40

#: Seconds that one call may take.
DEADLINE: Final = 60.0

#: Nothing refills while the calls go on: what is used can be read to the last token. Not a time of
#: this century: at 10^9 tokens a minute the resolution of a double would be four tokens.
NOW: Final = 1000.0

#: Nobody is refused.
LIMITS: Final = Limits(10**6, 10**9, 10**6, 10**4)
BUDGET: Final = parse("1Gtokens")

Json = dict[str, Any]


class Upstream(MockServer):
    """Knows what it has played for whom: each call says its name as `user`."""

    def __init__(self) -> None:
        super().__init__({})
        self.by_user: dict[str, list[RecordedRequest]] = {}
        self._known = 0

    def notify(self) -> None:
        for each in self.requests[self._known :]:
            self.by_user.setdefault(each.request["user"], []).append(each)
        self._known = len(self.requests)
        super().notify()

    def asked_by(self, plan: Plan) -> list[RecordedRequest]:
        return self.by_user.get(plan.name, [])


@asynccontextmanager
async def fronting(
    tmp_path: Path,
    upstream: Upstream,
    stage: Stage,
    plans: list[Plan],
    address: str | None,
) -> AsyncIterator[Running]:
    """A server with a route for each call, and a deployment for each script."""
    base = await upstream.start()
    usual: Json = {
        "base_url": base,
        "open_after": 0,
        "first_token_seconds": 10.0,
        "stall_seconds": 10.0,
        "on_disconnect": "cancel",
    }
    deployments: list[Json] = []
    for kind, made in stage.deployments.items():
        for place, each in enumerate(made):
            name = deployed(kind, place)
            upstream.scripts[name] = each.script
            deployments.append({"name": name, "model": name} | usual | each.options)
    routes = [
        {"model": plan.name, "deployments": [plan.deployment], "attempts": 1} for plan in plans
    ]
    more: Json = {"deployments": deployments, "routes": routes, "database": address}
    async with serving(settings_for(tmp_path, None, **more)) as running:
        yield running
    await until(lambda: upstream.open_connections == 0, "no connection to the upstream is left")
    await upstream.stop()


async def _call(legato: Running, upstream: Upstream, plan: Plan) -> None:
    async with asyncio.timeout(DEADLINE), await Wire.open(legato.port) as wire:
        wire.send(request(legato.key, plan.body, path=plan.front.path))
        if plan.leaves is None:
            answer = await wire.answer()
            plan.hears(answer.status, answer.headers)
            if plan.status == 200 and plan.is_streamed:
                plan.seen = sum(map(plan.front.has_content, answer.frames))
            return
        await until(lambda: len(upstream.asked_by(plan)) == plan.asked, "the upstream is asked")
        if plan.leaves:
            plan.hears(*await wire.head())
        while plan.seen < plan.leaves:
            plan.seen += sum(map(plan.front.has_content, (await wire.chunk()).split(b"\n\n")))
        wire.writer.transport.abort()


# Live state


def live_at(url: str | None) -> Live:
    """At a Valkey, or in memory."""
    if url is None:
        return LiveMemory(lambda: NOW)
    return LiveValkey(url, clock=lambda: NOW, server_clock=lambda: NOW)


async def limit(legato: Running, live: Live) -> str:
    """Gives the server's key limits and a budget; returns the key's id."""
    services = legato.app.services
    [key] = services.keyring
    services.keyring.replace([replace(key, limits=LIMITS, budget=BUDGET)])
    services.limiter = Limiter(live, services.router, lambda: NOW)
    return key.id


async def used(live: Live, key: str) -> Json:
    """What is taken of each limit, and of the budget."""
    name = f"key:{key}"
    buckets = [
        Bucket(f"{name}:requests", "requests", 10**6, 60.0),
        Bucket(f"{name}:tokens", "tokens", 10**9, 60.0),
        Bucket(f"{name}:day", "day", 10**6, 86_400.0),
        Bucket(f"{name}:concurrent", "concurrent", 10**4),
        Bucket(f"{name}:tokens:total", "budget_tokens", 10**9),
    ]
    levels = await live.levels(buckets)
    return {kind: round(level.limit - level.remaining, 1) for kind, level in levels.items()}


# All of it


async def run(
    folder: Path, calls: int, draw: random.Random, database: str | None, valkey: str | None
) -> Json:
    """Makes so many calls; returns the books, or raises AssertionError where they are wrong."""
    stage = staged(draw)
    plans = planned(draw, stage, calls)
    assert {plan.kind for plan in plans} == set(BOOKS), "too few calls for all kinds"
    upstream, live = Upstream(), live_at(valkey)
    async with fronting(folder, upstream, stage, plans, database) as legato:
        await live.start()
        key = await limit(legato, live)
        room = asyncio.Semaphore(ROOM)

        async def one(plan: Plan) -> None:
            async with room:
                await _call(legato, upstream, plan)

        await asyncio.gather(*map(one, plans))
        await until(lambda: not legato.server.server_state.tasks, "all calls are settled")
        await until(lambda: legato.busy == 0, "all connections upstream are given back")
        await legato.app.ledger.flush()
        counters = await used(live, key)
        assert live.permits == 0, f"{live.permits} permits are left"
        await live.stop()
        books = await usage(legato.app.settings.data, database=database)
    reconcile(books, plans, upstream.asked_by)
    total = books["total"]
    tokens = total["prompt_tokens"] + total["completion_tokens"]
    wanted = {
        "requests": calls,
        "tokens": tokens,
        "day": calls,
        "concurrent": 0,
        "budget_tokens": tokens,
    }
    assert counters == wanted, f"live state has {counters}, the ledger {wanted}"
    return books | {"fronts": Counter(plan.front.name for plan in plans)}
