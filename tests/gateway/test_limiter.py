"""Limits, budgets and queues in calls: who is let in, what each answer says, what is given back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from legato.gateway.limiter import Limiter, RouteLimits
from legato.gateway.route_queue import RouteQueue
from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from legato.mock.steps import Script, Step
from legato.policy.budgets import Budget, parse
from legato.policy.limits import Limits
from legato.store.live_memory import LiveMemory
from tests.conftest import Running, serving, settings_for, until
from tests.support.fault_table import usage
from tests.support.front_answers import FRONTS
from tests.support.wire import Answer, Wire, ask, chat, request


class Stage:
    """A server whose only key can be given limits. `now`: of the limits' clock."""

    def __init__(self, legato: Running, scripted: MockServer) -> None:
        self.legato = legato
        self.scripted = scripted
        self.now = 0.0
        self.live = LiveMemory(lambda: self.now)
        self.set()

    def set(
        self,
        *,
        owners: dict[str, Budget] | None = None,
        tiers: dict[str, Limits] | None = None,
        routes: dict[str, RouteLimits] | None = None,
        **fields: Any,
    ) -> None:
        services = self.legato.app.services
        (key,) = services.keyring
        services.keyring.replace([replace(key, **fields)])
        services.limiter = Limiter(
            self.live,
            services.router,
            lambda: self.now,
            tiers=tiers,
            owners=owners,
            routes=routes,
        )

    async def ask(self, model: str = "happy", **more: Any) -> Answer:
        return await ask(self.legato.port, self.legato.key, chat(model, **more))

    async def settled(self) -> None:
        await until(lambda: self.live.permits == 0, "permits are given back")


@pytest.fixture
async def stage(tmp_path: Path, scripted: MockServer) -> AsyncIterator[Stage]:
    deploy = {"first_token_seconds": 0.3}
    settings = settings_for(tmp_path, await scripted.start(), SCRIPTS, deploy=deploy)
    async with serving(settings) as legato:
        yield Stage(legato, scripted)


def left(answer: Answer, what: str) -> tuple[str, str, str]:
    names = (f"x-ratelimit-{each}-{what}" for each in ("limit", "remaining", "reset"))
    limit, remaining, reset = (answer.headers[name] for name in names)
    return limit, remaining, reset


@pytest.mark.parametrize("stream", [True, False])
async def test_headers_tell_what_is_left(stage: Stage, stream: bool) -> None:
    stage.set(limits=Limits(10, 40_000))
    answer = await stage.ask(stream=stream, max_tokens=1000)
    assert left(answer, "requests") == ("10", "9", "6s")
    limit, remaining, _ = left(answer, "tokens")
    assert limit == "40000"
    assert 38_900 < int(remaining) <= 39_000  # 1,000 and the prompt are reserved
    await stage.settled()
    used = usage(SCRIPTS["happy"])["total_tokens"]
    answer = await stage.ask(stream=stream, max_tokens=1000)
    # That is settled to the truth, and from then on the answers of the route are known.
    assert used < 40_000 - int(left(answer, "tokens")[1]) < used + 100


async def test_what_answers_take_is_learned_from_all_keys(stage: Stage) -> None:
    assert (await stage.ask()).status == 200
    services = stage.legato.app.services
    (key,) = services.keyring
    services.keyring.replace([replace(key, limits=Limits(10, 40_000))])
    answer = await stage.ask(max_tokens=1000)
    assert 40_000 - int(left(answer, "tokens")[1]) < 100


async def test_what_is_learned_is_the_length_of_one_choice(stage: Stage) -> None:
    """Of each call as much is reserved for as many choices as it asks for."""
    used = Step(usage={"prompt_tokens": 7, "completion_tokens": 3000, "total_tokens": 3007})
    *steps, _, done = SCRIPTS["choices"].steps
    stage.scripted.scripts |= {"choices": Script(steps=[*steps, used, done])}
    assert (await stage.ask("choices", n=3)).status == 200
    services = stage.legato.app.services
    (key,) = services.keyring
    services.keyring.replace([replace(key, limits=Limits(10, 40_000))])
    answer = await stage.ask("choices", n=3, max_tokens=2000)
    assert 36_900 < int(left(answer, "tokens")[1]) <= 37_000


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/chat/completions", chat("unheard-of"), 404),
        ("/v1/chat/completions", chat("happy", stream=True, max_tokens=101), 400),
        ("/v1/completions", {"model": "happy", "prompt": {}}, 400),
        ("/v1/messages", {"model": "happy", "messages": []}, 400),
        ("/v1/responses", {"model": "happy"}, 400),
    ],
)
async def test_a_refusal_tells_what_is_left(
    stage: Stage, path: str, body: dict[str, Any], status: int
) -> None:
    """And takes nothing of it."""
    stage.set(limits=Limits(10, 40_000, max_tokens=100))
    for _ in range(2):
        answer = await ask(stage.legato.port, stage.legato.key, body, path=path)
        assert answer.status == status
        assert left(answer, "requests") == ("10", "10", "0ms")
        assert left(answer, "tokens") == ("40000", "40000", "0ms")
        is_messages = path == "/v1/messages"
        assert ("anthropic-ratelimit-tokens-limit" in answer.headers) == is_messages


async def test_a_server_that_takes_no_calls_tells_what_is_left(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.set(limits=Limits(10))
    monkeypatch.setattr("legato.store.ledger.MAX_QUEUE", 0)
    answer = await stage.ask()
    assert (answer.status, left(answer, "requests")) == (503, ("10", "10", "0ms"))


async def test_without_limits_there_are_no_headers(stage: Stage) -> None:
    answer = await stage.ask()
    assert answer.status == 200
    assert not any("ratelimit" in each for each in answer.headers)


@pytest.mark.parametrize("front", FRONTS, ids=lambda front: front.name)
async def test_a_client_that_waits_as_long_as_it_is_told_gets_in(stage: Stage, front: Any) -> None:
    stage.set(limits=Limits(3))
    wire = stage.legato.port, stage.legato.key
    asks = front.asks("happy", "Hello", stream=True)
    for _ in range(3):
        assert (await ask(*wire, asks, path=front.path)).status == 200
    for _ in range(20):
        answer = await ask(*wire, asks, path=front.path)
        assert answer.status == 429
        stage.now += float(answer.headers["retry-after"])
        answer = await ask(*wire, asks, path=front.path)
        assert answer.status == 200
    assert stage.live.permits == 0


async def test_anthropic_clients_get_their_own_headers(stage: Stage) -> None:
    stage.set(limits=Limits(10))
    (front,) = [each for each in FRONTS if each.name == "messages"]
    asks = front.asks("happy", "Hello", stream=False)
    answer = await ask(stage.legato.port, stage.legato.key, asks, path=front.path)
    assert answer.headers["anthropic-ratelimit-requests-limit"] == "10"
    assert answer.headers["anthropic-ratelimit-requests-remaining"] == "9"
    assert answer.headers["anthropic-ratelimit-requests-reset"].endswith("Z")


async def test_a_tier_has_limits_and_a_key_its_own_over_them(stage: Stage) -> None:
    tiers = {"free": Limits(10, 40_000)}
    stage.set(tiers=tiers, tier="free", limits=Limits(requests_per_minute=3))
    answer = await stage.ask()
    assert left(answer, "requests")[0] == "3"
    assert left(answer, "tokens")[0] == "40000"
    stage.set(tiers={}, tier="free", limits=Limits())
    assert (await stage.ask()).status == 200  # a tier that is gone limits nobody


@pytest.mark.parametrize("name", ["500", "cut", "stall-early", "refuse"])
async def test_what_fails_is_given_back(stage: Stage, name: str) -> None:
    stage.set(limits=Limits(10, 10_000, concurrent=1))
    body = {"max_tokens": 5000} if name != "refuse" else {"max_tokens": 5000, "n": 500}
    for _ in range(3):  # each reserves half of the minute's tokens
        answer = await stage.ask(name if name != "refuse" else "happy", stream=True, **body)
        assert answer.error is not None
        assert answer.status != 429
        await stage.settled()


async def test_one_call_at_a_time(stage: Stage) -> None:
    stage.set(limits=Limits(concurrent=1))
    async with await Wire.open(stage.legato.port) as wire:
        wire.send(request(stage.legato.key, chat("stall", stream=True)))
        await wire.head()
        answer = await stage.ask()
        assert answer.status == 429
        assert answer.error is not None
        assert answer.error["code"] == "rate_limit_exceeded"
    await stage.settled()
    assert (await stage.ask()).status == 200


async def test_more_tokens_than_a_key_may_ask_for(stage: Stage) -> None:
    stage.set(limits=Limits(max_tokens=100))
    answer = await stage.ask(max_tokens=101)
    assert answer.status == 400
    assert answer.error is not None
    assert "100" in answer.error["message"]
    assert answer.error["param"] == "max_tokens"
    assert (await stage.ask(max_tokens=101, max_completion_tokens=5)).status == 400
    assert (await stage.ask(max_tokens=5, max_completion_tokens=101)).status == 400
    assert (await stage.ask(max_tokens=100)).status == 200
    assert (await stage.ask()).status == 200
    assert stage.scripted.requests[-1].request["max_completion_tokens"] == 100


async def test_more_tokens_than_a_route_allows(stage: Stage) -> None:
    """Of a key's and a route's limit the lower one holds."""
    stage.set(limits=Limits(max_tokens=100), routes={"happy": RouteLimits(Limits(max_tokens=50))})
    answer = await stage.ask(max_tokens=51)
    assert answer.status == 400
    assert answer.error is not None
    assert answer.error["code"] == "max_tokens_over_limit"
    assert (await stage.ask(n_predict=60)).status == 400
    assert (await stage.ask()).status == 200
    assert stage.scripted.requests[-1].request["max_completion_tokens"] == 50
    assert (await stage.ask("thinking", max_tokens=100)).status == 200  # another route


@pytest.mark.parametrize(
    ("asks", "status"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 5000}}, 400),
        ({"thinking": {"type": "enabled", "budget_tokens": 80}, "max_tokens": 50}, 400),  # 130
        ({"thinking": {"type": "enabled", "budget_tokens": 80}, "max_tokens": 100}, 200),
        ({"thinking": {"type": "enabled", "budget_tokens": 40}, "max_tokens": 20}, 200),
        ({"thinking": {"type": "disabled", "budget_tokens": 5000}}, 200),
    ],
)
async def test_thoughts_count_among_the_tokens_of_a_call(
    stage: Stage, asks: dict[str, Any], status: int
) -> None:
    stage.set(limits=Limits(max_tokens=100))
    answer = await stage.ask(**asks)
    assert answer.status == status
    if status == 400:
        assert answer.error is not None
        assert answer.error["param"] == "thinking.budget_tokens"


async def test_a_limit_of_tokens_has_no_other_name(stage: Stage) -> None:
    """llama.cpp goes by `n_predict` first, and gets what we do not know as it came."""
    assert (await stage.ask(n_predict=5000)).status == 200
    assert stage.scripted.requests[-1].request["n_predict"] == 5000
    stage.set(limits=Limits(max_tokens=100))
    answer = await stage.ask(n_predict=5000, max_tokens=10)
    assert answer.status == 400
    assert answer.error is not None
    assert answer.error["param"] == "n_predict"


@pytest.mark.parametrize(
    ("asks", "param"),
    [
        ({"n": 4, "max_tokens": 26}, "max_tokens"),
        ({"n": 4, "max_completion_tokens": 100}, "max_completion_tokens"),
        ({"n": 4, "thinking": {"budget_tokens": 30}}, "thinking.budget_tokens"),
        ({"n": 101}, "n"),
        ({"best_of": 4}, "best_of"),
        ({"n_cmpl": 4}, "n_cmpl"),
    ],
)
async def test_choices_share_the_tokens_of_a_call(
    stage: Stage, asks: dict[str, Any], param: str
) -> None:
    stage.set(limits=Limits(max_tokens=100))
    answer = await stage.ask(**asks)
    assert answer.status == 400
    assert answer.error is not None
    assert answer.error["param"] == param
    assert not stage.scripted.requests


async def test_choices_without_a_limit_of_their_own_get_equal_shares(stage: Stage) -> None:
    stage.set(limits=Limits(max_tokens=100))
    await stage.ask(n=3)
    assert stage.scripted.requests[-1].request["max_completion_tokens"] == 33


async def test_the_tokens_that_a_route_allows_each_call(stage: Stage) -> None:
    routes = {"happy": RouteLimits(Limits(max_tokens=50))}
    for own, most in ((Limits(), 50), (Limits(max_tokens=100), 50), (Limits(max_tokens=20), 20)):
        stage.set(routes=routes, limits=own)
        answer = await stage.ask(max_tokens=most + 1)
        assert answer.status == 400
        assert answer.error is not None
        assert answer.error["code"] == "max_tokens_over_limit"
        assert (await stage.ask()).status == 200
        assert stage.scripted.requests[-1].request["max_completion_tokens"] == most


async def test_tokens_are_counted_as_often_as_a_key_may_call(stage: Stage) -> None:
    """Counts take nothing from its calls: agents count before each."""
    stage.set(limits=Limits(2, 1, concurrent=1))
    wire, path = (stage.legato.port, stage.legato.key), "/v1/messages/count_tokens"
    for _ in range(2):
        assert (await ask(*wire, chat("happy"), path=path)).status == 200
    answer = await ask(*wire, chat("happy"), path=path)
    assert answer.status == 429
    assert answer.json["error"]["type"] == "rate_limit_error"
    assert stage.live.permits == 0
    assert (await stage.ask()).status == 200
    stage.now += float(answer.headers["retry-after"])
    assert (await ask(*wire, chat("happy"), path=path)).status == 200


@pytest.mark.parametrize("front", FRONTS, ids=lambda front: front.name)
async def test_a_limit_of_tokens_in_the_words_of_each_client(stage: Stage, front: Any) -> None:
    stage.set(limits=Limits(max_tokens=5000))
    wire = stage.legato.port, stage.legato.key
    asks = front.asks("happy", "Hello", stream=True)
    assert (await ask(*wire, asks, path=front.path)).status == 200
    name = {"messages": "max_tokens", "responses": "max_output_tokens"}[front.name]
    asks = front.asks("happy", "Hello", stream=True) | {name: 5001}
    answer = await ask(*wire, asks, path=front.path)
    assert answer.status == 400
    assert f"`{name}`" in answer.json["error"]["message"]


@pytest.mark.parametrize("front", FRONTS, ids=lambda front: front.name)
async def test_a_spent_budget(stage: Stage, front: Any) -> None:
    """Nobody is told to try again, each in the words of its client."""
    stage.set(budget=parse("10tokens"))
    asks = front.asks("happy", "Hello", stream=True)
    wire = stage.legato.port, stage.legato.key
    assert (await ask(*wire, asks, path=front.path)).status == 200  # it takes 16
    await stage.settled()
    answer = await ask(*wire, asks, path=front.path)
    assert answer.status == 429
    assert "retry-after" not in answer.headers
    if front.name == "messages":
        assert answer.headers["x-should-retry"] == "false"
        assert answer.json["error"]["type"] == "billing_error"
    else:
        assert answer.json["error"]["code"] == "insufficient_quota"


async def test_an_owner_shares_a_budget(stage: Stage) -> None:
    stage.set(owner="team", owners={"team": parse("10tokens/month")})
    assert (await stage.ask()).status == 200
    await stage.settled()
    assert (await stage.ask()).status == 429
    stage.set(owner="others", owners={"team": parse("10tokens/month")})
    assert (await stage.ask()).status == 200


async def test_a_hard_budget_cuts_a_stream(stage: Stage) -> None:
    """With an honest error: never as if it were complete."""
    words = [Step(say="word ", repeat=4000, every=0.002)]
    stage.scripted.scripts |= {"happy": Script(steps=[*words, *SCRIPTS["happy"].steps[-3:]])}
    stage.set(budget=parse("60tokens", hard=True))
    answer = await stage.ask(stream=True)
    assert not answer.done
    assert answer.error is not None
    assert answer.error["code"] == "insufficient_quota"
    await stage.settled()
    assert len(answer.chunks) < 3000


@asynccontextmanager
async def queued(stage: Stage, size: int = 5) -> AsyncIterator[RouteQueue]:
    queue = RouteQueue(1, size, 60.0, lambda: stage.now)
    stage.set(routes={"happy": RouteLimits(queue=queue), "stall": RouteLimits(queue=queue)})
    async with await Wire.open(stage.legato.port) as wire:
        wire.send(request(stage.legato.key, chat("stall", stream=True)))
        await wire.head()
        yield queue
    await until(lambda: queue.busy == 0, "all places are free")


async def test_a_call_waits_for_its_turn(stage: Stage) -> None:
    async with queued(stage) as queue:
        waiting = asyncio.create_task(stage.ask())
        await until(lambda: queue.waiting == 1, "it waits")
    answer = await waiting
    assert answer.status == 200


async def test_a_stream_that_waits_is_kept_alive(stage: Stage) -> None:
    stage.legato.app.services.gate_seconds = 0.05
    stage.legato.app.services.heartbeat_seconds = 0.05
    async with queued(stage), await Wire.open(stage.legato.port) as wire:
        wire.send(request(stage.legato.key, chat("happy", stream=True)))
        status, _ = await wire.head()
        assert status == 200
        assert (await wire.chunk()).startswith(b":")


async def test_a_full_queue_refuses_at_once(stage: Stage) -> None:
    async with queued(stage, size=0):
        answer = await stage.ask()
        assert answer.status == 503
        assert "retry-after" in answer.headers


async def test_a_client_that_leaves_the_queue(stage: Stage) -> None:
    async with queued(stage) as queue:
        async with await Wire.open(stage.legato.port) as wire:
            wire.send(request(stage.legato.key, chat("happy", stream=True)))
            await until(lambda: queue.waiting == 1, "it waits")
        await until(lambda: queue.waiting == 0, "it has left")
        assert queue.busy == 1


async def test_a_key_sees_its_own_models_alone(stage: Stage) -> None:
    stage.set(routes=None)
    services = stage.legato.app.services
    (key,) = services.keyring
    services.keyring.replace([replace(key, routes=("hap*",))])
    assert (await stage.ask()).status == 200
    answer = await stage.ask("cut")
    unknown = await stage.ask("unheard-of")
    assert answer.status == unknown.status == 404
    assert answer.body == unknown.body.replace(b"unheard-of", b"cut")


async def test_refused_calls_do_not_fill_the_ledger(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever hammers at its limit must not keep others from calling."""
    monkeypatch.setattr("legato.store.ledger.MAX_REFUSED", 3)
    monkeypatch.setattr("legato.store.ledger.BATCH_SECONDS", 60.0)
    stage.set(limits=Limits(1))
    statuses = [(await stage.ask()).status for _ in range(10)]
    assert statuses == [200, *[429] * 9]
    assert stage.legato.app.ledger.waiting == 3
    stage.now += 60.0
    assert (await stage.ask()).status == 200
    outcomes = [row["outcome"] for row in await stage.legato.rows()]
    assert outcomes == ["complete", "refused", "refused", "complete"]
