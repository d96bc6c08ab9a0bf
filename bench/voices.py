"""What the upstream says: the bytes of its events, as OpenAI's API and Anthropic's have them."""

import json
from typing import Final

from msgspec import Struct

#: Bytes of a content chunk's event in OpenAI's dialect: what a provider's takes.
FRAME_BYTES: Final = 230

#: How many different chunks a stream that is sent flat out has.
DIFFERENT: Final = 64

#: An event in its HTTP chunk, up to the time in it and from there on.
Frame = tuple[bytes, bytes]

_TIME: Final = "0" * 19


class Voice(Struct, frozen=True):
    """An answer: `begin`, content chunks, `end`. Each chunk says when it was sent, as `@time@`."""

    begin: bytes
    usual: Frame
    end: bytes
    odd: tuple[Frame, Frame, Frame] | None = None
    """The first chunk, the last of the thoughts, and the first of the answer, if they differ."""

    def frame(self, at: int, of: int) -> Frame:
        """That of content chunk `at`, from 0. With less than four, thoughts do not end."""
        if self.odd is not None:
            if at == 0:
                return self.odd[0]
            if of >= 4 and 0 <= at - of // 2 + 1 <= 1:
                return self.odd[at - of // 2 + 2]
        return self.usual

    def flat(self) -> list[bytes]:
        """Usual chunks that do not know when they were sent; no two in a row are alike."""
        before, after = self.usual
        return [b"%b%019d%b" % (before, number, after) for number in range(DIFFERENT)]


def _framed(event: str) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event.encode())


def _cut(event: str) -> Frame:
    before, _, after = _framed(event).partition(_TIME.encode())
    return before, after


def _chunk(choices: str, more: str = "") -> str:
    return (
        'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,'
        f'"model":"bench","choices":[{choices}]{more}}}\n\n'
    )


def _content(text: str) -> str:
    return _chunk(
        f'{{"index":0,"delta":{{"content":"{text}"}},"logprobs":null,"finish_reason":null}}'
    )


def _timed(before: str = "", after: str = "") -> Frame:
    """A content chunk of `FRAME_BYTES`, with `before` and `after` around its text."""
    text = f"{before}@{_TIME}@%s{after}"
    room = FRAME_BYTES - len(_content(text % ""))
    return _cut(_content(text % _words(room)))


def _words(size: int) -> str:
    return (" word" * size)[:size]


_ROLE: Final = _framed(
    _chunk('{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}')
)
_END: Final = (
    _framed(_chunk('{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}'))
    + _framed(_chunk("", ',"usage":{"prompt_tokens":9,"completion_tokens":200,"total_tokens":209}'))
    + _framed("data: [DONE]\n\n")
    + b"0\r\n\r\n"
)

PLAIN: Final = Voice(_ROLE, _timed(), _END)

#: Both tags are split over two chunks. The first half of the chunks is thoughts.
THINK: Final = Voice(
    _ROLE + _framed(_content("<thi")),
    _timed(),
    _END,
    odd=(_timed(before="nk>"), _timed(after="</th"), _timed(before="ink>")),
)

#: Bytes of text in a chunk.
TEXT_BYTES: Final = FRAME_BYTES - len(_content(""))


def _event(**fields: object) -> str:
    return f"event: {fields['type']}\ndata: {json.dumps(fields, separators=(',', ':'))}\n\n"


def _anthropic() -> Voice:
    message = {"id": "msg_bench", "type": "message", "role": "assistant", "content": []}
    message |= {"model": "bench", "stop_reason": None, "stop_sequence": None}
    message |= {"usage": {"input_tokens": 9, "output_tokens": 1}}
    begin = (
        _event(type="message_start", message=message),
        _event(type="content_block_start", index=0, content_block={"type": "text", "text": ""}),
        _event(type="ping"),
    )
    text = f"@{_TIME}@" + _words(TEXT_BYTES - len(_TIME) - 2)
    delta = {"type": "text_delta", "text": text}
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    end = (
        _event(type="content_block_stop", index=0),
        _event(type="message_delta", delta=stop, usage={"output_tokens": 200}),
        _event(type="message_stop"),
    )
    return Voice(
        b"".join(map(_framed, begin)),
        _cut(_event(type="content_block_delta", index=0, delta=delta)),
        b"".join(map(_framed, end)) + b"0\r\n\r\n",
    )


ANTHROPIC: Final = _anthropic()


def voice(path: bytes, text: bytes) -> Voice:
    """By the path that is asked, and the text that is wished for."""
    if path.endswith(b"/messages"):
        return ANTHROPIC
    return THINK if text == b"think" else PLAIN
