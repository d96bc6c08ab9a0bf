"""Streams as Hypothesis makes them up: legal ones, and what upstreams do to them (the contract's
section 8), one function for each."""

import json
from collections.abc import Callable
from typing import Any, Final

from hypothesis import strategies as st
from msgspec import Struct

from tests.support.pipeline import Sent

Json = dict[str, Any]
Draw = st.DrawFn

USAGE: Final[Json] = {
    "prompt_tokens": 5,
    "completion_tokens": 9,
    "total_tokens": 14,
    "completion_tokens_details": {"reasoning_tokens": 2},
}
_DONE: Final = "data: [DONE]\n\n"

#: Text of any kind, and words that stand elsewhere in an event as well.
_THEIRS: Final = st.sampled_from(["m", "theirs", "content", "stop", "[DONE]", "data: "])
_WORDS: Final = _THEIRS | st.text('abž🐎\u2028\u2029\x85\n"\\ {', min_size=1, max_size=4)


class Upstream:
    """A stream before it is bytes."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.chunks: list[Json] = []
        self.done = _DONE
        self.line_end = "\n"
        self.bom = False
        self.in_lines = False  # an event is several lines of `data:`
        self.comments = False

    def members(self) -> list[Json]:
        return [each["choices"][0] for each in self.chunks if each["choices"]]

    def calls(self) -> list[Json]:
        return [call for each in self.members() for call in each["delta"].get("tool_calls", ())]

    def sent(self) -> Sent:
        text = "".join(map(self._event, self.chunks)) + self.done
        body = text.replace("\n", self.line_end).encode()
        body = b"\xef\xbb\xbf" + body if self.bom else body
        return Sent(body, headers={"content-type": "text/event-stream"})

    def _event(self, chunk: Json) -> str:
        text = json.dumps(chunk, ensure_ascii=False, indent=1 if self.in_lines else None)
        comment = ": still here\n\n" if self.comments else ""
        return comment + "".join(f"data: {line}\n" for line in text.split("\n")) + "\n"


# A legal one


def _chunk(index: int, delta: Json, finish: str | None = None) -> Json:
    return _framed([{"index": index, "delta": delta, "finish_reason": finish}])


def _framed(choices: list[Json], **more: Any) -> Json:
    head = {"id": "theirs", "object": "chat.completion.chunk", "created": 7, "model": "m"}
    return head | {"choices": choices} | more


def _call(number: int, name: str, arguments: list[str]) -> list[Json]:
    """A tool call from its first delta to its last."""
    first = {"index": number, "id": f"call_{name}", "type": "function"}
    deltas = [first | {"function": {"name": name, "arguments": ""}}]
    deltas += [{"index": number, "function": {"arguments": word}} for word in arguments]
    return [{"tool_calls": [each]} for each in deltas]


def _choice(
    index: int, thoughts: list[str], words: list[str], calls: list[list[str]], reason: str
) -> list[Json]:
    """`calls`: the arguments of each, in pieces."""
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": word} for word in thoughts]
    deltas += [{"content": word} for word in words]
    for number, arguments in enumerate(calls):
        deltas += _call(number, f"f{index}{number}", arguments)
    result = [_chunk(index, delta) for delta in deltas]
    return [*result, _chunk(index, {}, "tool_calls" if calls else reason)]


@st.composite
def legal(draw: Draw) -> Upstream:
    """Up to three choices side by side."""
    upstream = Upstream(draw)
    pieces = st.lists(_WORDS, max_size=4)
    text = st.lists(_WORDS, max_size=4) | st.lists(_WORDS, min_size=8, max_size=16)
    calls = st.lists(pieces, max_size=2)
    reasons = st.sampled_from(["stop", "length", "content_filter"])
    rows = [
        _choice(index, draw(pieces), draw(text), draw(calls), draw(reasons))
        for index in range(draw(st.integers(1, 3)))
    ]
    while rows:
        row = draw(st.sampled_from(rows))
        upstream.chunks.append(row.pop(0))
        rows = [each for each in rows if each]
    upstream.chunks.append(_framed([], usage=USAGE))
    return upstream


def one_of_all(draw: Draw) -> Upstream:
    """A legal one that each damage does something to."""
    upstream = Upstream(draw)
    calls = [['{"a":', "1}"], ["{", "}"]]
    upstream.chunks = _choice(
        0, ["Let", " me"], ["Žlu", "ť\u2028", *"a long answer"], calls, "stop"
    )
    upstream.chunks.append(_framed([], usage=USAGE))
    return upstream


# What a client should make of it


def answers(upstream: Upstream) -> dict[int, Json]:
    """What each choice of a legal stream says."""
    found: dict[int, Json] = {}
    for member in upstream.members():
        delta = member["delta"]
        empty: Json = {"content": "", "reasoning": "", "calls": [], "finish": None}
        result = found.setdefault(member["index"], empty)
        result["content"] += delta.get("content", "")
        result["reasoning"] += delta.get("reasoning_content", "")
        result["finish"] = member["finish_reason"]
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                result["calls"].append([call["id"], call["function"]["name"], ""])
            result["calls"][-1][2] += call["function"]["arguments"]
    return found


def _bears(member: Json) -> set[str]:
    return {name for name, each in member["delta"].items() if each and name != "role"}


def order(upstream: Upstream) -> list[int]:
    """The choices as they begin to say something: a role alone is nothing."""
    begun = [each["index"] for each in upstream.members() if _bears(each) or each["finish_reason"]]
    return list(dict.fromkeys(begun))


def usage(upstream: Upstream) -> Json:
    """What the upstream says last; what it does not say is counted of its deltas."""
    bearing = [names for each in upstream.members() if (names := _bears(each))]
    pieces = len(bearing)
    counts = {"prompt_tokens": 0, "completion_tokens": pieces, "total_tokens": pieces}
    result = [counts, *(each["usage"] for each in upstream.chunks if each.get("usage"))][-1]
    thoughts = sum(bool(each & {"reasoning", "reasoning_content"}) for each in bearing)
    counted = {"reasoning_tokens": min(thoughts, result["completion_tokens"])}
    return {"completion_tokens_details": counted} | result


# What is done to it


def id_and_created_change(upstream: Upstream) -> None:
    for number, chunk in enumerate(upstream.chunks):
        chunk |= {"id": f"other-{number}", "created": number}


def role_in_every_chunk(upstream: Upstream) -> None:
    for member in upstream.members():
        member["delta"]["role"] = "assistant"


def role_in_none(upstream: Upstream) -> None:
    for member in upstream.members():
        member["delta"].pop("role", None)


def no_chunk_for_the_role(upstream: Upstream) -> None:
    upstream.chunks = [
        each
        for each in upstream.chunks
        if not each["choices"]
        or each["choices"][0]["delta"].get("content") != ""
        or each["choices"][0]["finish_reason"]
    ]


def two_usage_chunks(upstream: Upstream) -> None:
    early = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    place = upstream.draw(st.integers(0, len(upstream.chunks) - 1))
    upstream.chunks.insert(place, _framed([], usage=early))


def content_null_at_first(upstream: Upstream) -> None:
    for member in upstream.members():
        if member["delta"].get("content") == "":
            member["delta"]["content"] = None


def finish_in_the_last_delta(upstream: Upstream) -> None:
    last: dict[int, Json] = {}
    for chunk in list(upstream.chunks):
        for member in chunk["choices"]:
            before = last.get(member["index"])
            if member["finish_reason"] is not None and before is not None:
                before["finish_reason"] = member["finish_reason"]
                upstream.chunks.remove(chunk)
            last[member["index"]] = member


def _usage_moves(upstream: Upstream, to: Callable[[Json], Any]) -> None:
    there = [chunk for chunk in upstream.chunks if any(map(to, chunk["choices"]))]
    result = [chunk for chunk in upstream.chunks if not chunk["choices"]]
    if there and result:
        upstream.chunks = [chunk for chunk in upstream.chunks if chunk["choices"]]
        there[-1]["usage"] = result[-1]["usage"]


def usage_beside_a_delta(upstream: Upstream) -> None:
    _usage_moves(upstream, lambda member: member["delta"])


def usage_beside_the_finish(upstream: Upstream) -> None:
    _usage_moves(upstream, lambda member: member["finish_reason"])


def no_usage(upstream: Upstream) -> None:
    upstream.chunks = [chunk for chunk in upstream.chunks if chunk["choices"]]
    for chunk in upstream.chunks:
        chunk.pop("usage", None)


def no_blank_line_after_done(upstream: Upstream) -> None:
    upstream.done = upstream.draw(st.sampled_from([_DONE[:-1], _DONE[:-2]]))


def no_done(upstream: Upstream) -> None:
    upstream.done = ""


def one_index_for_all_calls(upstream: Upstream) -> None:
    for call in upstream.calls():
        if "index" in call:
            call["index"] = 0


def no_index_in_calls(upstream: Upstream) -> None:
    for call in upstream.calls():
        call.pop("index", None)


def arguments_in_one_piece(upstream: Upstream) -> None:
    first: dict[int, Json] = {}
    for chunk in list(upstream.chunks):
        for member in chunk["choices"]:
            for call in member["delta"].get("tool_calls", ()):
                if "id" in call:
                    first[member["index"]] = call
                else:
                    function = first[member["index"]]["function"]
                    function["arguments"] += call["function"]["arguments"]
                    upstream.chunks.remove(chunk)


def reasoning_by_its_other_name(upstream: Upstream) -> None:
    for member in upstream.members():
        if "reasoning_content" in member["delta"]:
            member["delta"]["reasoning"] = member["delta"].pop("reasoning_content")


def members_that_nobody_knows(upstream: Upstream) -> None:
    """Beside every second piece of text."""
    for member in upstream.members()[::2]:
        if member["delta"].get("content") and member["finish_reason"] is None:
            member["delta"]["native"] = "x"


def byte_order_mark(upstream: Upstream) -> None:
    upstream.bom = True


def other_line_ends(upstream: Upstream) -> None:
    upstream.line_end = upstream.draw(st.sampled_from(["\r\n", "\r"]))


def comments(upstream: Upstream) -> None:
    upstream.comments = True


def multi_line_data(upstream: Upstream) -> None:
    upstream.in_lines = True


Damage = Callable[[Upstream], None]

#: In the order in which one can be done after the other.
DAMAGES: Final[tuple[Damage, ...]] = (
    arguments_in_one_piece,
    finish_in_the_last_delta,
    no_chunk_for_the_role,
    content_null_at_first,
    role_in_every_chunk,
    role_in_none,
    reasoning_by_its_other_name,
    one_index_for_all_calls,
    no_index_in_calls,
    usage_beside_a_delta,
    usage_beside_the_finish,
    no_usage,
    two_usage_chunks,
    id_and_created_change,
    members_that_nobody_knows,
    byte_order_mark,
    other_line_ends,
    comments,
    multi_line_data,
    no_blank_line_after_done,
    no_done,
)


class Damaged(Struct):
    """`answers` are in the order in which a client should get them."""

    sent: Sent
    answers: list[Json]
    usage: Json


def damage(upstream: Upstream, wanted: set[Damage]) -> Damaged:
    result = answers(upstream)
    for each in DAMAGES:
        if each in wanted:
            each(upstream)
    return Damaged(upstream.sent(), [result[index] for index in order(upstream)], usage(upstream))


@st.composite
def damaged(draw: Draw) -> Damaged:
    return damage(draw(legal()), draw(st.sets(st.sampled_from(DAMAGES))))
