"""The order that a body of Responses events must have, and what a client makes of it: section 10 of
the contract as a fold, with nothing in it of the code under test.

Each event is held against OpenAI's schema, where that lies beside the repository, and else against
the types of OpenAI's SDK.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

Json = dict[str, Any]

_SCHEMAS: Final = Path(__file__).resolve().parents[3] / "shared" / "schemas"

#: Codes of a failed response that clients know and OpenAI's schema does not name.
_CODES: Final = ("context_length_exceeded", "insufficient_quota")

_TERMINAL: Final = ("response.completed", "response.incomplete", "response.failed")

#: The events of a text: of which part it is, and what the whole is called.
_TEXTS: Final = {
    "response.output_text": ("content", "output_text", "text"),
    "response.refusal": ("content", "refusal", "refusal"),
    "response.reasoning_text": ("content", "reasoning_text", "text"),
    "response.reasoning_summary_text": ("summary", "summary_text", "text"),
}
_CALLS: Final = {
    "response.function_call_arguments": "arguments",
    "response.custom_tool_call_input": "input",
}


@cache
def _schemas() -> Json | None:
    """The validator of each type of event, and that of a response."""
    path = _SCHEMAS / "ResponseStreamEvent.json"
    if not path.is_file():
        return None
    schema = json.loads(path.read_text())
    found: Json = {}
    for name, definition in schema["$defs"].items():
        kinds = definition.get("properties", {}).get("type", {}).get("enum", [])
        for kind in kinds:
            if name.endswith("Event"):
                found[kind] = _validator(schema, name)
    return found | {"response": _validator(schema, "Response")}


def _validator(schema: Json, name: str) -> Any:
    whole = {"$ref": f"#/$defs/{name}", "$defs": schema["$defs"]}
    return jsonschema.Draft202012Validator(whole)


_sdk_event: Final = TypeAdapter[Any](ResponseStreamEvent)


def check_event(event: Json) -> None:
    """One event, seen alone."""
    event = _known_code(event)
    _sdk_event.validate_python(event)
    schemas = _schemas()
    if schemas is not None:
        problems = [each.message for each in schemas[event["type"]].iter_errors(event)]
        assert not problems, (problems, event)


def check_response(response: Json) -> Json:
    """The answer to a client that does not stream."""
    Response.model_validate(response)
    schemas = _schemas()
    if schemas is not None:
        problems = [each.message for each in schemas["response"].iter_errors(response)]
        assert problems == [], response
    assert response["usage"]["input_tokens_details"].keys() >= {"cached_tokens"}
    assert response["usage"]["output_tokens_details"].keys() == {"reasoning_tokens"}
    return response


def _known_code(event: Json) -> Json:
    error = event.get("response", {}).get("error") or {}
    if error.get("code") not in _CODES:
        return event
    return event | {"response": event["response"] | {"error": error | {"code": "server_error"}}}


def split(body: bytes) -> list[Json]:
    """The events of a body: each is two lines and a blank one, whoever splits them."""
    assert body.endswith(b"\n\n"), f"an event without its end: {body[-80:]!r}"
    events: list[Json] = []
    for frame in body[:-2].split(b"\n\n"):
        lines = frame.decode().splitlines()
        assert len(lines) == 2, frame
        event = json.loads(lines[1].removeprefix("data: "))
        assert lines[0] == f"event: {event['type']}", frame
        events.append(event)
    return events


class Told:
    """A whole body, read in order; raises AssertionError where it is not legal.

    `response`: the last event's. `items`: the output as its events tell of it.
    """

    def __init__(self, body: bytes, *, checks: bool = True) -> None:
        self.events = split(body)
        self.items: list[Json] = []
        self.deltas: list[tuple[str, str]] = []  # (type of the item, text)
        self.done: list[Json] = []
        self.response: Json = {}
        self._open: dict[int, Json] = {}
        self._texts_done: set[tuple[Any, ...]] = set()
        self._parts_done: set[tuple[Any, ...]] = set()
        kinds = [each["type"] for each in self.events]
        assert kinds[:2] == ["response.created", "response.in_progress"], kinds[:3]
        assert kinds.count("response.created") == 1
        assert kinds[-1] in _TERMINAL, kinds[-1]
        assert sum(each in _TERMINAL for each in kinds) == 1
        numbers = [each["sequence_number"] for each in self.events]
        assert numbers == list(range(len(numbers)))
        for event in self.events:
            if checks:
                check_event(event)
            self._read(event["type"], event)
        responses = [each["response"] for each in self.events if "response" in each]
        for name in ("id", "created_at", "model"):
            assert len({each[name] for each in responses}) == 1, name

    @property
    def kinds(self) -> list[str]:
        return [each["type"].removeprefix("response.") for each in self.events]

    @property
    def text(self) -> str:
        return "".join(text for kind, text in self.deltas if kind == "message")

    @property
    def reasoning(self) -> str:
        return "".join(text for kind, text in self.deltas if kind == "reasoning")

    @property
    def error(self) -> Json | None:
        return self.response["error"]

    @property
    def has_open(self) -> bool:
        return bool(self._open)

    def _read(self, kind: str, event: Json) -> None:
        owner, _, what = kind.rpartition(".")
        if "response" in event:
            self._lifecycle(kind, event["response"])
        elif kind == "response.output_item.added":
            assert event["output_index"] == len(self.items), "indices without gaps"
            item = json.loads(json.dumps(event["item"]))
            parts = item.get("content") or item.get("summary")
            assert not parts, "parts have events of their own"
            self._open[event["output_index"]] = item
            self.items.append(item)
        elif kind == "response.output_item.done":
            item = self._open.pop(event["output_index"])
            self._whole(event["output_index"], item, event["item"])
        elif owner in ("response.content_part", "response.reasoning_summary_part"):
            self._part(what, event)
        elif owner in _TEXTS:
            self._text(owner, what, event)
        elif owner in _CALLS:
            self._call(owner, what, event)
        elif kind == "response.output_text.annotation.added":
            part = self._item(event)["content"][event["content_index"]]
            assert event["annotation_index"] == len(part["annotations"])
            part["annotations"].append(event["annotation"])
        else:
            raise AssertionError(f"no event of this front: {kind}")

    def _item(self, event: Json) -> Json:
        item = self._open[event["output_index"]]
        assert item["id"] == event["item_id"]
        return item

    def _place(self, event: Json) -> tuple[Json, str, int]:
        name = "summary" if "summary_index" in event else "content"
        return self._item(event), name, event[f"{name}_index"]

    def _part(self, what: str, event: Json) -> None:
        item, name, index = self._place(event)
        if what == "added":
            assert index == len(item.setdefault(name, [])), "indices without gaps"
            item[name].append(dict(event["part"]))
            return
        part = item[name][index]
        assert (event["output_index"], name, index) in self._texts_done
        assert event["part"] == part | {"logprobs": event["part"].get("logprobs")} or (
            event["part"] == part
        )
        self._parts_done.add((event["output_index"], name, index))

    def _text(self, owner: str, what: str, event: Json) -> None:
        place, kind, member = _TEXTS[owner]
        item, name, index = self._place(event)
        assert name == place
        part = item[name][index]
        key = (event["output_index"], name, index)
        assert part["type"] == kind
        assert key not in self._texts_done, "nothing comes behind the whole text"
        if what == "delta":
            assert event["delta"], "a delta adds something"
            part[member] += event["delta"]
            part.setdefault("logprobs", []).extend(event.get("logprobs", []))
            if kind != "output_text":
                part.pop("logprobs")
            self.deltas.append((item["type"], event["delta"]))
        else:
            assert event[member] == part[member]
            self._texts_done.add(key)

    def _call(self, owner: str, what: str, event: Json) -> None:
        item, member = self._item(event), _CALLS[owner]
        key = (event["output_index"], "call", 0)
        assert key not in self._texts_done
        if what == "delta":
            item[member] += event["delta"]
        else:
            assert event[member] == item[member]
            self._texts_done.add(key)

    def _whole(self, index: int, item: Json, told: Json) -> None:
        for name in ("content", "summary"):
            for number in range(len(item.get(name, []))):
                assert (index, name, number) in self._parts_done, "each part ends before its item"
        if item["type"] in ("function_call", "custom_tool_call"):
            assert (index, "call", 0) in self._texts_done
        late = {"status", "encrypted_content", "result"}
        kept = {name: value for name, value in told.items() if name not in late}
        assert kept == {name: value for name, value in item.items() if name not in late}
        self.done.append(told)
        self.items[index] = told

    def _lifecycle(self, kind: str, response: Json) -> None:
        self.response = response
        status = kind.removeprefix("response.")
        if kind not in _TERMINAL:
            assert response["status"] == "in_progress"
            assert (response["error"], response["incomplete_details"]) == (None, None)
            return
        assert response["status"] == status
        assert (response["error"] is not None) is (status == "failed")
        assert (response["incomplete_details"] is not None) is (status == "incomplete")
        ended = [each for index, each in enumerate(self.items) if index not in self._open]
        assert response["output"] == ended, "the output is that of the events"
        if status != "failed":
            assert not self._open, "each item has ended"
            check_usage(response["usage"])


def check_usage(usage: Json) -> None:
    """Every number is there: clients fail without."""
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert type(usage["input_tokens_details"]["cached_tokens"]) is int
    assert type(usage["output_tokens_details"]["reasoning_tokens"]) is int
