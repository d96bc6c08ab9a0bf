"""Tools on the local engine: the real llama.cpp, with the templates and the grammar that make so
small a model call what it is asked to call."""

import json
from typing import Any

import httpx
import jsonschema
import pytest

from tests.conftest import Running
from tests.support.engines import MODEL, THINKING
from tests.support.wire import Answer, ask

pytestmark = pytest.mark.asyncio(loop_scope="package")

WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["c", "f"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}
ADD: dict[str, Any] = {
    "name": "add",
    "description": "Adds two numbers",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}
MOOD: dict[str, Any] = {
    "name": "set_mood",
    "parameters": {
        "type": "object",
        "properties": {"mood": {"enum": ["👩‍🚀🎉 naïve 東京"]}},
        "required": ["mood"],
    },
}
FUNCTIONS = {each["name"]: each for each in (WEATHER, ADD, MOOD)}
TOOLS = [{"type": "function", "function": each} for each in FUNCTIONS.values()]


def chosen(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def turn(question: str, *cities: str) -> list[dict[str, Any]]:
    """A question that was answered by calls, for the model to do likewise."""
    calls = [
        {
            "id": f"call_{city}",
            **chosen("get_weather"),
            "function": {
                "name": "get_weather",
                "arguments": json.dumps({"city": city, "unit": "c"}),
            },
        }
        for city in cities
    ]
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": None, "tool_calls": calls},
        *({"role": "tool", "tool_call_id": each["id"], "content": "sunny"} for each in calls),
        {"role": "assistant", "content": "It is sunny."},
    ]


USED_TO_CALL = [
    *turn("What is the weather in Rome?", "Rome"),
    *turn("What is the weather in Oslo?", "Oslo"),
    {"role": "user", "content": "What is the weather in Paris?"},
]
USED_TO_CALL_TWICE = [
    *turn("What is the weather in Oslo and in Bonn?", "Oslo", "Bonn"),
    {"role": "user", "content": "What is the weather in Paris and in Rome?"},
]


async def say(engine: Running, question: Any = "What is the weather in Paris?", **more: Any) -> Any:
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
    fields: dict[str, Any] = {"model": MODEL, "messages": messages, "tools": TOOLS}
    fields |= {"temperature": 0, "max_tokens": 200, "stream": True}
    return await ask(engine.port, engine.key, fields | more)


def calls_of(answer: Answer) -> list[dict[str, Any]]:
    """The calls of the first choice, put together from the deltas, each checked against what a
    stream of calls may look like and against the schema of its function."""
    if answer.headers["content-type"] == "application/json":
        message = answer.json["choices"][0]["message"]
        assert not message["content"] or not message.get("tool_calls")
        calls = message.get("tool_calls", [])
    else:
        assert answer.done
        calls = []
        deltas = [each["delta"] for chunk in answer.chunks for each in chunk["choices"]]
        assert [delta.get("role") for delta in deltas] == ["assistant"] + [None] * len(deltas[1:])
        for part in (part for delta in deltas for part in delta.get("tool_calls", ())):
            assert part["index"] in (len(calls) - 1, len(calls)), "they come one after another"
            if part["index"] == len(calls):
                calls.append({"id": part["id"], "type": part["type"], "function": {}})
                calls[-1]["function"] = {"name": part["function"]["name"], "arguments": ""}
            else:
                assert part.keys() == {"index", "function"}, "id and type are sent once"
                assert part["function"].keys() == {"arguments"}, "the name is sent once"
            calls[-1]["function"]["arguments"] += part["function"].get("arguments", "")
    for call in calls:
        assert call["type"] == "function"
        schema = FUNCTIONS[call["function"]["name"]]["parameters"]
        jsonschema.validate(json.loads(call["function"]["arguments"]), schema)
    assert len({call["id"] for call in calls}) == len(calls)
    return calls


def names_of(answer: Answer) -> list[str]:
    return [call["function"]["name"] for call in calls_of(answer)]


def finish_of(answer: Answer) -> str:
    if answer.headers["content-type"] == "application/json":
        return answer.json["choices"][0]["finish_reason"]
    [finish] = answer.finishes()
    return finish


CHOICES: dict[str, tuple[Any, set[str]]] = {
    "required": ("required", set(FUNCTIONS)),
    "this one": (chosen("get_weather"), {"get_weather"}),
    "that one": (chosen("add"), {"add"}),
    "one with emoji": (chosen("set_mood"), {"set_mood"}),
    "one of some": (
        {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "required", "tools": [chosen("add"), chosen("set_mood")]},
        },
        {"add", "set_mood"},
    ),
}


@pytest.mark.parametrize(
    ("choice", "model", "stream"),
    [
        *((choice, MODEL, stream) for choice in CHOICES for stream in (True, False)),
        ("required", THINKING, True),
        ("that one", THINKING, False),
    ],
)
async def test_what_has_to_be_called_is_called(
    engine: Running, choice: str, model: str, stream: bool
) -> None:
    wanted, names = CHOICES[choice]
    answer = await say(engine, model=model, tool_choice=wanted, stream=stream)
    assert answer.status == 200
    [name] = names_of(answer)
    assert name in names
    assert finish_of(answer) == "tool_calls"
    assert "tool_call>" not in answer.body.decode()


async def test_arguments_are_streamed_as_they_come(engine: Running) -> None:
    answer = await say(engine, tool_choice="required")
    deltas = [each["delta"] for chunk in answer.chunks for each in chunk["choices"]]
    assert sum("tool_calls" in delta for delta in deltas) > 4


async def test_a_model_that_is_used_to_call_calls_on_its_own(engine: Running) -> None:
    for choice in ({}, {"tool_choice": "auto"}):
        answer = await say(engine, USED_TO_CALL, **choice)
        assert names_of(answer) == ["get_weather"]
        assert finish_of(answer) == "tool_calls"


async def test_who_may_call_may_also_just_answer(engine: Running) -> None:
    answer = await say(engine, "Say hello.", tool_choice="auto")
    assert calls_of(answer) == []
    assert answer.text()
    assert finish_of(answer) == "stop"


@pytest.mark.parametrize("messages", [USED_TO_CALL, "Call get_weather."])
async def test_what_must_not_be_called_is_not_called(engine: Running, messages: Any) -> None:
    answer = await say(engine, messages, tool_choice="none")
    assert calls_of(answer) == []
    assert finish_of(answer) in ("stop", "length")


@pytest.mark.parametrize("stream", [True, False])
async def test_several_calls_of_one_answer(engine: Running, stream: bool) -> None:
    wanted = {"tool_choice": "required", "stream": stream}
    answer = await say(engine, USED_TO_CALL_TWICE, parallel_tool_calls=True, **wanted)
    cities = [json.loads(call["function"]["arguments"])["city"] for call in calls_of(answer)]
    assert cities == ["Paris", "Rome"]
    answer = await say(engine, USED_TO_CALL_TWICE, parallel_tool_calls=False, **wanted)
    assert len(calls_of(answer)) == 1


async def test_the_result_of_a_call_is_answered(engine: Running) -> None:
    question = [{"role": "user", "content": "What is the weather in Paris?"}]
    first = await say(engine, question, tool_choice=chosen("get_weather"))
    [call] = calls_of(first)
    went = [
        *question,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": '{"sky": "clear"}'},
    ]
    assert "clear" in (await say(engine, went)).text()


@pytest.mark.parametrize("arguments", ["", '{"city": "Par', "none"])
async def test_a_history_with_broken_arguments_is_taken(engine: Running, arguments: str) -> None:
    went = turn("What is the weather in Rome?", "Rome")[:3]
    went[1]["tool_calls"][0]["function"]["arguments"] = arguments
    answer = await say(engine, went, max_tokens=5)
    assert answer.status == 200
    assert answer.done


async def test_a_call_that_is_cut_short_says_so(engine: Running) -> None:
    answer = await say(engine, tool_choice=chosen("get_weather"), max_tokens=12)
    assert answer.done
    assert finish_of(answer) == "length"


async def test_a_call_and_a_form_for_texts_can_be_asked_for_at_once(engine: Running) -> None:
    form = {"type": "json_object"}
    answer = await say(engine, tool_choice=chosen("add"), response_format=form)
    assert names_of(answer) == ["add"]


async def test_a_function_that_is_no_tool_is_the_callers_error(engine: Running) -> None:
    for stream in (True, False):
        answer = await say(engine, tool_choice=chosen("subtract"), stream=stream)
        assert answer.status == 400
        assert answer.error is not None
        assert answer.error["param"] == "tool_choice"


CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "user", "content": ""}],
    [{"role": "user", "content": " 👩‍🚀 \n"}, {"role": "assistant", "content": "A"}],
    [{"role": "system", "content": ""}, {"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "S"}],
    [{"role": "developer", "content": "D"}, {"role": "user", "content": "Hi"}],
    [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "A", "reasoning_content": "R"},
        {"role": "system", "content": "T"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ],
    [{"role": "user", "content": "Hi"}, {"role": "tool", "tool_call_id": "1", "content": "A"}],
]


async def prompt(engine: Running, model: str, **fields: Any) -> str:
    """What llama.cpp makes of messages."""
    [child] = [each for each in engine.app.engines if each.model.name == model]
    assert child.upstream.target is not None
    where = f"http://{child.upstream.target.pool.endpoint.authority}/apply-template"
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {child.key}"}) as llama:
        return (await llama.post(where, json=fields)).json()["prompt"]


@pytest.mark.parametrize("messages", CHATS)
async def test_without_tools_a_prompt_is_as_the_models_own_template_has_it(
    engine: Running, messages: list[dict[str, Any]]
) -> None:
    for more in ({}, {"add_generation_prompt": False}):
        bare = await prompt(engine, "bare", messages=messages, **more)
        assert await prompt(engine, MODEL, messages=messages, **more) == bare


async def test_a_thinking_prompt(engine: Running) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "A", "reasoning_content": "R"},
        {"role": "user", "content": "B"},
    ]
    opened = (
        "<|im_start|>system\nYou think step by step before you answer.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nR\n</think>\n\nA<|im_end|>\n"
        "<|im_start|>user\nB<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n"
    )
    assert await prompt(engine, THINKING, messages=messages) == opened
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    assert await prompt(engine, THINKING, messages=messages, **off) == opened + "\n</think>\n\n"
