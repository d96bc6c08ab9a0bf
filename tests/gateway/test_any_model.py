"""Deployments that take the client's model name, routes with patterns, and aliases."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from legato.cli.check import check_all
from legato.cli.routes import Route, _model
from legato.mock.server import MockServer
from tests.conftest import Running, serving, settings_for, until
from tests.support.wire import ask, chat

DIALECTS = ("openai", "anthropic", "gemini", "ollama")
ALIASES = {
    "opus": "thinking",
    "best": "happy",
    "same": "any-thing",
    "famous": "anthropic-happy",
}


@pytest.fixture
async def running(tmp_path: Path, scripted: MockServer) -> AsyncIterator[Running]:
    base = await scripted.start()
    origin = base.removesuffix("/v1")
    deployments: list[dict[str, Any]] = [
        {
            "name": dialect,
            "dialect": dialect,
            "base_url": base if dialect == "openai" else origin,
            "model": "*",
        }
        for dialect in DIALECTS
    ]
    deployments += [
        {"name": "fixed", "base_url": base, "model": "happy"},
        {"name": "priced", "base_url": base, "model": "*", "provider": "openai"},
    ]
    settings = settings_for(
        tmp_path,
        None,
        deployments=deployments,
        routes=[
            *({"model": f"{each}-*", "deployments": [each]} for each in DIALECTS),
            {"model": "happy", "deployments": ["openai"]},
            {"model": "think*", "deployments": ["openai"]},
            {"model": "any-*", "deployments": ["fixed"]},
            {"model": "broken", "deployments": ["fixed", "openai"]},
            {"model": "gpt-*", "deployments": ["priced"]},
        ],
        aliases=ALIASES,
    )
    async with serving(settings) as server:
        yield server


#: The model that a client asks for, and the name that its upstream is sent.
ASKED = {
    "happy": "happy",
    "thinking": "thinking",
    "opus": "thinking",
    "best": "happy",
    "any-thing-else": "happy",
    "same": "happy",
}


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("model", ASKED)
async def test_the_name_at_the_upstream(
    running: Running, scripted: MockServer, model: str, streams: bool
) -> None:
    """The answer names what the client asked for, and so does the ledger."""
    answer = await ask(running.port, running.key, chat(model, stream=streams))
    assert answer.status == 200
    named = {each["model"] for each in answer.chunks} if streams else {answer.json["model"]}
    assert named == {model}
    assert [each.model for each in scripted.requests] == [ASKED[model]]
    (row,) = await running.rows()
    assert row["route"] == model


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_dialect(running: Running, scripted: MockServer, dialect: str) -> None:
    """Gemini's requests have the model in their path."""
    scripted.scripts |= {f"{dialect}-{name}": scripted.scripts[name] for name in ("happy", "cut")}
    for name in ("happy", "happy", "cut"):
        answer = await ask(running.port, running.key, chat(f"{dialect}-{name}", stream=True))
        assert answer.status == 200
        assert answer.done is (name == "happy")
    assert [each.model for each in scripted.requests] == [
        f"{dialect}-{name}" for name in ("happy", "happy", "cut")
    ]


async def test_the_list_price_of_the_model_that_was_asked(
    running: Running, scripted: MockServer
) -> None:
    scripted.scripts |= dict.fromkeys(("gpt-5.4-mini", "gpt-x"), scripted.scripts["happy"])
    for name in ("gpt-5.4-mini", "gpt-x"):
        assert (await ask(running.port, running.key, chat(name))).status == 200
    known, unknown = await running.rows()
    assert known["cost"] > 0
    assert unknown["cost"] is None
    async with running.client() as client:
        models = [
            (await client.get(f"/v1/models/{name}")).json() for name in ("gpt-5.4-mini", "gpt-x")
        ]
    assert [each.get("pricing", {}).get("prompt") for each in models] == [0.75, None]


async def test_a_name_that_is_no_name(running: Running, scripted: MockServer) -> None:
    for name in ("gemini-\r\nx: y", "gemini- x", "gemini-*", "nothing", "*"):
        answer = await ask(running.port, running.key, chat(name))
        assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")
    assert scripted.requests == []


async def test_what_is_listed(running: Running) -> None:
    """Names, aliases among them, but no patterns; one that a pattern matches can be looked up."""
    async with running.client() as client:
        listed = (await client.get("/v1/models")).json()["data"]
        assert [each["id"] for each in listed] == ["happy", "broken", *ALIASES]
        for name in ("opus", "any-thing", "gemini-x"):
            assert (await client.get(f"/v1/models/{name}")).json()["id"] == name
        assert (await client.get("/v1/models/any-*")).status_code == 404
        shown = (await client.get("/legato/routes")).json()["data"]
    aliases = {each["model"]: each["aliases"] for each in shown if each["aliases"]}
    assert aliases == {
        "happy": ["best"],
        "think*": ["opus"],
        "any-*": ["same"],
        "anthropic-*": ["famous"],
    }
    assert "gemini-*" in {each["model"] for each in shown}


def test_what_legato_routes_shows() -> None:
    assert _model(Route("a-*", "order", [], ["b", "c"])) == "a-* (also b, c)"
    assert _model(Route("a", "order", [])) == "a"


async def test_a_deployment_of_any_model_is_checked_for_its_key_alone(
    running: Running, scripted: MockServer
) -> None:
    found = await check_all(running.app.settings.deployments[:1], 5.0)
    assert [(each.ok, each.reachable, each.auth, each.listed) for each in found] == [
        (True, True, True, None)
    ]
    assert scripted.requests == []
    await until(lambda: scripted.open_connections == 0, "no connection is left")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_other_client_formats(running: Running, scripted: MockServer, path: str) -> None:
    """Requests that pass through as they came are sent the name at the upstream as well."""
    scripted.scripts |= {f"{each}-happy": scripted.scripts["happy"] for each in DIALECTS}
    text: dict[str, Any] = {"max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}
    if path == "/v1/responses":
        text = {"input": "Hello"}
    for name, at_upstream in (
        ("opus", "thinking"),
        ("anthropic-happy", "anthropic-happy"),
        ("gemini-happy", "gemini-happy"),
        ("famous", "anthropic-happy"),
    ):
        answer = await ask(running.port, running.key, {"model": name} | text, path=path)
        assert answer.status == 200, answer.body
        assert answer.json["model"] == name
        assert scripted.requests[-1].model == at_upstream


@pytest.mark.parametrize("name", ["anthropic-happy", "famous"])
async def test_tokens_are_counted_for_the_same_name(
    running: Running, scripted: MockServer, name: str
) -> None:
    body = chat(name) | {"max_tokens": 9}
    path = "/v1/messages/count_tokens"
    answer = await ask(running.port, running.key, body, path=path)
    assert answer.status == 200, answer.body
    assert answer.json["input_tokens"] > 0
