"""How OpenAI, OpenRouter, vLLM, llama.cpp and Anthropic write their answers.

The order of keys, the null members and the grouping of events into HTTP chunks are those of the
servers themselves in 2026, with `stream_options.include_usage` and without obfuscation.
"""

import json
from typing import Any, Final, Literal, get_args

from bench.upstream_answers import RANDOM, Format, Values, alphanumeric, head, hexadecimal

FormatName = Literal["mix", "openai", "openrouter", "vllm", "llama.cpp", "constant"]
FORMAT_NAMES: Final[tuple[str, ...]] = get_args(FormatName)

_DONE: Final = b"data: [DONE]\n\n"


# OpenAI: some ten system fingerprints are in use at a time.

_OPENAI: Final = (
    b'data: {"id":"%(id)b","object":"chat.completion.chunk","created":%(created)b,'
    b'"model":"gpt-4o-mini-2024-07-18","service_tier":"default",'
    b'"system_fingerprint":"%(fingerprint)b","choices":'
)
_FINGERPRINTS: Final = tuple(b"fp_" + hexadecimal(10) for _ in range(10))


def _openai_values(now: int) -> Values:
    return {
        b"id": b"chatcmpl-" + alphanumeric(29),
        b"fingerprint": RANDOM.choice(_FINGERPRINTS),
        b"request": hexadecimal(32),
        b"ray": hexadecimal(16),
        b"milliseconds": b"%d" % RANDOM.randrange(200, 900),
    }


OPENAI: Final = Format(
    name="openai",
    head=head(
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
    provider, model, delta, members = RANDOM.choice(_PROVIDERS)
    return {
        b"id": b"gen-%d-%b" % (now, alphanumeric(20)),
        b"provider": provider,
        b"model": model,
        b"delta": delta,
        b"members": members % hexadecimal(10) if b"%b" in members else members,
        b"ray": hexadecimal(16),
    }


OPENROUTER: Final = Format(
    name="openrouter",
    head=head(
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
    return {b"id": b"chatcmpl-" + hexadecimal(16)}


VLLM: Final = Format(
    name="vllm",
    head=head(
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
    per_token = RANDOM.uniform(5.0, 15.0)
    return {
        b"id": b"chatcmpl-" + alphanumeric(32),
        b"per_token": b"%.14f" % per_token,
        b"per_second": b"%.14f" % (1000 / per_token),
    }


LLAMA: Final = Format(
    name="llama.cpp",
    head=head(
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
    head=head(b"content-type: text/event-stream"),
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
    return {b"id": b"msg_01" + alphanumeric(22), b"request": alphanumeric(24)}


ANTHROPIC: Final = Format(
    name="anthropic",
    head=head(
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
