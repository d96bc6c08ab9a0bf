"""Items that only the last event of an upstream tells of."""

import re
from typing import Any

import pytest

from tests.fronts.test_responses_writer import USAGE, Upstream, completed, relayed
from tests.support.responses_order import split

Json = dict[str, Any]

ANSWER: list[Json] = [
    {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "hm"}, {"type": "summary_text", "text": "mh"}],
        "encrypted_content": "gAAAA",
    },
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [
            {
                "type": "output_text",
                "text": "One",
                "logprobs": [],
                "annotations": [
                    {
                        "type": "url_citation",
                        "url": "https://example.com",
                        "title": "x",
                        "start_index": 0,
                        "end_index": 3,
                    }
                ],
            },
            {"type": "refusal", "refusal": "No"},
        ],
    },
    {
        "id": "fc_1",
        "type": "function_call",
        "status": "completed",
        "call_id": "call_1",
        "name": "f",
        "arguments": '{"a": 1}',
    },
    {
        "id": "ctc_1",
        "type": "custom_tool_call",
        "status": "completed",
        "call_id": "call_2",
        "name": "patch",
        "input": "*** Begin",
    },
]


@pytest.mark.parametrize("kind", ["completed", "incomplete"])
@pytest.mark.parametrize("begun", [True, False])
def test_what_only_the_last_event_tells_of_has_events(begun: bool, kind: str) -> None:
    """An upstream may give its whole answer in one piece."""
    more = {"incomplete_details": {"reason": "max_output_tokens"}} if kind == "incomplete" else {}
    upstream = Upstream().begin() if begun else Upstream()
    found = completed(relayed(upstream.end(kind, output=ANSWER, **more)))
    assert found.done == found.response["output"] == ANSWER
    assert found.text == "OneNo"
    assert found.reasoning == "hmmh"


#: Events that an upstream leaves out, and how many items it tells of.
LEFT_OUT: dict[str, tuple[str, int]] = {
    "the end of a call": (r"output_item.done.*function_call", 2),
    "the end of a message": (r"output_item.done.*message", 2),
    "the ends of all items": (r"(output_item|content_part|output_text|arguments).done", 2),
    "all of a call": (r"function_call", 2),
    "the beginning of all items": (r"output_item.added", 0),
    "the beginning and the end of all items": (r"output_item|content_part|done", 0),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_each_item_ends_once(case: str) -> None:
    """Codex takes items from their ends alone."""
    pattern, items = LEFT_OUT[case]
    place = {"item_id": "fc_1", "output_index": 1}
    call = ANSWER[2]
    upstream = Upstream().begin().message("One", " two")
    upstream.say("output_item.added", output_index=1, item=call | {"arguments": ""})
    upstream.say("function_call_arguments.delta", **place, delta=call["arguments"])
    upstream.say("function_call_arguments.done", **place, name="f", arguments=call["arguments"])
    upstream.say("output_item.done", output_index=1, item=call)
    upstream.end()
    *events, last = upstream.events
    kept = [each for each in events if not re.search(pattern.encode(), each[1])]
    upstream.events = [*kept, last]
    pipe = relayed(upstream)
    for each in (pipe.writer, pipe.aggregator):
        each.complete(USAGE, b"")
    told = split(pipe.body)
    ends = [each["item"]["id"] for each in told if each["type"] == "response.output_item.done"]
    assert sorted(ends) == ["fc_1", "msg_1"]
    begun = [each for each in told if each["type"] == "response.output_item.added"]
    assert len(begun) == items
    said = [each["delta"] for each in told if each["type"] == "response.output_text.delta"]
    assert said == ["One", " two"]
    assert [each["id"] for each in told[-1]["response"]["output"]] == ["msg_1", "fc_1"]
