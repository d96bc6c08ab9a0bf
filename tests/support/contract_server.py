"""The house in which the contract is read: one server, a scripted upstream in every dialect, and
clients that hold each chunk and each answer against OpenAI's schemas."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from legato.mock.steps import Script, Step
from tests.conftest import Running, serving, settings_for, until
from tests.fronts.test_chat_aggregator import RESPONSE_SCHEMA, answer_faults
from tests.fronts.test_chat_writer import check_chunk, schema
from tests.support.stream_order import Heard, Json, Usage
from tests.support.wire import Answer, ask, chat

ERROR_SCHEMA: Final = schema("ErrorResponse")

#: What ends a line for those who split lines the Unicode way.
SEPARATORS: Final = "a\u2028b\u2029c\x85d"

_HAPPY: Final = SCRIPTS["happy"].steps
_WORDS: Final = _HAPPY[:-3]
_END: Final = _HAPPY[-3:]
_CALL: Final = {"index": 0, "id": "call_1", "type": "function"}
_THOUGHT: Final = "<think>Let me see.</think>Forty-two"


def _ending(reason: str) -> list[Step]:
    return [*_WORDS, Step(finish=reason), *_END[1:]]


def _beside(step: Step, delta: Json, **more: Any) -> Step:
    """A step as a chunk, with more in it."""
    result = {"delta": {"content": step.say} | delta, "finish_reason": None, "native": True}
    return Step(chunk={"choices": [{"index": 0} | result], **more})


#: What the shipped scripts do not say.
MORE: Final[dict[str, Script]] = {
    "length": Script(steps=_ending("length")),
    "filtered": Script(steps=_ending("content_filter")),
    "apart": Script(steps=[step for word in _WORDS for step in (word, Step(wait=0.01))] + _END),
    "strangers": Script(
        steps=[*(_beside(step, {"notes": [1]}, provider="Somebody") for step in _WORDS), *_END]
    ),
    "separators-anywhere": Script(
        steps=[
            Step(think=SEPARATORS),
            Step(tool=_CALL | {"function": {"name": "f", "arguments": SEPARATORS}}),
            _beside(Step(say="a"), {}, **{f"x{SEPARATORS}": SEPARATORS}),
            *_ending("tool_calls")[-3:],
        ]
    ),
    "separators-in-error": Script(
        steps=[*_WORDS, Step(error={"message": SEPARATORS, "code": "gpu_lost"})]
    ),
    "named-lines": Script(
        steps=[
            Step(raw='event: message\nid: 7\nretry: 10\ndata: {"choices": []}\n\n'),
            *_HAPPY,
            Step(raw="id: 8\nevent: end\nretry: 20\n\n"),
        ]
    ),
    "comments": Script(
        steps=[
            Step(comment="hello"),
            *(step for word in _WORDS for step in (word, Step(comment="still here"))),
            *_END,
            Step(comment="bye"),
        ]
    ),
    "usage-everywhere": Script(
        steps=[*(_beside(step, {}, usage=_END[1].usage) for step in _WORDS), *_END]
    ),
    "done-then-silence": Script(steps=[*_HAPPY, Step(stall=True)]),
    "done-then-more": Script(steps=[*_HAPPY, *_HAPPY]),
    "think-letters": Script(steps=[*(Step(say=each) for each in _THOUGHT), *_END]),
    "think-by-the-way": Script(
        steps=[Step(say="Use <think> and </think>."), *_END],
    ),
    "late-error": Script(steps=[Step(wait=0.05), *SCRIPTS["error-first"].steps]),
    "murmur": Script(steps=[*_WORDS, Step(comment="still here", repeat=500, every=0.02)]),
    "half-an-event": Script(steps=[*_WORDS, Step(raw='data: {"choices": [{"index"')]),
    "unfinished": Script(steps=_WORDS),
    **{f"{count}-words": Script(steps=[*_WORDS[:count], Step(stall=True)]) for count in (1, 2, 5)},
}

ALL: Final = SCRIPTS | MORE

_BROKEN: Final = (
    *("400", "401", "429", "500", "503", "too-long", "error-body", "html", "empty", "no-head"),
    *("cut", "cut-early", "reset", "no-finish", "stall", "stall-early", "comments-only"),
    *("bad-json", "bad-json-first", "error-first", "error-in-band", "error-then-done"),
    *(
        "late-error",
        "murmur",
        "half-an-event",
        "unfinished",
        "separators-in-error",
        *("no-message-delta", "failed-inside", "failed-beside", "overloaded", "529"),
        "1-words",
        "2-words",
        "5-words",
    ),
)
_SLOW: Final = ("slow", "late-headers", "late-token")
_ODD: Final = ("429-then-ok", "unknown-fields")  # once; no schema of OpenAI's has such annotations

#: Scripts whose answer is whole.
WHOLE: Final = tuple(name for name in ALL if name not in (*_BROKEN, *_SLOW, *_ODD))


class ContractServer:
    """`legato` answers for each script under its own name. Further models: `hasty/…`, which is
    given up soon; `fan/…`, an upstream that gives one choice at a time; `anthropic/…` and the
    like, in another dialect; `tags/…`, told to look for `<think>`."""

    def __init__(self, legato: Running, scripted: MockServer) -> None:
        self.legato = legato
        self.scripted = scripted

    async def ask(self, model: str, **more: Any) -> Answer:
        return await self.post(chat(model, **more))

    async def post(self, body: Json | bytes, *, key: str | None = "", **headers: str) -> Answer:
        key = self.legato.key if key == "" else key
        return await ask(self.legato.port, key, body, **headers)

    async def stream(self, model: str, *, usage: Usage = "none", **more: Any) -> Heard:
        """A stream that may be whole or broken, and is legal in any case."""
        options = more.pop("stream_options", {})
        if usage != "none":
            options |= {"include_usage": True, "continuous_usage_stats": usage == "running"}
        answer = await self.ask(model, stream=True, stream_options=options, **more)
        assert answer.status == 200, answer.body
        return heard(answer, usage)

    async def whole(self, model: str, **more: Any) -> Json:
        answer = await self.ask(model, **more)
        assert answer.status == 200, answer.body
        return checked(answer.json)

    async def refused(self, model: str, **more: Any) -> tuple[int, Json]:
        return error_of(await self.ask(model, **more))

    @contextmanager
    def timers(self, **seconds: float) -> Iterator[None]:
        """`gate` and `heartbeat`, for the calls that begin in here."""
        services = self.legato.app.services
        before = (services.gate_seconds, services.heartbeat_seconds)
        services.gate_seconds = seconds.get("gate", before[0])
        services.heartbeat_seconds = seconds.get("heartbeat", before[1])
        try:
            yield
        finally:
            services.gate_seconds, services.heartbeat_seconds = before

    async def row(self) -> dict[str, Any]:
        """The ledger's of the last call."""
        await until(lambda: not self.legato.server.server_state.tasks, "calls are settled")
        return (await self.legato.rows())[-1]


def heard(answer: Answer, usage: Usage = "none") -> Heard:
    """A stream's body, checked: its order, and each chunk."""
    result = Heard(answer.body, usage)
    for chunk in result.chunks:
        check_chunk(chunk)
    return result


def checked(answer: Json) -> Json:
    """An answer that is not streamed, checked."""
    assert answer_faults(answer) == [], answer
    if RESPONSE_SCHEMA is not None:
        assert [each.message for each in RESPONSE_SCHEMA.iter_errors(answer)] == [], answer
    return answer


def error_of(answer: Answer) -> tuple[int, Json]:
    """Status and error object of an answer that is an error."""
    body: Json = answer.json
    if ERROR_SCHEMA is not None:
        assert [each.message for each in ERROR_SCHEMA.iter_errors(body)] == [], body
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "code", "param"}
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert answer.headers["x-request-id"].startswith("req_")
    return answer.status, body["error"]


@asynccontextmanager
async def built(data: Path, **flags: Any) -> AsyncIterator[ContractServer]:
    scripted = MockServer(ALL)
    base = await scripted.start()
    origin = base.removesuffix("/v1")
    hasty = {"first_token_seconds": 0.3, "stall_seconds": 0.3, "total_seconds": 5.0}
    kinds: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
        "": ({}, tuple(ALL)),
        "hasty/": (hasty, ("stall-early", "comments-only", "stall", "murmur")),
        "drained/": ({"on_disconnect": "drain"}, ("apart",)),
        "fan/": ({"n": "fan-out"}, ("happy", "thinking", "usage-nowhere", "cut")),
        "tags/": (
            {"reasoning": "think-tags"},
            ("think-tags", "think-letters", "think-by-the-way", "happy"),
        ),
        "anthropic/": ({"dialect": "anthropic", "base_url": base}, ("happy", "thinking")),
        "gemini/": ({"dialect": "gemini", "base_url": f"{origin}"}, ("happy", "thinking")),
        "ollama/": ({"dialect": "ollama", "base_url": origin}, ("happy", "thinking")),
        "openai/": ({"provider": "openai"}, ("happy",)),
        "llama/": ({"provider": "llama.cpp"}, ("happy",)),
        "fragile/": ({"open_after": 1, "open_seconds": 60.0}, ("500",)),
    }
    deployments = [
        {"name": kind + name, "model": name, "base_url": base, "open_after": 0} | terms
        for kind, (terms, names) in kinds.items()
        for name in names
    ]
    routes = [
        {"model": each["name"], "deployments": [each["name"]], "attempts": 1}
        for each in deployments
    ]
    flags = {"streams.gate_seconds": 30.0, "streams.heartbeat_seconds": 30.0} | flags
    settings = settings_for(data, None, deployments=deployments, routes=routes, **flags)
    async with serving(settings) as legato:
        yield ContractServer(legato, scripted)
    await until(lambda: scripted.open_connections == 0, "no connection to the upstream is left")
    await scripted.stop()
