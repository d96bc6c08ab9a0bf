"""`GET /v1/models` in the shapes of three kinds of clients."""

from datetime import datetime
from pathlib import Path
from typing import Any, Final

import anthropic
import pytest

from legato.mock.server import MockServer
from legato.server.model_lists import codex_models
from tests.conftest import Running, serving, settings_for

ANTHROPIC: Final = {"anthropic-version": "2023-06-01"}


@pytest.fixture
async def running(tmp_path: Path, scripted: MockServer) -> Any:
    base = await scripted.start()
    async with serving(settings_for(tmp_path, base, ["happy", "thinking"])) as server:
        yield server


async def asked(running: Running, path: str, **headers: str) -> Any:
    async with running.client() as client:
        response = await client.get(path, headers=headers)
        assert response.status_code == 200, response.text
        return response.json()


async def test_the_shape_of_openai(running: Running) -> None:
    listed = await asked(running, "/v1/models")
    assert set(listed) == {"object", "data"}
    assert [each["id"] for each in listed["data"]] == ["happy", "thinking"]
    for each in listed["data"]:
        assert each["object"] == "model"
        assert await asked(running, f"/v1/models/{each['id']}") == each


async def test_the_shape_of_anthropic(running: Running) -> None:
    listed = await asked(running, "/v1/models?limit=1000", **ANTHROPIC)
    assert {name: value for name, value in listed.items() if name != "data"} == {
        "has_more": False,
        "first_id": "happy",
        "last_id": "thinking",
    }
    openai = (await asked(running, "/v1/models"))["data"]
    for each, model in zip(listed["data"], openai, strict=True):
        assert each["type"] == "model"
        assert each["id"] == each["display_name"] == model["id"]
        assert each["created_at"].endswith("Z")
        assert datetime.fromisoformat(each["created_at"]).timestamp() == model["created"]
        assert await asked(running, f"/v1/models/{each['id']}", **ANTHROPIC) == each


async def test_an_empty_list_of_anthropic(running: Running) -> None:
    listed = await asked(running, "/v1/models?provider=nobody", **ANTHROPIC)
    assert listed == {"data": [], "has_more": False, "first_id": None, "last_id": None}


async def test_the_sdk_of_anthropic(running: Running) -> None:
    async with anthropic.AsyncAnthropic(api_key=running.key, base_url=running.url) as client:
        page = await client.models.list()
        assert [each.id for each in page.data] == ["happy", "thinking"]
        assert not page.has_next_page()
        one = await client.models.retrieve("happy")
        assert isinstance(one.created_at, datetime)
        with pytest.raises(anthropic.NotFoundError):
            await client.models.retrieve("nothing")


#: The members that Codex 0.171 needs, and their types.
CODEX: Final[dict[str, type | tuple[type, ...]]] = {
    "slug": str,
    "display_name": str,
    "supported_reasoning_levels": list,
    "default_reasoning_level": (str, type(None)),
    "shell_type": str,
    "visibility": str,
    "supported_in_api": bool,
    "priority": int,
    "base_instructions": str,
    "supports_reasoning_summaries": bool,
    "support_verbosity": bool,
    "default_verbosity": (str, type(None)),
    "apply_patch_tool_type": (str, type(None)),
    "truncation_policy": dict,
    "supports_parallel_tool_calls": bool,
    "context_window": (int, type(None)),
    "experimental_supported_tools": list,
}


async def test_the_shape_of_codex(running: Running) -> None:
    """Beside OpenAI's, which others may send the same parameter for."""
    listed = await asked(running, "/v1/models?client_version=0.171.0")
    models = listed.pop("models")
    assert listed == await asked(running, "/v1/models")
    assert [each["slug"] for each in models] == ["happy", "thinking"]
    assert models == codex_models(listed["data"])
    for each in models:
        assert each.keys() == CODEX.keys()
        for name, kind in CODEX.items():
            assert isinstance(each[name], kind), name
        assert set(each["truncation_policy"]) == {"mode", "limit"}
    assert (await asked(running, "/v1/models?client_version=1&provider=x"))["models"] == []


@pytest.mark.parametrize("reasons", [True, False])
def test_reasoning_for_codex(reasons: bool) -> None:
    capabilities = ["chat", "reasoning"] if reasons else ["chat"]
    model = {"id": "m", "capabilities": capabilities, "context_length": 4096}
    (entry,) = codex_models([model])
    levels = entry["supported_reasoning_levels"]
    assert [set(level) for level in levels] == [{"effort", "description"}] * (3 if reasons else 0)
    assert entry["default_reasoning_level"] == ("medium" if reasons else None)
    assert entry["supports_reasoning_summaries"] is reasons
    assert entry["context_window"] == 4096


@pytest.mark.parametrize(
    ("path", "key", "code"),
    [
        ("/v1/models/nothing", True, "model_not_found"),
        ("/v1/models", False, "missing_api_key"),
        ("/v1/nothing", True, "unknown_path"),
    ],
)
async def test_errors_have_the_shape_that_the_headers_ask_for(
    running: Running, path: str, key: bool, code: str
) -> None:
    async with running.client() as client:
        if not key:
            del client.headers["authorization"]
        answer = await client.get(path, headers=ANTHROPIC)
        error = answer.json()
        assert error["type"] == "error"
        assert error["request_id"] == answer.headers["x-request-id"]
        kind = "not_found_error" if key else "authentication_error"
        assert error["error"]["type"] == kind
        assert (await client.get(path)).json()["error"]["code"] == code
