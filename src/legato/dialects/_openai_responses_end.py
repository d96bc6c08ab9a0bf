"""How an answer of OpenAI's Responses API ends: its finish, its usage, or its error."""

from typing import Any, Final

from legato.core import upstream_errors
from legato.core.chunk import Usage, as_object, unknown_members
from legato.core.errors import ApiError, bad_gateway
from legato.core.finish import known_finish
from legato.core.upstream_errors import in_band
from legato.dialects import _openai_shapes as shapes
from legato.dialects._openai_responses_events import ENDS, NOTHING, Response

#: Codes of failures that are the caller's own fault.
_CALLERS: Final = frozenset(
    {
        "bio_policy",
        "cyber_policy",
        "empty_image_file",
        "failed_to_download_image",
        "image_content_policy_violation",
        "image_file_not_found",
        "image_file_too_large",
        "image_parse_error",
        "image_too_large",
        "image_too_small",
        "invalid_base64_image",
        "invalid_image",
        "invalid_image_format",
        "invalid_image_mode",
        "invalid_image_url",
        "invalid_prompt",
        "unsupported_image_media_type",
    }
)

#: In a 404 for an item that the request names by an id of another server: that is no fault of this
#: one.
_NO_ITEM: Final = b"Item with id"

#: Members of a response that have their place in an answer, or repeat the request.
_OF_RESPONSE: Final = frozenset(
    {
        *("background", "completed_at", "conversation", "created_at", "error", "frequency_penalty"),
        *("id", "incomplete_details", "instructions", "max_output_tokens", "max_tool_calls"),
        *("metadata", "model", "object", "output", "output_text", "parallel_tool_calls"),
        *("presence_penalty", "previous_response_id", "prompt", "prompt_cache_key"),
        *("prompt_cache_options", "prompt_cache_retention", "reasoning", "safety_identifier"),
        *("status", "store", "temperature", "text", "tool_choice", "tools", "top_logprobs"),
        *("top_p", "truncation", "usage", "user"),
    }
)
_OF_EVENT: Final = frozenset({"type", "sequence_number", "response"})

#: Members of a usage that have other names in a chat completion.
_RENAMED: Final = frozenset(
    {"input_tokens", "output_tokens", "input_tokens_details", "output_tokens_details"}
)


def usage_of(reported: dict[str, Any]) -> Usage:
    """OpenAI's usage of a chat completion. Members that are not known are kept: providers add some
    of their own."""
    usage = shapes.usage(reported)
    return {name: value for name, value in usage.items() if name not in _RENAMED}


def status_of(kind: str, response: Response) -> str:
    """The status that the last event, which is of type `kind`, gives to the answer. Some servers
    end each answer with `response.completed`."""
    status = kind.removeprefix("response.")
    is_told = status == "completed" and f"response.{response.status}" in ENDS
    return str(response.status) if is_told else status


def finish_of(status: str, response: Response) -> str | None:
    """Why the answer is over; None where it failed."""
    match status:
        case "completed":
            return "stop"
        case "incomplete":
            reason = (response.incomplete_details or {}).get("reason")
            return (known_finish(reason) or reason) if isinstance(reason, str) else status
        case _:
            return None


def unknown_of(fields: dict[str, Any]) -> dict[str, Any]:
    """Members of the last event, and of its response, that no answer has a place for."""
    response = as_object(fields.get("response")) or {}
    return unknown_members(fields, _OF_EVENT) | unknown_members(response, _OF_RESPONSE)


def failure(value: Any) -> ApiError:
    """The error that an event has, or is."""
    fields = as_object(value) or {}
    error = as_object(fields.get("error")) or fields
    code = error.get("code")
    if isinstance(code, str) and code in _CALLERS:
        return in_band(error | {"status": 400})
    return in_band(value)


def refusal(status: int, body: bytes, retry_after: float | None = None) -> ApiError:
    """The error in an answer with an error status (`core.upstream_errors.refusal`)."""
    is_callers = status == 404 and _NO_ITEM in body
    return upstream_errors.refusal(400 if is_callers else status, body, retry_after)


def failed(status: str, error: Any, fields: dict[str, Any]) -> ApiError:
    """The error of an answer that ended with `status`. `error`: that of its response or its event;
    some servers have the words in the event itself."""
    if error not in NOTHING:
        return failure(error)
    rest = {name: each for name, each in fields.items() if name not in ("type", "response")}
    if status == "failed" or any(rest.get(name) for name in ("message", "msg", "detail")):
        return failure(rest)
    return bad_gateway(f"The upstream ended its answer with `{status}`.", code="upstream_aborted")
