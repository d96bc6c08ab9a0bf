"""A stream folded into one answer."""

import json
from typing import Any

import msgspec
import pytest

from legato.core.chunk import Chunk
from legato.core.front import AnswerHead
from legato.core.merge import merge_choice, to_builtins
from legato.fronts.chat_aggregator import ChatAggregator
from tests.core.test_stream import DONE, USAGE, choice, collected, finish, say, text
from tests.fronts.test_chat_writer import Json, raw, schema

RESPONSE_SCHEMA = schema("CreateChatCompletionResponse")


def answer_faults(answer: Json) -> list[str]:
    """What is wrong with an answer: OpenAI's schema in a few lines."""
    faults = [
        f"{name} is {answer.get(name)!r}"
        for name, kind in {"id": str, "created": int, "model": str, "choices": list}.items()
        if not isinstance(answer.get(name), kind)
    ]
    if answer.get("object") != "chat.completion":
        faults.append(f"object is {answer.get('object')!r}")
    for number, each in enumerate(answer.get("choices") or []):
        message = each.get("message", {})
        missing = {"index", "message", "logprobs", "finish_reason"} - each.keys()
        missing |= {"role", "content", "refusal"} - message.keys()
        faults += [f"choice {number} has no {name}" for name in sorted(missing)]
        if each.get("index") != number:
            faults.append(f"choice {number} has the index {each.get('index')!r}")
        faults += [
            f"tool call {call!r}"
            for call in message.get("tool_calls", [])
            if call.keys() != {"id", "type", "function"}
            or not all(isinstance(call["function"].get(key), str) for key in ("name", "arguments"))
        ]
    return faults


def checked(*pieces: bytes) -> Json:
    answer = collected(pieces)
    assert answer_faults(answer) == []
    if RESPONSE_SCHEMA is not None:
        assert [problem.message for problem in RESPONSE_SCHEMA.iter_errors(answer)] == []
    return answer


def test_an_answer_byte_by_byte() -> None:
    collector = ChatAggregator()
    collector.push(raw(choice({"role": "assistant", "content": ""})))
    collector.push(raw(choice({"content": "Hello"})))
    collector.push(raw(choice({"content": " you"}), extras=b',"service_tier":"default"'))
    collector.push(raw(choice(finish="stop")))
    collector.flush()
    collector.complete(USAGE, b"")
    assert collector.answer(AnswerHead("chatcmpl-1", 7, "m")) == (
        b'{"id":"chatcmpl-1","object":"chat.completion","created":7,"model":"m","choices":'
        b'[{"index":0,"message":{"role":"assistant","content":"Hello you","refusal":null},'
        b'"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":3,'
        b'"completion_tokens":4,"total_tokens":7},"service_tier":"default"}'
    )


def test_what_starts_over_leaves_nothing_and_says_all_of_it_again() -> None:
    """The second answer has a member that nobody knows in common with the first."""
    extras = b',"service_tier":"default"'
    collector = ChatAggregator()
    collector.push(raw(choice({"content": "Once"}), extras=b',"first":1'))
    collector.push(raw(choice({"content": " upon"}), extras=extras))
    collector.start_over()
    collector.push(raw(choice({"content": "Twice"}, "stop"), extras=extras))
    collector.complete(USAGE, b"")
    answer = json.loads(collector.answer(AnswerHead("chatcmpl-1", 7, "m")))
    assert answer["choices"][0]["message"]["content"] == "Twice"
    assert answer["service_tier"] == "default"
    assert "first" not in answer


CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{"}}
MESSAGES: dict[str, tuple[list[Json], Json]] = {
    "text": ([{"content": "a"}, {"content": "b"}], {"content": "ab"}),
    "nothing": ([{}], {"content": ""}),
    "reasoning": (
        [{"reasoning_content": "x"}, {"reasoning_content": "y"}, {"content": "a"}],
        {"content": "a", "reasoning_content": "xy"},
    ),
    "refusal": ([{"refusal": "I "}, {"refusal": "won't"}], {"content": "", "refusal": "I won't"}),
    "tool call": (
        [{"tool_calls": [CALL]}, {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}],
        {
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
    ),
    "text and tool call": (
        [{"content": "a"}, {"tool_calls": [CALL]}],
        {
            "content": "a",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{"}}
            ],
        },
    ),
    "unknown lists grow": (
        [{"content": "a", "notes": [1]}, {"notes": [2, {"n": 3}]}],
        {"content": "a", "notes": [1, 2, {"n": 3}]},
    ),
    "unknown text goes on": (
        [{"content": "a", "more": "x"}, {"more": "y"}],
        {"content": "a", "more": "xy"},
    ),
    "unknown objects are joined": (
        [{"content": "a", "sound": {"n": 1, "data": "x"}}, {"sound": {"n": 2, "data": "y"}}],
        {"content": "a", "sound": {"n": 2, "data": "xy"}},
    ),
    "an object in the place of text": (
        [{"content": "a", "sound": "x"}, {"sound": {"n": 2}}],
        {"content": "a", "sound": {"n": 2}},
    ),
    "sound": (
        [
            {"audio": {"id": "a1", "transcript": "Hel"}},
            {"audio": {"transcript": "lo"}},
            {"audio": {"id": "a1", "data": "AAAA", "expires_at": 7}},
        ],
        {
            "content": "",
            "audio": {"id": "a1", "transcript": "Hello", "data": "AAAA", "expires_at": 7},
        },
    ),
    "function call": (
        [
            {"function_call": {"name": "f", "arguments": ""}},
            {"function_call": {"arguments": "{"}},
            {"function_call": {"arguments": "}"}},
        ],
        {"content": None, "function_call": {"name": "f", "arguments": "{}"}},
    ),
    "unicode": ([{"content": "ž🐎"}, {"content": "\u2028"}], {"content": "ž🐎\u2028"}),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_deltas_become_a_message(name: str) -> None:
    deltas, message = MESSAGES[name]
    answer = checked(b"".join(say(choice(delta)) for delta in deltas) + finish() + DONE)
    (folded,) = answer["choices"]
    assert folded["message"] == {"role": "assistant", "refusal": None} | message
    assert folded["finish_reason"] == ("tool_calls" if "tool_calls" in message else "stop")
    pieces = answer["usage"]["completion_tokens"]
    assert pieces == sum(any(each for each in delta.values()) for delta in deltas)


def test_logprobs_are_joined() -> None:
    def token(word: str) -> Json:
        return {"token": word, "logprob": -0.5, "bytes": [97], "top_logprobs": []}

    answer = checked(
        *(
            say(choice({"content": word}, logprobs={"content": [token(word)], "refusal": None}))
            for word in "abc"
        ),
        say(choice(finish="stop", logprobs=None)) + DONE,
    )
    assert answer["choices"][0]["logprobs"] == {
        "content": [token("a"), token("b"), token("c")],
        "refusal": None,
    }


def test_choices_are_folded_apart_and_come_in_order() -> None:
    answer = checked(
        b"".join(text(f"{word}{index}", index) for word in "ab" for index in range(3)),
        finish("length", 2) + finish("stop", 0) + finish("tool_calls", 1) + DONE,
    )
    assert [
        (each["index"], each["message"]["content"], each["finish_reason"])
        for each in answer["choices"]
    ] == [(0, "a0b0", "stop"), (1, "a1b1", "tool_calls"), (2, "a2b2", "length")]


def test_members_that_nobody_knows_survive() -> None:
    answer = checked(
        say(choice({"content": "a"}, native={"x": 1}), provider="one", region="here"),
        say(choice({"content": "b"}), provider="two", cost=1.5),
        finish() + DONE,
    )
    assert answer["choices"][0]["native"] == {"x": 1}
    assert (answer["provider"], answer["cost"], answer["region"]) == ("two", 1.5, "here")


class Counted(str):
    """Text that counts what it costs to join it."""

    __slots__ = ()
    copied = 0

    def __add__(self, other: str) -> "Counted":
        Counted.copied += len(self) + len(other)
        return Counted(str(self) + other)

    def __radd__(self, other: str) -> "Counted":
        Counted.copied += len(self) + len(other)
        return Counted(other + str(self))


def test_a_hundred_thousand_pieces_are_joined_once() -> None:
    pieces = 100_000
    folded: Json = {}
    Counted.copied = 0
    for _ in range(pieces):
        call = {"index": 0, "function": {"arguments": Counted("y")}}
        delta = {"content": Counted("x" * 10), "tool_calls": [call]}
        merge_choice(folded, {"index": 0, "delta": delta, "finish_reason": None})
    assert Counted.copied == 0, "pieces were joined one by one"
    delta = to_builtins(folded)["delta"]
    assert delta["content"] == "x" * 10 * pieces
    assert delta["tool_calls"][0]["function"]["arguments"] == "y" * pieces


def test_a_great_answer_through_the_whole_way() -> None:
    pieces = 20_000
    answer = checked(b"".join(text(f"{number} ") for number in range(pieces)), finish() + DONE)
    assert answer["choices"][0]["message"]["content"] == "".join(f"{n} " for n in range(pieces))


def test_what_was_pushed_is_not_changed() -> None:
    """A chunk may be kept by others: for a subscriber that attaches again."""
    result = [choice({"tool_calls": [CALL], "annotations": [1]}, logprobs={"content": [1]})]
    chunk = Chunk(
        choices=[], raw=msgspec.json.encode(result), fields=json.loads(json.dumps(result))
    )
    collector = ChatAggregator()
    collector.push(chunk)
    collector.push(chunk)
    collector.answer(AnswerHead("i", 1, "m"))
    assert chunk.fields == result


FAULTY: dict[str, Any] = {
    "object": {"object": "chat.completion.chunk"},
    "created": {"created": None},
    "no message": {"choices": [{"index": 0, "logprobs": None, "finish_reason": "stop"}]},
    "no finish": {"choices": [{"index": 0, "message": {"role": "assistant"}, "logprobs": None}]},
}


@pytest.mark.parametrize("name", FAULTY)
def test_the_checker_sees_what_is_wrong(name: str) -> None:
    good = checked(text("a") + finish() + DONE)
    assert answer_faults(good | FAULTY[name])
