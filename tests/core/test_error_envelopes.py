"""What is read of the JSON value that stands in the place of an error."""

import json
import random
from typing import Any

import pytest

from legato.core.error_envelopes import Problem, problem_of
from legato.core.errors import error_code

RAW = json.dumps({"error": {"message": "max_tokens must be less than 8192", "code": 400}})
GOOGLE_KEY = {
    "code": 400,
    "message": "API key not valid. Please pass a valid API key.",
    "status": "INVALID_ARGUMENT",
    "details": [
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"},
        {
            "@type": "type.googleapis.com/google.rpc.LocalizedMessage",
            "locale": "de",
            "message": "Der API-Key ist falsch.",
        },
    ],
}

# value, the members of its `Problem` that are not the default
PROBLEMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "OpenAI": (
        {"error": {"message": "No.", "type": "t", "param": "p", "code": "c"}},
        {"message": "No.", "code": "c", "kind": "t", "param": "p"},
    ),
    "a text": ({"error": "No, never."}, {"message": "No, never."}),
    "a bare text": ("No, never.", {"message": "No, never."}),
    "Anthropic": (
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        {"message": "Overloaded", "kind": "overloaded_error", "status": 529},
    ),
    "Google": (
        {"error": {"code": 503, "message": "No, never.", "status": "UNAVAILABLE"}},
        {"message": "No, never.", "rpc": "UNAVAILABLE", "status": 503},
    ),
    "Google in a list": (
        [{"error": GOOGLE_KEY}],
        {
            "message": "API key not valid. Please pass a valid API key.",
            "rpc": "INVALID_ARGUMENT",
            "status": 401,
        },
    ),
    "Google, to be asked again": (
        {
            "error": {
                "code": 429,
                "message": "Slow down.",
                "status": "RESOURCE_EXHAUSTED",
                "details": [{"@type": "x/google.rpc.RetryInfo", "retryDelay": "34.07s"}],
            }
        },
        {
            "message": "Slow down.",
            "rpc": "RESOURCE_EXHAUSTED",
            "status": 429,
            "retry_after": 34.07,
        },
    ),
    "Azure": (
        {
            "error": {
                "message": "The prompt was filtered.",
                "type": None,
                "param": "prompt",
                "code": "content_filter",
                "status": 400,
                "innererror": {"code": "ResponsibleAIPolicyViolation"},
            }
        },
        {
            "message": "The prompt was filtered.",
            "code": "content_filter",
            "param": "prompt",
            "status": 400,
        },
    ),
    "OpenRouter": (
        {
            "error": {
                "message": "Provider returned error",
                "code": 502,
                "metadata": {"raw": RAW, "provider_name": "X"},
            }
        },
        {"message": "max_tokens must be less than 8192", "status": 400},
    ),
    "OpenRouter, with a sentence": (
        {
            "error": {
                "message": "Provider returned error",
                "code": 429,
                "metadata": {"raw": "z-ai/glm is temporarily rate-limited.", "remedy_hint": "Wait"},
            }
        },
        {"message": "z-ai/glm is temporarily rate-limited.", "status": 429},
    ),
    "OpenRouter, with no reason": (
        {
            "error": {
                "message": "The provider is gone.",
                "code": 502,
                "metadata": {"raw": "ERROR", "error_type": "provider_unavailable"},
            }
        },
        {"message": "The provider is gone.", "kind": "provider_unavailable", "status": 502},
    ),
    "OpenRouter's choice": (
        {"choices": [{"delta": {}, "error": {"code": 502, "message": "Upstream idle timeout"}}]},
        {"message": "Upstream idle timeout", "status": 502},
    ),
    "OpenRouter, twice": (
        {
            "error": {
                "message": "Provider returned error",
                "metadata": {"raw": json.dumps({"error": {"metadata": {"raw": RAW}}})},
            }
        },
        {"message": "max_tokens must be less than 8192", "status": 400},
    ),
    "MiniMax": (
        {"base_resp": {"status_code": 1002, "status_msg": "rate limit"}},
        {"message": "rate limit", "status": 429},
    ),
    "DashScope": (
        {"code": "InvalidParameter", "message": "No, never.", "request_id": "r"},
        {"message": "No, never.", "code": "InvalidParameter", "status": 400},
    ),
    "Z.ai": (
        {"error": {"code": "1301", "message": "content unsafe"}},
        {"message": "content unsafe", "code": "1301"},
    ),
    "Cloudflare": (
        {
            "success": False,
            "errors": [{"code": 7003, "message": "No, never."}, {"message": "Not now."}],
            "messages": [],
            "result": None,
        },
        {"message": "No, never.; Not now."},
    ),
    "xAI": (
        {"code": "The system is busy", "error": "Wait a moment."},
        {"message": "Wait a moment.", "code": "The_system_is_busy"},
    ),
    "FastAPI": ({"detail": "worker died"}, {"message": "worker died"}),
    "FastAPI's validation": (
        {
            "detail": [
                {
                    "loc": ["body", "messages", 0, "content"],
                    "msg": "str type expected",
                    "type": "type_error.str",
                },
                {"loc": ["body"], "msg": "field required", "type": "value_error.missing"},
                {"loc": ["query", "n"], "msg": "too large", "input": {"n": 7}},
            ]
        },
        {
            "message": "messages.0.content: str type expected; field required; query.n: too large",
            "param": "messages[0].content",
        },
    ),
    "FastAPI's object": (
        {"detail": {"error": {"message": "No, never.", "type": "t"}}},
        {"message": "No, never.", "kind": "t"},
    ),
    "vLLM": (
        {"object": "error", "message": "No, never.", "type": "BadRequestError", "code": 400},
        {"message": "No, never.", "kind": "BadRequestError", "status": 400},
    ),
    "vLLM's validation": (
        {
            "object": "error",
            "message": "[{'type': 'missing', 'loc': ('body', 'messages'), 'msg': 'Field required',"
            " 'input': {'a': 1}}]",
            "type": "BadRequestError",
            "code": 400,
        },
        {
            "message": "messages: Field required",
            "kind": "BadRequestError",
            "param": "messages",
            "status": 400,
        },
    ),
    "LiteLLM": (
        {
            "error": {
                "message": "litellm.BadRequestError: OpenAIException - Error code: 400 - "
                "{'error': {'message': \"It can't be.\", 'type': 't', 'param': None}}. "
                "Received Model Group=m",
                "code": "400",
            }
        },
        {"message": "It can't be.", "kind": "t", "status": 400},
    ),
    "LiteLLM, with JSON": (
        {
            "error": {
                "message": 'litellm.BadRequestError: AnthropicException - {"type":"error","error":'
                '{"type":"invalid_request_error","message":"No, never."}}'
            }
        },
        {"message": "No, never.", "kind": "invalid_request_error", "status": 400},
    ),
    "JSON that is no error": (
        {"error": {"message": 'Invalid value: {"role":"user","message":"hi"}'}},
        {"message": 'Invalid value: {"role":"user","message":"hi"}'},
    ),
    "Spring": (
        {"status": 500, "error": "Internal Server Error", "message": "No, never.", "path": "/v1"},
        {"message": "No, never.", "status": 500},
    ),
    "NestJS": (
        {"statusCode": 400, "message": ["n is odd", "m is even"], "error": "Bad Request"},
        {"message": "n is odd; m is even", "status": 400},
    ),
    "RFC 9457": (
        {"type": "about:blank", "title": "Out of Credit", "detail": "Pay first.", "status": 402},
        {"message": "Pay first.", "status": 402},
    ),
    "ASP.NET": (
        {
            "type": "https://tools.ietf.org/html/rfc9110#section-15.5.1",
            "title": "One or more validation errors occurred.",
            "status": 400,
            "errors": {"$.n": ["could not be converted"]},
        },
        {"message": "$.n: could not be converted", "status": 400},
    ),
    "AWS": (
        {"__type": "com.amazon.coral.service#ThrottlingException", "Message": "Slow down."},
        {"message": "Slow down.", "kind": "ThrottlingException", "status": 429},
    ),
    "Apigee": (
        {"fault": {"faultstring": "No, never.", "detail": {"errorcode": "x.y"}}},
        {"message": "No, never.", "code": "x.y"},
    ),
    "Baidu": (
        {"error_code": 336000, "error_msg": "No, never.", "id": "as-1"},
        {"message": "No, never."},
    ),
    "TGI": (
        {"error": "Input validation error: no", "error_type": "validation"},
        {"message": "Input validation error: no", "kind": "validation", "status": 400},
    ),
    "seconds to wait": (
        {"error": {"message": "Slow down.", "retry_after": 7}},
        {"message": "Slow down.", "retry_after": 7.0},
    ),
    "seconds in words": (
        {"error": {"message": "Please try again in 7.5s."}},
        {"message": "Please try again in 7.5s.", "retry_after": 7.5},
    ),
    "a stack trace": (
        {"message": "No, never.", "detail": "Traceback (most recent call last):\n  File x"},
        {"message": "No, never."},
    ),
    "members that are not known": (
        {"error": {"why": "worker died", "code": "c"}},
        {"message": "why: worker died", "code": "c"},
    ),
    "half a surrogate pair": ({"error": "{'a': '\\ud83d b'}"}, {"message": "a: \ufffd b"}),
    "a reason in Chinese": (
        {"error": {"message": "Bad Request", "detail": "\u4f59\u989d\u4e0d\u8db3"}},
        {"message": "\u4f59\u989d\u4e0d\u8db3"},
    ),
    "a code with commas and a line end": (
        {"error": {"code": "a, b", "type": "x\ny", "message": "No, never."}},
        {"message": "No, never.", "code": "a_b"},
    ),
    "nothing": ({}, {}),
    "null": (None, {}),
    "a number": (7, {}),
    "numbers": ({"error": [1]}, {}),
    "an empty list": ([], {}),
    "values of other types": (
        {"error": {"message": 7, "code": [], "type": {}, "param": 1, "details": 3, "loc": "x"}},
        {},
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_an_envelope_holds(name: str) -> None:
    value, members = PROBLEMS[name]
    assert problem_of(value) == Problem(**members)


@pytest.mark.parametrize("name", PROBLEMS)
def test_an_envelope_as_json_in_a_string(name: str) -> None:
    """As another gateway passes it on."""
    value, members = PROBLEMS[name]
    if isinstance(value, dict) and value:
        outer = {"error": {"message": json.dumps(value), "code": "outer"}}
        wanted = problem_of(value)
        found = problem_of(outer)
        assert found.code == (wanted.code or "outer")
        assert (found.status, found.param) == (members.get("status"), members.get("param"))
        if name != "members that are not known":
            assert wanted.message in (found.message, "")


def test_an_envelope_of_any_depth_has_an_end() -> None:
    value: Any = "worker died"
    for _ in range(500):
        value = {"error": value}
    assert "worker" not in problem_of(value).message
    text = "worker died"
    for _ in range(6):
        text = json.dumps({"error": {"message": text}})
    assert "worker died" in problem_of(text).message


NAMES = [
    *("error", "errors", "message", "msg", "detail", "details", "metadata", "raw", "base_resp"),
    *("code", "status", "status_code", "type", "param", "loc", "choices", "retry_after", "x"),
]
LEAVES: list[Any] = [
    *("{1: 'a b', None: {2: 3}}", "[['error']]", "a: {'error': {1: 2}}"),
    *(None, True, False, 0, 7, -1, 400, 1e300, 10**40, "", "x", "a b", "400", "error"),
    *("{", "[1]", '{"error":"a b"}', "{'error': 'a b'}", "{'a': f()}", "\ud83d", "x" * 2000),
]


def anything(draw: random.Random, depth: int = 0) -> Any:
    match draw.randrange(6 if depth < 5 else 2):
        case 0 | 1:
            return draw.choice(LEAVES)
        case 2:
            return [anything(draw, depth + 1) for _ in range(draw.randrange(4))]
        case _:
            names = draw.sample(NAMES, draw.randrange(5))
            return {name: anything(draw, depth + 1) for name in names}


def test_whatever_stands_in_its_place_is_read() -> None:
    draw = random.Random(7)
    for _ in range(3_000):
        problem = problem_of(anything(draw))
        problem.message.encode()
        assert problem.code is None or problem.code == error_code(problem.code)
        assert problem.status is None or 400 <= problem.status < 600
        assert problem.retry_after is None or 0 < problem.retry_after <= 86_400
        assert not problem.message.startswith(("{'", "['", "[{"))
