"""What upstreams do wrong, and how it comes out (contract, section 8): one table, each body read
whole, byte by byte, cut at every place and cut at random."""

import json
import random
from typing import Any

import pytest

from legato.core.errors import UpstreamError
from legato.core.normalize import ChoiceNormalizer, ToolCalls, finish_reason
from tests.core.test_sse import cut
from tests.core.test_stream import (
    DONE,
    USAGE,
    all_ways,
    choice,
    collected,
    data,
    finish,
    play,
    say,
    text,
    whole,
)
from tests.fronts.test_chat_writer import Json


def tool(*calls: Json, index: int = 0) -> bytes:
    return say(choice({"tool_calls": list(calls)}, index=index))


def call(name: str | None = None, arguments: Any = None, **more: Any) -> Json:
    function = {"name": name, "arguments": arguments}
    return more | {"function": {key: each for key, each in function.items() if each is not None}}


def made(identity: str, name: str, arguments: str) -> Json:
    return {"id": identity, "name": name, "arguments": arguments}


END = finish() + say(usage=USAGE) + DONE
AB = text("a") + text("b")

# body, content, further members of the choice
MENDS: dict[str, tuple[bytes, str, Json]] = {
    "nothing to mend": (AB + END, "ab", {}),
    "id and created change": (
        data({"id": "1", "created": 1, "choices": [choice({"content": "a"})]})
        + data({"id": "2", "created": 2.5, "model": None, "choices": [choice({"content": "b"})]})
        + END,
        "ab",
        {},
    ),
    "a thought and what it led to at once": (
        say(choice({"reasoning": "hm", "content": "a"})) + text("b") + END,
        "ab",
        {"reasoning": "hm"},
    ),
    "no id, created, model, object": (
        data({"choices": [choice({"content": "ab"})]}) + END,
        "ab",
        {},
    ),
    "role in every chunk": (
        say(choice({"role": "assistant", "content": "a"}))
        + say(choice({"role": "assistant", "content": "b"}))
        + say(choice({"role": "assistant"}, "stop")),
        "ab",
        {},
    ),
    "role in none": (AB + END, "ab", {}),
    "role alone, twice": (
        say(choice({"role": "assistant", "content": ""})) * 2 + AB + END,
        "ab",
        {},
    ),
    "another role": (say(choice({"role": "model", "content": "ab"})) + END, "ab", {}),
    "content null first": (
        say(choice({"role": "assistant", "content": None, "tool_calls": None})) + AB + END,
        "ab",
        {},
    ),
    "nulls everywhere": (
        say(choice({"content": "a", "function_call": None, "tool_calls": None, "refusal": None}))
        + say(choice({"content": "b", "reasoning": None, "audio": None}))
        + END,
        "ab",
        {},
    ),
    "empty deltas between": (
        text("a") + say(choice({"content": ""})) + say(choice({})) + text("b") + END,
        "ab",
        {},
    ),
    "finish with the last content": (
        text("a") + say(choice({"content": "b"}, "length")) + DONE,
        "ab",
        {"finish": "length"},
    ),
    "finish with all content": (say(choice({"content": "ab"}, "stop")), "ab", {}),
    "a message in place of the deltas": (
        say(
            {"index": 0, "message": {"role": "assistant", "content": "ab"}, "finish_reason": "stop"}
        ),
        "ab",
        {},
    ),
    "a message behind the deltas, with all of it once more": (
        AB + say(choice(finish="stop", message={"role": "assistant", "content": "ab"})) + DONE,
        "ab",
        {},
    ),
    "finish alone": (END, "", {}),
    "finish twice: the last counts": (
        AB + finish() + finish("length") + DONE,
        "ab",
        {"finish": "length"},
    ),
    "empty delta after the finish": (
        AB + finish() + say(choice({"role": "assistant", "content": ""})) + DONE,
        "ab",
        {},
    ),
    "finish empty before it is there": (
        say(choice({"content": "ab"}, "")) + END,
        "ab",
        {},
    ),
    "eos": (AB + finish("eos") + DONE, "ab", {}),
    "end_turn": (AB + finish("end_turn") + DONE, "ab", {}),
    "max_tokens": (AB + finish("max_tokens") + DONE, "ab", {"finish": "length"}),
    "content_filter": (AB + finish("content_filter") + DONE, "ab", {"finish": "content_filter"}),
    "no finish_reason member": (
        say({"index": 0, "delta": {"content": "a"}}) * 2 + END,
        "aa",
        {},
    ),
    "two usage chunks": (AB + finish() + say(usage={"x": 1}) + say(usage=USAGE) + DONE, "ab", {}),
    "usage in every chunk": (
        say(choice({"content": "a"}), usage=USAGE)
        + say(choice({"content": "b"}), usage=USAGE)
        + say(choice(finish="stop"), usage=USAGE),
        "ab",
        {},
    ),
    "usage with the finish": (AB + say(choice(finish="stop"), usage=USAGE) + DONE, "ab", {}),
    "usage before everything": (say(usage=USAGE) + AB + finish() + DONE, "ab", {}),
    "usage null": (
        say(choice({"content": "ab"}), usage=None) + END,
        "ab",
        {},
    ),
    "choices null beside usage": (
        AB + finish() + data({"choices": None, "usage": USAGE}) + DONE,
        "ab",
        {},
    ),
    "no choices beside usage": (AB + finish() + data({"usage": USAGE}) + DONE, "ab", {}),
    "no done": (AB + finish() + say(usage=USAGE), "ab", {}),
    "no blank line after done": (AB + END[:-1], "ab", {}),
    "no line end after done": (AB + END[:-2], "ab", {}),
    "spaces around done": (AB + finish() + say(usage=USAGE) + b"data:  [DONE] \n\n", "ab", {}),
    "a comment before, between and after": (
        b": hi\n\n" + text("a") + b": PROCESSING\n\n" + text("b") + b":\n" + END + b": bye\n\n",
        "ab",
        {},
    ),
    "bom": (b"\xef\xbb\xbf" + AB + END, "ab", {}),
    "crlf": ((AB + END).replace(b"\n", b"\r\n"), "ab", {}),
    "cr": ((AB + END).replace(b"\n", b"\r"), "ab", {}),
    "data in several lines": (
        b'data: {"choices": [{"index": 0,\ndata:  "delta": {"content":\ndata: "ab"},\n'
        b'data: "finish_reason": null}]}\n\n' + END,
        "ab",
        {},
    ),
    "data in several lines, second chunk": (
        text("a") + b'data: {"choices": [{"index": 0,\ndata:  "delta": {"content":\ndata: "b"},\n'
        b'data: "finish_reason": null}]}\n\n' + END,
        "ab",
        {},
    ),
    "separators of unicode": (
        text("a\u2028") + text("b\u2029") + text("c\x85\\\u2028") + END,
        "a\u2028b\u2029c\x85\\\u2028",
        {},
    ),
    "characters of four bytes": (text("ž🐎") + text("👩‍👩‍👧") + END, "ž🐎👩‍👩‍👧", {}),
    "reasoning under its other name": (
        say(choice({"reasoning": "x"})) + say(choice({"reasoning": "y"})) + AB + END,
        "ab",
        {"reasoning": "xy"},
    ),
    "reasoning under both names": (
        say(choice({"reasoning": "x", "reasoning_content": "x"})) + AB + END,
        "ab",
        {"reasoning": "x"},
    ),
    "reasoning and content in one": (
        say(choice({"reasoning_content": "x", "content": "ab"})) + END,
        "ab",
        {"reasoning": "x"},
    ),
    "an index that starts at 1": (
        say(choice({"content": "ab"}, index=1)) + finish(index=1) + DONE,
        "ab",
        {},
    ),
    "no index": (
        say({"delta": {"content": "ab"}, "finish_reason": None}) + END,
        "ab",
        {},
    ),
    "no index in a later chunk": (
        text("a") + say({"delta": {"content": "b"}, "finish_reason": None}) + END,
        "ab",
        {},
    ),
    "members that nobody knows": (
        say(choice({"content": "a", "annotations": [1]}, native=True), provider="x")
        + text("b")
        + END,
        "ab",
        {},
    ),
    "members that nobody knows, with separators": (
        say(choice({"content": "ab"}), provider="x\u2028y\u2029\x85") + END,
        "ab",
        {},
    ),
    "members that nobody knows, over several lines": (
        b'data: {"provider": {\ndata: "x": 1},\ndata: "choices": [{"index": 0, "finish_reason": '
        b'null, "delta": {"content": "ab"}}]}\n\n' + END,
        "ab",
        {},
    ),
    "fingerprint with separators": (
        say(choice({"content": "ab"}), system_fingerprint="x\u2028y") + END,
        "ab",
        {},
    ),
    "tool arguments in pieces": (
        tool(call("f", "", index=0, id="c1", type="function"))
        + tool(call(arguments="{", index=0))
        + tool(call(arguments="}", index=0))
        + END,
        "",
        {"tools": [made("c1", "f", "{}")]},
    ),
    "tool arguments whole": (
        tool(call("f", '{"a": 1}', index=0, id="c1", type="function")) + END,
        "",
        {"tools": [made("c1", "f", '{"a": 1}')]},
    ),
    "tool arguments that are an object": (
        tool(call("f", {"a": 1}, index=0, id="c1")) + END,
        "",
        {"tools": [made("c1", "f", '{"a":1}')]},
    ),
    "tool id and name in every piece": (
        tool(call("f", "{", index=0, id="c1", type="function"))
        + tool(call("f", "}", index=0, id="c1", type="function"))
        + END,
        "",
        {"tools": [made("c1", "f", "{}")]},
    ),
    "tool without id": (
        tool(call("f", "{}", index=0)) + END,
        "",
        {"tools": [made("call_new", "f", "{}")]},
    ),
    "tool with an empty id in later pieces": (
        tool(call("f", "{", index=0, id="c1")) + tool(call("", "}", index=0, id="")) + END,
        "",
        {"tools": [made("c1", "f", "{}")]},
    ),
    "tool index missing": (
        tool(call("f", "{", id="c1")) + tool(call(arguments="}")) + tool(call("g", "{}")) + END,
        "",
        {"tools": [made("c1", "f", "{}"), made("call_new", "g", "{}")]},
    ),
    "tool index reused": (
        tool(call("f", "{}", index=0, id="c1"))
        + tool(call("g", "{", index=0, id="c2"))
        + tool(call(arguments="}", index=0))
        + END,
        "",
        {"tools": [made("c1", "f", "{}"), made("c2", "g", "{}")]},
    ),
    "tool index starts at 1": (
        tool(call("f", "{", index=1, id="c1")) + tool(call(arguments="}", index=1)) + END,
        "",
        {"tools": [made("c1", "f", "{}")]},
    ),
    "tool indices with a hole, interleaved": (
        tool(call("f", "{", index=2, id="c1"))
        + tool(call("g", "[", index=5, id="c2"))
        + tool(call(arguments="}", index=2))
        + tool(call(arguments="]", index=5))
        + END,
        "",
        {"tools": [made("c1", "f", "{}"), made("c2", "g", "[]")]},
    ),
    "two tools in one chunk": (
        tool(call("f", "{}", index=0, id="c1"), call("g", "{}", index=1, id="c2")) + END,
        "",
        {"tools": [made("c1", "f", "{}"), made("c2", "g", "{}")]},
    ),
    "two tools in one chunk, both at 0": (
        tool(call("f", "{}", index=0, id="c1"), call("g", "{}", index=0, id="c2")) + END,
        "",
        {"tools": [made("c1", "f", "{}"), made("c2", "g", "{}")]},
    ),
    "tool and finish in one": (
        say(
            choice({"tool_calls": [call("f", "{}", index=0, id="c1")]}, "tool_calls"),
        )
        + DONE,
        "",
        {"tools": [made("c1", "f", "{}")], "finish": "tool_calls"},
    ),
    "content, then a tool": (
        AB + tool(call("f", "{}", index=0, id="c1")) + END,
        "ab",
        {"tools": [made("c1", "f", "{}")]},
    ),
}


def ours(content: str, more: Json) -> Json:
    finish = "tool_calls" if more.get("tools") else "stop"
    return {"content": content, "reasoning": "", "tools": [], "finish": finish} | more


@pytest.mark.parametrize("name", MENDS)
def test_what_comes_wrong_goes_out_right(name: str) -> None:
    body, content, more = MENDS[name]
    checked = whole(body, wants_usage=True)
    assert checked.done
    assert checked.choices == {0: ours(content, more)}
    says_usage = b'"total_tokens"' in body
    assert checked.usage is not None
    total = USAGE["total_tokens"] if says_usage else checked.usage["completion_tokens"]
    assert checked.usage["total_tokens"] == total


@pytest.mark.parametrize("name", MENDS)
def test_it_comes_out_the_same_however_it_is_cut(name: str) -> None:
    body = MENDS[name][0]
    out = play([body])
    for pieces in all_ways(body):
        assert play(pieces) == out, pieces
    chance = random.Random(name)
    for _ in range(30):
        places = [chance.randint(0, len(body)) for _ in range(chance.randint(2, 30))]
        assert play(cut(body, places)) == out, places


def test_the_tables_are_cut_often_enough() -> None:
    assert sum(len(body) + 1 + 1 + 30 for body, _, _ in MENDS.values()) > 20_000


@pytest.mark.parametrize("name", MENDS)
def test_an_answer_that_is_not_streamed_is_the_same(name: str) -> None:
    body, content, more = MENDS[name]
    wanted = ours(content, more)
    (folded,) = collected([body])["choices"]
    message = folded["message"]
    assert folded["index"] == 0
    assert folded["finish_reason"] == wanted["finish"]
    assert (message["content"] or "") == wanted["content"]
    assert message.get("reasoning_content", "") == wanted["reasoning"]
    assert message["role"] == "assistant"
    assert [
        (each["function"]["name"], each["function"]["arguments"], each["type"])
        for each in message.get("tool_calls", [])
    ] == [(each["name"], each["arguments"], "function") for each in wanted["tools"]]


def test_a_thought_goes_out_before_what_it_led_to() -> None:
    """Nothing that is not text of the answer parts the two."""
    state = ChoiceNormalizer(0)
    delta = {"content": "a", "reasoning": "hm", "reasoning_details": [{"text": "hm"}]}
    members = state.normalize(
        {"delta": delta, "logprobs": {"content": []}, "finish_reason": "stop"}
    )
    assert [each["delta"] for each in members] == [
        {"reasoning_content": "hm"},
        {"content": "a", "reasoning_details": [{"text": "hm"}]},
    ]
    logprobs = {"content": [], "refusal": None}
    assert [each.get("logprobs") for each in members] == [None, logprobs]
    (last,) = state.close()
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")
    del delta["content"]
    (alone,) = ChoiceNormalizer(0).normalize({"delta": delta})
    assert alone["delta"] == {"reasoning_content": "hm", "reasoning_details": [{"text": "hm"}]}


def test_members_that_nobody_knows_survive() -> None:
    body = (
        text("a")
        + say(
            choice({"content": "b", "annotations": [{"n": 1}]}, native={"x": [1.50, None]}),
            provider="Somebody",
            cost=1.0,
        )
        + say(choice({"extra": "only"}))
        + END
    )
    checked = whole(body)
    second = checked.chunks[2]
    assert second["provider"] == "Somebody"
    assert second["cost"] == 1.0
    (member,) = second["choices"]
    assert member["native"] == {"x": [1.5, None]}
    assert member["delta"] == {"content": "b", "annotations": [{"n": 1}]}
    assert checked.chunks[3]["choices"][0]["delta"] == {"extra": "only"}


@pytest.mark.parametrize("reason", [None, "stop"])
def test_logprobs_without_a_text_are_not_lost(reason: str | None) -> None:
    """Those of a token that ends the answer, or that is half a character."""
    token = {"token": "", "logprob": -0.5, "bytes": [240], "top_logprobs": []}
    result = {"content": [token], "refusal": None}
    body = text("a") + say(choice(finish=reason, logprobs=result)) + finish() + DONE
    members = [each["choices"][0] for each in whole(body).chunks]
    seen = [each for each in members if each.get("logprobs")]
    assert seen == [choice(logprobs=result)]


def test_null_logprobs_stay_beside_the_finish() -> None:
    checked = whole(text("a") + say(choice(finish="stop", logprobs=None)) + DONE)
    assert checked.chunks[-1]["choices"] == [choice(finish="stop", logprobs=None)]


def test_logprobs_stay_beside_their_content_and_are_not_doubled() -> None:
    logprobs = {"content": [{"token": "b", "logprob": -1, "bytes": None, "top_logprobs": []}]}
    logprobs |= {"refusal": None}
    body = text("a") + say(choice({"content": "b"}, "stop", logprobs=logprobs)) + DONE
    checked = whole(body)
    assert [each["choices"][0].get("logprobs") for each in checked.chunks] == [
        None,
        None,
        logprobs,
        None,
    ]


@pytest.mark.parametrize(
    "order",
    [(0, 1, 2), (2, 1, 0), (1, 0, 2), (5, 3, 9)],
    ids=lambda order: "-".join(map(str, order)),
)
def test_choices_are_numbered_in_the_order_of_their_first_use(order: tuple[int, ...]) -> None:
    body = b"".join(
        say(choice({"content": f"{word}{index}"}, index=index))
        for word in ("a", "b")
        for index in order
    )
    body += b"".join(finish(index=index) for index in reversed(order)) + DONE
    checked = whole(body)
    assert {number: each["content"] for number, each in checked.choices.items()} == {
        number: f"a{index}b{index}" for number, index in enumerate(order)
    }


def test_several_choices_in_one_chunk() -> None:
    members = [choice({"content": f"a{index}"}, index=index) for index in range(3)]
    ends = [choice(finish="stop", index=index) for index in range(3)]
    checked = whole(say(*members) + say(*members) + say(*ends) + DONE)
    assert [each["content"] for each in checked.choices.values()] == ["a0a0", "a1a1", "a2a2"]


BROKEN_CALLS: dict[str, Any] = {
    "function is text": {"index": 0, "function": "f"},
    "function is a list": {"index": 0, "function": [1]},
    "id is a list": {"index": 0, "id": ["x"], "function": {"name": "f"}},
    "id is an object": {"index": 0, "id": {"x": 1}, "function": {"name": "f"}},
    "id is a number": {"index": 0, "id": 7, "function": {"name": "f"}},
    "name is a number": {"index": 0, "id": "c", "function": {"name": 7}},
    "index is text": {"index": "0", "id": "c", "function": {"name": "f"}},
    "no object at all": 7,
    "empty": {},
}


@pytest.mark.parametrize("name", BROKEN_CALLS)
def test_tool_calls_out_of_shape_are_mended_or_a_failure_of_the_upstream(name: str) -> None:
    """Never an exception of ours, never a frame that breaks the schema."""
    body = text("a") + say(choice({"tool_calls": [BROKEN_CALLS[name]]})) + END
    checked = whole(body)
    assert checked.choices[0]["content"] == "a"


BROKEN_BYTES: dict[str, bytes] = {
    "in a member of the chunk": say(choice({"content": "a"}), provider="X"),
    "in the fingerprint": say(choice({"content": "a"}), system_fingerprint="X"),
    "in a member of the choice": say(choice({"content": "a"}, native="X")),
    "in a delta without text": say(choice({"content": "", "z": "X"})),
    "in a tool's arguments": tool(call("f", "X", index=0, id="c1")),
    "in the usage": say(choice({"content": "a"}), usage=USAGE | {"z": "X"}),
    "in a name": say(choice({"content": "a"}), X=1),
}


@pytest.mark.parametrize("name", BROKEN_BYTES)
@pytest.mark.parametrize("first", [True, False], ids=["first chunk", "later chunk"])
def test_bytes_that_are_no_utf8_never_reach_a_client(name: str, first: bool) -> None:
    broken = BROKEN_BYTES[name].replace(b"X", b"\xff")
    out = play([(b"" if first else text("a")) + broken + END])
    out.decode()
    frames = [each for each in out.split(b"\n\n") if each]
    assert "error" in json.loads(frames[-1][6:])


def test_json_nested_without_end_is_a_failure_of_the_upstream() -> None:
    for place in ("choices", "provider"):
        body = text("a") + b'data: {"%b": %b%b}\n\n' % (
            place.encode(),
            b"[" * 100_000,
            b"]" * 100_000,
        )
        checked = whole(body)
        assert checked.error is not None
        assert checked.error["code"] == "upstream_malformed"


@pytest.mark.parametrize(
    ("theirs", "word"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("content_filter", "content_filter"),
        ("function_call", "function_call"),
        ("eos", "stop"),
        ("eos_token", "stop"),
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_length", "length"),
        ("STOP", "stop"),
        ("end", "stop"),
        ("SAFETY", "content_filter"),
        ("tool_use", "tool_calls"),
    ],
)
def test_finish_reasons_in_the_contracts_words(theirs: str, word: str) -> None:
    assert finish_reason(theirs) == word


@pytest.mark.parametrize("theirs", ["error", "abort", "cancelled", "", "null", "exploded"])
def test_a_finish_is_never_invented(theirs: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        finish_reason(theirs)
    assert caught.value.code == "upstream_aborted"


def test_a_call_s_own_object_is_left_alone() -> None:
    """Mending works on copies: what was read may be kept by others."""
    result = {"index": 3, "id": "c1", "function": {"name": "f"}}
    member = {
        "index": 4,
        "delta": {"role": "assistant", "tool_calls": [result]},
        "finish_reason": "stop",
    }
    before = json.dumps(member)
    ChoiceNormalizer(0).normalize(member)
    ToolCalls().normalize([result])
    assert json.dumps(member) == before
