"""Python's client SDKs, each put to one question, and what came out noted in one form."""

import asyncio
import functools
import inspect
import json
import operator
from collections.abc import Callable
from typing import Any

import openai

from tests.conftest import Running
from tests.support.questions import NOW, SUM, Question, Seen

TOOLS: Any = [{"type": "function", "function": each} for each in (SUM, NOW)]


def client_options(server: Running) -> dict[str, Any]:
    return {"base_url": f"{server.url}/v1", "api_key": server.key, "max_retries": 0}


def asked(model: str, usage: bool) -> dict[str, Any]:
    return Question(usage=usage).body("chat", model)


class Folded:
    """Chunks of OpenAI's own classes, folded by hand."""

    def __init__(self, seen: Seen, usage: bool) -> None:
        self._seen = seen
        self._usage = usage
        self._calls: dict[int, list[str]] = {}

    def take(self, chunk: Any) -> None:
        if chunk.usage is not None:
            self._seen.usage = counted(chunk.usage)
        # Every chunk has a choice where no usage was asked for: many programs rely on it.
        if self._usage and not chunk.choices:
            return
        choice = chunk.choices[0]
        take_choice(self._seen, choice)
        for call in choice.delta.tool_calls or ():
            made = self._calls.setdefault(call.index, [call.id, call.function.name, ""])
            made[2] += call.function.arguments or ""

    def end(self) -> None:
        self._seen.calls = [[*call, json.loads(result)] for *call, result in self._calls.values()]


def take_choice(seen: Seen, choice: Any) -> None:
    if choice.delta.content:
        seen.text.append(choice.delta.content)
    if thought := getattr(choice.delta, "reasoning_content", None):
        seen.thoughts.append(thought)
    if choice.delta.refusal:
        seen.refusal.append(choice.delta.refusal)
    seen.finish = choice.finish_reason or seen.finish


def counted(usage: Any) -> list[int]:
    answer, prompt = usage.completion_tokens_details, usage.prompt_tokens_details
    return [
        usage.prompt_tokens,
        usage.completion_tokens,
        (answer and answer.reasoning_tokens) or 0,
        (prompt and prompt.cached_tokens) or 0,
    ]


def with_openai(server: Running, model: str, usage: bool, seen: Seen) -> None:
    folded = Folded(seen, usage)
    with openai.OpenAI(**client_options(server)) as client:
        for chunk in client.chat.completions.create(**asked(model, usage), stream=True):
            folded.take(chunk)
    folded.end()


async def with_openai_async(server: Running, model: str, usage: bool, seen: Seen) -> None:
    folded = Folded(seen, usage)
    async with openai.AsyncOpenAI(**client_options(server)) as client:
        stream = await client.chat.completions.create(**asked(model, usage), stream=True)
        async for chunk in stream:
            folded.take(chunk)
    folded.end()


def with_openai_helper(server: Running, model: str, usage: bool, seen: Seen) -> None:
    with (
        openai.OpenAI(**client_options(server)) as client,
        client.chat.completions.stream(**asked(model, usage)) as stream,
    ):
        done: dict[int, Any] = {}
        for event in stream:
            if event.type == "chunk" and event.chunk.choices:
                take_choice(seen, event.chunk.choices[0])
            elif event.type == "tool_calls.function.arguments.done":
                done[event.index] = event.parsed_arguments
        whole = stream.get_final_completion()
    (choice,) = whole.choices
    assert (choice.message.content or "") == "".join(seen.text)
    seen.calls = [
        [call.id, call.function.name, done[index]]
        for index, call in enumerate(choice.message.tool_calls or ())
    ]
    assert choice.finish_reason == seen.finish
    seen.usage = counted(whole.usage) if whole.usage else None


# LangChain is imported late: its classes would be looked through for garbage behind every test.
# It is given its HTTP client: its own one keeps connections as long as the process lives.


def langchain(server: Running, model: str, usage: bool, **more: Any) -> Any:
    from langchain_openai import ChatOpenAI

    options = client_options(server)
    return ChatOpenAI(model=model, stream_usage=usage, **options, **more).bind_tools(TOOLS)


def langchain_deepseek(server: Running, model: str, usage: bool, **more: Any) -> Any:
    from langchain_deepseek import ChatDeepSeek

    options = client_options(server)
    options["api_base"] = options.pop("base_url")
    return ChatDeepSeek(model=model, stream_usage=usage, **options, **more).bind_tools(TOOLS)


def with_langchain(make: Callable[..., Any]) -> Callable[..., None]:
    def fill(server: Running, model: str, usage: bool, seen: Seen) -> None:
        chunks: list[Any] = []
        with openai.DefaultHttpxClient() as http:
            for chunk in make(server, model, usage, http_client=http).stream("Hello"):
                take_message(seen, chunk)
                chunks.append(chunk)
        take_whole(seen, chunks)

    return fill


async def with_langchain_async(server: Running, model: str, usage: bool, seen: Seen) -> None:
    chunks: list[Any] = []
    async with openai.DefaultAsyncHttpxClient() as http:
        async for chunk in langchain(server, model, usage, http_async_client=http).astream("Hello"):
            take_message(seen, chunk)
            chunks.append(chunk)
    take_whole(seen, chunks)


def take_message(seen: Seen, message: Any) -> None:
    if message.content:
        seen.text.append(message.content)
    if thought := message.additional_kwargs.get("reasoning_content"):
        seen.thoughts.append(thought)
    seen.finish = message.response_metadata.get("finish_reason") or seen.finish


def take_whole(seen: Seen, chunks: list[Any]) -> None:
    whole = functools.reduce(operator.add, chunks)
    seen.calls = [[call["id"], call["name"], call["args"]] for call in whole.tool_calls]
    assert not whole.invalid_tool_calls
    if usage := whole.usage_metadata:
        seen.usage = [
            usage["input_tokens"],
            usage["output_tokens"],
            usage.get("output_token_details", {}).get("reasoning", 0),
            usage.get("input_token_details", {}).get("cache_read", 0),
        ]


#: ChatOpenAI leaves out, on purpose, what OpenAI's own API does not have, `reasoning_content` too;
#: LangChain's way to it is the class of a provider that has it.
WAYS: dict[str, Callable[..., Any]] = {
    "openai": with_openai,
    "openai-async": with_openai_async,
    "openai-helper": with_openai_helper,
    "langchain": with_langchain(langchain),
    "langchain-async": with_langchain_async,
    "langchain-deepseek": with_langchain(langchain_deepseek),
}


async def look(way: str, server: Running, model: str, usage: bool = True) -> Seen:
    seen, fill = Seen(), WAYS[way]
    try:
        if inspect.iscoroutinefunction(fill):
            await fill(server, model, usage, seen)
        else:
            await asyncio.to_thread(fill, server, model, usage, seen)
    except openai.APIError as error:
        result = error.body["message"] if isinstance(error.body, dict) else error.message
        seen.error = f"{error.code}: {result}"
        seen.status = getattr(error, "status_code", None)
    return seen
