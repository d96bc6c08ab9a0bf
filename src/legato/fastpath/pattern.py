"""A byte pattern of events that differ in one text alone: what stands before and after the text.

It is learnt from one event that was decoded, and tried: the event with another text in the same
place has to decode to the same chunk with that other text. Where events have a number or padding as
well, as OpenAI's Responses API has, they are compared without (`steady`), if that changes nothing.
"""

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct

from legato.core.chunk import Chunk
from legato.core.json_text import encoded, one_line
from legato.core.span_edit import with_number, with_padding

#: Stands in the place of the text while a pattern is tried. No upstream writes this; nor would we,
#: with an escape that is not needed.
_PROBE: Final = rb'"~legato\u003a text~"'
_PROBE_TEXT: Final = "~legato: text~"

#: What no upstream has by chance where `steady` leaves 0 and nothing.
_OTHER_NUMBER: Final = 987_654_321
_OTHER_PADDING: Final = b"~"

#: Reads an event's name and data. Raises `UpstreamError`.
Read = Callable[[bytes, bytes], Chunk | None]

_DATA: Final = b"data: "
_NAME: Final = b"event: "
_END: Final = b"\n\n"


class Pattern(Struct, frozen=True, gc=False):
    """`head` and `tail`: the bytes of the event before and after its text; the text's quotes belong
    to them.

    `raw`: the `choices` array of its chunk, as JSON before and after the JSON string of the text.
    `is_encoded`: the text in it is encoded anew; else its JSON string is the upstream's.
    `varies`: `head` and `tail` are those of a `steady` event.
    """

    head: bytes
    tail: bytes
    raw: tuple[bytes, bytes]
    is_encoded: bool
    varies: bool = False


def steady(event: bytes) -> bytes:
    """`event` without what differs from one to the next beside its text. It is as good JSON as it
    was before."""
    return with_padding(with_number(event, 0), b"")


def has_text(event: bytes, chunk: Chunk) -> bool:
    """Whether the text of `chunk` stands in `event` exactly once, escaped as we would do it."""
    return chunk.text_choice >= 0 and event.count(msgspec.json.encode(chunk.text)) == 1


def learn(event: bytes, chunk: Chunk, read: Read) -> Pattern | None:
    """The pattern of `event` (lines with a blank line behind them), or None where it has none.

    `chunk`: what it was decoded to, a chunk of nothing but text that `has_text`. `read` must not
    change its reader's state for such an event.
    """
    prefix, found, data = event.removesuffix(_END).partition(_DATA)
    if not found or b"\n" in data or b"\r" in event or not event.endswith(_END):
        return None
    if prefix and not (prefix.startswith(_NAME) and prefix.find(b"\n") == len(prefix) - 1):
        return None
    name = prefix[len(_NAME) : -1]
    varies = _varies(name, data, read)
    data = steady(data) if varies else data
    before, _, after = data.partition(msgspec.json.encode(chunk.text))
    probe = read(name, before + _PROBE + after)
    if probe is None or len(probe.choices) != 1 or probe.extras != chunk.extras or probe.usage:
        return None
    choice = probe.choices[0]
    delta = choice.delta
    if delta is None or not choice.is_text_only or choice.index != chunk.text_choice:
        return None
    text = delta.reasoning_content if chunk.is_reasoning else delta.content
    whole = one_line(_choices(probe))
    is_encoded = _PROBE not in whole
    raw = whole.split(encoded(_PROBE_TEXT) if is_encoded else _PROBE)
    if text != _PROBE_TEXT or len(raw) != 2:
        return None
    head = b'%b%b%b"' % (prefix, _DATA, before)
    return Pattern(head, b'"%b%b' % (after, _END), (raw[0], raw[1]), is_encoded, varies)


def _varies(name: bytes, data: bytes, read: Read) -> bool:
    """Whether there is a number or padding in it that makes no difference to what is read."""
    one, other = steady(data), with_padding(with_number(data, _OTHER_NUMBER), _OTHER_PADDING)
    if one == data:
        return False
    chunks = [read(name, one), read(name, other)]
    said = [each and (_choices(each), each.extras, each.usage) for each in chunks]
    return said[0] == said[1]


def _choices(chunk: Chunk) -> bytes:
    return chunk.raw or msgspec.json.encode(chunk.choices)
