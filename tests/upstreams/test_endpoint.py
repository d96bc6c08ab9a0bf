"""Where an upstream is: its base URL, and what is made of it for each request."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from legato.cli.check import check_all
from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from legato.settings import Deployment, SettingsError
from legato.upstreams.endpoint import Endpoint
from tests.cli.test_models_check import checked
from tests.conftest import serving, settings_for, until
from tests.support.wire import ask, chat

#: URL -> the endpoint, its authority, the URL of `/x`, the URL of `/x?a=b`
URLS: dict[str, tuple[Endpoint, str, str, str]] = {
    "http://a": (Endpoint("a", 80), "a", "http://a/x", "http://a/x?a=b"),
    "http://a:8080/v1/": (
        Endpoint("a", 8080, "/v1"),
        "a:8080",
        "http://a:8080/v1/x",
        "http://a:8080/v1/x?a=b",
    ),
    "HTTPS://A/v1": (
        Endpoint("a", 443, "/v1", tls=True),
        "a",
        "https://a/v1/x",
        "https://a/v1/x?a=b",
    ),
    "https://a:80": (
        Endpoint("a", 80, tls=True),
        "a:80",
        "https://a:80/x",
        "https://a:80/x?a=b",
    ),
    "http://a:443": (Endpoint("a", 443), "a:443", "http://a:443/x", "http://a:443/x?a=b"),
    "http://[::1]:9/v1": (
        Endpoint("::1", 9, "/v1"),
        "[::1]:9",
        "http://[::1]:9/v1/x",
        "http://[::1]:9/v1/x?a=b",
    ),
    "https://[fd00::1]": (
        Endpoint("fd00::1", 443, tls=True),
        "[fd00::1]",
        "https://[fd00::1]/x",
        "https://[fd00::1]/x?a=b",
    ),
    "https://a/d/e/?api-version=2024-10-21&c=d#f": (
        Endpoint("a", 443, "/d/e", tls=True, query="api-version=2024-10-21&c=d"),
        "a",
        "https://a/d/e/x?api-version=2024-10-21&c=d",
        "https://a/d/e/x?a=b&api-version=2024-10-21&c=d",
    ),
    "http://a?c=d": (Endpoint("a", 80, query="c=d"), "a", "http://a/x?c=d", "http://a/x?a=b&c=d"),
    "http://a/é b%20c?q=ž r%2F": (
        Endpoint("a", 80, "/%C3%A9%20b%20c", query="q=%C5%BE%20r%2F"),
        "a",
        "http://a/%C3%A9%20b%20c/x?q=%C5%BE%20r%2F",
        "http://a/%C3%A9%20b%20c/x?a=b&q=%C5%BE%20r%2F",
    ),
    "http://a/x\r\nhost: b?y\r\n": (
        Endpoint("a", 80, "/xhost:%20b", query="y"),
        "a",
        "http://a/xhost:%20b/x?y",
        "http://a/xhost:%20b/x?a=b&y",
    ),
}


@pytest.mark.parametrize("url", URLS)
def test_what_a_url_says(url: str) -> None:
    endpoint, authority, plain, with_query = URLS[url]
    assert Endpoint.parse(url) == endpoint
    assert endpoint.authority == authority
    assert endpoint.url("/x") == plain
    assert endpoint.url("/x?a=b") == with_query
    assert plain.endswith(endpoint.target("/x"))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://a", "not an http:// or https:// URL"),
        ("a", "not an http:// or https:// URL"),
        ("http://", "not an http:// or https:// URL"),
        ("http://a b/", "not an http:// or https:// URL"),
        ("http://[::1", "not a URL"),
        ("http://a:x", "not a URL"),
        ("http://a:99999", "not a URL"),
        ("https://me:s3cret@a/v1", "no user name or password"),
        ("https://s3cret@a/v1", "no user name or password"),
        ("https://me:s3cret@", "no user name or password"),
        ("ftp://me:s3cret@a", "no user name or password"),
    ],
)
def test_what_is_no_endpoint(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        Endpoint.parse(url)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(SettingsError) as named:
        settings_for(tmp_path, None, deployments=[{"name": "d1", "model": "m", "base_url": url}])
    assert "deployments `d1`: base_url: " in str(named.value)
    assert "s3cret" not in str(named.value)


def test_a_deployment_is_at_its_own_url_or_at_its_providers() -> None:
    assert Deployment("a", "m", "openai").endpoint == Endpoint(
        "api.openai.com", 443, "/v1", tls=True
    )
    assert Deployment("a", "m", "openai", base_url="http://b/c").endpoint == Endpoint("b", 80, "/c")
    with pytest.raises(ValueError, match="is required"):
        _ = Deployment("a", "m", "vllm").endpoint


PATHS = {
    "openai": ("/v1", "/v1/chat/completions?api-version=1&x=y"),
    "anthropic": ("", "/v1/messages?api-version=1&x=y"),
    "gemini": ("", "/v1beta/models/happy:streamGenerateContent?alt=sse&api-version=1&x=y"),
    "ollama": ("", "/api/chat?api-version=1&x=y"),
}


@pytest.mark.parametrize("dialect", PATHS)
async def test_its_query_is_on_every_request(
    tmp_path: Path, scripted: MockServer, dialect: str
) -> None:
    base = (await scripted.start()).removesuffix("/v1")
    path, target = PATHS[dialect]
    url = f"{base}{path}/?api-version=1&x=y"
    settings = settings_for(tmp_path, url, ["happy"], deploy={"dialect": dialect})
    async with serving(settings) as legato:
        for stream in (True, False):
            answer = await ask(legato.port, legato.key, chat("happy", stream=stream))
            assert answer.status == 200
            assert scripted.requests[-1].path == target


async def test_where_an_answer_is_continued_the_query_is_too(
    tmp_path: Path, scripted: MockServer
) -> None:
    base = await scripted.start()
    first = {"name": "first", "model": "cut", "base_url": base}
    rest = {"name": "rest", "model": "happy", "base_url": f"{base}?a=b", "provider": "deepseek"}
    routes = [{"model": "both", "deployments": ["first", "rest"]}]
    settings = settings_for(tmp_path, None, deployments=[first, rest], routes=routes)
    async with serving(settings) as legato:
        await ask(legato.port, legato.key, chat("both", stream=True))
    assert scripted.requests[-1].path == "/beta/chat/completions?a=b"


async def test_the_check_of_deployments_keeps_the_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    get = httpx.AsyncClient.get

    async def noted(client: httpx.AsyncClient, url: str, **more: Any) -> httpx.Response:
        asked.append(url.partition("://")[2].partition("/")[2])
        return await get(client, url, **more)

    monkeypatch.setattr(httpx.AsyncClient, "get", noted)
    server = MockServer(SCRIPTS)
    url = f"{await server.start()}?a=b"
    wanted = settings_for(tmp_path, url, ["happy"]).deployments
    [found] = await check_all(wanted, 5.0)
    await until(lambda: server.open_connections == 0, "no connection is left")
    await server.stop()
    assert (found.ok, found.listed) == (True, True)
    assert asked == ["v1/models?a=b"]
    assert {each.path for each in server.requests} == {"/v1/chat/completions?a=b"}
    away = {"model": "happy", "base_url": "http://127.0.0.1:1/v1?key=s3cret"}
    async with checked(tmp_path, away) as (_, [gone]):
        pass
    assert "http://127.0.0.1:1/v1/models cannot be reached" in gone.problems[0]
    assert "s3cret" not in "".join(gone.problems)
