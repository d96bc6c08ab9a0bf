"""The answers of the `messages` and `responses` fronts, read for what they mean."""

import json
from typing import Any, Protocol

from legato.core.usage import Tokens
from tests.support.wire import Answer

Json = dict[str, Any]


def events(answer: Answer) -> list[Json]:
    """The events of a stream. Each has an `event:` line that says its type."""
    found: list[Json] = []
    for frame in answer.frames:
        name, _, data = frame.partition(b"\n")
        assert name.startswith(b"event: "), frame
        assert data.startswith(b"data: {"), frame
        assert len(data.decode().splitlines()) == 1, frame
        event = json.loads(data[6:])
        assert event["type"] == name[7:].decode()
        found.append(event)
    return found


class FrontAnswer(Protocol):
    """What one answer says, whatever its format. `path`: of its endpoint."""

    path: str

    def asks(self, model: str, text: str, **more: Any) -> Json:
        """A request for it."""
        ...

    def text(self, answer: Answer) -> str: ...
    def thoughts(self, answer: Answer) -> str: ...
    def finish(self, answer: Answer) -> str:
        """Why it ended, in the words of Chat Completions."""
        ...

    def tokens(self, answer: Answer) -> Tokens: ...
    def calls(self, answer: Answer) -> list[tuple[str, str]]:
        """(name, arguments as JSON) of the tool calls."""
        ...

    def is_complete(self, answer: Answer) -> bool:
        """Whether a client takes it for whole."""
        ...

    def error(self, answer: Answer) -> tuple[str, str] | None:
        """(code or type, message), where it failed."""
        ...

    def status(self, status: int, *, curable: bool) -> int:
        """The status of an error that is `status` in Chat Completions."""
        ...


#: Where Anthropic counts what a cache gave and took; some of its servers leave them out.
_CACHED = ("cache_read_input_tokens", "cache_creation_input_tokens")


class Messages:
    path = "/v1/messages"
    name = "messages"

    def asks(self, model: str, text: str, **more: Any) -> Json:
        messages = [{"role": "user", "content": text}]
        return {"model": model, "max_tokens": 4096, "messages": messages} | more

    def _blocks(self, answer: Answer) -> list[Json]:
        if answer.headers["content-type"] == "application/json":
            return answer.json["content"]
        blocks: list[Json] = []
        for event in events(answer):
            if event["type"] == "content_block_start":
                assert event["index"] == len(blocks)
                blocks.append(dict(event["content_block"]) | {"json": ""})
            elif event["type"] == "content_block_delta":
                delta, block = event["delta"], blocks[event["index"]]
                assert event["index"] == len(blocks) - 1, "one block is open at a time"
                if delta["type"] == "input_json_delta":
                    block["json"] += delta["partial_json"]
                elif delta["type"] in ("text_delta", "thinking_delta"):
                    name = delta["type"].removesuffix("_delta")
                    block[name] += delta[name]
        for block in blocks:
            if block["type"] == "tool_use":
                block["input"] = json.loads(block["json"] or "{}")
        return blocks

    def text(self, answer: Answer) -> str:
        return "".join(each["text"] for each in self._blocks(answer) if each["type"] == "text")

    def thoughts(self, answer: Answer) -> str:
        blocks = [each for each in self._blocks(answer) if each["type"] == "thinking"]
        return "".join(each["thinking"] for each in blocks)

    def _ending(self, answer: Answer) -> Json:
        if answer.headers["content-type"] == "application/json":
            return answer.json
        found = events(answer)
        (last,) = [each for each in found if each["type"] == "message_delta"]
        usage = found[0]["message"]["usage"] | last["usage"]
        return last["delta"] | {"usage": usage}

    def finish(self, answer: Answer) -> str:
        return {
            "end_turn": "stop",
            "stop_sequence": "stop",
            "max_tokens": "length",
            "tool_use": "tool_calls",
            "refusal": "content_filter",
        }[self._ending(answer)["stop_reason"]]

    def tokens(self, answer: Answer) -> Tokens:
        usage = self._ending(answer)["usage"]
        cached, written = [usage.get(name) or 0 for name in _CACHED]
        prompt = usage["input_tokens"] + cached + written
        return Tokens(prompt, usage["output_tokens"], cached=cached, cache_writes=written)

    def calls(self, answer: Answer) -> list[tuple[str, str]]:
        blocks = [each for each in self._blocks(answer) if each["type"] == "tool_use"]
        return [(each["name"], json.dumps(each["input"])) for each in blocks]

    def is_complete(self, answer: Answer) -> bool:
        if answer.headers["content-type"] == "application/json":
            return answer.status == 200 and answer.json["stop_reason"] is not None
        types = [each["type"] for each in events(answer)]
        ended = types.count("content_block_start") == types.count("content_block_stop")
        assert types.count("message_start") == 1
        assert types[-1] in ("message_stop", "error")
        if types[-1] == "message_stop":
            assert ended
            assert types.count("message_delta") == 1
            return True
        assert "message_delta" not in types
        return False

    def error(self, answer: Answer) -> tuple[str, str] | None:
        whole = answer.headers["content-type"] == "application/json"
        found = answer.json if whole else events(answer)[-1]
        if found["type"] != "error":
            return None
        return found["error"]["type"], found["error"]["message"]

    def status(self, status: int, *, curable: bool) -> int:
        if status == 502:
            return 529 if curable else 500
        return 529 if status == 503 else status


class Responses:
    path = "/v1/responses"
    name = "responses"

    def asks(self, model: str, text: str, **more: Any) -> Json:
        return {"model": model, "input": text} | more

    def _items(self, answer: Answer) -> list[Json]:
        if answer.headers["content-type"] == "application/json":
            return answer.json["output"]
        items: dict[int, Json] = {}
        for number, event in enumerate(events(answer)):
            assert event["sequence_number"] == number
            match event["type"]:
                case "response.output_item.added":
                    assert event["output_index"] == len(items)
                    items[event["output_index"]] = dict(event["item"])
                case "response.content_part.added":
                    items[event["output_index"]]["content"] = [dict(event["part"])]
                case "response.output_text.delta":
                    item = items[event["output_index"]]
                    item["content"][event["content_index"]]["text"] += event["delta"]
                case "response.function_call_arguments.delta":
                    items[event["output_index"]]["arguments"] += event["delta"]
                case "response.output_item.done":
                    was = items.get(event["output_index"], event["item"])
                    assert was["type"] == event["item"]["type"]
                    items[event["output_index"]] = event["item"]
                case "response.completed":
                    # A relayed upstream may have shown an item nowhere else.
                    items = dict(enumerate(event["response"]["output"]))
                case _:
                    pass
        return list(items.values())

    def text(self, answer: Answer) -> str:
        return "".join(
            part["text"]
            for item in self._items(answer)
            if item["type"] == "message"
            for part in item["content"]
        )

    def thoughts(self, answer: Answer) -> str:
        items = [each for each in self._items(answer) if each["type"] == "reasoning"]
        parts = [part for item in items for part in item["summary"] or item.get("content") or ()]
        return "".join(each["text"] for each in parts)

    def _response(self, answer: Answer) -> Json:
        if answer.headers["content-type"] == "application/json":
            return answer.json
        return events(answer)[-1]["response"]

    def finish(self, answer: Answer) -> str:
        response = self._response(answer)
        if response["status"] == "incomplete":
            reason = response["incomplete_details"]["reason"]
            return {"max_output_tokens": "length", "content_filter": "content_filter"}[reason]
        assert response["status"] == "completed"
        return "tool_calls" if self.calls(answer) else "stop"

    def tokens(self, answer: Answer) -> Tokens:
        usage = self._response(answer)["usage"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        return Tokens(
            usage["input_tokens"],
            usage["output_tokens"],
            reasoning=usage["output_tokens_details"]["reasoning_tokens"],
            cached=usage["input_tokens_details"]["cached_tokens"],
        )

    def calls(self, answer: Answer) -> list[tuple[str, str]]:
        items = [each for each in self._items(answer) if each["type"] == "function_call"]
        return [(each["name"], each["arguments"] or "{}") for each in items]

    def is_complete(self, answer: Answer) -> bool:
        if answer.headers["content-type"] == "application/json":
            return answer.status == 200 and answer.json["status"] in ("completed", "incomplete")
        types = [each["type"] for each in events(answer)]
        assert types[:2] == ["response.created", "response.in_progress"]
        assert types.count("response.created") == 1
        last = types[-1]
        assert last in ("response.completed", "response.incomplete", "response.failed")
        added = types.count("response.output_item.added")
        done = types.count("response.output_item.done")
        failed = last == "response.failed"
        assert added - done in (0, 1) if failed else added <= done
        return not failed

    def error(self, answer: Answer) -> tuple[str, str] | None:
        if answer.status != 200:
            return answer.json["error"]["code"], answer.json["error"]["message"]
        if answer.headers["content-type"] == "application/json":
            return None
        last = events(answer)[-1]
        if last["type"] != "response.failed":
            return None
        error = last["response"]["error"]
        return error["code"], error["message"]

    def status(self, status: int, *, curable: bool) -> int:
        return status


FRONTS: tuple[Any, ...] = (Messages(), Responses())
