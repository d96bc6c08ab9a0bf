"""What is tried again, where, and when it is given up: failures before an answer begins, answers
that nobody has seen yet, and calls whose client has left."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from legato import dialects
from legato.core.errors import ApiError, UpstreamError, gateway_timeout
from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer, Script, Step
from legato.policy.retry import RetryBudget
from legato.policy.routing import Route
from legato.upstreams.upstream import DeploymentOptions, Upstream
from tests.conftest import Running, serving, settings_for, until
from tests.gateway.test_fallback import TEXT, played, result, routed
from tests.support.wire import Wire, ask, chat, request

#: Seconds within which a call is over whose timers are right; wrong ones are several times that.
SOON = 2.5


def failing(status: int, body: str, **more: Any) -> Script:
    return Script(status=status, body=body, **more)


# `retry_seconds`: how long the same one is asked again


@pytest.mark.parametrize("stream", [True, False])
async def test_another_is_asked_after_retry_seconds(
    tmp_path: Path, scripted: MockServer, stream: bool
) -> None:
    """One that has not been asked is, though the first one's silence took longer than that."""
    names, route = ["stall-early", "happy"], {"retry_seconds": 0.1}
    async with routed(tmp_path, scripted, names, route=route) as legato:
        answer = await ask(legato.port, legato.key, chat("public", stream=stream))
        assert answer.status == 200
        assert played(scripted) == names
        (row,) = await legato.rows()
        assert row["errors"] == "upstream_first_token_timeout,"


async def test_the_same_one_is_not_asked_again_after_retry_seconds(
    tmp_path: Path, scripted: MockServer
) -> None:
    async with routed(tmp_path, scripted, ["500"], route={"retry_seconds": 0.1}) as legato:
        assert (await result(legato)).status == 502
        assert played(scripted) == ["500"]


async def test_one_that_was_to_be_asked_again_is_not_where_another_took_that_long(
    tmp_path: Path, scripted: MockServer
) -> None:
    names, route = ["500", "stall-early"], {"retry_seconds": 0.5}
    deploy = {"stall-early": {"first_token_seconds": 0.6}}
    async with routed(tmp_path, scripted, names, route=route, deploy=deploy) as legato:
        assert (await result(legato)).status == 504
        assert played(scripted) == names


async def test_each_is_asked_again_as_often_as_it_may_be(
    tmp_path: Path, scripted: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the others have failed does not count."""
    monkeypatch.setattr("legato.policy.retry.BACKOFF", 0.01)
    names, route = ["500", "503"], {"attempts": 9}
    async with routed(tmp_path, scripted, names, route=route) as legato:
        assert (await result(legato)).status in (502, 503)
        assert sorted(played(scripted)) == sorted(names * 3)


async def test_attempts_limit_the_others_too(tmp_path: Path, scripted: MockServer) -> None:
    names, route = ["stall-early", "happy"], {"retry_seconds": 0.1, "attempts": 1}
    async with routed(tmp_path, scripted, names, route=route) as legato:
        assert (await result(legato)).status == 504
        assert played(scripted) == ["stall-early"]


def test_with_defaults_a_first_token_timeout_falls_back() -> None:
    route, terms = Route("m", ("a", "b")), DeploymentOptions()
    budget = RetryBudget(route.attempts, route.retry_seconds, 5.0)
    budget.record_attempt("a")
    now = terms.first_token_seconds
    late = gateway_timeout("", code="upstream_first_token_timeout")
    assert budget.retry_delay("a", late, now) is None
    assert not budget.allows("a", now)
    assert budget.allows("b", now)


# Timers of who is asked later


@pytest.mark.parametrize("stream", [True, False])
async def test_the_next_ones_timers_are_its_own(
    tmp_path: Path, scripted: MockServer, stream: bool
) -> None:
    scripted.scripts["late-500"] = msgspec.structs.replace(SCRIPTS["500"], head_after=0.6)
    terms = {"first_token_seconds": 9.0, "stall_seconds": 9.0}
    quiet = {"streams.heartbeat_seconds": 20.0, "streams.gate_seconds": 20.0}
    names = ["late-500", "stall-early"]
    async with routed(
        tmp_path, scripted, names, route={"attempts": 2}, deploy={"late-500": terms}, **quiet
    ) as legato:
        began = time.monotonic()
        answer = await ask(legato.port, legato.key, chat("public", stream=stream))
        assert 0.9 <= time.monotonic() - began < SOON
        assert answer.error is not None
        assert answer.error["code"] == "upstream_first_token_timeout"


@pytest.mark.parametrize("name", ["stall-early", "stall"])
@pytest.mark.parametrize("stream", [True, False])
async def test_the_timers_of_who_goes_on_are_its_own(
    tmp_path: Path, scripted: MockServer, stream: bool, name: str
) -> None:
    steps = [Step(say="Once"), Step(wait=0.6), Step(cut=True)]
    scripted.scripts["cut-later"] = Script(steps=steps)
    deploy = {
        "cut-later": {"first_token_seconds": 9.0, "stall_seconds": 9.0},
        name: {"continue": "prefill"},
    }
    quiet = {"streams.heartbeat_seconds": 20.0, "streams.gate_seconds": 20.0}
    names = ["cut-later", name]
    async with routed(
        tmp_path, scripted, names, route={"attempts": 2}, deploy=deploy, **quiet
    ) as legato:
        began = time.monotonic()
        answer = await ask(legato.port, legato.key, chat("public", stream=stream))
        assert 0.9 <= time.monotonic() - began < SOON
        assert answer.error is not None
        (row,) = await legato.rows()
        late = "upstream_first_token_timeout" if name == "stall-early" else "upstream_stalled"
        assert row["errors"] == f"upstream_cut,{late}"


# Credentials


def test_a_credential_is_left_once() -> None:
    upstream = Upstream("a", "m")
    used = upstream.credential
    upstream.rotate(used)
    after = upstream.credential
    assert after != used
    upstream.rotate(used)
    assert upstream.credential == after, "that it is used up was known by then"
    upstream.rotate(after)
    assert upstream.credential not in (used, after)


async def test_two_calls_that_find_a_key_used_up_go_on_with_the_second(
    tmp_path: Path, scripted: MockServer
) -> None:
    again = Script(steps=SCRIPTS["happy"].steps)
    for _ in range(2):
        again = msgspec.structs.replace(SCRIPTS["429"], head_after=0.3, then=again)
    scripted.scripts["used-up"] = again
    keys = {"api_keys": ["one", "two", "three"], "first_token_seconds": 5.0}
    async with routed(tmp_path, scripted, ["used-up"], deploy={"used-up": keys}) as legato:
        for answer in await asyncio.gather(result(legato), result(legato)):
            assert answer.done
        used = [each.headers["authorization"].removeprefix("Bearer ") for each in scripted.requests]
        assert used == ["one", "one", "two", "two"]


# The caller's own, sent in the stream

TOO_LONG = "This model's maximum context length is 4096 tokens, and the prompt has 5000."
IN_STREAM: dict[str, tuple[dict[str, Any], str]] = {
    "400": ({"message": "`top_k` is not known.", "type": "BadRequestError", "code": 400}, "any"),
    "422": ({"message": "`top_k` is not known.", "code": 422}, "any"),
    "413": ({"message": "The body is too large.", "code": 413}, "any"),
    "SGLang's": (
        {
            "object": "error",
            "message": "The input (5000 tokens) is longer than the model's context length "
            "(4096 tokens).",
            "type": "BadRequestError",
            "code": 400,
        },
        "context_length_exceeded",
    ),
    "vLLM's": (
        {"object": "error", "message": TOO_LONG, "type": "BadRequestError", "code": 400},
        "context_length_exceeded",
    ),
    "llama.cpp's": (
        {
            "message": "the request exceeds the available context size, try increasing it",
            "type": "exceed_context_size_error",
            "code": 400,
        },
        "context_length_exceeded",
    ),
    "OpenAI's, without a status": (
        {
            "message": TOO_LONG,
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        },
        "context_length_exceeded",
    ),
    "too long in words alone": ({"message": TOO_LONG}, "context_length_exceeded"),
}


@pytest.mark.parametrize("case", IN_STREAM)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_that_begins_a_stream_may_be_the_callers(
    tmp_path: Path, scripted: MockServer, case: str, stream: bool
) -> None:
    error, code = IN_STREAM[case]
    scripted.scripts["refuses"] = Script(steps=[Step(error=error), Step(done=True)])
    deploy = {"refuses": {"open_after": 1}}
    async with routed(tmp_path, scripted, ["refuses", "happy"], deploy=deploy) as legato:
        answer = await ask(legato.port, legato.key, chat("public", stream=stream))
        assert answer.error is not None
        assert answer.status == 400
        assert code in ("any", answer.error["code"])
        assert played(scripted) == ["refuses"]
        health = legato.app.services.router.health["refuses"]
        assert health.state(legato.app.services.clock()) == "closed"
        (row,) = await legato.rows()
        assert row["outcome"] == "refused"


IN_DIALECTS: dict[str, tuple[str, bytes, str]] = {
    "anthropic": (
        "anthropic",
        b'{"type":"error","error":{"type":"invalid_request_error",'
        b'"message":"prompt is too long: 200001 tokens > 200000 maximum"}}',
        "context_length_exceeded",
    ),
    "anthropic, something else": (
        "anthropic",
        b'{"type":"error","error":{"type":"invalid_request_error","message":"top_k: no."}}',
        "invalid_request",
    ),
    "gemini": (
        "gemini",
        b'{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"The input token count '
        b'(1200000) exceeds the maximum number of tokens allowed (1048576)."}}',
        "context_length_exceeded",
    ),
    "ollama": (
        "ollama",
        b'{"error":"the input length exceeds the context length"}',
        "context_length_exceeded",
    ),
}


@pytest.mark.parametrize("case", IN_DIALECTS)
def test_every_dialect_tells_whose_fault_it_is(case: str) -> None:
    name, event, code = IN_DIALECTS[case]
    with pytest.raises(ApiError) as caught:
        dialects.named(name).reader().read(b"error" if name == "anthropic" else b"", event)
    assert not isinstance(caught.value, UpstreamError)
    assert (caught.value.status, caught.value.code) == (400, code)


async def test_too_long_said_in_the_stream_goes_to_a_longer_one(
    tmp_path: Path, scripted: MockServer
) -> None:
    error = IN_STREAM["vLLM's"][0]
    scripted.scripts["short"] = Script(steps=[Step(error=error), Step(done=True)])
    lengths = {"short": 4096, "tools": 2048, "happy": 131072}
    deploy = {name: {"context_length": length} for name, length in lengths.items()}
    async with routed(tmp_path, scripted, lengths, deploy=deploy) as legato:
        answer = await result(legato)
        assert answer.text() == TEXT
        assert played(scripted) == ["short", "happy"]


async def test_in_the_middle_of_an_answer_it_is_a_break(
    tmp_path: Path, scripted: MockServer
) -> None:
    error = {"message": "Out of context.", "code": 400}
    scripted.scripts["breaks"] = Script(steps=[*SCRIPTS["happy"].steps[:10], Step(error=error)])
    async with routed(tmp_path, scripted, ["breaks"]) as legato:
        answer = await result(legato)
        assert (answer.status, answer.text()) == (200, TEXT)
        assert answer.error is not None
        assert b"[DONE]" not in answer.body
        (row,) = await legato.rows()
        assert row["outcome"] == "failed"


# Answers that nobody has seen yet

TOOLS = [step for step in SCRIPTS["tools"].steps if step.tool is not None]
THOUGHTS = [Step(think="Hm"), Step(think=" what"), Step(cut=True)]
LOGPROBS = {"content": [{"token": "Twice", "logprob": -1.0, "bytes": None, "top_logprobs": []}]}
LIKELY = {"choices": [{"index": 0, "delta": {"content": "Twice"}, "logprobs": LOGPROBS}]}
BREAKS: dict[str, Script] = {
    "tools-cut": Script(steps=[*TOOLS[:2], Step(cut=True)]),
    "thoughts-cut": Script(steps=THOUGHTS),
    "likely-cut": Script(steps=[Step(chunk=LIKELY), Step(cut=True)]),
    "choices-cut": Script(steps=[*SCRIPTS["choices"].steps[:5], Step(cut=True)]),
}

# who breaks, who answers, what is asked for, and how
OVER: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "json": ("cut", "happy", {"response_format": {"type": "json_object"}}, {}),
    "json, silent": ("stall", "happy", {"response_format": {"type": "json_object"}}, {}),
    "several choices": ("choices-cut", "choices", {"n": 3}, {}),
    "several choices of as many calls": ("cut", "happy", {"n": 2}, {"n": "fan-out"}),
    "a tool call has begun": ("tools-cut", "tools", {}, {}),
    "thoughts have begun": ("thoughts-cut", "thinking", {}, {"continue": "prefill"}),
    "logprobs": ("likely-cut", "happy", {"logprobs": True}, {"continue": "prefill"}),
    "nobody goes on": ("cut", "happy", {}, {"continue": "no"}),
}


@pytest.mark.parametrize("case", OVER)
async def test_an_answer_that_nobody_has_seen_starts_over(
    tmp_path: Path, scripted: MockServer, case: str
) -> None:
    """Of the one that broke nothing is left but its row."""
    breaks, answers, more, deploy = OVER[case]
    scripted.scripts |= BREAKS
    names = [breaks, answers]
    async with routed(tmp_path, scripted, names, deploy=dict.fromkeys(names, deploy)) as legato:
        answer = await ask(legato.port, legato.key, chat("public", **more))
        scripted.scripts[breaks] = SCRIPTS[answers]
        expected = await ask(legato.port, legato.key, chat("public", **more))
        assert answer.status == expected.status == 200
        assert answer.headers["x-legato-deployment"] == answers
        for result in (answer.json, expected.json):
            del result["id"], result["created"]
        assert _plain(answer.json) == _plain(expected.json)
        row, _ = await legato.rows()
        assert row["outcome"] == "complete"
        assert row["deployments"] == f"{breaks},{answers}"
        assert row["errors"].endswith(",")
        assert row["continuations"] == 0
        assert row["completion_tokens"] == expected.json["usage"]["completion_tokens"]


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in result.items() if name not in ("id", "created")}


async def test_what_starts_over_takes_its_time(tmp_path: Path, scripted: MockServer) -> None:
    """The first token of the second answer is not all of it."""
    steps = SCRIPTS["happy"].steps
    scripted.scripts["slowly"] = Script(steps=[*steps[:2], Step(wait=0.1), *steps[2:]])
    async with routed(tmp_path, scripted, ["tools-cut", "slowly"]) as legato:
        scripted.scripts |= BREAKS
        answer = await ask(legato.port, legato.key, chat("public"))
        assert answer.status == 200
        assert answer.json["choices"][0]["message"]["content"] == TEXT


async def test_one_that_could_be_gone_on_with_starts_over_where_nobody_may(
    tmp_path: Path, scripted: MockServer
) -> None:
    route = {"max_continuations": 0}
    async with routed(tmp_path, scripted, ["cut", "happy"], route=route) as legato:
        answer = await ask(legato.port, legato.key, chat("public"))
        assert answer.json["choices"][0]["message"]["content"] == TEXT
        assert answer.json["usage"]["completion_tokens"] == 10


SPACE = Script(steps=[Step(say="Once"), Step(say=" upon "), Step(cut=True)])
# who breaks, what is asked for, and how the second one would go on
UNJOINED: dict[str, tuple[Script, dict[str, Any], dict[str, Any]]] = {
    "nothing is left of the limit": (SCRIPTS["cut"], {"max_tokens": 10}, {"continue": "prefill"}),
    "white space at the end": (SPACE, {}, {"continue": "final-message"}),
    "a model that takes no prefill": (
        SCRIPTS["cut"],
        {},
        {"dialect": "anthropic", "model": "claude-opus-4-8"},
    ),
}


@pytest.mark.parametrize("case", UNJOINED)
async def test_one_that_cannot_go_on_may_start_over(
    tmp_path: Path, scripted: MockServer, case: str
) -> None:
    """That it was not asked to go on does not mean that it has been asked."""
    breaks, more, deploy = UNJOINED[case]
    scripted.scripts |= {"first": breaks, "claude-opus-4-8": SCRIPTS["happy"]}
    names = ["first", "happy"]
    async with routed(tmp_path, scripted, names, deploy={"happy": deploy}) as legato:
        answer = await ask(legato.port, legato.key, chat("public", **more))
        assert answer.status == 200
        assert answer.json["choices"][0]["message"]["content"] == TEXT
        assert len(scripted.requests) == 2
        (row,) = await legato.rows()
        assert row["outcome"] == "complete"
        assert row["deployments"].endswith(",happy")


async def test_attempts_limit_starting_over(tmp_path: Path, scripted: MockServer) -> None:
    route = {"attempts": 1}
    async with routed(tmp_path, scripted, ["cut", "happy"], route=route) as legato:
        answer = await ask(legato.port, legato.key, chat("public"))
        assert answer.status == 502
        assert answer.error is not None
        assert answer.error["code"] == "upstream_cut"
        assert played(scripted) == ["cut"]


async def test_a_stream_does_not_start_over(tmp_path: Path, scripted: MockServer) -> None:
    more = {"response_format": {"type": "json_object"}}
    async with routed(tmp_path, scripted, ["cut", "happy"]) as legato:
        answer = await result(legato, **more)
        assert answer.text() == TEXT
        assert answer.error is not None
        assert answer.error["code"] == "upstream_cut"
        assert played(scripted) == ["cut"]


# Nobody is there any more

PATIENT = {"first_token_seconds": 20.0, "stall_seconds": 20.0}
DRAINS = {"on_disconnect": "drain", "drain_seconds": 20.0} | PATIENT
LEFT: dict[str, tuple[Script, bool]] = {
    "cut before the first token": (Script(steps=[Step(wait=0.4), Step(cut=True)]), False),
    "refused": (msgspec.structs.replace(SCRIPTS["500"], head_after=0.4), False),
    "while it is waited for": (
        msgspec.structs.replace(SCRIPTS["429"], headers={"retry-after": "15"}),
        True,
    ),
}


@pytest.mark.parametrize("case", LEFT)
@pytest.mark.parametrize("stream", [True, False])
async def test_where_nothing_is_under_way_there_is_nothing_to_drain(
    tmp_path: Path, scripted: MockServer, case: str, stream: bool
) -> None:
    """Nobody is asked for a client that has left, and nothing is waited for."""
    script, waits = LEFT[case]
    scripted.scripts["fails"] = script
    names = ["fails"] if waits else ["fails", "happy"]
    gate = {"streams.gate_seconds": 25.0}
    async with routed(tmp_path, scripted, names, deploy={"fails": DRAINS}, **gate) as legato:
        async with await Wire.open(legato.port) as wire:
            wire.send(request(legato.key, chat("public", stream=stream)))
            await until(lambda: scripted.requests)
            if waits:
                await until(
                    lambda: scripted.requests[0].is_complete and not legato.busy, "it has failed"
                )
            left = time.monotonic()
        await until(lambda: not legato.server.server_state.tasks, "the call is settled")
        assert time.monotonic() - left < SOON
        assert played(scripted) == ["fails"]
        (row,) = await legato.rows()
        assert row["outcome"] == "cancelled"
        assert (row["attempts"], row["deployments"]) == (1, "fails")


async def test_a_drained_answer_that_breaks_is_over(tmp_path: Path, scripted: MockServer) -> None:
    steps = [Step(say="Once"), Step(say=" upon"), Step(wait=0.4), Step(cut=True)]
    scripted.scripts["breaks"] = Script(steps=steps)
    deploy = {"breaks": DRAINS, "happy": {"continue": "prefill"}}
    async with routed(tmp_path, scripted, ["breaks", "happy"], deploy=deploy) as legato:
        async with await Wire.open(legato.port) as wire:
            wire.send(request(legato.key, chat("public", stream=True)))
            await wire.head()
            left = time.monotonic()
        await until(lambda: not legato.server.server_state.tasks, "the call is settled")
        assert time.monotonic() - left < SOON
        assert played(scripted) == ["breaks"]
        (row,) = await legato.rows()
        assert (row["outcome"], row["completion_tokens"]) == ("cancelled", 2)


# Connections that are closed when they are used again


class Forgetful:
    """An upstream that answers the first request of each connection, once as many are there as
    it waits for, and closes the connection at the second."""

    def __init__(self, waits_for: int, *texts: str) -> None:
        steps = [{"delta": {"content": text}, "finish_reason": None} for text in texts]
        steps.append({"delta": {}, "finish_reason": "stop"})
        events = [json.dumps({"choices": [{"index": 0} | step]}) for step in steps]
        body = "".join(f"data: {each}\n\n" for each in [*events, "[DONE]"])
        head = f"content-type: text/event-stream\r\ncontent-length: {len(body)}\r\n\r\n"
        self.requests = 0
        self._answer = f"HTTP/1.1 200 OK\r\n{head}{body}".encode()
        self._enough = asyncio.Barrier(waits_for)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_used = False
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(size))
                self.requests += 1
                if is_used:
                    break
                if self.requests <= self._enough.parties:
                    await self._enough.wait()
                writer.write(self._answer)
                is_used = True
        writer.close()


# what goes before, how it is continued, what the request has in common with it
AGAIN: dict[str, tuple[dict[str, Any] | None, tuple[str, ...], dict[str, Any]]] = {
    "a call": (None, (TEXT,), {}),
    "a continuation": ({"continue": "prefill"}, (" And on.",), {}),
    "a replay": ({"continue": "replay"}, (TEXT, " And on."), {"seed": 1, "temperature": 0}),
}


@pytest.mark.parametrize("case", AGAIN)
async def test_after_a_stale_connection_none_of_those_that_were_kept_is_tried(
    tmp_path: Path, scripted: MockServer, case: str
) -> None:
    """They are as old as the first: with many of them a call would wait for each."""
    deploy, texts, more = AGAIN[case]
    upstream = Forgetful(3, *texts)
    async with await asyncio.start_server(upstream.serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        deployments = [
            {"name": "cut", "base_url": await scripted.start(), "model": "cut"},
            {"name": "kept", "base_url": f"http://127.0.0.1:{port}/v1", "model": "cut"}
            | (deploy or {}),
        ]
        names = ["cut", "kept"] if deploy else ["kept"]
        routes = [
            {"model": "kept", "deployments": ["kept"]},
            {"model": "public", "deployments": names},
        ]
        settings = settings_for(tmp_path, None, deployments=deployments, routes=routes)
        async with serving(settings) as legato:
            first = [ask(legato.port, legato.key, chat("kept", stream=True)) for _ in range(3)]
            assert [each.done for each in await asyncio.gather(*first)] == [True] * 3
            await until(lambda: not legato.busy, "connections are kept")
            answer = await result(legato, **more)
            assert answer.done, answer.error
            assert answer.text() == (TEXT + " And on." if deploy else TEXT)
            assert upstream.requests == 3 + 2


# Several calls for several choices


async def test_a_branch_on_a_stale_connection_is_asked_again_alone(
    tmp_path: Path, scripted: MockServer
) -> None:
    """The third and the fourth request find the connections of the first two; the fourth's closes
    without a word, as one does whose server has just had enough of it."""
    happy = SCRIPTS["happy"]
    stale = Script(no_head=True, then=Script(steps=happy.steps))
    for _ in range(3):
        stale = Script(steps=happy.steps, then=stale)
    scripted.scripts["some"] = stale
    async with routed(tmp_path, scripted, ["some"], deploy={"some": {"n": "fan-out"}}) as legato:
        for asked in (2, 5):
            answer = await result(legato, n=2)
            assert answer.done, answer.error
            assert [answer.text(index) for index in range(2)] == [TEXT, TEXT]
            assert len(scripted.requests) == asked
            await until(lambda: not legato.busy, "connections are kept")
        _, row = await legato.rows()
        assert (row["outcome"], row["attempts"]) == ("complete", 1)


# Refusals that are not the caller's

KEY = "sk-proj-abcd********WXYZ"
OPENAI_401 = f'{{"error": {{"message": "Incorrect API key provided: {KEY}. See x.", "code": 1}}}}'
BALANCE = "Your credit balance is too low to access the Anthropic API. Please go to Plans."
REFUSALS: dict[str, tuple[str, int, str, str]] = {
    "401": ("openai", 401, OPENAI_401, "upstream_401"),
    "402": ("openai", 402, f'{{"error": {{"message": "Pay, {KEY}."}}}}', "upstream_402"),
    "403": ("openai", 403, f'{{"error": {{"message": "Not you, {KEY}."}}}}', "upstream_403"),
    "not JSON": ("openai", 401, f"<p>{KEY}</p>", "upstream_401"),
    "xAI's 400": (
        "openai",
        400,
        '{"code": "Client specified an invalid argument", '
        f'"error": "Incorrect API key provided: {KEY}. You can obtain one from the console."}}',
        "upstream_401",
    ),
    "Anthropic's 401": (
        "anthropic",
        401,
        '{"type": "error", "error": {"type": "authentication_error", '
        f'"message": "invalid x-api-key {KEY}"}}}}',
        "upstream_401",
    ),
    "Anthropic's 400": (
        "anthropic",
        400,
        '{"type": "error", "error": {"type": "invalid_request_error", '
        f'"message": "{BALANCE}"}}}}',
        "upstream_402",
    ),
    "Gemini's 403": (
        "gemini",
        403,
        '{"error": {"code": 403, "status": "PERMISSION_DENIED", '
        f'"message": "Project 7 of {KEY} is not allowed."}}}}',
        "upstream_403",
    ),
    "Gemini's 400": (
        "gemini",
        400,
        '{"error": {"code": 400, "status": "INVALID_ARGUMENT", '
        f'"message": "API key {KEY} not valid.", "details": [{{"reason": "API_KEY_INVALID"}}]}}}}',
        "upstream_401",
    ),
    "Ollama's 401": ("ollama", 401, f'{{"error": "unauthorized: {KEY}"}}', "upstream_401"),
    "Groq's 413": (
        "openai",
        413,
        '{"error": {"message": "Request too large for model `m` on tokens per minute (TPM): '
        'Limit 6000, Requested 9000", "type": "tokens", "code": "rate_limit_exceeded"}}',
        "upstream_rate_limited",
    ),
    "429": (
        "openai",
        429,
        '{"error": {"message": "Slow down.", "code": "rate_limit_exceeded"}}',
        "upstream_rate_limited",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_concerns_our_account_is_not_the_callers(case: str) -> None:
    """And of our credential nothing is told: servers quote a part of it."""
    name, status, body, code = REFUSALS[case]
    error = dialects.named(name).refusal(status, body.encode(), None)
    assert isinstance(error, UpstreamError)
    assert error.code == code
    assert error.status == (429 if code == "upstream_rate_limited" else 502)
    if error.status == 502:
        assert KEY not in error.message
        assert error.message.startswith("The upstream ")
        theirs = dialects.named(name).refusal(status, b"{}", None)
        assert status == 400 or error.message == theirs.message, "none of its words are in it"


@pytest.mark.parametrize("case", [each for each in REFUSALS if REFUSALS[each][0] == "openai"])
async def test_another_is_asked_where_our_account_is_refused(
    tmp_path: Path, scripted: MockServer, case: str
) -> None:
    _, status, body, code = REFUSALS[case]
    scripted.scripts["refuses"] = failing(status, body)
    async with routed(tmp_path, scripted, ["refuses", "happy"]) as legato:
        assert (await result(legato)).text() == TEXT
        assert played(scripted) == ["refuses", "happy"]
        (row,) = await legato.rows()
        assert row["errors"] == f"{code},"


QUOTA = (
    '{"error": {"message": "You exceeded your current quota, please check your plan.", '
    '"type": "insufficient_quota", "param": null, "code": "insufficient_quota"}}'
)


async def test_a_quota_that_is_used_up_is_not_asked_again(
    tmp_path: Path, scripted: MockServer
) -> None:
    scripted.scripts["used-up"] = failing(429, QUOTA)
    async with routed(tmp_path, scripted, ["used-up"]) as legato:
        answer = await result(legato)
        assert answer.status >= 429
        assert answer.error is not None
        assert played(scripted) == ["used-up"]


async def test_a_quota_that_is_used_up_makes_room_for_another(
    tmp_path: Path, scripted: MockServer
) -> None:
    """For another key of the same deployment, and for another deployment."""
    then = failing(429, QUOTA)
    scripted.scripts["used-up"] = msgspec.structs.replace(then, then=then)
    keys = {"used-up": {"api_keys": ["one", "two"]}}
    async with routed(tmp_path, scripted, ["used-up", "happy"], deploy=keys) as legato:
        assert (await result(legato)).text() == TEXT
        assert played(scripted) == ["used-up", "used-up", "happy"]
        used = [each.headers.get("authorization") for each in scripted.requests]
        assert used == ["Bearer one", "Bearer two", None]


# What one of them does not take

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
FORCED: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required"}


@asynccontextmanager
async def ollama_first(
    tmp_path: Path, scripted: MockServer, names: list[str], ollamas: int
) -> AsyncIterator[Running]:
    """Ollama takes no `tool_choice`."""
    deploy = {name: {"dialect": "ollama", "open_after": 1} for name in names[:ollamas]}
    async with routed(tmp_path, scripted, names, deploy=deploy) as legato:
        yield legato


@pytest.mark.parametrize("stream", [True, False])
async def test_what_one_does_not_take_is_asked_of_the_others(
    tmp_path: Path, scripted: MockServer, stream: bool
) -> None:
    async with ollama_first(tmp_path, scripted, ["happy", "tools"], 1) as legato:
        answer = await ask(legato.port, legato.key, chat("public", stream=stream, **FORCED))
        assert answer.status == 200
        assert played(scripted) == ["tools"]
        health = legato.app.services.router.health["happy"]
        assert health.state(legato.app.services.clock()) == "closed"


async def test_what_nobody_takes_is_told(tmp_path: Path, scripted: MockServer) -> None:
    async with ollama_first(tmp_path, scripted, ["happy", "tools"], 2) as legato:
        answer = await result(legato, **FORCED)
        assert answer.status == 400
        assert answer.error is not None
        assert answer.error["code"] == "unsupported_parameter"
        assert answer.error["param"] == "tool_choice"
        assert played(scripted) == []
