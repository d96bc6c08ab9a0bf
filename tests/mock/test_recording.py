"""What the mock keeps of the requests it received, and the endpoints that play no script."""

from typing import Any

import httpx
import pytest

from legato.mock.server import MockServer
from legato.mock.steps import Script, Step


async def post(server: MockServer, path: str, body: bytes) -> httpx.Response:
    headers = [("X-Twice", "1"), ("X-Twice", "2")]
    async with httpx.AsyncClient(verify=False, trust_env=False) as client:
        return await client.post(server.origin + path, content=body, headers=headers)


async def test_bodies_and_headers_are_kept_as_they_were_received(scripted: MockServer) -> None:
    await scripted.start()
    body = b'{ "model":"happy" ,"messages" : [], "x":1.0e0, "x":2,\n"y": "\\u00e9\xc3\xa9" }'
    await post(scripted, "/v1/messages?beta=true", body)
    kept = scripted.requests[-1]
    assert kept.body == body
    assert kept.path == "/v1/messages?beta=true"
    assert kept.headers["x-twice"] == "2"
    assert [value for name, value in kept.raw_headers if name == b"X-Twice"] == [b"1", b"2"]


@pytest.mark.parametrize(
    ("limits", "kept"),
    [({"kept_requests": 2}, [3, 4]), ({"kept_bytes": 90}, [3, 4]), ({"kept_bytes": 1}, [4])],
)
async def test_what_is_kept_is_bounded(limits: dict[str, Any], kept: list[int]) -> None:
    server = MockServer({"m": _answer()}, **limits)
    await server.start()
    try:
        for number in range(5):
            body = b'{"model": "m", "number": %d, "messages": []}' % number
            await post(server, "/v1/messages", body)
        assert [each.request["number"] for each in server.requests] == kept
    finally:
        await server.stop()


def _answer() -> Script:
    return Script(steps=[Step(say="x"), Step(finish="stop"), Step(done=True)])


async def test_tokens_are_counted_in_words(scripted: MockServer) -> None:
    await scripted.start()
    body = (
        b'{"model": "429-then-ok", "system": [{"type": "text", "text": "Be brief"}],'
        b' "messages": [{"role": "user", "content": "one two\\n three"}],'
        b' "tools": [{"name": "sum", "input_schema": {"type": "object"}}]}'
    )
    path = "/v1/messages/count_tokens?beta=true"
    refused = await post(scripted, path, body)
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
    counted = await post(scripted, path, body.replace(b"429-then-ok", b"cut"))
    assert counted.json() == {"input_tokens": 9}
    assert [each.path for each in scripted.requests] == [path, path]
    # Counting does not use up what a script does first.
    assert (await post(scripted, "/v1/messages", body)).status_code == 429
    assert (await post(scripted, "/v1/messages", body)).status_code == 200


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_what_is_no_request(scripted: MockServer, path: str) -> None:
    await scripted.start()
    answer = await post(scripted, path, b"[]")
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    answer = await post(scripted, path, b'{"model": "nothing"}')
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")


async def test_models_are_listed(scripted: MockServer) -> None:
    await scripted.start()
    async with httpx.AsyncClient(verify=False, trust_env=False) as client:
        listed = (await client.get(f"{scripted.origin}/v1/models?limit=9")).json()
    assert {"happy", "agent", "no-message-stop"} <= {each["id"] for each in listed["data"]}
