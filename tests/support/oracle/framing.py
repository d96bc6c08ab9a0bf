"""How the events of an answer come: HTTP chunks, reads, and what the client does meanwhile."""

import gzip
from collections.abc import Callable
from typing import Final

from tests.support.oracle.conversation import Action, Block, Script, SizeForm
from tests.support.oracle.texts import Draw

_FORMS: Final[tuple[SizeForm, ...]] = ("upper", "zeros", "extension", "space")
_NO_FORMS: Final[tuple[SizeForm, ...]] = (
    *("sign", "underscore", "short", "long", "no end", "line feeds"),
)

_TRAILERS: Final = (b"x-trailer: a\r\n", b"content-type: text/plain\r\nretry-after: 5\r\n")

#: Seconds of a `wait`: shorter than a heartbeat, longer than one, longer than a stall.
_WAITS: Final = (0.5, 1.5, 6.0, 11.0, 11.0, 25.0, 61.0, 130.0)


def _one_by_one(draw: Draw, events: list[bytes]) -> list[Block]:
    """An event a chunk, a chunk a read: what nearly all servers do."""
    return [Block(each) for each in events]


def _several_a_read(draw: Draw, events: list[bytes]) -> list[Block]:
    share = draw.number()
    return [Block(each, ends_read=draw.chance(share)) for each in events]


def _several_a_chunk(draw: Draw, events: list[bytes]) -> list[Block]:
    blocks: list[Block] = []
    share = draw.number()
    for each in events:
        if blocks and draw.chance(share):
            blocks[-1].body += each
        else:
            blocks.append(Block(each))
    return blocks


def _split_events(draw: Draw, events: list[bytes]) -> list[Block]:
    """Some events are split over chunks, and chunks hold parts of several."""
    blocks: list[Block] = []
    share = draw.pick((0.05, 0.3, 0.9))
    joins = draw.chance(0.5)
    for each in events:
        if not draw.chance(share) or len(each) < 2:
            blocks.append(Block(each))
            continue
        at = draw.between(1, len(each) - 1)
        if joins and blocks:
            blocks[-1].body += each[:at]
        else:
            blocks.append(Block(each[:at]))
        blocks.append(Block(each[at:]))
    return blocks


def _cut_reads(draw: Draw, events: list[bytes]) -> list[Block]:
    """Chunks are whole, reads end anywhere."""
    share = draw.pick((0.05, 0.2, 0.7, 1.0))
    blocks: list[Block] = []
    for each in events:
        cuts: tuple[int, ...] = ()
        if draw.chance(share):
            size = len(each) + 8
            places = {draw.between(1, size) for _ in range(draw.between(1, 3))}
            if draw.chance(0.3):  # in the size line or next to it, or in the end of the chunk
                places = {draw.pick((1, 2, 3, 4, 5, len(each) + 3, len(each) + 4))}
            cuts = tuple(sorted(places))
        blocks.append(Block(each, cuts=cuts, ends_read=draw.chance(0.7)))
    return blocks


def _by_the_byte(draw: Draw, events: list[bytes]) -> list[Block]:
    first = draw.between(0, len(events) - 1)
    return [
        Block(each, cuts=tuple(range(1, len(each) + 8)) if first <= at < first + 2 else ())
        for at, each in enumerate(events)
    ]


def _random_chunks(draw: Draw, events: list[bytes]) -> list[Block]:
    """Chunks of any size, whatever they hold."""
    rest = b"".join(events)
    most = draw.pick((40, 300, 3000))
    blocks: list[Block] = []
    while rest:
        size = draw.between(1, most)
        blocks.append(Block(rest[:size], ends_read=draw.chance(0.7)))
        rest = rest[size:]
    return blocks


def _one_read(draw: Draw, events: list[bytes]) -> list[Block]:
    return [Block(each, ends_read=False) for each in events]


#: With their shares.
_LAYOUTS: Final[tuple[Callable[[Draw, list[bytes]], list[Block]], ...]] = (
    *(_one_by_one,) * 26,
    *(_several_a_read,) * 8,
    *(_several_a_chunk,) * 2,
    *(_split_events,) * 3,
    *(_cut_reads,) * 4,
    *(_random_chunks, _one_read),
)


def framed(
    draw: Draw, events: list[bytes], content_type: str, *, is_steady: bool = False
) -> Script:
    """A whole response of these events. `is_steady`: in chunks that are framed alike."""
    place = 1.0 if is_steady else draw.number()
    if place < 0.02:
        events = _compressed(draw, events)
    layout = _by_the_byte if 0.02 <= place < 0.03 else draw.pick(_LAYOUTS)
    script = Script(layout(draw, events), headers=_headers(draw, content_type, place < 0.02))
    if 0.03 <= place < 0.15:
        script.framing = "length" if place < 0.09 else "close"
    if 0.15 <= place < 0.4:
        _vary(draw, script)
    if draw.chance(0.015) and script.blocks:
        draw.pick(script.blocks).size_form = draw.pick(_NO_FORMS)
    script.body_begins_with_head = draw.chance(0.2)
    script.end_joins = draw.chance(0.2)
    if draw.chance(0.03):
        script.trailers = draw.pick(_TRAILERS)
    if draw.chance(0.03):
        script.head_cuts = (draw.between(1, 60),)
    return script


def _headers(draw: Draw, content_type: str, is_compressed: bool) -> tuple[tuple[str, str], ...]:
    if draw.chance(0.3) and content_type == "text/event-stream":
        content_type = "text/event-stream; charset=utf-8"
    if draw.chance(0.02):
        content_type = "text/plain"
    headers = [("content-type", content_type)]
    if is_compressed:
        headers.append(("content-encoding", "gzip"))
    if draw.chance(0.1):
        headers.append(draw.pick((("keep-alive", "timeout=5"), ("connection", "close"))))
    return tuple(headers)


def _vary(draw: Draw, script: Script) -> None:
    """Some chunks, or all, have sizes in another form."""
    form, share = draw.pick(_FORMS), draw.pick((0.1, 0.5, 1.0))
    for block in script.blocks:
        if draw.chance(share):
            block.size_form = form


def _compressed(draw: Draw, events: list[bytes]) -> list[bytes]:
    body = gzip.compress(b"".join(events), 1, mtime=0)
    size = draw.between(1, len(body))
    return [body[:size], body[size:]] if body[size:] else [body]


# What breaks an answer off


def broken(draw: Draw, script: Script) -> None:
    """Cuts the response somewhere: at the end of an event or anywhere."""
    blocks = script.blocks
    if not blocks:
        return
    keep = draw.between(0, len(blocks) - 1)
    last = blocks[keep]
    if draw.chance(0.4) and len(last.body) > 1:
        last.body = last.body[: draw.between(1, len(last.body) - 1)]
        keep += 1
    del blocks[keep:]
    script.end = draw.pick(("lost", "lost", "lost", "silent", "whole"))


# What the client does


def scheduled(draw: Draw, script: Script) -> None:
    """Puts pauses, waits and a departure between the reads."""
    blocks = script.blocks
    if not blocks:
        return
    place = draw.number()
    if place < 0.5:
        for _ in range(draw.between(1, 3)):
            begin = draw.between(0, len(blocks) - 1)
            end = begin + draw.between(1, 12)
            _act(blocks[begin], Action("pause"))
            if end < len(blocks):
                _act(blocks[end], Action("resume"))
    if 0.4 < place < 0.7:
        _act(draw.pick(blocks), Action("leave"))
    if place > 0.65 or 0.2 < place < 0.3:
        for _ in range(draw.between(1, 3)):
            _act(draw.pick(blocks), Action("wait", draw.pick(_WAITS)))


def _act(block: Block, action: Action) -> None:
    block.before += (action,)
