"""The contract, section 2 (a stream, in order), over the wire: all but usage. The first line of
each docstring is the sentence that it holds."""

import gc
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.contract_server import ALL, SEPARATORS, WHOLE, ContractServer, built, heard
from tests.support.stream_order import Json, Usage
from tests.support.wire import Answer, Wire, chat, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "Once upon a time, there was a stream."


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def contract(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ContractServer]:
    async with built(tmp_path_factory.mktemp("house")) as contract:
        yield contract


@pytest.fixture(autouse=True, scope="module")
def no_garbage() -> Any:
    """Once for all: after each test it would take longer than they do."""
    yield
    gc.collect()


# The head


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("model", ["happy", "gzip"])
@pytest.mark.parametrize("accepts", [{}, {"accept_encoding": "gzip, br, deflate"}])
async def test_the_head_of_a_stream(
    contract: ContractServer, model: str, accepts: dict[str, str], version: str
) -> None:
    """Status 200, text/event-stream, no-cache, no buffering by proxies, x-request-id; no
    content-length, no content-encoding, chunked transfer on HTTP/1.1."""
    answer = await contract.post(chat(model, stream=True), version=version, **accepts)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-request-id"].startswith("req_")
    assert "content-length" not in answer.headers
    assert "content-encoding" not in answer.headers
    assert answer.headers.get("transfer-encoding") == ("chunked" if version == "1.1" else None)
    assert heard(answer).text() == TEXT


async def test_every_answer_has_a_request_id_of_its_own(contract: ContractServer) -> None:
    """`x-request-id`."""
    answers = [await contract.ask("happy", stream=stream) for stream in (True, True, False, False)]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 4


# The order


@pytest.mark.parametrize("usage", ["none", "last", "running"])
@pytest.mark.parametrize("model", WHOLE)
async def test_every_stream_is_legal_and_what_is_not_streamed_is_its_fold(
    contract: ContractServer, model: str, usage: Usage
) -> None:
    """For each choice its role, once; deltas; one finish; then usage where it was asked for, and
    [DONE]. Not streaming is a fold of the same stream."""
    result = await contract.stream(model, usage=usage)
    assert result.done
    answer = await contract.whole(model)
    assert [without_new_ids(each) for each in answer["choices"]] == [
        without_new_ids(each) for each in result.choices
    ]
    assert answer["usage"] == (result.usage or answer["usage"])
    extras = answer.keys() - {"id", "object", "created", "model", "choices", "usage"}
    assert {name: answer[name] for name in extras} == result.extras


def without_new_ids(choice: Json) -> Json:
    calls = choice["message"].get("tool_calls", ())
    numbered = [each | {"id": number} for number, each in enumerate(calls)]
    return choice | {"message": choice["message"] | {"tool_calls": numbered}}


@pytest.mark.parametrize(
    ("model", "choices"),
    [
        *(("happy", 1), ("thinking", 1), ("tools", 1), ("finish-only", 1), ("null-content", 1)),
        *(("role-every-chunk", 1), ("role-never", 1), ("choices", 3), ("anthropic/happy", 1)),
    ],
)
async def test_the_role_comes_first_and_once(
    contract: ContractServer, model: str, choices: int
) -> None:
    """For each choice, first a chunk whose delta has `role: "assistant"` (and `content: ""`)."""
    members = members_of(await contract.ask(model, stream=True))
    assert {each["index"] for each in members} == set(range(choices))
    for choice in range(choices):
        first, *rest = [each["delta"] for each in members if each["index"] == choice]
        assert first == {"role": "assistant", "content": ""}
        assert not any("role" in delta for delta in rest)


def members_of(answer: Answer) -> list[Json]:
    return [member for chunk in answer.chunks for member in chunk["choices"]]


@pytest.mark.parametrize(
    ("model", "finishes"),
    [
        ("happy", ["stop"]),
        ("length", ["length"]),
        ("tools", ["tool_calls"]),
        ("filtered", ["content_filter"]),
        ("choices", ["stop", "stop", "stop"]),
        ("finish-merged", ["stop"]),
        ("finish-only", ["stop"]),
    ],
)
async def test_each_choice_ends_with_one_finish(
    contract: ContractServer, model: str, finishes: list[str]
) -> None:
    """Each choice ends with exactly one chunk with `finish_reason`."""
    answer = await contract.ask(model, stream=True)
    assert [answer.finishes(choice) for choice in range(len(finishes))] == [
        [reason] for reason in finishes
    ]
    members = members_of(answer)
    for choice in range(len(finishes)):
        last = [each for each in members if each["index"] == choice][-1]
        assert last["finish_reason"] == finishes[choice]
        assert last["delta"] == {}
    folded = await contract.whole(model)
    assert [each["finish_reason"] for each in folded["choices"]] == finishes


# The end


@pytest.mark.parametrize("model", ["happy", "done-then-more", "choices"])
async def test_the_body_ends_at_once_behind_done(contract: ContractServer, model: str) -> None:
    """`data: [DONE]`, and the HTTP body ends at once; the connection is good for the next call."""
    async with await Wire.open(contract.legato.port) as wire:
        for _ in range(2):
            wire.send(request(contract.legato.key, chat(model, stream=True)))
            answer = await wire.answer()
            assert answer.body.endswith(b"}\n\ndata: [DONE]\n\n")
            assert answer.body.count(b"[DONE]") == 1
            assert heard(answer).done


async def test_an_upstream_that_does_not_end_behind_done_is_not_waited_for(
    contract: ContractServer,
) -> None:
    """The same, of one that says no more, and keeps its own body open."""
    answer = await contract.ask("done-then-silence", stream=True)
    assert heard(answer).done
    assert not contract.scripted.requests[-1].is_disconnected, (
        "the answer has waited for the connection's end"
    )
    assert not contract.scripted.requests[-1].is_complete


# Every chunk


@pytest.mark.parametrize("model", ["happy", "jumpy", "choices", "strangers", "gemini/happy"])
async def test_what_is_constant(contract: ContractServer, model: str) -> None:
    """One constant `id` (`chatcmpl-…`, ours), `object`, one constant `created`, one constant
    `model` (the id the client asked for), `choices`."""
    chunks = (await contract.ask(model, stream=True)).chunks
    (head,) = {(each["id"], each["object"], each["created"], each["model"]) for each in chunks}
    assert head[0].startswith("chatcmpl-")
    assert head[1] == "chat.completion.chunk"
    assert head[2] > 1_700_001_000, "it is ours, not the upstream's"
    assert head[3] == model
    assert all(isinstance(each["choices"], list) for each in chunks)
    folded = await contract.whole(model)
    assert folded["id"].startswith("chatcmpl-")
    assert folded["id"] != head[0]
    assert (folded["object"], folded["model"]) == ("chat.completion", model)


@pytest.mark.parametrize("model", ["separators", "separators-anywhere", "separators-in-error"])
async def test_line_separators_of_unicode_are_escaped(contract: ContractServer, model: str) -> None:
    """JSON on one line; U+2028, U+2029 and U+0085 escaped, wherever they stand."""
    answer = await contract.ask(model, stream=True)
    result = heard(answer)
    if model == "separators":
        assert result.text() == 'a\u2028bc\u2029de\x85fg\\u2028"\n'
    elif result.error is not None:
        assert result.error["message"] == f"{SEPARATORS}. Try again later."
    else:
        assert result.text(member="reasoning_content") == SEPARATORS
        assert result.choices[0]["message"]["tool_calls"][0]["function"]["arguments"] == SEPARATORS
        assert result.extras == {f"x{SEPARATORS}": SEPARATORS}
    for frame in answer.frames:
        assert frame.startswith(b"data: ")
        for separator in ("\u2028", "\u2029", "\x85", "\n", "\r"):
            assert separator not in frame.decode()


@pytest.mark.parametrize("model", ["utf8-split", "separators", "happy", "apart"])
async def test_a_character_is_never_split_across_frames(
    contract: ContractServer, model: str
) -> None:
    """One frame is `data: {json}` and a blank line; UTF-8 is never split across frames."""
    answer = await contract.ask(model, stream=True)
    for piece in answer.pieces:
        assert piece.endswith(b"\n\n"), "a write of less than a frame"
        for frame in piece[:-2].split(b"\n\n"):
            result = frame.decode().removeprefix("data: ")
            assert result == "[DONE]" or json.loads(result)["choices"]


@pytest.mark.parametrize("model", ["choices", "fan/happy"])
async def test_choices_have_no_holes(contract: ContractServer, model: str) -> None:
    """Choice indices are 0..n without holes, in order of first use."""
    members = members_of(await contract.ask(model, stream=True, n=3))
    assert list(dict.fromkeys(each["index"] for each in members)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("model", "calls"),
    [
        ("tools", [("sum", '{"a": 1, "b": 2}'), ("now", "{}")]),
        ("tool-chaos", [("sum", "{}"), ("now", "{}"), ("last", '{"x": 1}')]),
    ],
)
async def test_tool_calls_have_no_holes(
    contract: ContractServer, model: str, calls: list[tuple[str, str]]
) -> None:
    """Tool-call indices are 0..n; a tool call's `id` and `name` are sent once."""
    answer = await contract.ask(model, stream=True)
    deltas = [call for each in members_of(answer) for call in each["delta"].get("tool_calls", ())]
    assert list(dict.fromkeys(each["index"] for each in deltas)) == list(range(len(calls)))
    ids = [each["id"] for each in deltas if "id" in each]
    assert len(set(ids)) == len(ids) == len(calls)
    names = [each["function"]["name"] for each in deltas if "name" in each["function"]]
    assert names == [name for name, _ in calls]
    (choice,) = heard(answer).choices
    result = [each["function"] for each in choice["message"]["tool_calls"]]
    assert [(each["name"], each["arguments"]) for each in result] == calls


async def test_members_that_nobody_knows_survive(contract: ContractServer) -> None:
    """Fields we do not know, from an upstream of the same dialect, survive."""
    result = await contract.stream("strangers")
    chunk = result.chunks[1]
    assert chunk["provider"] == "Somebody"
    assert chunk["choices"][0]["native"] is True
    assert chunk["choices"][0]["delta"]["notes"] == [1]
    answer = await contract.whole("strangers")
    assert answer["provider"] == "Somebody"
    assert answer["choices"][0]["native"] is True
    assert answer["choices"][0]["message"]["notes"] == [1] * 10


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_a_chunk_goes_out_when_it_arrives(contract: ContractServer, count: int) -> None:
    """Nothing is held back one frame, nothing waits for a timer."""
    wanted = "".join(step.say or "" for step in ALL["happy"].steps[:count])
    async with await Wire.open(contract.legato.port) as wire:
        wire.send(request(contract.legato.key, chat(f"{count}-words", stream=True)))
        assert (await wire.head())[0] == 200
        answer = Answer(200, {}, await wire.chunk())
        while answer.text() != wanted:
            answer.body += await wire.chunk()  # no more is sent: what is held back never comes
        assert not answer.comments, "it took a heartbeat to bring it out"


# Never


@pytest.mark.parametrize("model", ["named-lines", "happy", "comments", "anthropic/happy"])
async def test_no_lines_but_data_and_comments(contract: ContractServer, model: str) -> None:
    """Never: `event:` names, `retry:`, or `id:` lines that nobody asked for; not on the upstream's
    word either."""
    answer = await contract.ask(model, stream=True)
    assert heard(answer).text() == TEXT
    assert {line.partition(b":")[0] for line in answer.body.splitlines()} <= {b"data", b""}
    assert b"still here" not in answer.body, "an upstream's comments are its own"


# Padding (section 7)


async def test_nobody_is_believed_about_tls_but_a_trusted_proxy(contract: ContractServer) -> None:
    """A *trusted* proxy's `x-forwarded-proto: https`; nobody is trusted here."""
    answer = await contract.post(chat("happy", stream=True), x_forwarded_proto="https")
    assert heard(answer).done
    assert not any("obfuscation" in chunk for chunk in answer.chunks)
