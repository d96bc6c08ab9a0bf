"""Scripts about what the formats differ in, errors in the vendors' shapes, broken answers that are
not streamed."""

import json

import pytest

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from tests.support.played import PATHS, play


async def test_a_stream_of_messages_without_its_end(mock: MockServer) -> None:
    ends = {"no-message-stop": "message_delta", "no-message-delta": "message_stop"}
    for script, end in ends.items():
        kinds = [
            each["type"] for each in (await play(mock, script, "anthropic", stream=True)).events
        ]
        assert kinds[-1] == end
        assert not {"message_delta", "message_stop"} - {end} & set(kinds)


async def test_a_response_that_is_never_completed(mock: MockServer) -> None:
    played = await play(mock, "no-finish", "openai-responses", stream=True)
    kinds = {each["type"] for each in played.events}
    assert not {"response.completed", "response.output_item.done"} & kinds
    assert played.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("dialect", "added", "delta"),
    [
        ("openai-responses", "response.output_item.added", "response.output_text.delta"),
        ("anthropic", "content_block_start", "content_block_delta"),
    ],
)
async def test_deltas_before_their_item(
    mock: MockServer, dialect: str, added: str, delta: str
) -> None:
    played = await play(mock, "deltas-before-item", dialect, stream=True)
    kinds = [each["type"] for each in played.events]
    assert kinds.index(delta) < kinds.index(added)
    assert kinds.count(added) == 1


@pytest.mark.parametrize(
    ("script", "place"),
    [("failed-inside", ("response", "error")), ("failed-beside", ("error",))],
)
async def test_where_a_failed_response_has_its_error(
    mock: MockServer, script: str, place: tuple[str, ...]
) -> None:
    failed = (await play(mock, script, "openai-responses", stream=True)).events[-1]
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    found = failed
    for name in place:
        found = found[name]
    assert found == {"code": "server_error", "message": "The GPU fell off."}
    assert (failed["response"]["error"] is None) == (script == "failed-beside")


async def test_pings_and_unknown_events(mock: MockServer) -> None:
    storm = await play(mock, "ping-storm", "anthropic", stream=True)
    assert sum(each["type"] == "ping" for each in storm.events) == 300
    for dialect in ("openai", "openai-responses"):
        assert (await play(mock, "ping-storm", dialect, stream=True)).body.count(b": ping") == 300
    for dialect in PATHS:
        played = await play(mock, "unknown-events", dialect, stream=True)
        assert played.body.count(b"hologram") >= 4


async def test_details_that_are_empty(mock: MockServer) -> None:
    response = (await play(mock, "empty-details", "openai-responses")).json
    assert response["usage"]["input_tokens_details"] == {}
    assert response["usage"]["output_tokens_details"] == {}
    assert (await play(mock, "empty-details", "anthropic")).json["usage"][
        "output_tokens_details"
    ] == {}


async def test_signed_and_redacted_thinking(mock: MockServer) -> None:
    signature = SCRIPTS["redacted-thinking"].steps[0].redacted
    signed = (await play(mock, "signed-thinking", "anthropic")).json["content"][0]
    assert signed == {"type": "thinking", "thinking": "Let me think.", "signature": signature}
    redacted = (await play(mock, "redacted-thinking", "anthropic")).json["content"][0]
    assert redacted == {"type": "redacted_thinking", "data": signature}
    for script in ("signed-thinking", "redacted-thinking"):
        item = (await play(mock, script, "openai-responses")).json["output"][0]
        assert (item["type"], item["encrypted_content"]) == ("reasoning", signature)


@pytest.mark.parametrize("dialect", ["anthropic", "openai-responses"])
@pytest.mark.parametrize("name", ["multi-line", "no-blank-line"])
async def test_bytes_of_another_format_are_refused(
    mock: MockServer, name: str, dialect: str
) -> None:
    played = await play(mock, name, dialect, stream=True)
    assert played.status == 400
    assert "`openai`" in played.json["error"]["message"]


# Errors in the vendors' shapes

#: script: status, Anthropic's type of the error, whether the script answers in mid-stream.
ERRORS = {
    "400": (400, "invalid_request_error"),
    "401": (401, "authentication_error"),
    "429": (429, "rate_limit_error"),
    "500": (500, "api_error"),
    "529": (529, "overloaded_error"),
    "too-long": (400, "invalid_request_error"),
    "nothing": (404, "not_found_error"),
}


@pytest.mark.parametrize("script", ERRORS)
async def test_errors_have_the_vendors_shapes(mock: MockServer, script: str) -> None:
    status, kind = ERRORS[script]
    played = await play(mock, script, "anthropic", stream=True)
    assert (played.status, played.json["error"]["type"]) == (status, kind)
    assert set(played.json) == {"type", "error", "request_id"}
    played = await play(mock, script, "openai-responses", stream=True)
    assert played.status == status
    assert set(played.json["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("dialect", PATHS)
@pytest.mark.parametrize(
    ("script", "status"), [("error-in-band", 500), ("overloaded", 529), ("error-first", 500)]
)
async def test_an_error_of_a_stream_is_a_status_without_one(
    mock: MockServer, script: str, status: int, dialect: str
) -> None:
    played = await play(mock, script, dialect)
    assert played.status == status
    assert played.json["error"]["message"] in {"The GPU fell off.", "Overloaded"}


@pytest.mark.parametrize("dialect", PATHS)
@pytest.mark.parametrize("script", ["cut", "reset", "stall", "bad-json"])
async def test_half_an_answer_that_is_not_streamed(
    mock: MockServer, script: str, dialect: str
) -> None:
    played = await play(mock, script, dialect)
    assert played.broken == (script != "bad-json")
    if script != "reset":  # a reset may overtake what was sent before it
        assert played.body.startswith(b"{")
    with pytest.raises(json.JSONDecodeError):
        json.loads(played.body)
