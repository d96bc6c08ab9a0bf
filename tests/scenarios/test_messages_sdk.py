"""Anthropic's SDK in front of upstreams of every dialect: what upstreams are asked, and what the
SDK is told where that fails."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
import pytest_asyncio

from legato.mock.dialects.anthropic import SIGNATURE
from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from tests.conftest import Running, serving, settings_for, until

Json = dict[str, Any]

pytestmark = pytest.mark.asyncio(loop_scope="module")

DIALECTS = ("openai", "anthropic", "gemini", "ollama")
TEXT = "Once upon a time, there was a stream."
CALL_1: Json = {"type": "tool_use", "id": "call_1", "name": "sum", "input": {"a": 1, "b": 2}}
SCRIPTED = ("happy", "thinking")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[MockServer]:
    server = MockServer(SCRIPTS)
    yield server
    await until(lambda: server.open_connections == 0, "no connection to the upstream is left")
    await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def legato(
    upstream: MockServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    base = await upstream.start()
    origin = base.removesuffix("/v1")
    urls = {"openai": base, "anthropic": origin, "gemini": origin, "ollama": origin}
    names = [(dialect, script) for dialect in DIALECTS for script in SCRIPTED]
    settings = settings_for(
        tmp_path_factory.mktemp("messages"),
        None,
        deployments=[
            {
                "name": f"{dialect}-{script}",
                "dialect": dialect,
                "base_url": urls[dialect],
                "model": script,
                "open_after": 0,
            }
            for dialect, script in names
        ],
        routes=[
            {"model": f"{dialect}/{script}", "deployments": [f"{dialect}-{script}"], "attempts": 1}
            for dialect, script in names
        ],
    )
    async with serving(settings) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sdk(legato: Running) -> AsyncIterator[anthropic.AsyncAnthropic]:
    options: Any = {"base_url": legato.url, "api_key": legato.key, "max_retries": 0}
    async with anthropic.AsyncAnthropic(**options) as client:
        yield client


def request(model: str, *messages: Json, **more: Any) -> Any:
    said = list(messages) or [{"role": "user", "content": "Hello"}]
    return {"model": model, "max_tokens": 100, "messages": said, **more}


async def streamed(sdk: anthropic.AsyncAnthropic, wanted: Any) -> anthropic.types.Message:
    async with sdk.messages.stream(**wanted) as stream:
        async for event in stream:
            # The SDK builds its types without a check; what it gave away is checked here.
            type(event).model_validate(event.to_dict())
        return await stream.get_final_message()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_answer_has_our_names(sdk: anthropic.AsyncAnthropic, dialect: str) -> None:
    """What SDKs see in it is in `test_front_sdks.py`."""
    model = f"{dialect}/happy"
    for message in (
        await streamed(sdk, request(model)),
        await sdk.messages.create(**request(model)),
    ):
        assert message.model == model
        assert message.id.startswith("msg_")
        assert message.id != "msg_scripted"


async def test_the_sdk_knows_the_requests_id(sdk: anthropic.AsyncAnthropic) -> None:
    """For those who ask the operator about an answer."""
    whole = await sdk.messages.create(**request("openai/happy"))
    async with sdk.messages.stream(**request("openai/happy")) as stream:
        streamed = await stream.get_final_message()
        assert streamed.id == (stream.request_id or "").replace("req_", "msg_")
    assert whole.id == (whole._request_id or "").replace("req_", "msg_")  # pyright: ignore[reportPrivateUsage]


async def test_signatures_come_to_the_letter(sdk: anthropic.AsyncAnthropic) -> None:
    message = await streamed(sdk, request("anthropic/thinking"))
    assert message.content[0].to_dict()["signature"] == SIGNATURE


PNG = "iVBORw0KGgo="
SIGNED = "bm9ib2R5IHNpZ25lZCBpdA=="  # by a model that is not known here
TURN: list[Json] = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is it?"},
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": PNG},
            },
        ],
    },
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": SIGNED},
            {"type": "text", "text": "I add."},
            CALL_1,
        ],
    },
    {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "3"}],
    },
]
TOOLS: list[Json] = [{"name": "sum", "description": "Adds.", "input_schema": {"type": "object"}}]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_turn_with_a_result_and_an_image(
    sdk: anthropic.AsyncAnthropic, upstream: MockServer, dialect: str
) -> None:
    wanted = request(f"{dialect}/happy", *TURN, tools=TOOLS, system="Be brief.")
    message = await streamed(sdk, wanted)
    assert message.content[0].to_dict()["text"] == TEXT
    asked = upstream.requests[-1].request
    if dialect == "anthropic":
        assert asked["messages"] == TURN
        assert asked["system"] == "Be brief."
        return
    told = str(asked)
    for part in (PNG, "What is it?", "Be brief.", "I add.", "'sum'", "Adds."):
        assert part in told
    assert SIGNED not in told
    if dialect == "openai":
        roles = [each["role"] for each in asked["messages"]]
        assert roles == ["system", "user", "assistant", "tool"]


async def test_headers_go_to_upstreams_of_the_same_format(
    sdk: anthropic.AsyncAnthropic, upstream: MockServer
) -> None:
    headers = {"anthropic-beta": "new-thing-2026-01-01", "anthropic-invented": "1"}
    for dialect in ("anthropic", "openai"):
        await sdk.messages.create(**request(f"{dialect}/happy"), extra_headers=headers)
        got = upstream.requests[-1].headers
        assert ("anthropic-invented" in got) is (dialect == "anthropic")
        assert (got.get("anthropic-beta") == "new-thing-2026-01-01") is (dialect == "anthropic")


async def test_a_query_is_no_part_of_the_path(sdk: anthropic.AsyncAnthropic) -> None:
    message = await sdk.beta.messages.create(**request("openai/happy"))
    assert message.content[0].to_dict()["text"] == TEXT


REFUSALS: dict[str, tuple[Any, type[anthropic.APIStatusError], str]] = {
    "model": (
        request("nobody"),
        anthropic.NotFoundError,
        "not_found_error",
    ),
    "tool": (
        request(
            "openai/happy",
            tools=[{"type": "web_search_20250305", "name": "web_search"}],
            tool_choice={"type": "any"},
        ),
        anthropic.BadRequestError,
        "invalid_request_error",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_refusals(sdk: anthropic.AsyncAnthropic, name: str) -> None:
    wanted, kind, error_type = REFUSALS[name]
    with pytest.raises(kind) as caught:
        await sdk.messages.create(**wanted)
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == error_type
    assert body["request_id"] == caught.value.response.headers["x-request-id"]
    assert body["request_id"] == caught.value.request_id


async def test_what_only_anthropic_takes_goes_there(
    sdk: anthropic.AsyncAnthropic, upstream: MockServer
) -> None:
    said = {
        "role": "user",
        "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}],
    }
    search = {"type": "web_search_20250305", "name": "web_search"}
    more: Any = {"tools": [search], "tool_choice": {"type": "any"}}
    await sdk.messages.create(**request("anthropic/happy", said, **more))
    asked = upstream.requests[-1].request
    assert (asked["messages"], asked["tools"]) == ([said], [search])
    with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\].content\[0\].source"):
        await sdk.messages.create(**request("openai/happy", said, **more))


async def test_a_wrong_key(legato: Running) -> None:
    async with anthropic.AsyncAnthropic(
        base_url=legato.url, api_key="wrong", max_retries=0
    ) as client:
        with pytest.raises(anthropic.AuthenticationError) as caught:
            await client.messages.create(**request("openai/happy"))
    body: Any = caught.value.body
    assert body["error"]["type"] == "authentication_error"
