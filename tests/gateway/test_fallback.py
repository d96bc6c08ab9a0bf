"""A route with several deployments: another is asked where one fails before its first token, and
goes on where one breaks after it."""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer, Script, Step
from tests.conftest import Running, serving, settings_for
from tests.support.wire import Answer, ask, chat

TEXT = "Once upon a time, there was a stream."


@asynccontextmanager
async def routed(
    tmp_path: Path,
    scripted: MockServer,
    scripts: Iterable[str],
    *,
    route: dict[str, Any] | None = None,
    deploy: dict[str, dict[str, Any]] | None = None,
    **more: Any,
) -> AsyncIterator[Running]:
    """A server with one route, `public`, to a deployment for each script, named after it."""
    base = await scripted.start()
    names = list(scripts)
    flags: dict[str, Any] = {
        "deployments": [
            {"name": name, "base_url": base, "model": name, "open_after": 0}
            | {"first_token_seconds": 0.3, "stall_seconds": 0.3}
            | (deploy or {}).get(name, {})
            for name in names
        ],
        "routes": [{"model": "public", "deployments": names} | (route or {})],
        "streams.gate_seconds": 2.0,
        "streams.heartbeat_seconds": 0.2,
    }
    async with serving(settings_for(tmp_path, None, **flags | more)) as running:
        yield running


async def result(legato: Running, **more: Any) -> Answer:
    body = chat("public", stream=True, stream_options={"include_usage": True}, **more)
    return await ask(legato.port, legato.key, body)


def played(scripted: MockServer) -> list[str]:
    return [each.model for each in scripted.requests]


BEFORE = [
    *("no-head", "cut-early", "empty", "error-first", "bad-json-first", "error-body", "html"),
    *("401", "429", "500", "503", "stall-early", "comments-only"),
]


@pytest.mark.parametrize("name", BEFORE)
@pytest.mark.parametrize("stream", [True, False])
async def test_another_is_asked_where_one_fails(
    tmp_path: Path, scripted: MockServer, name: str, stream: bool
) -> None:
    async with routed(tmp_path, scripted, [name, "happy"]) as legato:
        answer = await ask(legato.port, legato.key, chat("public", stream=stream))
        assert answer.status == 200
        assert answer.headers["x-legato-deployment"] == "happy"
        assert answer.headers["x-legato-attempts"] == "2"
        (row,) = await legato.rows()
        assert row["outcome"] == "complete"
        assert row["deployments"] == f"{name},happy"
        assert row["errors"].endswith(",")
        assert row["attempts"] == 2
        if stream:
            assert answer.done
            assert answer.text() == TEXT


async def test_the_callers_own_mistakes_are_nobody_elses(
    tmp_path: Path, scripted: MockServer
) -> None:
    async with routed(tmp_path, scripted, ["400", "happy"]) as legato:
        answer = await result(legato)
        assert answer.status == 400
        assert played(scripted) == ["400"]


async def test_too_long_for_one_is_asked_of_a_longer_one(
    tmp_path: Path, scripted: MockServer
) -> None:
    lengths = {"too-long": 4096, "tools": 2048, "happy": 131072}
    deploy = {name: {"context_length": length} for name, length in lengths.items()}
    async with routed(tmp_path, scripted, lengths, deploy=deploy) as legato:
        assert (await result(legato)).done
        assert played(scripted) == ["too-long", "happy"]


async def test_too_long_for_all_of_them(tmp_path: Path, scripted: MockServer) -> None:
    async with routed(tmp_path, scripted, ["too-long", "happy"]) as legato:
        answer = await result(legato)
        assert answer.status == 400
        assert answer.error is not None
        assert answer.error["code"] == "context_length_exceeded"


async def test_one_that_is_busy_for_a_moment_is_asked_again(
    tmp_path: Path, scripted: MockServer
) -> None:
    async with routed(tmp_path, scripted, ["429-then-ok"]) as legato:
        assert (await result(legato)).done
        assert played(scripted) == ["429-then-ok"] * 2


async def test_attempts_are_limited(tmp_path: Path, scripted: MockServer) -> None:
    async with routed(tmp_path, scripted, ["500"], route={"attempts": 2}) as legato:
        answer = await result(legato)
        assert (answer.status, answer.headers["x-legato-attempts"]) == (502, "2")
        assert played(scripted) == ["500"] * 2
        (row,) = await legato.rows()
        assert row["errors"] == "upstream_500,upstream_500"


async def test_a_breaker_spares_the_one_that_fails(tmp_path: Path, scripted: MockServer) -> None:
    deploy = {"500": {"open_after": 2, "open_seconds": 60.0}}
    async with routed(tmp_path, scripted, ["500", "happy"], deploy=deploy) as legato:
        for _ in range(5):
            assert (await result(legato)).done
        assert played(scripted).count("500") == 2
        assert played(scripted).count("happy") == 5


async def test_one_whose_breaker_has_opened_meanwhile_is_not_asked_again(
    tmp_path: Path, scripted: MockServer
) -> None:
    names = ["500", "503"]
    deploy = {name: {"open_after": 1, "open_seconds": 60.0} for name in names}
    async with routed(tmp_path, scripted, names, deploy=deploy) as legato:
        answer = await result(legato)
        assert answer.error is not None
        assert answer.error["code"] == "upstream_503"
        assert played(scripted) == names


async def test_a_breaker_spares_one_that_breaks_and_is_gone_on_with(
    tmp_path: Path, scripted: MockServer
) -> None:
    """That another gave the rest does not make it any healthier."""
    scripted.scripts["rest"] = REST
    deploy = {"cut": {"open_after": 1, "open_seconds": 60.0}, "rest": {"continue": "prefill"}}
    async with routed(tmp_path, scripted, ["cut", "rest"], deploy=deploy) as legato:
        for _ in range(2):
            assert (await result(legato)).done
        assert played(scripted) == ["cut", "rest", "rest"]


async def test_all_are_to_be_left_alone(tmp_path: Path, scripted: MockServer) -> None:
    deploy = {"429": {"open_after": 5}}
    async with routed(tmp_path, scripted, ["429"], deploy=deploy) as legato:
        assert (await result(legato)).status == 429
        answer = await result(legato)
        assert answer.status == 503
        assert answer.error is not None
        assert answer.error["code"] == "no_deployment"
        assert 1 <= int(answer.headers["retry-after"]) <= 7
        assert played(scripted) == ["429"]


async def test_credentials_are_used_in_turn(tmp_path: Path, scripted: MockServer) -> None:
    deploy = {"429-then-ok": {"api_key": "one", "api_keys": ["two", "three"]}}
    async with routed(tmp_path, scripted, ["429-then-ok"], deploy=deploy) as legato:
        assert (await result(legato)).done
        assert (await result(legato)).done
        keys = [each.headers["authorization"] for each in scripted.requests]
        assert keys == ["Bearer one", "Bearer two", "Bearer two"]
        first, _ = await legato.rows()
        assert first["attempts"] == 1, "the same deployment"


# After the first token

BROKEN = ["cut", "reset", "stall", "bad-json", "error-in-band", "error-then-done", "no-finish"]

REST = Script(
    steps=[
        Step(say=" And"),
        Step(say=" on."),
        Step(finish="length"),
        Step(usage={"prompt_tokens": 21, "completion_tokens": 2, "total_tokens": 23}),
        Step(done=True),
    ]
)


@pytest.mark.parametrize("name", BROKEN)
async def test_another_goes_on_where_one_breaks(
    tmp_path: Path, scripted: MockServer, name: str
) -> None:
    scripted.scripts["rest"] = REST
    deploy = {"rest": {"continue": "prefill"}}
    async with routed(tmp_path, scripted, [name, "rest"], deploy=deploy) as legato:
        answer = await result(legato, max_tokens=50)
        assert answer.done
        assert answer.text() == TEXT + " And on."
        assert answer.finishes() == ["length"]
        roles = [each for each in answer.chunks if each["choices"] and _role(each)]
        assert len(roles) == 1
        assert len({each["id"] for each in answer.chunks}) == 1
        usage = answer.chunks[-1]["usage"]
        assert usage["completion_tokens"] == 12
        assert usage["prompt_tokens"] == 11, "what had been delivered is in the second one's"
        asked = scripted.requests[-1].request
        assert asked["messages"][-1] == {"role": "assistant", "content": TEXT}
        assert asked["max_tokens"] == 40
        (row,) = await legato.rows()
        assert (row["outcome"], row["continuations"]) == ("complete", 1)
        assert row["deployments"] == f"{name},rest"
        assert row["errors"].endswith(",")
        assert row["completion_tokens"] == 12
        assert row["completion_from"] == "counted"


@pytest.mark.parametrize("both", [False, True])
async def test_whose_prompt_counts(tmp_path: Path, scripted: MockServer, both: bool) -> None:
    told = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
    first = [SCRIPTS["happy"].steps[0], Step(usage=told), Step(cut=True)]
    scripted.scripts |= {"first": Script(steps=first), "rest": REST}
    route = {"count_both_prompts": both}
    deploy = {"rest": {"continue": "prefill"}}
    names = ["first", "rest"]
    async with routed(tmp_path, scripted, names, route=route, deploy=deploy) as legato:
        answer = await result(legato)
        assert answer.done
        prompt = 9 + 21 if both else 9
        assert answer.chunks[-1]["usage"]["prompt_tokens"] == prompt
        (row,) = await legato.rows()
        assert row["prompt_tokens"] == prompt


def _role(chunk: dict[str, Any]) -> bool:
    return "role" in chunk["choices"][0]["delta"]


async def test_a_folded_answer_goes_on_as_well(tmp_path: Path, scripted: MockServer) -> None:
    scripted.scripts["rest"] = REST
    deploy = {"rest": {"continue": "prefill"}}
    async with routed(tmp_path, scripted, ["cut", "rest"], deploy=deploy) as legato:
        answer = await ask(legato.port, legato.key, chat("public"))
        assert answer.json["choices"][0]["message"]["content"] == TEXT + " And on."


CANNOT: dict[str, tuple[str, dict[str, Any]]] = {
    "several choices": ("cut", {"n": 2}),
    "json": ("cut", {"response_format": {"type": "json_object"}}),
    "nothing left of the limit": ("cut", {"max_tokens": 10}),
    "a tool call has begun": ("tool-cut", {}),
    "from inside its thoughts": ("thinking-cut", {}),
}


@pytest.mark.parametrize("case", CANNOT)
async def test_what_cannot_be_joined_without_a_trace_fails(
    tmp_path: Path, scripted: MockServer, case: str
) -> None:
    name, more = CANNOT[case]
    tools = [step for step in SCRIPTS["tools"].steps if step.tool is not None]
    scripted.scripts["rest"] = REST
    scripted.scripts["tool-cut"] = Script(steps=[*tools[:2], Step(cut=True)])
    scripted.scripts["thinking-cut"] = Script(steps=[Step(think="Let me"), Step(cut=True)])
    deploy = {"rest": {"continue": "prefill"}}
    async with routed(tmp_path, scripted, [name, "rest"], deploy=deploy) as legato:
        answer = await result(legato, **more)
        assert answer.error is not None
        assert answer.error["code"] == "upstream_cut"
        assert b"[DONE]" not in answer.body
        assert "rest" not in played(scripted)
        (row,) = await legato.rows()
        assert row["outcome"] == "failed"


@pytest.mark.parametrize("off", ["route", "deployment"])
async def test_it_may_be_off(tmp_path: Path, scripted: MockServer, off: str) -> None:
    scripted.scripts["rest"] = REST
    deploy = {"rest": {"continue": "prefill" if off == "route" else "no"}}
    route = {"max_continuations": 0 if off == "route" else 1}
    async with routed(tmp_path, scripted, ["cut", "rest"], route=route, deploy=deploy) as legato:
        answer = await result(legato)
        assert answer.error is not None
        assert answer.error["code"] == "upstream_cut"


async def test_the_next_one_is_asked_where_the_first_to_go_on_cannot(
    tmp_path: Path, scripted: MockServer
) -> None:
    scripted.scripts["rest"] = REST
    deploy = {name: {"continue": "prefill"} for name in ("500", "rest")}
    async with routed(tmp_path, scripted, ["cut", "500", "rest"], deploy=deploy) as legato:
        answer = await result(legato)
        assert answer.text() == TEXT + " And on."
        (row,) = await legato.rows()
        assert row["deployments"] == "cut,500,rest"
        assert row["errors"] == "upstream_cut,upstream_500,"


@pytest.mark.parametrize("stream", [True, False])
async def test_one_that_is_to_be_left_alone_does_not_go_on(
    tmp_path: Path, scripted: MockServer, stream: bool
) -> None:
    """Its breaker is open. The third one is asked instead."""
    scripted.scripts["rest"] = REST
    deploy = {name: {"continue": "prefill", "open_after": 1} for name in ("500", "rest")}
    names = ["500", "cut", "rest"]
    async with routed(tmp_path, scripted, names, deploy=deploy) as legato:
        for asked in (["500", "cut", "rest"], ["cut", "rest"]):
            scripted.requests.clear()
            answer = await ask(legato.port, legato.key, chat("public", stream=stream))
            if stream:
                assert answer.text() == TEXT + " And on."
            else:
                assert answer.json["choices"][0]["message"]["content"] == TEXT + " And on."
            assert played(scripted) == asked


async def test_it_goes_on_only_so_often(tmp_path: Path, scripted: MockServer) -> None:
    scripted.scripts["cut-again"] = Script(steps=[Step(say=" And"), Step(cut=True)])
    scripted.scripts["rest"] = REST
    deploy = {name: {"continue": "prefill"} for name in ("cut-again", "rest")}
    names = ["cut", "cut-again", "rest"]
    async with routed(tmp_path, scripted, names, deploy=deploy) as legato:
        answer = await result(legato)
        assert answer.text() == TEXT + " And"
        assert answer.error is not None
        assert answer.error["code"] == "upstream_cut"
    scripted.requests.clear()


@pytest.mark.parametrize("breaks", [2, 3])
async def test_twice_where_twice_is_allowed(
    tmp_path: Path, scripted: MockServer, breaks: int
) -> None:
    scripted.scripts |= {
        "cut-again": Script(steps=[Step(say=" And"), Step(cut=True)]),
        "and-again": Script(steps=[Step(say=" on"), Step(cut=True)]),
        "rest": Script(steps=[Step(say=" on."), Step(finish="stop")]),
    }
    names = ["cut", "cut-again", "and-again", "rest"]
    if breaks == 2:
        names.remove("and-again")
    deploy = {name: {"continue": "prefill"} for name in names[1:]}
    route = {"max_continuations": 2, "attempts": 4}
    async with routed(tmp_path, scripted, names, route=route, deploy=deploy) as legato:
        answer = await result(legato)
        (row,) = await legato.rows()
    assert row["continuations"] == 2
    assert played(scripted) == names[:3]
    if breaks == 2:
        assert answer.done
        assert answer.text() == TEXT + " And on."
        assert answer.chunks[-1]["usage"]["completion_tokens"] == 12
    else:
        assert answer.text() == TEXT + " And on"
        assert answer.error is not None


@pytest.mark.parametrize("strategy", ["order", "least-busy", "fastest"])
@pytest.mark.parametrize("stream", [True, False])
async def test_who_goes_on_is_found_as_who_begins_is(
    tmp_path: Path, scripted: MockServer, strategy: str, stream: bool
) -> None:
    """Whoever goes on, or starts over where nobody has seen anything."""
    scripted.scripts["rest"] = REST
    deploy = {"rest": {"continue": "prefill" if stream else "no"}}
    route = {"strategy": strategy}
    async with routed(tmp_path, scripted, ["cut", "rest"], route=route, deploy=deploy) as legato:
        answer = await ask(legato.port, legato.key, chat("public", stream=stream))
        if stream:
            assert answer.text() == TEXT + " And on."
        else:
            assert answer.json["choices"][0]["message"]["content"] == " And on."
        assert played(scripted) == ["cut", "rest"]


async def test_an_answer_that_is_fixed_may_be_repeated(
    tmp_path: Path, scripted: MockServer
) -> None:
    """The second one gives all of it from the start: what is known is taken away."""
    scripted.scripts["again"] = msgspec.structs.replace(
        SCRIPTS["happy"], steps=[Step(say="On"), Step(say="ce"), *SCRIPTS["happy"].steps[1:]]
    )
    half = [*SCRIPTS["happy"].steps[:4], Step(cut=True)]
    scripted.scripts["half"] = Script(steps=half)
    deploy = {
        "half": {"model": "half"},
        "again": {"model": "half", "continue": "replay"},
    }
    async with routed(tmp_path, scripted, ["half", "again"], deploy=deploy) as legato:
        scripted.scripts["half"] = msgspec.structs.replace(
            scripted.scripts["half"], then=scripted.scripts["again"]
        )
        answer = await result(legato, seed=1, temperature=0)
        assert answer.done
        assert answer.text() == TEXT
        assert answer.finishes() == ["stop"]
        assert answer.chunks[-1]["usage"]["completion_tokens"] == 10, "once, not twice"
        assert answer.chunks[-1]["usage"]["prompt_tokens"] == 7
        assert scripted.requests[-1].request["messages"][-1]["role"] == "user"


async def test_a_repeated_answer_has_to_be_the_same(tmp_path: Path, scripted: MockServer) -> None:
    other = Script(steps=[Step(say="Once upon the"), Step(finish="stop")])
    half = [*SCRIPTS["happy"].steps[:4], Step(cut=True)]
    scripted.scripts["half"] = Script(steps=half, then=other)
    deploy = {"half": {"model": "half"}, "again": {"model": "half", "continue": "replay"}}
    async with routed(tmp_path, scripted, ["half", "again"], deploy=deploy) as legato:
        answer = await result(legato, seed=1, temperature=0)
        assert answer.text() == "Once upon a time"
        assert answer.error is not None
        assert answer.error["code"] == "upstream_cut"
        (row,) = await legato.rows()
        assert row["errors"] == "upstream_cut,upstream_diverged"


FIXED: dict[str, Any] = {"seed": 1, "temperature": 0}
AGAIN = {"model": "half", "continue": "replay"}
# the parameters of the request, and the settings of the second deployment
NOT_REPEATED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "without a seed": ({"temperature": 0}, AGAIN),
    "without a temperature": ({"seed": 1}, AGAIN),
    "with chance": ({"seed": 1, "temperature": 0.1}, AGAIN),
    "by another model": (FIXED, AGAIN | {"model": "again"}),
    "where nobody has allowed it": (FIXED, {"model": "half"}),
}


@pytest.mark.parametrize("case", NOT_REPEATED)
async def test_an_answer_that_may_differ_is_not_repeated(
    tmp_path: Path, scripted: MockServer, case: str
) -> None:
    parameters, second = NOT_REPEATED[case]
    half = [*SCRIPTS["happy"].steps[:4], Step(cut=True)]
    scripted.scripts |= {"half": Script(steps=half, then=SCRIPTS["happy"])}
    scripted.scripts |= {"again": SCRIPTS["happy"]}
    deploy = {"half": {"model": "half"}, "again": second}
    async with routed(tmp_path, scripted, ["half", "again"], deploy=deploy) as legato:
        answer = await result(legato, **parameters)
        assert answer.text() == "Once upon a time"
        assert answer.error is not None
        assert answer.error["code"] == "upstream_cut"
        assert len(scripted.requests) == 1


def event(**fields: Any) -> str:
    return f"data: {json.dumps(fields)}\n\n"


# what the first one sends before it breaks without an answer
NOTHING_OF_IT = {
    "usage": event(choices=[], x=1, usage={"prompt_tokens": 99, "completion_tokens": 88}),
    "members beside a role": event(choices=[{"index": 0, "delta": {"role": "assistant"}, "x": 2}]),
    "members and an error": event(choices=[], x=1) + event(error={"message": "gone", "code": 500}),
}


@pytest.mark.parametrize("again", [False, True], ids=["another one", "the same one"])
@pytest.mark.parametrize("case", NOTHING_OF_IT)
async def test_nothing_of_one_that_broke_before_its_answer_is_in_that_of_the_next(
    tmp_path: Path, scripted: MockServer, case: str, again: bool
) -> None:
    answers = SCRIPTS["usage-nowhere"]
    breaks = Script(steps=[Step(raw=NOTHING_OF_IT[case])])
    scripted.scripts["breaks"] = msgspec.structs.replace(breaks, then=answers if again else None)
    names = ["breaks"] if again else ["breaks", "usage-nowhere"]
    async with routed(tmp_path, scripted, names) as legato:
        answer = await result(legato)
        assert answer.done
        assert answer.text() == TEXT
        assert b'"x":' not in answer.body
        assert answer.chunks[-1]["usage"]["prompt_tokens"] == 0
        (row,) = await legato.rows()
        assert (row["completion_from"], row["prompt_tokens"]) == ("counted", 0)
