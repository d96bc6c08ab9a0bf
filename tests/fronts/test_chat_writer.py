"""What a frame looks like, and the rules that a whole streamed body is held to.

`check_body` is the contract's section 2 written down once more, with nothing of the code under
test; other tests use it. Where OpenAI's published schemas lie beside the repository, it asks them
as well.
"""

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from legato.core.chunk import FINISH_REASONS, Chunk
from legato.core.errors import bad_gateway
from legato.core.front import AnswerHead, WriterOptions
from legato.core.json_text import one_line
from legato.fronts.chat_writer import DONE, KEEP_ALIVE, ChatWriter

SCHEMAS = Path(__file__).resolve().parents[3] / "shared" / "schemas"

Json = dict[str, Any]


def schema(name: str) -> Any:
    """A validator for one of OpenAI's schemas, or None where they are not at hand."""
    path = SCHEMAS / f"{name}.json"
    if not path.is_file():
        return None
    return jsonschema.Draft202012Validator(json.loads(path.read_text()))


CHUNK_SCHEMA = schema("CreateChatCompletionStreamResponse")

_TYPES: dict[str, tuple[type, ...]] = {
    "role": (str,),
    "content": (str, type(None)),
    "reasoning_content": (str, type(None)),
    "refusal": (str, type(None)),
    "tool_calls": (list,),
}


def chunk_faults(chunk: Json) -> list[str]:
    """What is wrong with one chunk, seen alone: OpenAI's schema in a few lines."""
    faults = [
        f"{name} is {chunk.get(name)!r}"
        for name, kind in {"id": str, "created": int, "model": str, "choices": list}.items()
        if not isinstance(chunk.get(name), kind)
    ]
    if chunk.get("object") != "chat.completion.chunk":
        faults.append(f"object is {chunk.get('object')!r}")
    for choice in chunk.get("choices") or []:
        faults += _choice_faults(choice)
    usage = chunk.get("usage")
    if usage is not None:
        faults += [
            f"usage.{name} is {usage.get(name)!r}"
            for name in ("prompt_tokens", "completion_tokens", "total_tokens")
            if not isinstance(usage.get(name), int)
        ]
    return faults


def _choice_faults(choice: Json) -> list[str]:
    faults: list[str] = []
    if type(choice.get("index")) is not int:
        faults.append(f"index is {choice.get('index')!r}")
    if "finish_reason" not in choice or choice["finish_reason"] not in {*FINISH_REASONS, None}:
        faults.append(f"finish_reason is {choice.get('finish_reason', 'missing')!r}")
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return [*faults, f"delta is {delta!r}"]
    for name, kinds in _TYPES.items():
        if name in delta and not isinstance(delta[name], kinds):
            faults.append(f"delta.{name} is {delta[name]!r}")
    for call in delta.get("tool_calls") or []:
        faults += _call_faults(call)
    return faults


def _call_faults(call: Json) -> list[str]:
    function = call.get("function")
    faults = [] if type(call.get("index")) is int else [f"tool index is {call.get('index')!r}"]
    if not isinstance(function, dict):
        return [*faults, f"function is {function!r}"]
    result = {"id": call, "type": call, "name": function, "arguments": function}
    return faults + [
        f"tool {name} is {owner[name]!r}"
        for name, owner in result.items()
        if name in owner and not isinstance(owner[name], str)
    ]


def check_chunk(chunk: Json) -> None:
    assert chunk_faults(chunk) == [], chunk
    if CHUNK_SCHEMA is not None:
        # The schema knows no `null` here; OpenAI's API and the contract do.
        strict = {name: value for name, value in chunk.items() if (name, value) != ("usage", None)}
        problems = [problem.message for problem in CHUNK_SCHEMA.iter_errors(strict)]
        assert problems == [], chunk


def split_frames(body: bytes) -> list[bytes]:
    assert body.endswith(b"\n\n"), body[-80:]
    frames = body[:-2].split(b"\n\n")
    for frame in frames:
        assert b"\n" not in frame, frame
        assert b"\r" not in frame, frame
        assert len(frame.decode().splitlines()) == 1, frame
    return frames


class Body:
    """A whole streamed body that has been checked. `choices` is what a client makes of it."""

    def __init__(self, body: bytes, *, wants_usage: bool) -> None:
        frames = [each for each in split_frames(body) if not each.startswith(b":")]
        assert all(frame.startswith(b"data: ") for frame in frames)
        self.done = frames[-1] == b"data: [DONE]"
        assert b"data: [DONE]" not in frames[:-1]
        events = [json.loads(frame[6:]) for frame in (frames[:-1] if self.done else frames)]
        self.error: Json | None = None
        if events and "error" in events[-1]:
            self.error = events.pop()["error"]
        assert not any("error" in event for event in events), "something came after an error"
        assert self.done is (self.error is None), "[DONE] and an error exclude each other"
        self.usage: Json | None = None
        self.chunks: list[Json] = events
        self.choices: dict[int, Json] = {}
        for event in events:
            check_chunk(event)
        self._check_head()
        self._check_usage(wants_usage)
        for event in self.chunks:
            for choice in event["choices"]:
                self._choice(choice)
        if self.done:
            for choice in self.choices.values():
                assert choice["finish"] is not None, "a complete stream lacks a finish"

    def _check_head(self) -> None:
        heads = {(each["id"], each["created"], each["model"]) for each in self.chunks}
        assert len(heads) <= 1, heads

    def _check_usage(self, wanted: bool) -> None:
        if wanted and self.done:
            last = self.chunks.pop()
            assert last["choices"] == []
            assert last["usage"] is not None
            self.usage = last["usage"]
        for each in self.chunks:
            assert each["choices"], "a chunk without choices that nobody asked for"
            assert ("usage" in each) is wanted
            assert each.get("usage") is None

    def _choice(self, member: Json) -> None:
        index, delta = member["index"], member["delta"]
        if index not in self.choices:
            assert index == len(self.choices), "a hole in the indices"
            assert delta == {"role": "assistant", "content": ""}, "the role does not come first"
            assert member["finish_reason"] is None
            self.choices[index] = {"content": "", "reasoning": "", "tools": [], "finish": None}
            return
        choice = self.choices[index]
        assert choice["finish"] is None, "something came after the finish"
        assert "role" not in delta, "a second role"
        if member["finish_reason"] is not None:
            assert delta == {}, "content in the chunk with the finish"
            choice["finish"] = member["finish_reason"]
        choice["content"] += delta.get("content") or ""
        choice["reasoning"] += delta.get("reasoning_content") or ""
        for call in delta.get("tool_calls") or []:
            _follow(choice["tools"], call)


def _follow(calls: list[Json], call: Json) -> None:
    function = call["function"]
    if call["index"] == len(calls):
        assert call["id"], "a call without an id"
        assert call["type"] == "function"
        assert function["name"], "a call without a name"
        calls.append({"id": call["id"], "name": function["name"], "arguments": ""})
    else:
        assert call["index"] < len(calls), "a hole in the indices of tool calls"
        assert not {"id", "type"} & call.keys(), "an id was sent twice"
        assert "name" not in function, "a name was sent twice"
    calls[call["index"]]["arguments"] += function.get("arguments", "")


def check_body(body: bytes, *, wants_usage: bool = False) -> Body:
    return Body(body, wants_usage=wants_usage)


class Sink:
    """Where a writer's bytes go."""

    def __init__(self, *, wants_usage: bool = False, model: str = "public", **options: Any) -> None:
        self.sent: list[bytes] = []
        self.closed = 0
        head = AnswerHead("chatcmpl-1", 1_700_000_000, model)
        self.writer = ChatWriter(head, WriterOptions(shows_usage=wants_usage, **options), self)

    @property
    def body(self) -> bytes:
        return b"".join(self.sent)

    def on_full(self) -> None:
        """Its client is not slow."""

    def write(self, data: bytes) -> None:
        assert not self.closed, "bytes after the end"
        assert data
        self.sent.append(data)

    def finish(self, data: bytes) -> None:
        self.write(data)
        self.closed += 1


def raw(*choices: Json, extras: bytes = b"") -> Chunk:
    return Chunk(choices=[], raw=msgspec.json.encode(choices), extras=extras)


HEAD = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk",'
    b'"created":1700000000,"model":"public","choices":'
)
CHOICE: Json = {"index": 0, "delta": {"content": "a"}, "finish_reason": None}
CHOICE_JSON = b'[{"index":0,"delta":{"content":"a"},"finish_reason":null}]'


@pytest.mark.parametrize(
    ("wants_usage", "extras", "tail"),
    [
        (False, b"", b"}\n\n"),
        (True, b"", b',"usage":null}\n\n'),
        (False, b',"x":1', b',"x":1}\n\n'),
        (True, b',"x":1', b',"x":1,"usage":null}\n\n'),
    ],
    ids=["plain", "usage", "extras", "extras and usage"],
)
def test_a_frame_byte_by_byte(wants_usage: bool, extras: bytes, tail: bytes) -> None:
    sink = Sink(wants_usage=wants_usage)
    sink.writer.push(raw(CHOICE, extras=extras))
    assert sink.sent == []
    sink.writer.flush()
    assert sink.sent == [HEAD + CHOICE_JSON + tail]


def test_frames_of_one_turn_leave_together() -> None:
    sink = Sink()
    for _ in range(3):
        sink.writer.push(raw(CHOICE))
    sink.writer.flush()
    sink.writer.flush()
    assert sink.sent == [(HEAD + CHOICE_JSON + b"}\n\n") * 3]
    assert sink.writer.frames == 3
    assert sink.writer.size == len(sink.body)


USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "more": "\u2028"}


@pytest.mark.parametrize(
    ("wants_usage", "usage", "last"),
    [
        (False, USAGE, b""),
        (
            True,
            USAGE,
            HEAD + b'[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,'
            rb'"more":"\u2028"}}' + b"\n\n",
        ),
    ],
    ids=["not asked for", "asked for"],
)
def test_the_end_of_a_stream(wants_usage: bool, usage: Json, last: bytes) -> None:
    sink = Sink(wants_usage=wants_usage)
    sink.writer.complete(usage, b"")
    assert sink.body == last + DONE
    assert sink.closed == 1


def test_a_failure_is_the_last_frame_and_no_done_follows() -> None:
    sink = Sink(wants_usage=True)
    sink.writer.push(raw(CHOICE))
    sink.writer.fail(bad_gateway("It\u2028broke.\n"))
    *_, last = split_frames(sink.body)
    assert last == (
        rb'data: {"error":{"message":"It\u2028broke.\n Try again later.","type":"upstream_error",'
        rb'"param":null,"code":"upstream_error"}}'
    )
    assert b"[DONE]" not in sink.body
    assert sink.closed == 1


def test_comments_go_out_at_once_behind_what_was_pushed() -> None:
    sink = Sink()
    sink.writer.push(raw(CHOICE))
    sink.writer.heartbeat(None)
    sink.writer.heartbeat(0.42)
    sink.writer.heartbeat(1.0)
    assert sink.sent == [
        HEAD + CHOICE_JSON + b"}\n\n" + KEEP_ALIVE,
        b": prefill 42%\n\n",
        b": prefill 100%\n\n",
    ]
    assert sink.writer.frames == 1


@pytest.mark.parametrize(("wants_usage", "tail"), [(False, b"}"), (True, b',"usage":null}')])
def test_a_heartbeat_that_is_a_chunk(wants_usage: bool, tail: bytes) -> None:
    """It is a frame like any other, and counted as one."""
    sink = Sink(wants_usage=wants_usage, heartbeat="chunk")
    for progress in (None, 0.5):
        sink.writer.heartbeat(progress)
    silence = b'[{"index":0,"delta":{},"finish_reason":null}]'
    assert sink.sent == [HEAD + silence + tail + b"\n\n"] * 2
    sink.writer.push(raw(CHOICE))
    sink.writer.flush()
    assert sink.writer.frames == 3
    assert sink.writer.size == len(sink.body)


def test_a_models_name_cannot_break_a_frame() -> None:
    sink = Sink(model='a\u2028"\n\x85b')
    sink.writer.push(raw(CHOICE))
    sink.writer.flush()
    (frame,) = split_frames(sink.body)
    assert json.loads(frame[6:])["model"] == 'a\u2028"\n\x85b'


LINES = {
    "ascii": (b'{"a":1}', b'{"a":1}'),
    "spaces stay": (b'{"a": 1}', b'{"a": 1}'),
    "line ends between members": (b'{"a":\r\n1,\n\n"b":\r2}', b'{"a":1,"b":2}'),
    "escaped line ends": (rb'{"a":"\n\r"}', rb'{"a":"\n\r"}'),
    "separators": ('"\u2028\u2029\x85"'.encode(), rb'"\u2028\u2029\u0085"'),
    "separators and line ends": ('[\n"\u2028"\n]'.encode(), rb'["\u2028"]'),
    "next door": ('"\u2027\u202a\x84\x86 ž🐎"'.encode(), '"\u2027\u202a\x84\x86 ž🐎"'.encode()),
    "an escaped backslash before one": ('"\\\\\u2028"'.encode(), rb'"\\\u2028"'),
    "escapes stay": (rb'"\u2028\ud83d\udc0e"', rb'"\u2028\ud83d\udc0e"'),
}


@pytest.mark.parametrize("name", LINES)
def test_json_on_one_line(name: str) -> None:
    before, after = LINES[name]
    assert one_line(before) == after
    assert json.loads(one_line(before)) == json.loads(before)
    assert len(one_line(before).decode().splitlines()) == 1


@pytest.mark.parametrize("bad", [b'"\xff"', b'"\xc3"', b'"\xed\xa0\x80"', b'"\xf5\x80\x80\x80"'])
def test_text_that_is_no_utf8_is_a_failure(bad: bytes) -> None:
    with pytest.raises(type(bad_gateway("")), match="UTF-8"):
        one_line(bad)


FAULTY: dict[str, Json] = {
    "no id": {"id": None},
    "object": {"object": "chat.completion"},
    "created": {"created": "now"},
    "index": {"choices": [{"delta": {}, "finish_reason": None}]},
    "index null": {"choices": [{"index": None, "delta": {}, "finish_reason": None}]},
    "finish missing": {"choices": [{"index": 0, "delta": {}}]},
    "finish unknown": {"choices": [{"index": 0, "delta": {}, "finish_reason": "eos"}]},
    "delta": {"choices": [{"index": 0, "delta": None, "finish_reason": None}]},
    "content": {"choices": [{"index": 0, "delta": {"content": 1}, "finish_reason": None}]},
    "tool": {
        "choices": [{"index": 0, "delta": {"tool_calls": [{}]}, "finish_reason": None}],
    },
    "arguments": {
        "choices": [
            {
                "index": 0,
                "delta": {"tool_calls": [{"index": 0, "function": {"arguments": {}}}]},
                "finish_reason": None,
            }
        ],
    },
    "usage": {"usage": {"prompt_tokens": 1}},
}


@pytest.mark.parametrize("name", FAULTY)
def test_the_checker_sees_what_is_wrong(name: str) -> None:
    """The rules above are worth something only if they can fail."""
    good: Json = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [CHOICE],
    }
    assert chunk_faults(good) == []
    assert chunk_faults(good | FAULTY[name])
    with pytest.raises(AssertionError):
        check_chunk(good | FAULTY[name])
