"""The upstream's answers, as OpenAI, OpenRouter, vLLM, llama.cpp and Anthropic write them.

Every answer has its own id, `created` time and fingerprint, and every content chunk its own text.
Templates are split at the text once an answer, so that a chunk costs the upstream little CPU: it
shares a core with the clients that are measured.

The order of keys, the null members and the grouping of events into HTTP chunks are those of the
servers themselves in 2026, with `stream_options.include_usage` and without obfuscation.
"""

import json
import random
import string
import time
from collections.abc import Callable
from typing import Any, Final, Literal, get_args

from msgspec import Struct

FormatName = Literal["mix", "openai", "openrouter", "vllm", "llama.cpp", "constant"]
FORMAT_NAMES: Final[tuple[str, ...]] = get_args(FormatName)

#: Events (templates) that are written as one HTTP chunk, and several such chunks.
Events = tuple[bytes, ...]
Values = dict[bytes, bytes]

#: Text of content chunks, as it stands between JSON's quotes: tokens of several lengths, some with
#: escapes, some with several bytes a character. Used in turn. No "@": it marks the time.
TOKENS: Final = tuple(
    token.encode()
    for token in (
        *(" the", " relay", " passes", " each", " chunk", " on", " as", " soon", " as", " it"),
        *(" arrives", ".", " A", " café", " in", " Zürich", ",", " for", " example", ":"),
        *("\\n\\n", "-", " **", "first", "**", " token", " latency", "\\n", "-", " through", "put"),
        *("\\n\\n", "He", " answers", ' \\"', "yes", '\\"', " and", " leaves", " at", " 17", ":"),
        *("30", "。", "你好", "、", "世界", " 🙂", " int", "eroper", "ability", " C", ":\\\\"),
        *("temp", " requires", " careful", " measurement", " —", " of", " every", " single"),
        *(" step", "!"),
    )
)

#: Bytes of a time stamp: "@", nanoseconds in 19 digits, "@".
STAMP_BYTES: Final = 21

_TEXT: Final = b"%(text)b"
_DONE: Final = b"data: [DONE]\n\n"
_ALPHANUMERIC: Final = string.ascii_letters + string.digits
_random: Final = random.Random(1)
#: A prime number of them, so that a token is not always followed by as many.
_SPACES: Final = tuple(b" " * _random.randrange(16) for _ in range(61))


class Format(Struct, frozen=True, kw_only=True):
    """How one server writes an answer. `%(name)b` in a template is a value of the answer.

    `head`: the HTTP head. `opening`: what is sent with it, in HTTP chunks. `role`: what precedes
    the first content; `joins_role`: in one HTTP chunk with it. `content`: the event of a text,
    which stands at `%(text)b`. `end`: what follows the last content. `values`: makes an answer's
    values from the time in seconds; `created` and the token counts are added. `created_per_chunk`:
    `created` is the time of the chunk, not of the answer. `pads`: up to 15 spaces stand before the
    last brace of a content event, as many as chance has it.
    """

    name: str
    head: bytes
    opening: tuple[Events, ...] = ()
    role: bytes = b""
    joins_role: bool = False
    content: bytes
    end: tuple[Events, ...]
    values: Callable[[int], Values]
    created_per_chunk: bool = False
    pads: bool = False
    tokens: tuple[bytes, ...] = TOKENS

    @property
    def text_bytes(self) -> float:
        """Bytes of text in a content chunk, on average, with its time stamp."""
        return STAMP_BYTES + sum(map(len, self.tokens)) / len(self.tokens)


class Answer:
    """The bytes of one answer with `chunks` content chunks.

    `thinks`: the first half of the text is between think tags, each split over two chunks.
    """

    __slots__ = (
        "_afters",
        "_before",
        "_chunks",
        "_number",
        "_second",
        "_thinks",
        "_tokens",
        "_values",
        "format",
    )

    def __init__(self, style: Format, number: int, chunks: int, *, thinks: bool = False) -> None:
        """`number`: of the answer; it chooses where in its tokens the text begins."""
        self.format = style
        self._number = number
        self._chunks = chunks
        self._thinks = thinks
        self._tokens = style.tokens
        now = int(time.time())
        self._values = style.values(now) | {
            b"date": _http_date(now),
            b"completion": b"%d" % chunks,
            b"total": b"%d" % (chunks + 9),
        }
        self._set_created(now)

    def opening(self) -> bytes:
        """The HTTP head and what is sent with it."""
        return self.format.head % self._values + self._http_chunks(self.format.opening)

    def content(self, at: int, now: int) -> bytes:
        """Content chunk `at`, from 0, sent at `now` (monotonic nanoseconds), in its HTTP chunk."""
        if self.format.created_per_chunk and now // 1_000_000_000 != self._second:
            self._set_created(int(time.time()))
        if at == 0 or self._thinks:
            return self._first_or_tagged(at, now)
        token = self._tokens[(at + self._number) % len(self._tokens)]
        before, after = self._before, self._afters[(at + self._number) % len(self._afters)]
        size = len(before) + STAMP_BYTES + len(token) + len(after)
        return b"%x\r\n%b@%019d@%b%b\r\n" % (size, before, now, token, after)

    def end(self) -> bytes:
        """What follows the last content chunk, with the end of the HTTP body."""
        return self._http_chunks(self.format.end) + b"0\r\n\r\n"

    def prepared(self, number: int) -> list[bytes]:
        """So many different content chunks, which carry a number in place of the time."""
        return [self.content(each, each) for each in range(1, number + 1)]

    def _first_or_tagged(self, at: int, now: int) -> bytes:
        before, after = _tags(at, self._chunks) if self._thinks else (b"", b"")
        token = self._tokens[(at + self._number) % len(self._tokens)]
        texts = [b"%b@%019d@%b%b" % (before, now, token, after)]
        if at == 0 and self._thinks:
            texts.insert(0, b"<thi")
        events = [b"%b%b%b" % (self._before, text, self._afters[0]) for text in texts]
        if at == 0 and self.format.role:
            role = self.format.role % self._values
            if self.format.joins_role:
                events[0] = role + events[0]
            else:
                events.insert(0, role)
        return b"".join(map(_http_chunk, events))

    def _set_created(self, now: int) -> None:
        self._values[b"created"] = b"%d" % now
        before, _, after = self.format.content.partition(_TEXT)
        self._before, after = before % self._values, after % self._values
        end = after.rindex(b"}")
        spaces = _SPACES if self.format.pads else (b"",)
        self._afters = [b"%b%b%b" % (after[:end], each, after[end:]) for each in spaces]
        self._second = time.monotonic_ns() // 1_000_000_000

    def _http_chunks(self, groups: tuple[Events, ...]) -> bytes:
        return b"".join(_http_chunk(b"".join(events) % self._values) for events in groups)


def _tags(at: int, chunks: int) -> tuple[bytes, bytes]:
    """What stands before and after the text of content chunk `at`. With less than four chunks,
    thinking does not end."""
    if at == 0:
        return b"nk>", b""
    if chunks >= 4 and at == chunks // 2 - 1:
        return b"", b"</th"
    if chunks >= 4 and at == chunks // 2:
        return b"ink>", b""
    return b"", b""


def _http_chunk(data: bytes) -> bytes:
    """RFC 9112, section 7.1."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _http_date(now: int) -> bytes:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now)).encode()


def _alphanumeric(length: int) -> bytes:
    return "".join(_random.choices(_ALPHANUMERIC, k=length)).encode()


def _hexadecimal(length: int) -> bytes:
    return b"%0*x" % (length, _random.getrandbits(4 * length))


def _head(*lines: bytes) -> bytes:
    common = (b"HTTP/1.1 200 OK", b"transfer-encoding: chunked", b"cache-control: no-cache")
    return b"\r\n".join((*common, *lines)) + b"\r\n\r\n"


# OpenAI: some ten system fingerprints are in use at a time.

_OPENAI: Final = (
    b'data: {"id":"%(id)b","object":"chat.completion.chunk","created":%(created)b,'
    b'"model":"gpt-4o-mini-2024-07-18","service_tier":"default",'
    b'"system_fingerprint":"%(fingerprint)b","choices":'
)
_FINGERPRINTS: Final = tuple(b"fp_" + _hexadecimal(10) for _ in range(10))


def _openai_values(now: int) -> Values:
    return {
        b"id": b"chatcmpl-" + _alphanumeric(29),
        b"fingerprint": _random.choice(_FINGERPRINTS),
        b"request": _hexadecimal(32),
        b"ray": _hexadecimal(16),
        b"milliseconds": b"%d" % _random.randrange(200, 900),
    }


OPENAI: Final = Format(
    name="openai",
    head=_head(
        b"date: %(date)b",
        b"content-type: text/event-stream; charset=utf-8",
        b"openai-processing-ms: %(milliseconds)b",
        b"openai-version: 2020-10-01",
        b"x-request-id: req_%(request)b",
        b"server: cloudflare",
        b"cf-ray: %(ray)b-FRA",
    ),
    opening=(
        (
            _OPENAI + b'[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},'
            b'"logprobs":null,"finish_reason":null}],"usage":null}\n\n',
        ),
    ),
    content=_OPENAI + b'[{"index":0,"delta":{"content":"%(text)b"},"logprobs":null,'
    b'"finish_reason":null}],"usage":null}\n\n',
    end=(
        (
            _OPENAI + b'[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],'
            b'"usage":null}\n\n',
        ),
        (
            _OPENAI + b'[],"usage":{"prompt_tokens":9,"completion_tokens":%(completion)b,'
            b'"total_tokens":%(total)b,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
            b'"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,'
            b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}\n\n',
        ),
        (_DONE,),
    ),
    values=_openai_values,
)


# OpenRouter: the provider, and what it adds to each chunk, change from answer to answer.

_OPENROUTER: Final = (
    b'data: {"id":"%(id)b","provider":"%(provider)b","model":"%(model)b",'
    b'"object":"chat.completion.chunk","created":%(created)b,"choices":[{"index":0,'
    b'"delta":{"role":"assistant","content":"'
)
_PROVIDERS: Final = (
    (b"OpenAI", b"openai/gpt-4o-mini", b"", b',"system_fingerprint":"fp_%b"'),
    (
        b"DeepInfra",
        b"deepseek/deepseek-chat-v3.1",
        b',"reasoning":null,"reasoning_details":[]',
        b"",
    ),
    (b"Chutes", b"qwen/qwen3-32b", b"", b',"system_fingerprint":null'),
    (b"Fireworks", b"meta-llama/llama-3.3-70b-instruct", b"", b""),
)


def _openrouter_values(now: int) -> Values:
    provider, model, delta, members = _random.choice(_PROVIDERS)
    return {
        b"id": b"gen-%d-%b" % (now, _alphanumeric(20)),
        b"provider": provider,
        b"model": model,
        b"delta": delta,
        b"members": members % _hexadecimal(10) if b"%b" in members else members,
        b"ray": _hexadecimal(16),
    }


OPENROUTER: Final = Format(
    name="openrouter",
    head=_head(
        b"date: %(date)b",
        b"content-type: text/event-stream",
        b"server: cloudflare",
        b"cf-ray: %(ray)b-FRA",
    ),
    opening=((b": OPENROUTER PROCESSING\n\n",),),
    role=_OPENROUTER + b'"%(delta)b},"finish_reason":null,"native_finish_reason":null,'
    b'"logprobs":null}]%(members)b}\n\n',
    content=_OPENROUTER + b'%(text)b"%(delta)b},"finish_reason":null,"native_finish_reason":null,'
    b'"logprobs":null}]%(members)b}\n\n',
    end=(
        (
            _OPENROUTER + b'"%(delta)b},"finish_reason":"stop","native_finish_reason":"stop",'
            b'"logprobs":null}]%(members)b}\n\n',
        ),
        (
            _OPENROUTER + b'"},"finish_reason":null,"native_finish_reason":null,"logprobs":null}],'
            b'"usage":{"prompt_tokens":9,"completion_tokens":%(completion)b,'
            b'"total_tokens":%(total)b,"cost":0.00012,"is_byok":false,"prompt_tokens_details":'
            b'{"cached_tokens":0,"audio_tokens":0},"cost_details":{"upstream_inference_cost":null},'
            b'"completion_tokens_details":{"reasoning_tokens":0}}}\n\n',
        ),
        (_DONE,),
    ),
    values=_openrouter_values,
)


# vLLM.

_VLLM: Final = (
    b'data: {"id":"%(id)b","object":"chat.completion.chunk","created":%(created)b,'
    b'"model":"meta-llama/Llama-3.1-8B-Instruct","choices":'
)


def _vllm_values(now: int) -> Values:
    return {b"id": b"chatcmpl-" + _hexadecimal(16)}


VLLM: Final = Format(
    name="vllm",
    head=_head(
        b"date: %(date)b",
        b"server: uvicorn",
        b"content-type: text/event-stream; charset=utf-8",
    ),
    role=_VLLM + b'[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,'
    b'"finish_reason":null}],"prompt_token_ids":null}\n\n',
    content=_VLLM + b'[{"index":0,"delta":{"content":"%(text)b"},"logprobs":null,'
    b'"finish_reason":null,"token_ids":null}]}\n\n',
    end=(
        (
            _VLLM + b'[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop",'
            b'"stop_reason":null,"token_ids":null}]}\n\n',
        ),
        (
            _VLLM + b'[],"usage":{"prompt_tokens":9,"total_tokens":%(total)b,'
            b'"completion_tokens":%(completion)b}}\n\n',
        ),
        (_DONE,),
    ),
    values=_vllm_values,
)


# llama.cpp: keys in another order, `created` changes within an answer, role and first text are one
# HTTP chunk, and so are finish and usage.

_LLAMA: Final = (
    b',"created":%(created)b,"id":"%(id)b","model":"SmolLM2-135M-Instruct.Q4_1.gguf",'
    b'"system_fingerprint":"b9554-d403f00ec","object":"chat.completion.chunk"'
)


def _llama_values(now: int) -> Values:
    per_token = _random.uniform(5.0, 15.0)
    return {
        b"id": b"chatcmpl-" + _alphanumeric(32),
        b"per_token": b"%.14f" % per_token,
        b"per_second": b"%.14f" % (1000 / per_token),
    }


LLAMA: Final = Format(
    name="llama.cpp",
    head=_head(
        b"Server: llama.cpp",
        b"Access-Control-Allow-Origin: ",
        b"X-Accel-Buffering: no",
        b"Content-Type: text/event-stream",
    ),
    role=b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant",'
    b'"content":null}}]' + _LLAMA + b"}\n\n",
    joins_role=True,
    content=b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"%(text)b"}}]'
    + _LLAMA
    + b"}\n\n",
    end=(
        (
            b'data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}]' + _LLAMA + b"}\n\n",
            b'data: {"choices":[]' + _LLAMA + b',"usage":{"completion_tokens":%(completion)b,'
            b'"prompt_tokens":9,"total_tokens":%(total)b,"prompt_tokens_details":'
            b'{"cached_tokens":0}},"timings":{"cache_n":0,"prompt_n":9,"prompt_ms":%(per_token)b,'
            b'"prompt_per_token_ms":%(per_token)b,"prompt_per_second":%(per_second)b,'
            b'"predicted_n":%(completion)b,"predicted_ms":%(per_token)b,'
            b'"predicted_per_token_ms":%(per_token)b,"predicted_per_second":%(per_second)b}}\n\n',
        ),
        (_DONE,),
    ),
    values=_llama_values,
    created_per_chunk=True,
)


# For comparison: answers in which nothing but the time stamps differs. No server writes these; they
# show what recognising repeated bytes gains.

_CONSTANT: Final = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,'
    b'"model":"bench","choices":'
)

CONSTANT: Final = Format(
    name="constant",
    head=_head(b"content-type: text/event-stream"),
    opening=(
        (
            _CONSTANT + b'[{"index":0,"delta":{"role":"assistant","content":""},'
            b'"finish_reason":null}]}\n\n',
        ),
    ),
    content=_CONSTANT + b'[{"index":0,"delta":{"content":"%(text)b"},"logprobs":null,'
    b'"finish_reason":null}]}\n\n',
    end=(
        (_CONSTANT + b'[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}\n\n',),
        (
            _CONSTANT + b'[],"usage":{"prompt_tokens":9,"completion_tokens":%(completion)b,'
            b'"total_tokens":%(total)b}}\n\n',
        ),
        (_DONE,),
    ),
    values=lambda now: {},
    tokens=(b" word word word word wor",),
)


# Anthropic's Messages API.


def _event(**members: Any) -> bytes:
    data = json.dumps(members, separators=(",", ":"))
    return f"event: {members['type']}\ndata: {data}\n\n".encode()


def _anthropic_values(now: int) -> Values:
    return {b"id": b"msg_01" + _alphanumeric(22), b"request": _alphanumeric(24)}


ANTHROPIC: Final = Format(
    name="anthropic",
    head=_head(
        b"date: %(date)b",
        b"content-type: text/event-stream; charset=utf-8",
        b"request-id: req_01%(request)b",
        b"server: cloudflare",
    ),
    opening=(
        (
            _event(
                type="message_start",
                message={
                    "model": "claude-haiku-4-5-20251001",
                    "id": "%(id)b",
                    "type": "message",
                    "role": "assistant",
                    "content": [],
                    "stop_reason": None,
                    "stop_sequence": None,
                    "usage": {
                        "input_tokens": 9,
                        "cache_creation_input_tokens": 0,
                        "cache_read_input_tokens": 0,
                        "output_tokens": 1,
                        "service_tier": "standard",
                    },
                },
            ),
        ),
        (_event(type="content_block_start", index=0, content_block={"type": "text", "text": ""}),),
        (_event(type="ping"),),
    ),
    content=_event(
        type="content_block_delta", index=0, delta={"type": "text_delta", "text": "%(text)b"}
    ),
    end=(
        (_event(type="content_block_stop", index=0),),
        (
            _event(
                type="message_delta",
                delta={"stop_reason": "end_turn", "stop_sequence": None},
                usage={"output_tokens": "%(completion)b"},
            ).replace(b'"%(completion)b"', b"%(completion)b"),
        ),
        (_event(type="message_stop"),),
    ),
    values=_anthropic_values,
    pads=True,
)

#: What an upstream of OpenAI's API answers with in turn.
MIX: Final = (OPENAI, OPENROUTER, VLLM, LLAMA)

FORMATS: Final = {each.name: each for each in (*MIX, CONSTANT)}
