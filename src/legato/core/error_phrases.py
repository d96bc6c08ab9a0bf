"""Error codes and phrases of vendors, and what they mean: one list for all dialects.

Servers borrow each other's phrases as they borrow each other's formats.

After the API references of Anthropic, Bedrock, Cohere, DashScope, DeepSeek, Gemini, Groq, Hugging
Face, MiniMax, Mistral, Moonshot, OpenAI, OpenRouter, SiliconFlow, xAI and Z.ai, and the sources of
llama.cpp, LM Studio, Ollama, SGLang, TGI and vLLM.
"""

import re
from typing import Final

#: HTTP's status for codes and types of errors that have no number.
STATUSES: Final = {
    # OpenAI, Anthropic, and the SDKs' class names, which vLLM, SGLang and LiteLLM use
    "invalid_request_error": 400,
    "BadRequestError": 400,
    "authentication_error": 401,
    "AuthenticationError": 401,
    "invalid_api_key": 401,
    "billing_error": 402,
    "permission_error": 403,
    "PermissionDeniedError": 403,
    "not_found_error": 404,
    "NotFoundError": 404,
    "model_not_found": 404,
    "request_too_large": 413,
    "UnprocessableEntityError": 422,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "RateLimitError": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
    # DashScope
    "InvalidApiKey": 401,
    "InvalidParameter": 400,
    "ModelNotFound": 404,
    "Throttling": 429,
    "Throttling.AllocationQuota": 429,
    "Throttling.RateQuota": 429,
    # Bedrock
    "AccessDeniedException": 403,
    "ModelNotReadyException": 503,
    "ModelTimeoutException": 504,
    "ServiceUnavailableException": 503,
    "ThrottlingException": 429,
    "ValidationException": 400,
    # TGI
    "validation": 400,
}

#: HTTP's status for google.rpc.Code.
RPC_STATUSES: Final = {
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 400,
    "FAILED_PRECONDITION": 403,  # our country, or our bills: not what this caller asked for
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}

#: HTTP's status for the `status_code` of MiniMax's `base_resp`.
BASE_RESP_STATUSES: Final = {
    1001: 504,
    1002: 429,
    1004: 401,
    1008: 402,
    1026: 400,
    1039: 429,
    1041: 429,
    2013: 400,
    2049: 401,
    2056: 429,
}

_TOO_LONG_CODES: Final = frozenset(
    {
        "ContextWindowExceededError",
        "context_length_exceeded",
        "context_window_exceeded",
        "exceed_context_size_error",
        "model_context_window_exceeded",
        "tokens_limit_reached",
    }
)
_TOO_LONG: Final = re.compile(
    r"context[ _](?:length|size)"
    r"|context window (?:of|exceeds|exceeded|overflow)|exceeds? (?:the )?context (?:window|limit)"
    r"|exceeds? (?:the )?max(?:imum)? (?:allowed )?(?:input |prompt )?length"
    r"|exceeds the maximum number of tokens allowed|more than max tokens allowed"
    r"|exceed the configured limit of \d+ tokens"
    r"|(?:input|prompt)(?: is)? too long|input length \d+ exceeds"
    r"|prompt token count of \d+ exceeds|input token count \(?\d+\)? exceeds"
    r"|range of input length should be"
    r"|length of prompt_tokens \(\d+\) must be less than"
    r"|maximum prompt length|prompt exceeds the length limit"
    r"|exceeded model token limit|token limit exceeded"
    r"|longer than the (?:model's context|maximum model length)"
    r"|reduce the length of the (?:messages|prompt|input)|reduce your prompt"
    r"|too many input tokens|total number of tokens in the prompt cannot exceed"
    r"|`inputs` tokens \+ `max_new_tokens` must be|`inputs` must have less than \d+ tokens"
)

_SPENT_CODES: Final = frozenset(
    {
        "Arrearage",
        "billing_hard_limit_reached",
        "billing_not_active",
        "insufficient_quota",
        "insufficient_user_quota",
    }
)
_SPENT: Final = re.compile(
    r"insufficient (?:account )?(?:balance|credit|quota|funds)"
    r"|(?:run out of|not enough|no more) credits"
    r"|quota (?:is )?exhausted|exceeded your current quota"
)

_BAD_KEY: Final = re.compile(
    r"(?:incorrect|invalid|expired|missing|no) (?:x-)?api[ -_]?key"
    r"|api[ -_]?key (?:is |has |was |has been )?"
    r"(?:not valid|invalid|expired|incorrect|missing|revoked|required)"
    r"|no auth credentials found|api secret key"
)
_NO_CREDIT: Final = re.compile(r"credit balance is too low")
_NO_MODEL: Final = re.compile(
    r"model not exist|is not a valid model id|no such model"
    r"|\bmodel:? [`'\"]?[\w./:@-]+[`'\"]? (?:does not exist|(?:was |is )?not found)"
)


def is_too_long(code: str | None, message: str) -> bool:
    """Whether a prompt has more tokens than the model's context."""
    return code in _TOO_LONG_CODES or _TOO_LONG.search(message.lower()) is not None


def is_spent(code: str | None, message: str, retry_after: float | None) -> bool:
    """Whether an account has nothing left. Gemini uses the same phrase for its limits per minute,
    together with the seconds to wait (`retry_after`)."""
    if code in _SPENT_CODES:
        return True
    return retry_after is None and _SPENT.search(message.lower()) is not None


def actual_status(status: int, code: str | None, message: str) -> int:
    """`status`, or the one that such an error usually has: some servers send a 400, or an event
    without any status, for what is not the caller's fault."""
    if status == 429:
        return status
    message = message.lower()
    if _BAD_KEY.search(message):
        return 401
    if _NO_CREDIT.search(message):
        return 402
    if code == "rate_limit_exceeded":
        return 429  # Groq's 413: one request with more tokens than a minute has
    if status in _UNSURE and (code == "model_not_found" or _NO_MODEL.search(message)):
        return 404
    return status


_UNSURE: Final = (400, 422, 502)

#: A text without a space may be a code up to this length.
_LONGEST_CODE: Final = 64

#: Texts that name a class of failures, and no reason.
_GENERIC: Final = frozenset(
    {
        "an error occurred",
        "bad gateway",
        "bad request",
        "gateway timeout",
        "internal error",
        "internal server error",
        "method not allowed",
        "not found",
        "payload too large",
        "provider returned error",
        "request failed",
        "request timeout",
        "service unavailable",
        "too many requests",
        "unknown error",
        "unprocessable content",
        "unprocessable entity",
        "upstream error",
        "validation error",
    }
)


def gives_reason(text: str) -> bool:
    """Whether a text is more than a code, the name of a status or a stack trace."""
    if len(text) <= _LONGEST_CODE and text.isascii() and len(text.split(maxsplit=1)) < 2:
        return False
    if text.startswith("Traceback "):
        return False
    return text.strip(" .!:").lower() not in _GENERIC


_WAIT: Final = re.compile(
    r"(?:try|retry|retrying|retry your request)(?: again)? (?:in|after) "
    r"(?:(?P<m>\d{1,4}) ?m(?!s)(?:in(?:ute)?s?)? ?)?"
    r"(?:(?P<n>\d{1,9}(?:\.\d{1,9})?) ?(?P<unit>ms|s)(?:econds?)?\b)?",
    re.ASCII,
)


def advised_wait(message: str) -> float | None:
    """The seconds to wait before another try, as in `Please try again in 1m7.66s.`"""
    found = _WAIT.search(message.lower())
    if found is None:
        return None
    seconds = float(found["n"] or 0)
    if found["unit"] == "ms":
        seconds /= 1000
    return seconds + 60 * int(found["m"] or 0) or None
