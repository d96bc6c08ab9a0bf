"""What the upstream plays, and the calls to it: each one's numbers are known as it is written."""

import random
from typing import Any, Final

from msgspec import Struct, field

from legato.mock.steps import Script, Step
from tests.support.books.fronts import FRONTS, Front

#: Scripts of each kind, no two with the same numbers.
VARIANTS: Final = 6

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
    """One call, and what its row must say."""

    number: int
    kind: str
    deployment: str
    sent: Sent
    front: Front
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

    @property
    def is_streamed(self) -> bool:
        return self.body["stream"]

    def hears(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self.identity = headers["x-request-id"].removeprefix("req_")


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


def planned(draw: random.Random, stage: Stage, calls: int) -> list[Plan]:
    """All kinds, in any order, on any front, streamed and not."""
    kinds = list(stage.deployments) * (calls // len(stage.deployments) + 1)
    draw.shuffle(kinds)
    plans: list[Plan] = []
    for number, kind in enumerate(kinds[:calls]):
        place = draw.randrange(VARIANTS)
        sent = stage.deployments[kind][place].sent
        has_choices = "native" in kind or kind.startswith("fan")
        front = FRONTS["chat" if has_choices else draw.choice(list(FRONTS))]
        plan = Plan(number, kind, deployed(kind, place), sent, front, {})
        plan.body = front.asks(plan.name) | {"stream": draw.random() < 0.6}
        if has_choices:
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
