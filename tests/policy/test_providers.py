"""What a deployment need not say: what its provider or its dialect says, and what a call costs."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import astuple, replace

from legato import dialects
from legato.configuration import load
from legato.core.dialect import Quirks
from legato.mock.server import MockServer
from legato.policy import prices
from legato.policy.providers import PROVIDERS, table
from legato.server import assembly
from legato.settings import Settings
from legato.upstreams.upstream import Upstream
from tests.cli.test_cli import cli
from tests.conftest import serving, settings_for
from tests.support.wire import ask, chat

PAGE = Path(__file__).parents[2] / "docs" / "providers.md"
HERE = "http://127.0.0.1:1/v1"


def settings(tmp_path: Path, *deployments: dict[str, Any], **more: Any) -> Settings:
    file = tmp_path / "empty.toml"
    file.write_text("")
    return load(file, {"deployments": list(deployments), **more}, {})


def upstream(tmp_path: Path, **deployment: Any) -> Upstream:
    chosen = settings(tmp_path, {"name": "a", "model": "m"} | deployment)
    return assembly.upstream(chosen.deployments[0], lambda: 0.0)


def test_there_are_at_least_fifteen_providers_and_each_row_is_one_that_can_be_used() -> None:
    assert len(PROVIDERS) >= 15
    for row in PROVIDERS.values():
        assert {row.dialect, *row.dialects} <= set(dialects.NAMES), row.name
        assert row.docs.startswith("https://"), row.name
        assert row.base_url is None or not row.base_url.endswith("/"), row.name


def test_the_page_has_the_rows_as_they_are() -> None:
    assert table() in PAGE.read_text()


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_provider_fills_in_dialect_address_and_facts(tmp_path: Path, name: str) -> None:
    row = PROVIDERS[name]
    address = {} if row.base_url else {"base_url": HERE}
    found = upstream(tmp_path, provider=name, **address)
    assert found.dialect is dialects.named(row.dialect)
    assert found.quirks == row.quirks
    assert found.target is not None
    assert found.target.pool.endpoint.host in (row.base_url or HERE)


@pytest.mark.parametrize("name", ["openai", "xai"])
def test_responses_are_asked_for_at_the_same_address(tmp_path: Path, name: str) -> None:
    found = upstream(tmp_path, provider=name, dialect="openai-responses")
    assert found.dialect is dialects.named("openai-responses")
    assert found.target is not None
    assert found.target.pool.endpoint.target(found.dialect.path("m")) == "/v1/responses"
    assert not found.quirks.has_n


@pytest.mark.parametrize(
    ("fields", "quirks"),
    [
        ({}, Quirks()),
        ({"dialect": "openai"}, Quirks()),
        ({"dialect": "anthropic"}, PROVIDERS["anthropic"].quirks),
        ({"dialect": "gemini"}, Quirks(has_n=False)),
        ({"dialect": "ollama"}, Quirks(has_n=False, continues="prefill", fetches_images=False)),
        ({"dialect": "openai-responses"}, Quirks(effort_style="effort", has_n=False)),
        # A provider may speak two dialects at one address.
        (
            {"provider": "openai", "dialect": "openai-responses"},
            PROVIDERS["openai"].dialects["openai-responses"],
        ),
        (
            {"provider": "groq", "dialect": "openai-responses"},
            Quirks(effort_style="effort", has_n=False),
        ),
        # A provider's other door is another server.
        (
            {"provider": "deepseek", "dialect": "openai"},
            PROVIDERS["deepseek"].quirks,
        ),
        (
            {"provider": "deepseek", "dialect": "anthropic"},
            Quirks(has_n=False, continues="prefill", counts_tokens=True),
        ),
        # The operator knows better.
        ({"dialect": "anthropic", "continue": "no"}, Quirks(has_n=False, counts_tokens=True)),
        ({"completions": "suffix"}, Quirks(completes="suffix")),
        (
            {"provider": "vllm", "completions": "no"},
            replace(PROVIDERS["vllm"].quirks, completes="no"),
        ),
        ({"provider": "groq", "n": "native"}, replace(PROVIDERS["groq"].quirks, has_n=True)),
    ],
)
def test_what_is_known_of_a_deployment(
    tmp_path: Path, fields: dict[str, Any], quirks: Quirks
) -> None:
    assert upstream(tmp_path, base_url=HERE, **fields).quirks == quirks


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "cancel"),
        ({"provider": "openai"}, "cancel"),
        ({"provider": "cerebras"}, "cancel"),  # nobody knows
        ({"provider": "groq"}, "drain"),
        ({"provider": "groq", "on_disconnect": "cancel"}, "cancel"),
        ({"on_disconnect": "drain"}, "drain"),
    ],
)
def test_what_is_paid_for_anyway_is_heard_to_its_end(
    tmp_path: Path, fields: dict[str, Any], expected: str
) -> None:
    assert upstream(tmp_path, base_url=HERE, **fields).options.on_disconnect == expected


# Prices


def test_a_row_has_a_price_a_page_and_a_day_and_a_provider_that_is_known() -> None:
    for row in prices.PRICES.values():
        assert row.provider in PROVIDERS
        assert 0 < row.cached <= row.prompt < row.completion, row.model
        assert row.source.startswith("https://")
        assert len(row.as_of) == len("2026-01-01")


@pytest.mark.parametrize(
    ("provider", "model", "found"),
    [
        ("openai", "gpt-5.4", "gpt-5.4"),
        ("openai", "gpt-5.4-2026-03-05", "gpt-5.4"),
        ("openai", "gpt-5.4-mini", "gpt-5.4-mini"),
        ("openai", "gpt-5.4-mini-2026-03-17", "gpt-5.4-mini"),
        ("openai", "gpt-5.4-pro", None),  # another model, at twelve times the price
        ("anthropic", "claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("anthropic", "claude-opus-5-5", None),
        ("anthropic", "gpt-5.4", None),
        ("ollama", "gpt-5.4", None),
        (None, "gpt-5.4", None),
    ],
)
def test_a_price_is_that_of_the_model_and_of_its_dated_versions(
    provider: str | None, model: str, found: str | None
) -> None:
    row = prices.find(provider, model)
    assert (row and row.model) == found


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"provider": "openai"}, (2.5, 15.0, 0.25, 2.5, 2.5)),
        ({"provider": "anthropic", "model": "claude-opus-5"}, (5.0, 25.0, 0.5, 6.25, 10.0)),
        ({"provider": "openai", "price": {"prompt": 1, "completion": 2}}, (1, 2, 1, 1, 1)),
        ({"price": {"prompt": 1, "completion": 2, "cached": 0.5}}, (1, 2, 0.5, 1, 1)),
        ({"price": {"prompt": 1, "completion": 2, "cache_write": 0}}, (1, 2, 1, 0, 0)),
        ({"price": {"prompt": 1, "cached": 0.1, "cache_write": 1.25}}, (1, 0, 0.1, 1.25, 2)),
        ({"price": {"prompt": 1, "cache_write_1h": 3}}, (1, 0, 1, 1, 3)),
        ({"price": {"prompt": 1, "cache_write": 1, "cache_write_1h": 0}}, (1, 0, 1, 1, 0)),
    ],
)
def test_what_the_operator_says_of_a_price_goes_before_the_list(
    tmp_path: Path, fields: dict[str, Any], expected: tuple[float, ...] | None
) -> None:
    price = upstream(tmp_path, base_url=HERE, **{"model": "gpt-5.4"} | fields).options.price
    assert (price and astuple(price)) == expected


async def test_prices_are_listed_and_costs_are_added_up(
    tmp_path: Path, scripted: MockServer
) -> None:
    base = await scripted.start()
    chosen = settings_for(
        tmp_path,
        None,
        deployments=[
            {"name": "free", "base_url": base, "model": "happy"},
            {
                "name": "paid",
                "base_url": base,
                "model": "happy",
                "price": {"prompt": 10, "completion": 100, "cached": 1},
            },
        ],
        routes=[
            {"model": "both", "deployments": ["free", "paid"]},
            {"model": "dear", "deployments": ["paid"]},
            {"model": "cheap", "deployments": ["free"]},
        ],
    )
    async with serving(chosen) as legato:
        async with legato.client() as client:
            listed = (await client.get("/v1/models")).json()["data"]
            one = (await client.get("/v1/models/both")).json()
        price = {"prompt": 10.0, "completion": 100.0, "cached": 1.0}
        price |= {"cache_write": 10.0, "cache_write_1h": 10.0}
        assert [each.get("pricing") for each in listed] == [price, price, None]
        assert one == listed[0]
        await ask(legato.port, legato.key, chat("both"))  # the first of the two, which is free
        await legato.app.ledger.flush()
        nothing = ("usage", "--data", chosen.data)
        assert "cost" not in (await cli(*nothing))[1]
        for _ in range(2):
            await ask(legato.port, legato.key, chat("dear"))
        await legato.app.ledger.flush()
        report = json.loads((await cli("usage", "--json", "--data", chosen.data))[1])
        by_route = json.loads((await cli(*nothing, "--by", "route", "--json"))[1])
        shown = (await cli(*nothing))[1]
        grouped = (await cli(*nothing, "--by", "route"))[1]
    one_call = (4 * 10 + 3 * 1 + 10 * 100) / 1e6  # of 7 tokens of the prompt 3 were cached
    assert [each["cost"] for each in report["rows"]] == [None, one_call, one_call]
    assert report["total"]["cost"] == pytest.approx(2 * one_call)
    costs = {each["route"]: each["cost"] for each in by_route["rows"]}
    assert costs == {"both": None, "dear": pytest.approx(2 * one_call)}
    assert shown.splitlines()[0].split()[-1] == grouped.splitlines()[0].split()[-1] == "cost"
    assert [line.split()[-1] for line in shown.splitlines()[1:4]] == ["-", *["$0.001043"] * 2]
    priced = {line.split()[0]: "$0.002086" in line for line in grouped.splitlines()[1:4]}
    assert priced == {"dear": True, "both": False, "all": True}
