"""Text completions as an upstream format: what is sent, and what is read from the answer."""

import json
from typing import Any

import pytest

from legato import dialects
from legato.core.dialect import Delivered, OutgoingRequest, Quirks, Source
from legato.core.errors import ApiError, UpstreamError
from legato.core.request import amended
from legato.fronts.completions import COMPLETIONS

DIALECT = dialects.named("_openai_completions")

Json = dict[str, Any]
BODY: Json = {"model": "public", "prompt": "Once"}
STREAMS: Json = {"stream": True, "stream_options": {"include_usage": True}}
SENT: dict[str, tuple[Json, Json]] = {
    # members of the client's request; of what is sent, beside model, prompt and `STREAMS`
    "nothing": ({}, {"max_tokens": 16}),
    "its own": (
        {"max_tokens": 9, "suffix": ".", "logprobs": 2, "top_k": 4, "stop": "\n", "user": None},
        {"max_tokens": 9, "suffix": ".", "logprobs": 2, "top_k": 4, "stop": "\n"},
    ),
    "ours": (
        {"echo": True, "best_of": 1, "stream": False},
        {"max_tokens": 16},
    ),
    "choices": ({"n": 2, "best_of": 2, "seed": 7}, {"max_tokens": 16, "n": 2, "seed": 7}),
    "a list": ({"prompt": ["Once"]}, {"max_tokens": 16}),
}


def outgoing(given: Json, **more: Any) -> OutgoingRequest:
    body = json.dumps(BODY | given).encode()
    request = COMPLETIONS.parse(body)
    source = Source("completions", body)
    quirks = more.pop("quirks", Quirks(completes="prompt"))
    return OutgoingRequest(request.body, request.chat, "theirs", quirks, source=source, **more)


@pytest.mark.parametrize("name", SENT)
def test_a_request(name: str) -> None:
    given, fields = SENT[name]
    sent = json.loads(DIALECT.encode(outgoing(given)))
    assert sent == {"model": "theirs", "prompt": "Once"} | STREAMS | fields


@pytest.mark.parametrize(
    ("quirks", "streams", "fields"),
    [
        (Quirks(includes_usage=False), True, {"stream": True}),
        (Quirks(needs_alternatives=True), True, STREAMS | {"logprobs": 1}),
        (
            Quirks(running_usage=True),
            True,
            {
                "stream": True,
                "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            },
        ),
        (Quirks(), False, {"stream": False}),
        (Quirks(rejected_parameters=frozenset({"top_k"})), True, STREAMS),
    ],
)
def test_a_request_to_a_server_with_quirks(quirks: Quirks, streams: bool, fields: Json) -> None:
    sent = json.loads(
        DIALECT.encode(outgoing({"top_k": 1, "logprobs": 0}, quirks=quirks, streams=streams))
    )
    expected = {"model": "theirs", "prompt": "Once", "max_tokens": 16, "logprobs": 0} | fields
    assert sent == expected | ({} if quirks.rejected_parameters else {"top_k": 1})


def test_what_was_delivered_ends_the_prompt() -> None:
    request = outgoing({"max_tokens": 9}, delivered=Delivered(" upon a"))
    request.body = amended(request.body, max_tokens=7)  # what is left
    sent = json.loads(DIALECT.encode(request))
    assert (sent["prompt"], sent["max_tokens"]) == ("Once upon a", 7)


def event(*choices: Any, **more: Any) -> bytes:
    head = {"id": "c", "object": "text_completion", "created": 1, "model": "m"}
    return json.dumps(head | {"choices": list(choices)} | more).encode()


READ: dict[str, tuple[bytes, list[Json]]] = {
    "text": (
        event({"text": "a", "index": 0, "logprobs": None, "finish_reason": None}),
        [{"index": 0, "logprobs": None, "finish_reason": None, "delta": {"content": "a"}}],
    ),
    "other members": (
        event({"text": "", "index": 1, "finish_reason": "stop", "stop_reason": 7}),
        [{"index": 1, "finish_reason": "stop", "stop_reason": 7, "delta": {"content": ""}}],
    ),
    "no number": (
        b'{"choices":[{"text":"a","index":0,"logprobs":{"token_logprobs":[NaN]}}]}',
        [{"index": 0, "logprobs": {"token_logprobs": [None]}, "delta": {"content": "a"}}],
    ),
    "half of a surrogate pair": (
        rb'{"choices":[{"text":"\ud83d","index":0}]}',
        [{"index": 0, "delta": {"content": "\ud83d"}}],
    ),
    "usage": (event(usage={"prompt_tokens": 1}), []),
}


@pytest.mark.parametrize("name", READ)
def test_an_event(name: str) -> None:
    data, members = READ[name]
    reader = DIALECT.reader()
    chunk = reader.read(b"", data)
    assert chunk is not None
    assert chunk.members() == members
    assert chunk.usage == ({"prompt_tokens": 1} if name == "usage" else None)
    assert reader.read(b"", b"[DONE]") is None


def test_an_error_in_the_stream() -> None:
    with pytest.raises(ApiError, match="gone"):
        DIALECT.reader().read(b"", b'{"error":{"message":"It is gone.","code":500}}')


@pytest.mark.parametrize("data", [b"{", b'"text"', b'[{"text":1}]', b'{"choices":[{"text":1}]}'])
def test_what_is_no_event(data: bytes) -> None:
    with pytest.raises(UpstreamError):
        DIALECT.reader().read(b"", data)


def test_an_answer_in_one_piece() -> None:
    whole = event({"text": "a", "index": 0, "finish_reason": "stop"}, usage={"prompt_tokens": 1})
    assert DIALECT.unstreamed(whole) == [whole]
    assert DIALECT.unstreamed(b'{"object":"error"}') == []
    assert DIALECT.unstreamed(b"<html>") == []
