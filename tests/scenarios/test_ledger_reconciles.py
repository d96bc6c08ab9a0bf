"""The books of 500 calls of every kind, held against those of the upstream: one row for each call,
and each of its numbers is what the upstream sent, or what it sent, for that very call."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct, field

from legato.mock.server import MockServer, RecordedRequest
from legato.mock.steps import Script, Step
from tests.conftest import Running, serving, settings_for, until
from tests.store.test_ledger import usage
from tests.support.postgres import BOTH
from tests.support.wire import Wire, chat, request

CALLS = 500

#: Calls at a time.
ROOM = 40

#: Scripts of each kind, no two with the same numbers.
VARIANTS = 6

KINDS = ("prompt", "completion", "reasoning", "cached")

Numbers = dict[str, int]
Json = dict[str, Any]


class Sent(Struct):
    """What a script sends, counted as it was written."""

    steps: list[Step]
    pieces: int = 0  # with content of any kind
    thoughts: int = 0  # of them
    result: Numbers = {}  # as its usage says; empty where it says none
    tells_reasoning: bool = False

    def usage(self) -> Step:
        details: Json = {"prompt_tokens_details": {"cached_tokens": self.result["cached"]}}
        if self.tells_reasoning:
            details["completion_tokens_details"] = {"reasoning_tokens": self.result["reasoning"]}
        prompt, completion = self.result["prompt"], self.result["completion"]
        counts = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
        return Step(usage=counts | details)


def texts(draw: random.Random, *, choices: int = 1) -> Sent:
    """Some text, its usage in numbers that are its own: a piece is never one token."""
    pieces = draw.randint(1, 12)
    steps = [
        Step(say=f"w{number} ", choice=index)
        for number in range(pieces)
        for index in range(choices)
    ]
    sent = Sent(steps, pieces * choices)
    sent.result = {
        "prompt": draw.randint(100, 10_000),
        "completion": sent.pieces * draw.randint(2, 5) + draw.randint(0, 9),
        "reasoning": 0,
        "cached": draw.randint(0, 99),
    }
    return sent


def thoughts(draw: random.Random) -> Sent:
    sent = texts(draw)
    sent.thoughts = draw.randint(1, 9)
    sent.steps = [Step(think=f"t{number} ") for number in range(sent.thoughts)] + sent.steps
    sent.pieces += sent.thoughts
    sent.result["reasoning"] = sent.thoughts * 3
    sent.result["completion"] += sent.result["reasoning"]
    sent.tells_reasoning = True
    return sent


def tools(draw: random.Random) -> Sent:
    sent = texts(draw)
    for index in range(draw.randint(1, 3)):
        begin = {"index": index, "id": f"call_{index}", "type": "function"}
        sent.steps.append(Step(tool=begin | {"function": {"name": "f", "arguments": ""}}))
        for piece in ('{"a": ', "1}"):
            sent.steps.append(Step(tool={"index": index, "function": {"arguments": piece}}))
        sent.pieces += 3
    return sent


def ended(sent: Sent, *, choices: int = 1, tells: bool = True, reason: str = "stop") -> list[Step]:
    """The steps of an answer that is whole."""
    ends = [Step(finish=reason, choice=index) for index in range(choices)]
    return [*sent.steps, *ends, *([sent.usage()] if tells else []), Step(done=True)]


class Plan(Struct):
    """One of the 500, and what its row must say."""

    number: int
    kind: str
    deployment: str
    sent: Sent
    body: Json
    leaves: int | None = None
    """Leaves when so many chunks with content have come; 0: when the upstream has been asked."""
    identity: str | None = None  # as its client was told
    status: int = 0
    seen: int = 0  # chunks with content that its client has had

    @property
    def name(self) -> str:
        """Its own route, and how the upstream knows it."""
        return f"call-{self.number}"

    @property
    def asked(self) -> int:
        """Requests that it makes of the upstream."""
        return self.body["n"] if self.kind.startswith("fan") else 1

    def hears(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self.identity = headers["x-request-id"].replace("req_", "chatcmpl-")


class Deployment(Struct):
    """A script, and how the upstream that plays it is deployed."""

    script: Script
    sent: Sent
    options: Json = {}


class Stage(Struct):
    """What is played: deployments by kind, and calls to them."""

    deployments: dict[str, list[Deployment]] = field(default_factory=dict)

    def add(
        self, kind: str, sent: Sent, *steps: Step, options: Json | None = None, **more: Any
    ) -> None:
        script = Script(steps=list(steps), **more)
        self.deployments.setdefault(kind, []).append(Deployment(script, sent, options or {}))


CHOICES = 3
SILENT = Step(stall=True)
CUT = Step(cut=True)
ERROR = Step(error={"message": "The GPU fell off.", "code": "gpu_lost"})
REFUSAL = '{"error": {"message": "No.", "code": "no_way"}}'
FAN: Json = {"n": "fan-out"}
DRAIN: Json = {"on_disconnect": "drain", "drain_seconds": 10.0}


def staged(draw: random.Random) -> Stage:
    stage = Stage()
    add = stage.add
    for _ in range(VARIANTS):
        # Whole answers
        for kind, make in {"text": texts, "thoughts": thoughts, "tools": tools}.items():
            sent = make(draw)
            reason = "tool_calls" if kind == "tools" else "stop"
            add(kind, sent, *ended(sent, reason=reason))
            sent = make(draw)
            add(f"{kind}, untold", sent, *ended(sent, tells=False, reason=reason))
        sent = texts(draw, choices=CHOICES)
        add("native", sent, *ended(sent, choices=CHOICES))
        sent = thoughts(draw)
        add("fan", sent, *ended(sent), options=FAN)
        sent = thoughts(draw)
        add("fan, untold", sent, *ended(sent, tells=False), options=FAN)
        # Failures
        sent = thoughts(draw)
        add("cut", sent, *sent.steps, CUT)
        sent = texts(draw)
        add("cut, told", sent, sent.usage(), *sent.steps, CUT)
        sent = tools(draw)
        add("error", sent, *sent.steps, ERROR)
        sent = texts(draw)
        add("stall", sent, *sent.steps, SILENT, options={"stall_seconds": 0.3})
        sent = texts(draw)
        add("fan cut", sent, *sent.steps, CUT, options=FAN)
        add("500", Sent([]), status=500, body=REFUSAL)
        add("400", Sent([]), status=400, body=REFUSAL)
        # Answers that go on for as long as their client is there
        sent = thoughts(draw)
        add("leave", sent, *sent.steps, SILENT)
        sent = texts(draw)
        add("leave, told", sent, sent.usage(), *sent.steps, SILENT)
        sent = texts(draw, choices=CHOICES)
        add("leave native", sent, *sent.steps, SILENT)
        sent = thoughts(draw)
        add("fan leave", sent, *sent.steps, SILENT, options=FAN)
        sent = texts(draw)
        slowly = [each for step in sent.steps for each in (step, Step(wait=0.005))]
        add("leave early", sent, *slowly, SILENT)
        sent = thoughts(draw)
        add(
            "drained",
            sent,
            *sent.steps,
            Step(wait=0.4),
            *ended(sent)[len(sent.steps) :],
            options=DRAIN,
        )
    return stage


def planned(draw: random.Random, stage: Stage) -> list[Plan]:
    """All kinds, in any order, streamed and not."""
    kinds = list(stage.deployments) * (CALLS // len(stage.deployments) + 1)
    draw.shuffle(kinds)
    plans: list[Plan] = []
    for number, kind in enumerate(kinds[:CALLS]):
        place = draw.randrange(VARIANTS)
        sent = stage.deployments[kind][place].sent
        plan = Plan(number, kind, deployed(kind, place), sent, {})
        plan.body = chat(plan.name, user=plan.name, stream=draw.random() < 0.6)
        if "native" in kind or kind.startswith("fan"):
            plan.body["n"] = CHOICES if "native" in kind else draw.randint(2, 4)
        if "leave" in kind or kind == "drained":
            plan.leaves = leaves(draw, plan)
        plans.append(plan)
    return plans


def leaves(draw: random.Random, plan: Plan) -> int:
    """A client sees all that has been sent where that is little and stays so: then the number is
    known. Of an answer that goes on as it leaves, bounds are."""
    if not plan.body["stream"] or draw.random() < 0.2:
        return 0
    if plan.kind == "leave early":
        return draw.randint(1, plan.sent.pieces)
    return plan.sent.pieces * plan.asked


def deployed(kind: str, place: int) -> str:
    return f"{kind.replace(', ', '-').replace(' ', '-')}-{place}"


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


# The clients


async def call(legato: Running, upstream: Upstream, plan: Plan) -> None:
    async with await Wire.open(legato.port) as wire:
        wire.send(request(legato.key, plan.body))
        if plan.leaves is None:
            answer = await wire.answer()
            plan.hears(answer.status, answer.headers)
            if plan.status == 200 and plan.body["stream"]:
                plan.seen = sum(map(has_content, answer.frames))
            return
        await until(lambda: len(upstream.asked_by(plan)) == plan.asked, "the upstream is asked")
        if plan.leaves:
            plan.hears(*await wire.head())
        while plan.seen < plan.leaves:
            plan.seen += sum(map(has_content, (await wire.chunk()).split(b"\n\n")))
        wire.writer.transport.abort()


def has_content(frame: bytes) -> bool:
    """It is not the role, nor a finish, nor usage, nor an error."""
    members = (b'"content":"', b'"reasoning_content":"', b'"tool_calls":[')
    return any(member in frame for member in members) and b'"role"' not in frame


# The books

#: What a row must say of each kind: outcome, error, and where its numbers are from. "sent" are the
#: upstream's, of the whole answer or ("so far") as it told them before it broke; "sent" is what it
#: sent and was read, to the last piece; "some" a part of it.
BOOKS: dict[str, tuple[str, str | None, str]] = {
    "text": ("complete", None, "result"),
    "text, untold": ("complete", None, "sent"),
    "thoughts": ("complete", None, "result"),
    "thoughts, untold": ("complete", None, "sent"),
    "tools": ("complete", None, "result"),
    "tools, untold": ("complete", None, "sent"),
    "native": ("complete", None, "result"),
    "fan": ("complete", None, "result"),
    "fan, untold": ("complete", None, "sent"),
    "cut": ("failed", "upstream_cut", "sent"),
    "cut, told": ("failed", "upstream_cut", "so far"),
    "error": ("failed", "gpu_lost", "sent"),
    "stall": ("failed", "upstream_stalled", "sent"),
    "fan cut": ("failed", "upstream_cut", "some"),
    "500": ("failed", "upstream_500", "none"),
    "400": ("refused", "no_way", "none"),
    "leave": ("cancelled", None, "sent"),
    "leave, told": ("cancelled", None, "so far"),
    "leave native": ("cancelled", None, "sent"),
    "fan leave": ("cancelled", None, "sent"),
    "leave early": ("cancelled", None, "some"),
    "drained": ("cancelled", None, "result"),
}


def is_right(plan: Plan, row: Json, played: list[RecordedRequest]) -> None:
    outcome, error, basis = BOOKS[plan.kind]
    assert (row["outcome"], row["error"]) == (outcome, error)
    assert row["streamed"] is plan.body["stream"]
    assert (row["deployments"], row["attempts"]) == (plan.deployment, 1)
    if plan.identity is not None:
        assert row["id"] == plan.identity
    if plan.leaves == 0 and basis != "result":
        basis = "some"  # of an answer that its client has not seen
    if basis in ("result", "so far"):
        of_usage(plan, row, sure="exact" if basis == "result" else "partial")
    else:
        of_pieces(plan, row, played, whole=basis == "sent")


def of_usage(plan: Plan, row: Json, *, sure: str) -> None:
    """The prompt counts once, whatever number of requests it was sent in."""
    sent, times = plan.sent, plan.asked
    completion, reasoning = sent.result["completion"] * times, sent.result["reasoning"] * times
    wanted = sent.result | {"completion": completion, "reasoning": reasoning}
    assert {kind: row[f"{kind}_tokens"] for kind in KINDS} == wanted
    froms = dict.fromkeys(KINDS, sure)
    if not sent.tells_reasoning:
        froms["reasoning"] = "counted"
    assert {kind: row[f"{kind}_from"] for kind in KINDS} == froms


def of_pieces(plan: Plan, row: Json, played: list[RecordedRequest], *, whole: bool) -> None:
    """Without a usage, what came counts; and the upstream knows what it has sent."""
    pieces = sum(each.content_tokens + each.reasoning_tokens for each in played)
    thoughts = sum(each.reasoning_tokens for each in played)
    completion, reasoning = row["completion_tokens"], row["reasoning_tokens"]
    told = row["completion_from"] == "partial"  # it had sent its usage, where that was read
    if told:
        assert plan.kind == "leave, told"
        of_usage(plan, row, sure="partial")
        return
    if whole:
        assert (completion, reasoning) == (pieces, thoughts)
    else:
        assert plan.seen <= completion <= pieces
        assert reasoning <= min(thoughts, completion)
    counted = "counted" if completion else "none"
    assert (row["completion_from"], row["reasoning_from"]) == (counted, counted)
    assert (row["prompt_tokens"], row["prompt_from"]) == (0, "none")
    assert (row["cached_tokens"], row["cached_from"]) == (0, "none")


def was_played(plan: Plan, played: list[RecordedRequest]) -> None:
    """The upstream was asked as often as it should be, and heard to its end or left."""
    outcome, _, _ = BOOKS[plan.kind]
    if plan.kind == "fan cut":
        assert 1 <= len(played) <= plan.asked
    else:
        assert len(played) == plan.asked
    assert all(each.model == plan.deployment for each in played)
    if outcome == "complete" or plan.kind == "drained":
        assert all(each.is_complete for each in played)
        sent = sum(each.content_tokens + each.reasoning_tokens for each in played)
        assert sent == plan.sent.pieces * plan.asked
        assert sum(each.reasoning_tokens for each in played) == plan.sent.thoughts * plan.asked
        assert plan.seen == (sent if plan.body["stream"] and plan.leaves != 0 else 0)
    elif outcome == "cancelled":
        assert all(each.is_disconnected and not each.is_complete for each in played)


@pytest.mark.parametrize("address", BOTH, indirect=True)
async def test_every_call_is_in_the_books_as_the_upstream_has_it(
    tmp_path: Path, address: str | None
) -> None:
    draw = random.Random(3)
    stage = staged(draw)
    plans = planned(draw, stage)
    assert {plan.kind for plan in plans} == set(BOOKS)
    assert len(plans) == CALLS
    upstream = Upstream()
    async with fronting(tmp_path, upstream, stage, plans, address) as legato:
        room = asyncio.Semaphore(ROOM)

        async def one(plan: Plan) -> None:
            async with room:
                await call(legato, upstream, plan)

        await asyncio.gather(*map(one, plans))
        await until(lambda: not legato.server.server_state.tasks, "all calls are settled")
        await until(lambda: legato.busy == 0, "all connections upstream are given back")
        await legato.app.ledger.flush()
        books = await usage(legato.app.settings.data, database=address)
    rows = {row["route"]: row for row in books["rows"]}
    assert len(books["rows"]) == len(rows) == len({row["id"] for row in books["rows"]}) == CALLS
    wrong: list[str] = []
    for plan in plans:
        row, played = rows[plan.name], upstream.asked_by(plan)
        try:
            was_played(plan, played)
            is_right(plan, row, played)
        except AssertionError as error:
            wrong.append(f"{plan.kind}, leaves {plan.leaves}: {error}")
    assert not wrong, "\n\n".join([f"{len(wrong)} of {CALLS} calls", *wrong[:10]])
    total = {kind: sum(row[f"{kind}_tokens"] for row in rows.values()) for kind in KINDS}
    assert {kind: books["total"][f"{kind}_tokens"] for kind in KINDS} == total
    assert books["total"]["calls"] == CALLS
    assert books["outcomes"] == Counter(BOOKS[plan.kind][0] for plan in plans)
