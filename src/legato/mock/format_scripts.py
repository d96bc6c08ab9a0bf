"""Scripts about what the formats differ in: the ends of streams, items, errors, signatures, pings.

Each is played in every format. Where a format lacks what a script is about, it has the nearest
thing: a comment for a ping, an error between chunks for `response.failed`.
"""

from typing import Any, Final

from legato.mock.steps import Script, Step

_TEXT: Final = ("Once", " upon", " a", " time", ",", " there", " was", " a", " stream", ".")
_SAY: Final = [Step(say=word) for word in _TEXT]
_THINK: Final = [Step(think=word) for word in ("Let", " me", " think", ".")]
_ANSWER: Final = [Step(say=word) for word in (" Forty", "-two", ".")]
_USAGE: Final[dict[str, Any]] = {
    "prompt_tokens": 7,
    "completion_tokens": 10,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 3},
}
_END: Final = [Step(finish="stop"), Step(usage=_USAGE), Step(done=True)]
_VALID: Final = [*_SAY, *_END]

#: As long as a real one, with the characters of Base64 that JSON and URLs escape.
_SIGNATURE: Final = "EqQBCkYIARgCKkD" + "0Z+x/8aK3f_9Q-7w" * 20 + "=="

_OVERLOADED: Final = {"type": "overloaded_error", "message": "Overloaded"}
_FAILED: Final = {"type": "server_error", "code": "server_error", "message": "The GPU fell off."}


def _thought(*signed: Step) -> list[Step]:
    usage = _USAGE | {"completion_tokens_details": {"reasoning_tokens": 4}}
    return [*signed, *_ANSWER, Step(finish="stop"), Step(usage=usage), Step(done=True)]


def _unknown(number: int) -> Step:
    return Step(event={"type": "hologram.delta", "depth": number, "delta": {"type": "hologram"}})


FORMAT_SCRIPTS: Final[dict[str, Script]] = {
    "no-message-stop": Script(
        "Messages: no message_stop after the message_delta", steps=[*_SAY, *_END[:2]]
    ),
    "no-message-delta": Script(
        "Messages: a message_stop without a message_delta", steps=[*_SAY, _END[2]]
    ),
    "deltas-before-item": Script(
        "deltas before the output_item.added or content_block_start of their item",
        steps=_VALID,
        late_items=True,
    ),
    "failed-inside": Script(
        "Responses: response.failed with the error in its response",
        steps=[*_SAY, Step(error=_FAILED)],
        error_in="response",
    ),
    "failed-beside": Script(
        "Responses: response.failed with the error beside its response",
        steps=[*_SAY, Step(error=_FAILED)],
        error_in="beside",
    ),
    "unknown-events": Script(
        "events, content blocks and output items of unknown types",
        steps=[
            *_SAY[:4],
            _unknown(1),
            *_SAY[4:],
            _unknown(2),
            Step(item={"type": "hologram", "depth": 3}),
            _unknown(4),
            *_END,
        ],
    ),
    "ping-storm": Script(
        "three hundred pings between two words",
        steps=[*_SAY[:5], Step(comment="ping", repeat=300), *_SAY[5:], *_END],
    ),
    "overloaded": Script(
        "Anthropic's overloaded_error between events", steps=[*_SAY, Step(error=_OVERLOADED)]
    ),
    "529": Script(
        "529, Anthropic's status for overload",
        status=529,
        body='{"error": {"message": "Overloaded", "type": "overloaded_error"}}',
    ),
    "empty-details": Script(
        "usage whose details are empty objects",
        steps=[
            *_SAY,
            _END[0],
            Step(
                usage=_USAGE | {"prompt_tokens_details": {}, "completion_tokens_details": {}},
            ),
            _END[2],
        ],
    ),
    "signed-thinking": Script(
        "reasoning with a long signature or encrypted content, then an answer",
        steps=_thought(*_THINK, Step(sign=_SIGNATURE)),
    ),
    "redacted-thinking": Script(
        "reasoning that is encrypted as a whole, then an answer",
        steps=_thought(Step(redacted=_SIGNATURE)),
    ),
    "agent": Script(
        "calls a shell tool of the request with a harmless command, then repeats its result",
        agent=True,
    ),
}
