"""Responses that are kept: a request goes on with an earlier one; reading, listing, deleting."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from legato.core.errors import ApiError
from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from tests.conftest import Running, serving, settings_for
from tests.gateway.test_fallback import routed
from tests.support.wire import ask

TEXT = "".join((step.say or "") * step.repeat for step in SCRIPTS["happy"].steps)


@pytest.fixture
async def keeping(tmp_path: Path, scripted: MockServer) -> AsyncIterator[Running]:
    settings = settings_for(
        tmp_path, await scripted.start(), ["happy", "cut"], **{"responses.store": True}
    )
    async with serving(settings) as running:
        yield running


def client(running: Running, key: str | None = None) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{running.url}/v1", api_key=key or running.key, max_retries=0
    )


@pytest.mark.parametrize("streams", [True, False])
async def test_a_request_goes_on_with_an_earlier_one(
    keeping: Running, scripted: MockServer, streams: bool
) -> None:
    async with client(keeping) as sdk:

        async def create(text: str, **more: Any) -> Any:
            if not streams:
                return await sdk.responses.create(model="happy", input=text, **more)
            last: Any = None
            async for event in await sdk.responses.create(
                model="happy", input=text, stream=True, **more
            ):
                last = event
            return last.response

        first = await create("One", instructions="Be brief.")
        assert first.store is True
        assert first.output_text == TEXT
        second = await create("Two", previous_response_id=first.id)
        assert second.previous_response_id == first.id
        third = await create("Three", previous_response_id=second.id)
        # Instructions are those of a request, not of a conversation.
        said = [
            (each["role"], each["content"]) for each in scripted.requests[-1].request["messages"]
        ]
        assert said == [
            ("user", "One"),
            ("assistant", TEXT),
            ("user", "Two"),
            ("assistant", TEXT),
            ("user", "Three"),
        ]
        read = await sdk.responses.retrieve(third.id)
        assert read.model_dump() == third.model_dump()
        items = await sdk.responses.input_items.list(third.id, order="asc")
        texts = [each.content[0].text for each in items.data]  # type: ignore[union-attr]
        assert texts == ["One", TEXT, "Two", TEXT, "Three"]
        assert len({each.id for each in items.data}) == 5
        await sdk.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve(first.id)
        with pytest.raises(openai.BadRequestError) as error:
            await create("Again", previous_response_id=first.id)
        assert error.value.code == "previous_response_not_found"
        assert error.value.param == "previous_response_id"
        # What went on with it has all that it needs.
        assert (await create("Four", previous_response_id=third.id)).output_text == TEXT


async def test_what_is_not_to_be_kept_is_not(keeping: Running) -> None:
    async with client(keeping) as sdk:
        response = await sdk.responses.create(model="happy", input="One", store=False)
        assert response.store is False
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve(response.id)


async def test_an_answer_that_broke_is_not_kept(keeping: Running) -> None:
    async with client(keeping) as sdk:
        identity = ""
        async for event in await sdk.responses.create(model="cut", input="One", stream=True):
            if event.type in ("response.created", "response.failed"):
                identity = event.response.id
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve(identity)


async def test_an_answer_belongs_to_the_key_that_asked_for_it(keeping: Running) -> None:
    async with client(keeping) as sdk:
        response = await sdk.responses.create(model="happy", input="One")
    kept = keeping.app.services.kept_responses
    assert kept is not None
    for act in (kept.find, kept.delete):
        with pytest.raises(ApiError) as error:
            await act(response.id, "key_of_another")
        assert (error.value.status, error.value.code) == (404, "response_not_found")
    async with httpx.AsyncClient(base_url=keeping.url) as http:
        assert (await http.get(f"/v1/responses/{response.id}")).status_code == 401


PAGES: list[tuple[dict[str, Any], list[int], bool]] = [
    ({}, [4, 3, 2, 1, 0], False),
    ({"order": "asc"}, [0, 1, 2, 3, 4], False),
    ({"order": "asc", "limit": 2}, [0, 1], True),
    ({"limit": 2}, [4, 3], True),
    ({"order": "asc", "after": 2}, [3, 4], False),
    ({"after": 2, "limit": 1}, [1], True),
    ({"after": 0}, [], False),
]


async def test_pages_of_input_items(keeping: Running) -> None:
    given = [{"role": "user", "content": f"{number}"} for number in range(5)]
    async with client(keeping) as sdk:
        response = await sdk.responses.create(model="happy", input=given)  # type: ignore[arg-type]
    async with keeping.client() as http:
        path = f"/v1/responses/{response.id}/input_items"
        every = (await http.get(path, params={"order": "asc"})).json()["data"]
        for query, numbers, more in PAGES:
            if "after" in query:
                query = query | {"after": every[query["after"]]["id"]}
            page = (await http.get(path, params=query)).json()
            assert page["data"] == [every[number] for number in numbers]
            assert page["has_more"] is more
            assert page["first_id"] == (every[numbers[0]]["id"] if numbers else None)
        for wrong in ({"limit": 0}, {"limit": "x"}, {"order": "up"}, {"after": "x"}):
            answer = await http.get(path, params=wrong)
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] in wrong


async def test_what_is_complete_cannot_be_cancelled(keeping: Running) -> None:
    async with client(keeping) as sdk:
        response = await sdk.responses.create(model="happy", input="One")
    async with keeping.client() as http:
        answer = await http.post(f"/v1/responses/{response.id}/cancel")
        assert answer.status_code == 400
        assert (await http.post("/v1/responses/resp_x/cancel")).status_code == 404


async def test_what_is_kept_outlives_the_server(tmp_path: Path, scripted: MockServer) -> None:
    base = await scripted.start()
    settings = settings_for(tmp_path, base, ["happy"], **{"responses.store": True})
    async with serving(settings) as running:
        key = running.key
        async with client(running) as sdk:
            first = await sdk.responses.create(model="happy", input="One")
    async with serving(settings, key=key) as running, client(running, key) as sdk:
        await sdk.responses.create(model="happy", input="Two", previous_response_id=first.id)
    assert len(scripted.requests[-1].request["messages"]) == 3


async def test_what_has_expired_is_gone(tmp_path: Path, scripted: MockServer) -> None:
    more = {"responses.store": True, "responses.keep_days": 1e-9}
    settings = settings_for(tmp_path, await scripted.start(), ["happy"], **more)
    async with serving(settings) as running, client(running) as sdk:
        response = await sdk.responses.create(model="happy", input="One")
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve(response.id)


async def test_nothing_is_kept_unless_it_is_turned_on(legato: Running) -> None:
    async with client(legato) as sdk:
        response = await sdk.responses.create(model="happy", input="One", store=True)
        assert response.store is False
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve(response.id)
        with pytest.raises(openai.BadRequestError) as error:
            await sdk.responses.create(model="happy", input="Two", previous_response_id=response.id)
        assert error.value.code == "previous_response_not_found"


async def test_half_a_request_is_refused_by_its_parser(keeping: Running) -> None:
    for body in (b"{", b"[]", b'{"model": "happy"}', b'{"model": "happy", "input": 3}'):
        answer = await ask(keeping.port, keeping.key, body, path="/v1/responses")
        assert answer.status == 400


WRONG: dict[str, tuple[Any, str]] = {
    "no input": (5, "input"),
    "an object": ({"role": "user"}, "input"),
    "no item": ([{"role": "user", "content": "x"}, "y"], "input[1]"),
    "no role": ([{"role": "critic", "content": "x"}], "input[0].role"),
    "no content": ([{"role": "user", "content": 5}], "input[0].content"),
    "a part for another upstream": (
        [{"role": "user", "content": [{"type": "input_video"}]}],
        "input[0].content",
    ),
}


async def test_a_wrong_item_is_named_by_its_place_in_this_request(keeping: Running) -> None:
    """Not by its place in the whole conversation, of which the client sends the end alone."""
    async with keeping.client() as http:
        asked: dict[str, Any] = {"model": "happy", "input": "One"}
        first = (await http.post("/v1/responses", json=asked)).json()["id"]
        for given, param in WRONG.values():
            for more in ({}, {"previous_response_id": first}):
                body = {"model": "happy", "input": given} | more
                answer = await http.post("/v1/responses", json=body)
                assert answer.status_code == 400
                error = answer.json()["error"]
                assert error["param"] == param
                assert f"`{param}`" in error["message"]


async def test_what_is_asked_of_the_endpoints_is_checked(keeping: Running) -> None:
    async with keeping.client() as http:
        asked = {"model": "happy", "input": "One"}
        path = "/v1/responses/" + (await http.post("/v1/responses", json=asked)).json()["id"]
        answer = await http.get(f"{path}/input_items", params={"limit": "9" * 5000})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")
        answer = await http.get(path, params={"stream": "true"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stream")
        answers = await asyncio.gather(*[http.delete(path) for _ in range(4)])
        assert sorted(each.status_code for each in answers) == [200, 404, 404, 404]


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_database_that_is_away(
    keeping: Running, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    @asynccontextmanager
    async def away() -> AsyncIterator[None]:
        if hangs:
            await asyncio.Event().wait()
        raise ConnectionRefusedError("postgresql://user:secret@host")
        yield

    monkeypatch.setattr("legato.gateway.kept_responses.WAIT_SECONDS", 0.05)
    asked = {"model": "happy", "input": "One"}
    async with keeping.client() as http:
        path = "/v1/responses/" + (await http.post("/v1/responses", json=asked)).json()["id"]
        assert (await http.get(path)).status_code == 200  # it is written
        asked["previous_response_id"] = path.rpartition("/")[2]
        with monkeypatch.context() as patched:
            patched.setattr(keeping.app.database, "begin", away)
            answers = [
                await http.get(path),
                await http.get(f"{path}/input_items"),
                await http.delete(path),
                await http.post("/v1/responses", json=asked),
            ]
        for answer in answers:
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "responses_unavailable"
        assert (await http.get(path)).status_code == 200


async def test_an_upstream_gets_no_ids_that_were_made_up_here(
    tmp_path: Path, scripted: MockServer
) -> None:
    """OpenAI refuses ids that do not begin as its own do."""
    deploy = {"happy": {"dialect": "openai-responses"}}
    more: dict[str, Any] = {"responses.store": True}
    result = {"type": "function_call_output", "call_id": "call_1", "output": "3"}
    call = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
    given = [{"role": "user", "content": "One"}, call | {"id": "fc_1"}, result]
    async with (
        routed(tmp_path, scripted, ["happy"], deploy=deploy, **more) as running,
        client(running) as sdk,
    ):
        first = await sdk.responses.create(model="public", input=given)  # type: ignore[arg-type]
        items = (await sdk.responses.input_items.list(first.id, order="asc")).data
        assert len({each.id for each in items}) == 3
        second = await sdk.responses.create(
            model="public", input="Two", previous_response_id=first.id
        )
        assert second.status == "completed"
        sent = scripted.requests[-1].request["input"]
        answered = [each.to_dict()["id"] for each in first.output]
        assert [each.get("id") for each in sent] == [None, "fc_1", None, *answered, None]
