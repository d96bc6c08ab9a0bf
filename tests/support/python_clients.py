"""OpenAI's and Anthropic's SDKs for Python on the three fronts: not streamed, streamed, and with
their helpers; what each has seen of an answer."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import anthropic
import openai

from tests.conftest import Running
from tests.support.questions import RESULTS, Json, Seen
from tests.support.sdks import Folded, counted, take_choice


class Client(Protocol):
    """One front. Bodies are as `Question.body` has them, without `stream`."""

    async def whole(self, body: Any, seen: Seen) -> None: ...
    async def helper(self, body: Any, seen: Seen) -> Any:
        """The answer, as the SDK has folded it."""
        ...

    def going_on(self, body: Any, answer: Any) -> Json:
        """The body with an answer of the helper, and with the results of the calls in it."""
        ...


class Chat:
    def __init__(self, sdk: openai.AsyncOpenAI) -> None:
        self._completions = sdk.chat.completions

    async def whole(self, body: Any, seen: Seen) -> None:
        answer = await self._completions.create(**_without(body, "stream_options"))
        (choice,) = answer.choices
        message = choice.message
        seen.text = [message.content] if message.content else []
        seen.refusal = [message.refusal] if message.refusal else []
        thought = getattr(message, "reasoning_content", None)
        seen.thoughts = [thought] if thought else []
        seen.calls = _calls(message)
        seen.finish, seen.usage = choice.finish_reason, counted(answer.usage)

    async def stream(self, body: Any, seen: Seen) -> None:
        folded = Folded(seen, usage="stream_options" in body)
        async for chunk in await self._completions.create(**body, stream=True):
            folded.take(chunk)
        folded.end()

    async def helper(self, body: Any, seen: Seen) -> Any:
        async with self._completions.stream(**body) as stream:
            async for event in stream:
                if event.type == "chunk" and event.chunk.choices:
                    take_choice(seen, event.chunk.choices[0])
            answer = await stream.get_final_completion()
        seen.calls = _calls(answer.choices[0].message)
        seen.usage = counted(answer.usage) if answer.usage else None
        return answer

    def going_on(self, body: Any, answer: Any) -> Json:
        message = answer.choices[0].message
        given = [
            {"role": "tool", "tool_call_id": each.id, "content": RESULTS[each.function.name]}
            for each in message.tool_calls
        ]
        said = message.to_dict(exclude_none=True)
        return {**body, "messages": [*body["messages"], said, *given]}


def _calls(message: Any) -> list[Any]:
    return [
        [call.id, call.function.name, json.loads(call.function.arguments)]
        for call in message.tool_calls or ()
    ]


class Messages:
    def __init__(self, sdk: anthropic.AsyncAnthropic) -> None:
        self._messages = sdk.messages

    async def whole(self, body: Any, seen: Seen) -> None:
        message = await self._messages.create(**_sendable(body))
        for block in message.content:
            if block.type == "text":
                seen.text.append(block.text)
            elif block.type == "thinking":
                seen.thoughts.append(block.thinking)
        self._take(message, seen)

    async def helper(self, body: Any, seen: Seen) -> Any:
        async with self._messages.stream(**_sendable(body)) as stream:
            async for event in stream:
                # The SDK builds its types without a check; what it gave away is checked here.
                type(event).model_validate(event.to_dict())
                if event.type == "text":
                    seen.text.append(event.text)
                elif event.type == "thinking":
                    seen.thoughts.append(event.thinking)
            message = await stream.get_final_message()
        self._take(message, seen)
        return message

    def going_on(self, body: Any, answer: Any) -> Json:
        given = [
            {"type": "tool_result", "tool_use_id": each.id, "content": RESULTS[each.name]}
            for each in answer.content
            if each.type == "tool_use"
        ]
        content = [each.to_dict(exclude_none=True) for each in answer.content]
        turn = [{"role": "assistant", "content": content}, {"role": "user", "content": given}]
        return {**body, "messages": [*body["messages"], *turn]}

    @staticmethod
    def _take(message: Any, seen: Seen) -> None:
        usage = message.usage
        cached = usage.cache_read_input_tokens or 0
        thought = getattr(usage, "output_tokens_details", None)
        seen.usage = [
            usage.input_tokens + cached,
            usage.output_tokens,
            thought.thinking_tokens if thought else 0,
            cached,
        ]
        seen.finish = message.stop_reason
        seen.calls = [
            [each.id, each.name, each.input] for each in message.content if each.type == "tool_use"
        ]


def _sendable(body: Json) -> Any:
    """The SDK has no parameter for a temperature."""
    if "temperature" not in body:
        return body
    return _without(body, "temperature") | {"extra_body": {"temperature": body["temperature"]}}


class Responses:
    def __init__(self, sdk: openai.AsyncOpenAI) -> None:
        self._responses = sdk.responses

    async def whole(self, body: Any, seen: Seen) -> None:
        response = await self._responses.create(**body)
        for item in response.output:
            if item.type == "reasoning":
                seen.thoughts += [each.text for each in item.summary]
            elif item.type == "message":
                for part in item.content:
                    if part.type == "refusal":
                        seen.refusal.append(part.refusal)
                    else:
                        seen.text.append(part.text)
        self._take(response, seen)

    async def stream(self, body: Any, seen: Seen) -> None:
        await self._follow(await self._responses.create(**body, stream=True), seen)

    async def helper(self, body: Any, seen: Seen) -> Any:
        async with self._responses.stream(**body) as stream:
            return await self._follow(stream, seen)

    def going_on(self, body: Any, answer: Any) -> Json:
        given = [
            {"type": "function_call_output", "call_id": each.call_id, "output": RESULTS[each.name]}
            for each in answer.output
            if each.type == "function_call"
        ]
        items = [
            _without(each.to_dict(exclude_none=True), "parsed_arguments") for each in answer.output
        ]
        return {**body, "input": [*body["input"], *items, *given]}

    async def _follow(self, stream: Any, seen: Seen) -> Any:
        response: Any = None
        deltas = {
            "response.output_text.delta": seen.text,
            "response.reasoning_summary_text.delta": seen.thoughts,
            "response.refusal.delta": seen.refusal,
        }
        async for event in stream:
            if event.type in deltas:
                deltas[event.type].append(event.delta)
            response = getattr(event, "response", response)
        self._take(response, seen)
        return response

    @staticmethod
    def _take(response: Any, seen: Seen) -> None:
        if response.error is not None:
            seen.error = f"{response.error.code}: {response.error.message}"
            return
        details = response.incomplete_details
        seen.finish = details.reason if details is not None else response.status
        usage = response.usage
        assert usage.total_tokens == usage.input_tokens + usage.output_tokens
        seen.usage = [
            usage.input_tokens,
            usage.output_tokens,
            usage.output_tokens_details.reasoning_tokens,
            usage.input_tokens_details.cached_tokens,
        ]
        seen.calls = [
            [each.call_id, each.name, json.loads(each.arguments)]
            for each in response.output
            if each.type == "function_call"
        ]


def _without(body: Json, *names: str) -> Json:
    return {name: value for name, value in body.items() if name not in names}


#: Anthropic's helper hands out the stream's own events as well.
CLIENTS = {
    "chat": ("python-whole", "python-stream", "python-helper"),
    "messages": ("python-whole", "python-helper"),
    "responses": ("python-whole", "python-stream", "python-helper"),
}


class Python:
    """The SDKs, in this process."""

    def __init__(self, fronts: dict[str, Client]) -> None:
        self._fronts = fronts

    async def look(self, front: str, client: str, body: Json, then: str | None = None) -> Seen:
        """`then`: the model that gets the results of the calls in the answer."""
        sdk, seen = self._fronts[front], Seen()
        try:
            if then is not None:
                answer = await sdk.helper(body, Seen())
                body = _without(sdk.going_on(body, answer), "tool_choice") | {"model": then}
            await getattr(sdk, client.removeprefix("python-"))(body, seen)
        except (openai.APIError, anthropic.APIError) as error:
            take_error(error, seen)
        return seen


def take_error(error: openai.APIError | anthropic.APIError, seen: Seen) -> None:
    body: Any = error.body if isinstance(error.body, dict) else {}
    body = body.get("error", body)  # Anthropic's lies in an object of its own
    code = body.get("code") or body.get("type") or getattr(error, "code", None)
    seen.error = f"{code}: {body.get('message', error.message)}"
    seen.status = getattr(error, "status_code", None)


@asynccontextmanager
async def clients(server: Running) -> AsyncIterator[Python]:
    options: Any = {"api_key": server.key, "max_retries": 0}
    async with (
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", **options) as of_openai,
        anthropic.AsyncAnthropic(base_url=server.url, **options) as of_anthropic,
    ):
        fronts: dict[str, Client] = {
            "chat": Chat(of_openai),
            "messages": Messages(of_anthropic),
            "responses": Responses(of_openai),
        }
        yield Python(fronts)
