"""The Responses front as OpenAI's SDK uses it, before upstreams of all dialects: each event, what
upstreams are asked, failure."""

import gc
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

import openai
import pytest
import pytest_asyncio
from pydantic import BaseModel

from legato.mock.format_scripts import FORMAT_SCRIPTS
from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer, Script, Step
from tests.conftest import Running, serving, settings_for, until
from tests.support.responses_order import Told, check_response
from tests.support.wire import ask

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
Way = Literal["create", "stream", "helper"]

TEXT = "Once upon a time, there was a stream."
DIALECTS = ("openai", "anthropic", "gemini", "ollama", "openai-responses")


def _call(index: int, name: str, *pieces: str) -> list[Step]:
    head = {"index": index, "id": f"call_{index + 1}", "type": "function"}
    first = Step(tool=head | {"function": {"name": name, "arguments": ""}})
    rest = [Step(tool={"index": index, "function": {"arguments": each}}) for each in pieces]
    return [first, *rest]


_END = SCRIPTS["tools"].steps[-3:]
PATCH = "*** Begin Patch\n+é\n*** End Patch"

OWN_SCRIPTS = {
    "one-tool": Script(steps=[*_call(0, "sum", '{"a": 1,', ' "b": 2}'), *_END]),
    "agent": Script(
        steps=[
            *(Step(think=each) for each in ("Two calls", " will do.")),
            Step(say="One moment."),
            *SCRIPTS["tools"].steps,
        ]
    ),
    "patch": Script(steps=[*_call(0, "apply_patch", json.dumps({"input": PATCH})), *_END]),
    "mail": Script(steps=[*_call(0, "mail__send", '{"to": "you"}'), *_END]),
    "json": Script(steps=[Step(say='{"answer":'), Step(say=" 42}"), *SCRIPTS["happy"].steps[-3:]]),
    "length": Script(steps=[Step(say="Once"), Step(finish="length"), *_END[1:]]),
    "filtered": Script(steps=[Step(say="Once"), Step(finish="content_filter"), *_END[1:]]),
    "refusal": Script(steps=[Step(delta={"refusal": "I will not."}), *SCRIPTS["happy"].steps[-3:]]),
}
PLAYED = ("happy", "thinking", "tools")
SIGNED = ("signed-thinking", "redacted-thinking")


SUBJECTS = (
    *("happy", "thinking", "one-tool", "tools", "agent", "patch", "mail"),
    *("length", "filtered", "refusal"),
)

#: The call that an SDK sees.
CALLS = {
    "patch": ("custom_tool_call", "apply_patch", PATCH),
    "mail": ("function_call", "mail.send", '{"to":"you"}'),
}

#: What an upstream's format has no words for.
UNSAID = {
    ("anthropic", "refusal"),
    ("gemini", "refusal"),
    ("ollama", "refusal"),
    ("ollama", "filtered"),
    # Nothing is mapped to a function or back.
    ("openai-responses", "patch"),
    ("openai-responses", "mail"),
}

TOOLS: list[Json] = [
    {"type": "function", "name": "sum", "parameters": {"type": "object"}, "strict": False},
    {"type": "function", "name": "now", "parameters": {"type": "object"}, "strict": False},
    {"type": "custom", "name": "apply_patch", "description": "Edits files."},
    {
        "type": "namespace",
        "name": "mail",
        "description": "Mail.",
        "tools": [{"type": "function", "name": "send", "parameters": {"type": "object"}}],
    },
    {"type": "web_search"},
]


class House:
    def __init__(self, legato: Running, scripted: MockServer) -> None:
        self.legato = legato
        self.scripted = scripted
        self.sdk = openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{legato.port}/v1", api_key=legato.key, max_retries=0
        )


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    scripted = MockServer(SCRIPTS | OWN_SCRIPTS)
    base = await scripted.start()
    names = (
        *PLAYED,
        *OWN_SCRIPTS,
        "signed-thinking",
        "redacted-thinking",
        "cut",
        "error-in-band",
        "400",
        "429",
        "too-long",
    )
    deployments = [
        {
            "name": f"{dialect}/{name}",
            "model": name,
            "dialect": dialect,
            "base_url": base if dialect.startswith("openai") else base.removesuffix("/v1"),
            "open_after": 0,
        }
        for dialect in DIALECTS
        for name in names
    ]
    routes = [
        {"model": each["name"], "deployments": [each["name"]], "attempts": 1}
        for each in deployments
    ]
    data = tmp_path_factory.mktemp("house")
    settings = settings_for(data, None, deployments=deployments, routes=routes)
    async with serving(settings) as legato:
        house = House(legato, scripted)
        yield house
        await house.sdk.close()
    await until(lambda: scripted.open_connections == 0, "no connection to the upstream is left")
    await scripted.stop()


@pytest.fixture(autouse=True, scope="module")
def no_garbage() -> Any:
    """Once for all: after each test it would take longer than they do."""
    yield
    gc.collect()


async def answer(house: House, way: Way, model: str, **more: Any) -> Any:
    """The response that the SDK gives."""
    asked: Json = {"model": model, "input": "Hello", "tools": TOOLS} | more
    responses = house.sdk.responses
    if way == "create":
        return await responses.create(**asked)
    if way == "helper":
        async with responses.stream(**asked) as stream:
            async for _ in stream:
                pass
            return await stream.get_final_response()
    response: Any = None
    async for event in await responses.create(**asked, stream=True):
        response = getattr(event, "response", response)
    return response


def called(item: Any) -> tuple[str, ...]:
    if item.type == "custom_tool_call":
        return (item.type, item.name, item.input)
    name = f"{item.namespace}.{item.name}" if item.namespace else item.name
    return (item.type, name, json.dumps(json.loads(item.arguments), separators=(",", ":")))


CELLS = [
    (dialect, name) for dialect in DIALECTS for name in SUBJECTS if (dialect, name) not in UNSAID
]

#: What every SDK sees of the others is in `test_front_sdks.py`.
MAPPED = [cell for cell in CELLS if cell[1] in CALLS]


@pytest.mark.parametrize("way", ["create", "stream", "helper"])
@pytest.mark.parametrize(("dialect", "name"), MAPPED)
async def test_tools_of_other_types_are_functions_and_back(
    house: House, dialect: str, name: str, way: Way
) -> None:
    response = await answer(house, way, f"{dialect}/{name}")
    assert [called(item) for item in response.output] == [CALLS[name]]
    assert response.model == f"{dialect}/{name}"
    assert response.id.startswith("resp_")
    assert response.store is False


@pytest.mark.parametrize(("dialect", "name"), CELLS)
async def test_each_event_is_legal(house: House, dialect: str, name: str) -> None:
    legato = house.legato
    body = {"model": f"{dialect}/{name}", "input": "Hello", "tools": TOOLS}
    streamed = await ask(legato.port, legato.key, body | {"stream": True}, path="/v1/responses")
    assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"
    told = Told(streamed.body)
    whole = await ask(legato.port, legato.key, body, path="/v1/responses")
    check_response(whole.json)
    assert _without_ids(whole.json) == _without_ids(told.response)


def _without_ids(response: Json) -> Any:
    shown = [
        {name: value for name, value in each.items() if name not in ("id", "call_id")}
        for each in response["output"]
    ]
    made = {"id", "created_at", "output"}
    return shown, {name: value for name, value in response.items() if name not in made}


async def test_what_is_parsed(house: House) -> None:
    class Answer(BaseModel):
        answer: int

    model = "openai/json"
    response = await house.sdk.responses.parse(model=model, input="Hello", text_format=Answer)
    assert response.output_parsed == Answer(answer=42)
    form = house.scripted.requests[-1].request["response_format"]
    assert (form["type"], form["json_schema"]["strict"]) == ("json_schema", True)
    assert form["json_schema"]["name"] == "Answer"


# A conversation: what the upstream is asked

PNG = "data:image/png;base64,iVBORw0KGgo="


async def conversation(house: House, model: str) -> Json:
    """A turn with a call, the call's result, and an image; what the upstream got of it."""
    first = await answer(house, "stream", f"{model}/agent")
    image = {"type": "input_image", "image_url": PNG, "detail": "auto"}
    items: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "What is it?"}, image]},
        *(item.to_dict() for item in first.output),
    ]
    for call, result in zip(first.output[2:], ("3", "noon"), strict=True):
        items.append({"type": "function_call_output", "call_id": call.call_id, "output": result})
    second = await answer(house, "create", f"{model}/happy", input=items)
    assert second.output_text == TEXT
    return house.scripted.requests[-1].request


async def test_a_conversation_before_a_chat_upstream(house: House) -> None:
    asked = await conversation(house, "openai")
    system, user, assistant, *results = asked["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert user["content"][1] == {"type": "image_url", "image_url": {"url": PNG}}
    assert assistant["content"] == "One moment."
    assert assistant["reasoning_content"] == "Two calls will do."
    calls = assistant["tool_calls"]
    assert [each["id"] for each in calls] == ["call_1", "call_2"]
    assert results == [
        {"role": "tool", "tool_call_id": "call_1", "content": "3"},
        {"role": "tool", "tool_call_id": "call_2", "content": "noon"},
    ]
    names = [each["function"]["name"] for each in asked["tools"]]
    assert names == ["sum", "now", "apply_patch", "mail__send"]


async def test_a_conversation_before_anthropics(house: House) -> None:
    asked = await conversation(house, "anthropic")
    user, assistant, results = asked["messages"]
    assert asked["system"] == "Be brief."
    assert user["content"][1]["source"] == {
        "type": "base64",
        "media_type": "image/png",
        "data": "iVBORw0KGgo=",
    }
    assert [each["type"] for each in assistant["content"]] == ["text", "tool_use", "tool_use"]
    assert [each["tool_use_id"] for each in results["content"]] == ["call_1", "call_2"]
    assert [each["name"] for each in asked["tools"]] == ["sum", "now", "apply_patch", "mail__send"]


@pytest.mark.parametrize("name", SIGNED)
@pytest.mark.parametrize("way", ["create", "stream"])
async def test_signed_thoughts_go_back_to_anthropics(house: House, name: str, way: Way) -> None:
    """To the letter, as a client sends all of its items back."""
    include = ["reasoning.encrypted_content"]
    first = await answer(house, way, f"anthropic/{name}", include=include)
    items = [{"role": "user", "content": "Hello"}, *(each.to_dict() for each in first.output)]
    items.append({"role": "user", "content": "Go on."})
    await answer(house, "create", f"anthropic/{name}", input=items, include=include)
    _, assistant, _ = house.scripted.requests[-1].request["messages"]
    thought = assistant["content"][0]
    (step,) = [each for each in FORMAT_SCRIPTS[name].steps if each.sign or each.redacted]
    if step.sign:
        wanted = {"type": "thinking", "thinking": "Let me think.", "signature": step.sign}
    else:
        wanted = {"type": "redacted_thinking", "data": step.redacted}
    assert thought == wanted


# Failure, as the SDK has it


async def test_errors_are_the_sdks(house: House) -> None:
    with pytest.raises(openai.BadRequestError) as long:
        await answer(house, "create", "openai/too-long")
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "input")
    with pytest.raises(openai.RateLimitError) as limited:
        await answer(house, "stream", "openai/429")
    assert limited.value.response.headers["retry-after"]
    with pytest.raises(openai.BadRequestError) as stored:
        await answer(house, "create", "openai/happy", previous_response_id="resp_1")
    assert stored.value.code == "previous_response_not_found"
    with pytest.raises(openai.NotFoundError):
        await answer(house, "create", "nobody")


@pytest.mark.parametrize("name", ["cut", "error-in-band"])
async def test_a_broken_answer_is_a_failed_response(house: House, name: str) -> None:
    response = await answer(house, "stream", f"openai/{name}")
    assert (response.status, response.error.code) == ("failed", "server_error")
    assert response.error.message.endswith("Try again later.")
    with pytest.raises(openai.APIStatusError):
        await answer(house, "create", f"openai/{name}")
