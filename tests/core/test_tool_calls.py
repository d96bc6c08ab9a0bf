"""Tool calls of upstreams that lose count of them: which piece belongs to which call, and that an
id, a name and a type are sent once a call, wherever the upstream says them."""

import json
import random
from typing import Any

import pytest

from legato.core.chunk import Chunk
from legato.core.coalesce import Coalescer
from legato.core.normalize import ChoiceNormalizer
from legato.core.tool_calls import ToolCalls
from tests.core.test_normalize import call, made, tool
from tests.core.test_sse import cut
from tests.core.test_stream import DONE, USAGE, all_ways, collected, finish, play, say, text
from tests.fronts.test_chat_writer import check_chunk, split_frames

Json = dict[str, Any]


END = finish("tool_calls") + say(usage=USAGE) + DONE

#: An id of our own, for a call that has none, or none that is its own.
OURS = "call_new"

# pieces, one a chunk or several; the calls that a client makes of them
CASES: dict[str, tuple[list[list[Json]], list[Json]]] = {
    # Two calls at one index
    "two names at one index": (
        [[call("f", '{"a": 1}', index=0)], [call("g", '{"b": 2}', index=0)]],
        [made(OURS, "f", '{"a": 1}'), made(OURS, "g", '{"b": 2}')],
    ),
    "two names at one index, ids empty": (
        [
            [call("f", '{"a": 1}', index=0, id="", type="function")],
            [call("g", '{"b": 2}', index=0, id="", type="function")],
        ],
        [made(OURS, "f", '{"a": 1}'), made(OURS, "g", '{"b": 2}')],
    ),
    "two names at one index in one chunk": (
        [[call("f", '{"a": 1}', index=0), call("g", '{"b": 2}', index=0)]],
        [made(OURS, "f", '{"a": 1}'), made(OURS, "g", '{"b": 2}')],
    ),
    "two names without an index": (
        [[call("f", '{"a": 1}')], [call("g", '{"b": 2}')]],
        [made(OURS, "f", '{"a": 1}'), made(OURS, "g", '{"b": 2}')],
    ),
    "two names at one index, arguments in pieces": (
        [
            [call("f", "{", index=0)],
            [call(arguments="}", index=0)],
            [call("g", "[", index=0)],
            [call(arguments="]", index=0)],
        ],
        [made(OURS, "f", "{}"), made(OURS, "g", "[]")],
    ),
    "three names at one index": (
        [[call(name, "{}", index=0)] for name in ("f", "g", "h")],
        [made(OURS, name, "{}") for name in ("f", "g", "h")],
    ),
    "one name twice at one index, each whole": (
        [[call("f", '{"a": 1}', index=0)], [call("f", '{"b": 2}', index=0)]],
        [made(OURS, "f", '{"a": 1}'), made(OURS, "f", '{"b": 2}')],
    ),
    "one name twice in one chunk, each whole": (
        [[call("f", '{"a": 1}', index=0), call("f", '{"b": 2}', index=0)]],
        [made(OURS, "f", '{"a": 1}'), made(OURS, "f", '{"b": 2}')],
    ),
    "one name in every piece of one call": (
        [[call("f", '{"a":', index=0)], [call("f", " 1}", index=0)]],
        [made(OURS, "f", '{"a": 1}')],
    ),
    "one name in every piece, and no index": (
        [[call("f", '{"a":')], [call("f", " 1}")]],
        [made(OURS, "f", '{"a": 1}')],
    ),
    "arguments that are objects, at one index": (
        [[call("f", {"a": 1}, index=0)], [call("f", {"b": 2}, index=0)]],
        [made(OURS, "f", '{"a":1}'), made(OURS, "f", '{"b":2}')],
    ),
    # A name that comes late
    "a name behind the id": (
        [[call(None, "", index=0, id="c1")], [call("f", "{}", index=0)]],
        [made("c1", "f", "{}")],
    ),
    "a name behind the id, with no arguments before it": (
        [[call(index=0, id="c1", type="function")], [call("f", index=0)], [call(None, "{}")]],
        [made("c1", "f", "{}")],
    ),
    "a name behind some of the arguments": (
        [[call(None, "{", index=0, id="c1")], [call("f", "}", index=0)]],
        [made("c1", "f", "{}")],
    ),
    "a late name, sent again and again": (
        [
            [call(None, "", index=0, id="c1")],
            [call("f", "{", index=0, id="c1")],
            [call("f", '"a":', index=0, id="c1")],
            [call("f", "1}", index=0)],
        ],
        [made("c1", "f", '{"a":1}')],
    ),
    "an empty name, then its own": (
        [[call("", "", index=0, id="c1")], [call("f", "{}", index=0)]],
        [made("c1", "f", "{}")],
    ),
    "late names of two calls side by side": (
        [
            [call(None, "", index=0, id="c1"), call(None, "", index=1, id="c2")],
            [call("g", "[]", index=1), call("f", "{}", index=0)],
        ],
        [made("c2", "g", "[]"), made("c1", "f", "{}")],
    ),
    "a late name behind a call that has one": (
        [
            [call(None, "", index=0, id="c1"), call("g", "[", index=1, id="c2")],
            [call(None, "]", index=1), call("f", "{}", index=0)],
        ],
        [made("c2", "g", "[]"), made("c1", "f", "{}")],
    ),
    "a late name at an index that does not start at 0": (
        [[call(None, "", index=3, id="c1")], [call("f", "{}", index=3)]],
        [made("c1", "f", "{}")],
    ),
    # An id that comes late
    "an id behind the name": (
        [[call("f", "", index=0)], [call(None, "{}", index=0, id="c1")]],
        [made(OURS, "f", "{}")],
    ),
    "an id behind the name, in every later piece": (
        [
            [call("f", "", index=0)],
            [call(None, "{", index=0, id="c1")],
            [call(None, "}", index=0, id="c1")],
        ],
        [made(OURS, "f", "{}")],
    ),
    "a late id, then pieces of it without an index": (
        [
            [call("f", "", index=0)],
            [call(None, "{", index=0, id="c1")],
            [call(None, "}", id="c1")],
        ],
        [made(OURS, "f", "{}")],
    ),
    "a late id with the name again": (
        [[call("f", "{", index=0)], [call("f", "}", index=0, id="c1")]],
        [made(OURS, "f", "{}")],
    ),
    "a late id, then another call at its index": (
        [
            [call("f", "", index=0)],
            [call(None, "{}", index=0, id="c1")],
            [call("g", "[", index=0, id="c2")],
            [call(None, "]", index=0, id="c2")],
        ],
        [made(OURS, "f", "{}"), made("c2", "g", "[]")],
    ),
    "late ids of two calls side by side": (
        [
            [call("f", "{", index=0), call("g", "[", index=1)],
            [call(None, "]", index=1, id="c2"), call(None, "}", index=0, id="c1")],
        ],
        [made(OURS, "f", "{}"), made(OURS, "g", "[]")],
    ),
    # One id for two calls
    "one id at two indices": (
        [
            [call("f", "{", index=0, id="c1")],
            [call("g", "[", index=1, id="c1")],
            [call(None, "}", index=0, id="c1")],
            [call(None, "]", index=1, id="c1")],
        ],
        [made("c1", "f", "{}"), made(OURS, "g", "[]")],
    ),
    "one id at two indices, once each": (
        [
            [call("f", "{", index=0, id="c1"), call("g", "[", index=1, id="c1")],
            [call(None, "]", index=1)],
            [call(None, "}", index=0)],
        ],
        [made("c1", "f", "{}"), made(OURS, "g", "[]")],
    ),
    "one id and one name at two indices": (
        [
            [call("f", "{", index=0, id="c1")],
            [call("f", "[", index=1, id="c1")],
            [call(None, "}", index=0, id="c1")],
            [call(None, "]", index=1, id="c1")],
        ],
        [made("c1", "f", "{}"), made(OURS, "f", "[]")],
    ),
    "one id at three indices": (
        [[call("f", str(index), index=index, id="c1")] for index in range(3)]
        + [[call(None, str(index), index=index, id="c1")] for index in range(3)],
        [made("c1", "f", "00"), made(OURS, "f", "11"), made(OURS, "f", "22")],
    ),
    # An id that changes
    "another id in each piece": (
        [
            [call("f", "", index=0, id="c1", type="function")],
            [call(None, '{"a"', index=0, id="c2", type="function")],
            [call(None, ":1}", index=0, id="c3", type="function")],
        ],
        [made("c1", "f", '{"a":1}')],
    ),
    "another id behind the name": (
        [
            [call("f", "", index=0, id="c1", type="function")],
            [call(None, '{"a"', index=0, id="c2", type="function")],
            [call(None, ":1}", index=0, id="c2", type="function")],
        ],
        [made("c1", "f", '{"a":1}')],
    ),
    "another id in each piece of one chunk": (
        [
            [
                call("f", "", index=0, id="c1"),
                call(None, "{", index=0, id="c2"),
                call(None, "}", index=0, id="c3"),
            ]
        ],
        [made("c1", "f", "{}")],
    ),
    "another id in each piece, and no arguments in some": (
        [
            [call("f", index=0, id="c1")],
            [call(None, "", index=0, id="c2")],
            [call(None, "{}", index=0, id="c3")],
            [call(index=0, id="c4")],
        ],
        [made("c1", "f", "{}")],
    ),
    "another id in each piece, and the name again": (
        [
            [call("f", "", index=0, id="c1")],
            [call("f", '{"a":', index=0, id="c2")],
            [call("f", "1}", index=0, id="c3")],
        ],
        [made("c1", "f", '{"a":1}')],
    ),
    "another id in each piece, and no index": (
        [
            [call("f", "", id="c1")],
            [call(None, '{"a"', id="c2")],
            [call(None, ":1}", id="c3")],
        ],
        [made("c1", "f", '{"a":1}')],
    ),
    "another id once, then no index": (
        [
            [call("f", "", index=0, id="c1")],
            [call(None, '{"a"', index=0, id="c2")],
            [call(None, ":1", id="c2")],
            [call(None, "}", id="c1")],
        ],
        [made("c1", "f", '{"a":1}')],
    ),
    "another id once, then another index": (
        [
            [call("f", "", index=0, id="c1")],
            [call(None, "{", index=0, id="c2")],
            [call(None, "}", index=1, id="c2")],
        ],
        [made("c1", "f", "{}")],
    ),
    "another id in each piece of two calls side by side": (
        [
            [call("f", "", index=0, id="c1"), call("g", "", index=1, id="c2")],
            [call(None, "{", index=0, id="c3"), call(None, "[", index=1, id="c4")],
            [call(None, "]", index=1, id="c5"), call(None, "}", index=0, id="c6")],
        ],
        [made("c1", "f", "{}"), made("c2", "g", "[]")],
    ),
    "another id in each piece of two calls, one behind the other": (
        [
            [call("f", "", index=0, id="c1")],
            [call(None, "{}", index=0, id="c2")],
            [call("f", "", index=1, id="c3")],
            [call(None, "{}", index=1, id="c4")],
        ],
        [made("c1", "f", "{}"), made("c3", "f", "{}")],
    ),
    "another id in each piece of two calls at one index": (
        [
            [call("f", "", index=0, id="c1")],
            [call(None, "{}", index=0, id="c2")],
            [call("g", "", index=0, id="c3")],
            [call(None, "[]", index=0, id="c4")],
        ],
        [made("c1", "f", "{}"), made("c3", "g", "[]")],
    ),
    "another id with a late name": (
        [
            [call(None, "", index=0, id="c1")],
            [call("f", "{", index=0, id="c2")],
            [call(None, "}", index=0, id="c3")],
        ],
        [made("c1", "f", "{}")],
    ),
    "an id of a later call, first in a piece without a name": (
        [
            [call("f", "{}", index=0, id="c1")],
            [call(None, "", index=0, id="c2")],
            [call("g", "[]", index=0, id="c2")],
        ],
        [made("c1", "f", "{}"), made("c2", "g", "[]")],
    ),
    "two calls without arguments at one index": (
        [[call("f", "", index=0, id="c1")], [call("f", "", index=0, id="c2")]],
        [made("c1", "f", ""), made("c2", "f", "")],
    ),
    "a new call without an index, its name late": (
        [
            [call("f", "{}", id="c1")],
            [call(None, "", id="c2")],
            [call("g", "[]", id="c2")],
        ],
        [made("c1", "f", "{}"), made("c2", "g", "[]")],
    ),
    "two calls that take turns at one index, named each time": (
        [
            [call("f", "{", index=0, id="c1")],
            [call("g", "[", index=0, id="c2")],
            [call("f", "}", index=0, id="c1")],
            [call("g", "]", index=0, id="c2")],
        ],
        [made("c1", "f", "{}"), made("c2", "g", "[]")],
    ),
    # What was right before, and is still
    "all as it should be": (
        [
            [call("f", "", index=0, id="c1", type="function")],
            [call(None, "{}", index=0)],
            [call("g", "", index=1, id="c2", type="function")],
            [call(None, "[]", index=1)],
        ],
        [made("c1", "f", "{}"), made("c2", "g", "[]")],
    ),
    "an index used by two ids": (
        [
            [call("f", "{}", index=0, id="c1")],
            [call("f", "[", index=0, id="c2")],
            [call(None, "]", index=0, id="c2")],
        ],
        [made("c1", "f", "{}"), made("c2", "f", "[]")],
    ),
    "another index for a call that is known by its id": (
        [[call("f", "{", index=0, id="c1")], [call(None, "}", index=1, id="c1")]],
        [made("c1", "f", "{}")],
    ),
}


def body(pieces: list[list[Json]]) -> bytes:
    return b"".join(tool(*each) for each in pieces) + END


def with_our_ids(calls: list[Json]) -> list[Json]:
    """Ids that we make up are made equal: `play` has done so where a stream was played."""
    return [each | {"id": OURS if each["id"].startswith("call_") else each["id"]} for each in calls]


@pytest.mark.parametrize("name", CASES)
def test_every_piece_is_of_its_call(name: str) -> None:
    """A call begins with its id, its type and its name, which are sent once."""
    pieces, calls = CASES[name]
    frames = split_frames(play([body(pieces)]))
    assert frames.pop() == b"data: [DONE]"
    result: list[Json] = []
    ends: list[str] = []
    for frame in frames:
        chunk = json.loads(frame[6:])
        check_chunk(chunk)
        (member,) = chunk["choices"]
        assert not ends, "something came after the finish"
        for each in member["delta"].get("tool_calls", []):
            follow(result, each)
        if member["finish_reason"] is not None:
            ends.append(member["finish_reason"])
    assert result == calls
    assert ends == ["tool_calls"]


def follow(calls: list[Json], piece: Json) -> None:
    """What a client does that folds pieces."""
    function = piece["function"]
    if piece["index"] == len(calls):
        assert piece["id"]
        assert piece["type"] == "function"
        assert function["name"], "a call without a name"
        calls.append({"id": piece["id"], "name": function["name"], "arguments": ""})
    else:
        assert piece["index"] < len(calls), "a hole in the indices"
        assert not {"id", "type"} & piece.keys(), "an id was sent twice"
        assert "name" not in function, "a name was sent twice"
    known = calls[piece["index"]]
    known["arguments"] += function.get("arguments", "")


@pytest.mark.parametrize("name", CASES)
def test_an_answer_that_is_not_streamed_has_the_same_calls(name: str) -> None:
    pieces, calls = CASES[name]
    (folded,) = collected([body(pieces)])["choices"]
    result = folded["message"]["tool_calls"]
    assert len({each["id"] for each in result}) == len(result), "two calls with one id"
    assert all(set(each) == {"id", "type", "function"} for each in result)
    assert with_our_ids([{"id": each["id"]} | each["function"] for each in result]) == with_our_ids(
        calls
    )


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_same_however_it_is_cut(name: str) -> None:
    sent = body(CASES[name][0])
    out = play([sent])
    for pieces in all_ways(sent, 7):
        assert play(pieces) == out, pieces
    chance = random.Random(name)
    for _ in range(10):
        places = [chance.randint(0, len(sent)) for _ in range(chance.randint(2, 20))]
        assert play(cut(sent, places)) == out, places


@pytest.mark.parametrize("name", CASES)
def test_a_slow_client_gets_the_same_calls(name: str) -> None:
    """Merged by the backlog at any place, names and ids are still sent once."""
    pieces, calls = CASES[name]
    for place in range(len(pieces) + 1):
        normalizer, backlog, result = ToolCalls(), Coalescer(), list[Json]()
        for number, each in enumerate(pieces):
            if number == place:
                take(backlog, result)
            delta = {"tool_calls": normalizer.normalize(each)}
            if delta["tool_calls"]:
                backlog.add(Chunk([], b"", fields=[{"index": 0, "delta": delta}]))
        take(backlog, result)
        assert with_our_ids(result) == with_our_ids(calls), place


def take(backlog: Coalescer, result: list[Json]) -> None:
    for chunk in backlog.take():
        for each in chunk.members()[0]["delta"]["tool_calls"]:
            follow(result, each)


@pytest.mark.parametrize("name", CASES)
def test_text_between_the_pieces_changes_nothing(name: str) -> None:
    pieces, calls = CASES[name]
    sent = b"".join(text("a") + tool(*each) for each in pieces) + END
    (folded,) = collected([sent])["choices"]
    result = [{"id": each["id"]} | each["function"] for each in folded["message"]["tool_calls"]]
    assert with_our_ids(result) == with_our_ids(calls)
    assert folded["message"]["content"] == "a" * len(pieces)


def test_calls_of_two_choices_have_nothing_to_do_with_each_other() -> None:
    """The same index, and the same id, are another call in another choice."""
    sent = b"".join(
        tool(call("f", "{", index=0, id="c1"), index=index)
        + tool(call(None, "}", index=0), index=index)
        for index in (0, 1)
    )
    sent += finish("tool_calls") + finish("tool_calls", 1) + DONE
    for folded in collected([sent])["choices"]:
        (each,) = folded["message"]["tool_calls"]
        assert each["function"] == {"name": "f", "arguments": "{}"}


def test_ids_that_we_make_up_are_never_the_same() -> None:
    normalizer = ToolCalls()
    ids = [normalizer.normalize([call("f", "{}", index=0)])[0]["id"] for _ in range(1_000)]
    assert len(set(ids)) == 1_000


def custom(name: str | None = None, text: str | None = None, **more: Any) -> Json:
    fields = {"name": name, "input": text}
    return more | {"custom": {key: each for key, each in fields.items() if each is not None}}


PATCH = {"id": "c1", "type": "custom", "custom": {"name": "patch", "input": "abcdef"}}
# pieces, one a chunk; the calls that a client makes of them, whole
OTHERS: dict[str, tuple[list[Json], list[Json]]] = {
    "two pieces": (
        [custom("patch", "abc", index=0, id="c1", type="custom"), custom(None, "def", index=0)],
        [PATCH],
    ),
    "the head alone": (
        [
            custom("patch", "", index=0, id="c1", type="custom"),
            custom(None, "abc", index=0),
            custom(None, "def", index=0),
        ],
        [PATCH],
    ),
    "id, type and name in each piece": (
        [custom("patch", text, index=0, id="c1", type="custom") for text in ("ab", "cd", "ef")],
        [PATCH],
    ),
    "another id in each piece": (
        [
            custom("patch", "ab", index=0, id="c1", type="custom"),
            custom(None, "cd", index=0, id="c2"),
            custom(None, "ef", index=0, id="c3"),
        ],
        [PATCH],
    ),
    "no index": (
        [custom("patch", "abc", id="c1", type="custom"), custom(None, "def")],
        [PATCH],
    ),
    "a late name": (
        [
            {"index": 0, "id": "c1", "type": "custom"},
            custom(None, "abc", index=0),
            custom("patch", "def", index=0),
        ],
        [PATCH],
    ),
    "a late type": (
        [{"index": 0, "id": "c1"}, custom("patch", "abcdef", index=0, type="custom")],
        [PATCH],
    ),
    "no type": ([custom("patch", "abcdef", index=0, id="c1")], [PATCH]),
    "members of other types, empty": (
        [
            custom("patch", "abc", index=0, id="c1", type="custom", function=None),
            custom(None, "def", index=0, function={"name": None, "arguments": ""}),
        ],
        [PATCH],
    ),
    "input that is JSON, and goes on": (
        [custom("patch", "{}", index=0, id="c1", type="custom"), custom("patch", "{}", index=0)],
        [PATCH | {"custom": {"name": "patch", "input": "{}{}"}}],
    ),
    "two at one index": (
        [custom("patch", "a", index=0, id=each, type="custom") for each in ("c1", "c2")],
        [
            {"id": each, "type": "custom", "custom": {"name": "patch", "input": "a"}}
            for each in ("c1", "c2")
        ],
    ),
    "beside a function": (
        [
            call("f", "{", index=0, id="c0", type="function"),
            custom("patch", "abc", index=1, id="c1", type="custom"),
            call(None, "}", index=0),
            custom(None, "def", index=1),
        ],
        [
            {"id": "c0", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            PATCH,
        ],
    ),
    "a function behind it at its index": (
        [
            custom("f", "abc", index=0, id="c1", type="custom"),
            call("f", "{}", index=0, id="c2", type="function"),
        ],
        [
            {"id": "c1", "type": "custom", "custom": {"name": "f", "input": "abc"}},
            {"id": "c2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        ],
    ),
    "a function whose other members are null": (
        [{**call("f", "{", index=0, id="c0"), "custom": None}, call(None, "}", index=0)],
        [{"id": "c0", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    ),
    "further members": (
        [
            call("f", "{", index=0, id="c0", extra_content={"x": {"signature": "ab"}}),
            call(None, "}", index=0, note="c"),
            call(None, "", index=0, note="d"),
        ],
        [
            {
                "id": "c0",
                "type": "function",
                "function": {"name": "f", "arguments": "{}"},
                "extra_content": {"x": {"signature": "ab"}},
                "note": "cd",
            }
        ],
    ),
    "a type that nobody knows": (
        [
            {"index": 0, "id": "c1", "type": "browse", "browse": {"url": "a", "hits": [1]}},
            {"index": 0, "browse": {"url": "b", "hits": [2]}, "state": "done"},
        ],
        [{"id": "c1", "type": "browse", "browse": {"url": "ab", "hits": [1, 2]}, "state": "done"}],
    ),
    "a type that nobody knows, of a function": (
        [
            call("$web_search", "", index=0, id="c1", type="builtin_function"),
            call(None, "{}", index=0),
        ],
        [
            {
                "id": "c1",
                "type": "builtin_function",
                "function": {"name": "$web_search", "arguments": "{}"},
            }
        ],
    ),
    "a type that nobody knows, and nothing else": (
        [{"index": 0, "id": "c1", "type": "pause"}],
        [{"id": "c1", "type": "pause"}],
    ),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("at_once", [False, True], ids=["a chunk each", "one chunk"])
def test_calls_of_other_types_keep_their_own_members(name: str, at_once: bool) -> None:
    """Nothing is invented for them, and their texts are joined as those of a function are."""
    pieces, calls = OTHERS[name]
    sent = tool(*pieces) if at_once else b"".join(tool(each) for each in pieces)
    for ways in ([sent + END], *all_ways(sent + END, 3)):
        (folded,) = collected(ways)["choices"]
        assert folded["message"]["tool_calls"] == calls
        assert folded["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("name", OTHERS)
def test_ids_types_and_names_of_other_calls_are_sent_once(name: str) -> None:
    pieces, calls = OTHERS[name]
    normalizer, once = ToolCalls(), list[tuple[str, ...]]()
    for each in [piece for given in pieces for piece in normalizer.normalize([given])]:
        names = [
            each[kind]["name"] for kind in ("function", "custom") if "name" in each.get(kind, ())
        ]
        if each["index"] == len(once):
            once.append((each["id"], each["type"], *names))
        else:
            assert not names
            assert not {"id", "type"} & each.keys()
    assert once == [
        (
            each["id"],
            each["type"],
            *[each[kind]["name"] for kind in ("function", "custom") if kind in each],
        )
        for each in calls
    ]


def test_a_custom_call_that_never_gets_a_name_waits_for_it() -> None:
    normalizer = ToolCalls()
    assert normalizer.normalize([custom(None, "abc", index=0, id="c1", type="custom")]) == []
    assert not normalizer.is_named


def test_half_a_surrogate_pair_in_arguments_is_passed_on() -> None:
    """The other half may come with the next piece: whoever sends it out joins them."""
    normalizer = ToolCalls()
    pieces = [*normalizer.normalize([call("f", '{"a":"\ud83d', index=0, id="\ud83d")])]
    pieces += normalizer.normalize([call("f", '\ude00"}', index=0)])
    assert [each["function"].get("arguments") for each in pieces] == ['{"a":"\ud83d', '\ude00"}']
    assert pieces[0]["id"] == "\ufffd"
    assert len(pieces) == 2, "its arguments are whole only now: a second call begins here"
    assert normalizer.normalize([call("f", "{}", index=0)])[0]["index"] == 1


NAMELESS = [call(None, "{", index=0, id="c1")], [call(None, "}", index=0)]


def test_a_call_that_never_gets_a_name_is_a_failure() -> None:
    """Nobody could make it, and a name is never invented."""
    played = split_frames(play([text("a") + body(list(NAMELESS))]))
    assert b"[DONE]" not in played[-1]
    assert json.loads(played[-1][6:])["error"]["code"] == "upstream_error"
    assert not any(b"tool_calls" in each for each in played)


def test_what_is_no_call_begins_nothing() -> None:
    """Nothing waits for a name: an upstream that goes on to say nothing has sent nothing."""
    played = play([say({"index": 0, "delta": {"tool_calls": ["no call"]}})])
    assert b"role" not in played


@pytest.mark.parametrize("calls", [[None], ["no call"], [[]]])
def test_what_is_no_call_does_not_change_the_finish(calls: list[Any]) -> None:
    text = {"index": 0, "delta": {"content": "hi", "tool_calls": calls}}
    played = play([say(text), say({"index": 0, "delta": {}, "finish_reason": "stop"}), DONE])
    assert b'"finish_reason":"stop"' in played


def test_a_call_that_was_dropped_with_its_upstream_does_not_change_the_finish() -> None:
    choice = ChoiceNormalizer(0)
    choice.normalize({"delta": {"content": "t"}})
    choice.normalize({"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}})
    choice.drop_held()
    choice.normalize({"delta": {"content": "x"}, "finish_reason": "stop"})
    assert [each["finish_reason"] for each in choice.close()] == ["stop"]


def test_what_waits_for_a_name_is_forgotten_with_its_upstream() -> None:
    """Another one goes on with the text, and calls its own tool."""
    normalizer = ToolCalls()
    assert normalizer.normalize([call(None, "{", index=0, id="c1")]) == []
    normalizer.forget_unnamed()
    assert normalizer.is_named
    (piece,) = normalizer.normalize([call("f", "{}", index=0, id="c2")])
    assert piece == {
        "index": 0,
        "id": "c2",
        "type": "function",
        "function": {"name": "f", "arguments": "{}"},
    }
