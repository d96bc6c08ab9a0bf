"""The contract, section 4 (failure), over the wire. The first line of each docstring is the
sentence that it holds."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from legato.fronts.chat import ChatFront
from legato.fronts.chat_aggregator import ChatAggregator
from legato.fronts.chat_writer import ChatWriter
from legato.gateway import call as lifecycle
from legato.policy.keys import Key, create
from tests.conftest import until
from tests.support.contract_server import ContractServer, built, error_of, heard
from tests.support.stream_order import Json
from tests.support.wire import Wire, chat, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "Once upon a time, there was a stream."


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def contract(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ContractServer]:
    data = tmp_path_factory.mktemp("house")
    async with built(data, **{"server.max_body_bytes": 10_000}) as contract:
        yield contract


@pytest.fixture(autouse=True, scope="module")
def no_garbage() -> Any:
    """Once for all: after each test it would take longer than they do."""
    yield
    gc.collect()


# Before the first frame is committed: a status

USER = {"role": "user", "content": "Hello"}

#: What is asked: status, type, code, the field that is named.
REFUSED: dict[str, tuple[Json | bytes, int, str, str | None, str | None]] = {
    "bad JSON": (b'{"model": ', 400, "invalid_request_error", "invalid_json", None),
    "no body": (b"", 400, "invalid_request_error", "invalid_request", None),
    "wrong type": (
        chat("happy", max_tokens="many"),
        *(400, "invalid_request_error", "invalid_value", "max_tokens"),
    ),
    "wrong type, deep": (
        {"model": "happy", "messages": [USER, {"role": "user", "content": 7}]},
        *(400, "invalid_request_error", "invalid_value", "messages[1].content"),
    ),
    "wrong range": (
        chat("happy", temperature=2.5),
        *(400, "invalid_request_error", "invalid_value", "temperature"),
    ),
    "wrong effort": (
        chat("happy", reasoning_effort="maximal"),
        *(400, "invalid_request_error", "invalid_value", "reasoning_effort"),
    ),
    "missing": (
        {"messages": [USER]},
        *(400, "invalid_request_error", "missing_required_parameter", "model"),
    ),
    "`stream_options` without `stream`": (
        chat("happy", stream_options={"include_usage": True}),
        *(400, "invalid_request_error", "invalid_request", "stream_options"),
    ),
    "context_length_exceeded": (
        chat("too-long"),
        *(400, "invalid_request_error", "context_length_exceeded", "messages"),
    ),
    "the upstream's own 400": (
        chat("400"),
        *(400, "invalid_request_error", "bad_param", None),
    ),
    "unknown model": (chat("nobody"), 404, "not_found_error", "model_not_found", "model"),
    "body over the limit": (
        b" " * 10_001,
        *(413, "invalid_request_error", "request_too_large", None),
    ),
    "429": (chat("429"), 429, "rate_limit_error", "upstream_rate_limited", None),
    "upstream broke": (chat("500"), 502, "upstream_error", "upstream_500", None),
    "our key is refused there": (chat("401"), 502, "upstream_error", "upstream_401", None),
    "upstream cut": (chat("cut-early"), 502, "upstream_error", "upstream_cut", None),
    "upstream gone": (chat("no-head"), 502, "upstream_error", "upstream_cut", None),
    "upstream empty": (chat("empty"), 502, "upstream_error", "upstream_empty", None),
    "an error first": (chat("error-first"), 502, "upstream_error", "gpu_lost", None),
    "bad JSON first": (
        chat("bad-json-first"),
        *(502, "upstream_error", "upstream_malformed", None),
    ),
    "upstream busy": (chat("503"), 503, "service_unavailable", "upstream_503", None),
    "no first token in time": (
        chat("hasty/stall-early"),
        *(504, "upstream_timeout", "upstream_first_token_timeout", None),
    ),
    "comments and no token in time": (
        chat("hasty/comments-only"),
        *(504, "upstream_timeout", "upstream_first_token_timeout", None),
    ),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("case", REFUSED)
async def test_what_fails_before_the_first_frame_is_a_status(
    contract: ContractServer, case: str, stream: bool
) -> None:
    """A real HTTP status and `{"error": {"message", "type", "code", "param"}}`."""
    body, *wanted = REFUSED[case]
    if isinstance(body, dict) and stream and "stream_options" not in body:
        body = body | {"stream": True}
    answer = await contract.post(body)
    status, error = error_of(answer)
    assert [status, error["type"], error["code"], error["param"]] == wanted
    assert error["message"]
    assert ("retry-after" in answer.headers) is (case == "429")


KEYS: dict[str, tuple[str | None, str]] = {
    "no key": (None, "missing_api_key"),
    "no such key": ("lg-nobody", "invalid_api_key"),
    "a revoked key": ("revoked", "key_revoked"),
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1/models/happy"])
@pytest.mark.parametrize("case", KEYS)
async def test_who_is_not_known_is_refused(contract: ContractServer, case: str, path: str) -> None:
    """401 authentication_error: `missing_api_key`, `invalid_api_key`, `key_revoked`."""
    key, code = KEYS[case]
    if key == "revoked":
        key = with_revoked_key(contract)
    body = chat("happy", stream=True) if path.endswith("completions") else b""
    method = "POST" if body else "GET"
    status, error = error_of(await contract.post(body, key=key, path=path, method=method))
    assert (status, error["type"], error["code"]) == (401, "authentication_error", code)
    assert key is None or key not in error["message"]


def with_revoked_key(contract: ContractServer) -> str:
    keyring = contract.legato.app.services.keyring
    identity, key, digest = create()
    revoked = Key(identity, "gone", digest, created=1.0, revoked=2.0)
    keyring.replace([*keyring, revoked])
    return key


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/v1/models/nobody", "/v1/chat/completions/chatcmpl-1"]
)
async def test_an_unknown_path_is_not_found(contract: ContractServer, path: str) -> None:
    """404 not_found_error: unknown model, unknown path, unknown completion."""
    status, error = error_of(await contract.post(b"", path=path, method="GET"))
    assert (status, error["type"]) == (404, "not_found_error")


async def test_429_says_when_to_come_again(contract: ContractServer) -> None:
    """429 rate_limit_error with `Retry-After`: the upstream's own, in seconds."""
    for stream in (True, False):
        answer = await contract.ask("429", stream=stream)
        assert answer.headers["retry-after"] == "7"


async def test_no_healthy_deployment(contract: ContractServer) -> None:
    """503 service_unavailable: no deployment healthy."""
    assert (await contract.refused("fragile/500"))[0] == 502
    asked = len(contract.scripted.requests)
    for stream in (True, False):
        answer = await contract.ask("fragile/500", stream=stream)
        status, error = error_of(answer)
        assert (status, error["type"]) == (503, "service_unavailable")
        assert error["code"] == "no_deployment"
        assert int(answer.headers["retry-after"]) > 0
    assert len(contract.scripted.requests) == asked, "it is left alone"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_server_that_goes_down_says_so(contract: ContractServer, stream: bool) -> None:
    """503 service_unavailable: draining. What is not done when its time is up ends like this."""
    tasks = contract.legato.server.server_state.tasks
    async with await Wire.open(contract.legato.port) as wire:
        asked = len(contract.scripted.requests)
        wire.send(request(contract.legato.key, chat("stall-early", stream=stream)))
        await until(lambda: len(contract.scripted.requests) > asked, "the upstream was asked")
        for task in tasks:
            task.cancel()  # as the server does
        status, error = error_of(await wire.answer())
    assert (status, error["type"]) == (503, "service_unavailable")
    assert error["code"] == "server_shutdown"


@pytest.fixture
def insides(contract: ContractServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Something of ours breaks, and says what must not be told."""
    told: list[BaseException] = []
    services = contract.legato.app.services
    monkeypatch.setattr(services, "on_bug", told.append)

    def fails(*_: object, **__: object) -> Any:
        raise RuntimeError("the secret is in /srv/legato/key")

    return {
        "routing": lambda: monkeypatch.setattr(type(services.router), "find", fails),
        "parsing": lambda: monkeypatch.setattr(ChatFront, "parse", fails),
        "folding": lambda: monkeypatch.setattr(ChatAggregator, "answer", fails),
        "sending": lambda: monkeypatch.setattr(type(services.upstreams["happy"]), "send", fails),
        "told": told,
    }


@pytest.mark.parametrize(
    ("where", "stream"),
    [
        *(("routing", True), ("routing", False), ("parsing", True), ("parsing", False)),
        *(("sending", True), ("sending", False), ("folding", False)),
    ],
)
async def test_a_fault_of_ours_tells_nothing_of_our_insides(
    contract: ContractServer, insides: dict[str, Any], where: str, stream: bool
) -> None:
    """500 internal_error: our fault; the message tells nothing of our insides."""
    insides[where]()
    answer = await contract.ask("happy", stream=stream)
    status, error = error_of(answer)
    assert (status, error["type"], error["code"]) == (500, "internal_error", "internal_error")
    for word in ("secret", "/srv", "Runtime", "Traceback", "legato", ".py"):
        assert word not in answer.body.decode()
    assert [str(each) for each in insides["told"]] == ["the secret is in /srv/legato/key"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_fault_of_ours_in_reading_an_upstream_is_not_its_own(
    contract: ContractServer, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """The same where an answer is read: no deployment is blamed, and somebody hears of it."""
    loop, told = asyncio.get_running_loop(), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: told.append(context))

    def fails(*_: object) -> None:
        raise RuntimeError("the secret is in /srv/legato/key")

    try:
        with monkeypatch.context() as patch:
            patch.setattr("legato.dialects.openai.Reader.read", fails)
            answer = await contract.ask("happy", stream=stream)
    finally:
        loop.set_exception_handler(None)
    status, error = error_of(answer)
    assert (status, error["type"], error["code"]) == (500, "internal_error", "internal_error")
    assert b"secret" not in answer.body
    assert len(told) == 1
    assert (await contract.ask("happy", stream=stream)).status == 200


async def test_a_fault_of_ours_in_mid_stream_is_a_frame(
    contract: ContractServer, insides: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same behind the commit: an error frame, and no [DONE]."""

    def fails(*_: object) -> None:
        raise RuntimeError("the secret is in /srv/legato/key")

    monkeypatch.setattr(lifecycle.Call, "_until_over", fails)
    answer = await contract.ask("1-words", stream=True)
    result = heard(answer)
    assert result.error is not None
    assert (result.error["type"], result.error["code"]) == ("internal_error", "internal_error")
    assert b"secret" not in answer.body
    assert len(insides["told"]) == 1


@pytest.mark.parametrize(
    ("where", "model"),
    [("push", "happy"), ("push", "1-words"), ("complete", "happy"), ("complete", "slow")],
)
async def test_a_fault_of_ours_in_writing_leaves_no_client_waiting(
    contract: ContractServer, monkeypatch: pytest.MonkeyPatch, where: str, model: str
) -> None:
    """Also where the upstream's answer is whole by then."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, __: None)
    monkeypatch.setattr(contract.legato.app.services, "on_bug", lambda _: None)

    def fails(*_: object) -> None:
        raise RuntimeError("the secret is in /srv/legato/key")

    monkeypatch.setattr(ChatWriter, where, fails)
    try:
        async with asyncio.timeout(5):
            answer = await contract.ask(model, stream=True)
    finally:
        loop.set_exception_handler(None)
    assert b'"internal_error"' in answer.body
    assert b"[DONE]" not in answer.body
    assert b"secret" not in answer.body


# After it: a frame

FRAMED = {
    # what happens: code of the error, what has been sent before
    "cut": ("upstream_cut", TEXT),
    "reset": ("upstream_cut", TEXT),
    "hasty/stall": ("upstream_stalled", TEXT),
    "hasty/murmur": ("upstream_stalled", TEXT),
    "unfinished": ("upstream_incomplete", TEXT),
    "no-finish": ("upstream_incomplete", TEXT),
    "error-in-band": ("gpu_lost", TEXT),
    "error-then-done": ("gpu_lost", TEXT),
    "bad-json": ("upstream_malformed", TEXT),
    "half-an-event": ("upstream_malformed", TEXT),
    "fan/cut": ("upstream_cut", None),
}


@pytest.mark.parametrize("usage", ["none", "last", "running"])
@pytest.mark.parametrize("model", FRAMED)
async def test_what_fails_after_the_first_frame_is_the_last_one(
    contract: ContractServer, model: str, usage: Any
) -> None:
    """One frame `data: {"error": {...}}`, then the body ends, without [DONE] and without a made-up
    finish. An end without a finish, an error in band whatever follows it, and malformed JSON are
    failures."""
    code, text = FRAMED[model]
    result = await contract.stream(model, usage=usage)
    assert not result.done
    assert result.error is not None
    assert result.error["code"] == code
    assert result.error["message"]
    finishes = [each["finish_reason"] for chunk in result.chunks for each in chunk["choices"]]
    assert not any(finishes), "a finish that nobody sent"
    assert text is None or result.text() == text


@pytest.mark.parametrize("model", FRAMED)
async def test_what_is_not_streamed_fails_with_a_status(
    contract: ContractServer, model: str
) -> None:
    """The same of an answer that is not streamed: nothing of it is shown as whole."""
    status, error = await contract.refused(model)
    assert error["code"] == FRAMED[model][0]
    assert status == (504 if error["code"] == "upstream_stalled" else 502)


@pytest.mark.parametrize("model", ["cut", "error-then-done", "bad-json"])
async def test_the_body_ends_behind_an_error(contract: ContractServer, model: str) -> None:
    """Then the body ends; the connection is good for the next call."""
    async with await Wire.open(contract.legato.port) as wire:
        for _ in range(2):
            wire.send(request(contract.legato.key, chat(model, stream=True)))
            answer = await wire.answer()
            assert b"[DONE]" not in answer.body
            assert set(json.loads(answer.frames[-1][6:])) == {"error"}
