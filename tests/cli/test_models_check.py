"""`legato models check`: each deployment asked once, and in plain words what it did not do."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from legato.cli.check import CheckResult, check_all
from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer, Script, Step
from tests.cli.test_cli import cli
from tests.conftest import settings_for, until

SECONDS = 5.0


@asynccontextmanager
async def checked(
    tmp_path: Path, *deployments: dict[str, Any], seconds: float = SECONDS
) -> AsyncIterator[tuple[MockServer, list[CheckResult]]]:
    """The scripted upstream, and what was found out of deployments at it."""
    server = MockServer(SCRIPTS)
    base = await server.start()
    at_it = [{"name": f"d{number}", "base_url": base} for number in range(len(deployments))]
    wanted = [
        here | more | ({"base_url": base.removesuffix("/v1")} if "dialect" in more else {})
        for here, more in zip(at_it, deployments, strict=True)
    ]
    try:
        chosen = settings_for(tmp_path, None, deployments=wanted).deployments
        yield server, await check_all(chosen, seconds)
        await until(lambda: server.open_connections == 0, "no connection is left")
    finally:
        await server.stop()


async def test_what_a_deployment_can_do(tmp_path: Path) -> None:
    names = ["happy", "thinking", "tools", "usage-nowhere"]
    async with checked(tmp_path, *({"model": name} for name in names)) as (server, found):
        pass
    for each in found:
        assert (each.ok, each.reachable, each.auth, each.listed) == (True, True, True, True)
        assert each.problems == []
        assert each.ttft is not None
        assert each.ttft > 0
        assert each.tokens_per_second is not None
        assert each.tokens_per_second > 0
    supported = {each.model: (each.reasoning, each.usage, each.tools) for each in found}
    assert supported == {
        "happy": (False, True, False),
        "thinking": (True, True, False),
        "tools": (False, True, True),
        "usage-nowhere": (False, False, False),
    }
    asked = [each.request for each in server.requests if each.model == "happy"]
    assert [each["max_tokens"] for each in asked] == [16, 128]
    assert asked[1]["tool_choice"]["function"]["name"] == asked[1]["tools"][0]["function"]["name"]


@pytest.mark.parametrize("dialect", ["anthropic", "gemini", "ollama"])
async def test_every_dialect_is_asked_in_its_own_words(tmp_path: Path, dialect: str) -> None:
    async with checked(tmp_path, {"model": "thinking", "dialect": dialect}) as (_, [found]):
        pass
    assert (found.ok, found.listed, found.reasoning, found.usage) == (True, True, True, True)


#: model -> (reachable, auth, the sentence's beginning)
FAILURES = {
    "401": (True, False, "the key is refused: "),
    "429": (True, True, "the quota or rate limit is used up: "),
    "500": (True, True, "the stream failed: "),
    "html": (True, True, "the stream failed: "),
    "cut": (True, True, "the stream failed: "),
    "nobody": (True, True, "the upstream does not have this model, or base_url is wrong: "),
}


async def test_a_failure_is_told_in_words(tmp_path: Path) -> None:
    models = ({"model": name} for name in FAILURES)
    async with checked(tmp_path, *models) as (_server, found):
        pass
    for each in found:
        reachable, auth, words = FAILURES[each.model]
        assert (each.ok, each.reachable, each.auth) == (False, reachable, auth), each
        assert [problem[: len(words)] for problem in each.problems] == [words]
        assert each.ttft is None
        assert each.tools is None
        assert each.listed is (each.model != "nobody")


async def test_one_that_takes_too_long(tmp_path: Path) -> None:
    async with checked(tmp_path, {"model": "stall"}, seconds=0.5) as (_, [found]):
        pass
    assert not found.ok
    assert (
        found.problems[-1] == "the upstream is too slow: The answer was not complete within 0.5 s."
    )


async def test_one_that_is_not_there(tmp_path: Path) -> None:
    away = {"model": "happy", "base_url": "http://127.0.0.1:1/v1"}
    async with checked(tmp_path, {"model": "happy"}, away) as (_, [here, gone]):
        pass
    assert here.ok
    assert (gone.ok, gone.reachable, gone.auth, gone.listed) == (False, False, None, None)
    assert "http://127.0.0.1:1/v1/models cannot be reached" in gone.problems[0]


async def test_a_key_that_is_used_up_makes_room_for_the_next(tmp_path: Path) -> None:
    keys = {"model": "429-then-ok", "api_keys": ["first", "second"]}
    async with checked(tmp_path, keys) as (server, [found]):
        pass
    assert found.ok
    used = [each.headers["authorization"] for each in server.requests]
    assert used[:2] == ["Bearer first", "Bearer second"]


async def test_the_command_shows_a_table_and_ends_with_1(tmp_path: Path) -> None:
    server = MockServer(SCRIPTS | {"plain": Script(steps=[Step(say="Hi"), Step(finish="stop")])})
    base = await server.start()
    config = tmp_path / "legato.toml"

    def write(*models: str) -> None:
        config.write_text(
            "".join(
                f'[[deployments]]\nname = "at-{model}"\nbase_url = "{base}"\nmodel = "{model}"\n'
                for model in models
            )
        )

    check = ("models", "check", "--config", str(config))
    write("plain", "401")
    code, out, err = await cli(*check)
    assert (code, err) == (1, "")
    heading, good, bad, problem = out.splitlines()
    assert heading.split()[:5] == ["deployment", "ok", "reached", "key", "listed"]
    assert good.split()[:5] == ["at-plain", "yes", "yes", "yes", "yes"]
    assert bad.split()[:4] == ["at-401", "no", "yes", "no"]
    assert problem.startswith("at-401: the key is refused: ")
    code, out, _ = await cli(*check, "--json")
    assert code == 1
    assert [each["ok"] for each in json.loads(out)] == [True, False]
    write("plain")
    assert (await cli(*check))[0] == 0
    write()
    code, out, err = await cli(*check)
    assert (code, out) == (2, "")
    assert "no [[deployments]]" in err
    await server.stop()
