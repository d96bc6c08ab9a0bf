"""Reads the JSON value that stands in the place of an error, whatever its shape.

Known are the error objects of OpenAI, Anthropic, Google, Azure, AWS, OpenRouter, MiniMax,
DashScope, Cloudflare, FastAPI, Spring and RFC 9457, in lists, inside each other, and as JSON or
Python text in a string. The innermost words that give a reason are what a client needs; the outer
ones are used where there are none.
"""

import re
from typing import Any, Final, cast

from msgspec import Struct
from msgspec.structs import replace

from legato.core.chunk import as_object, decoded
from legato.core.error_phrases import (
    BASE_RESP_STATUSES,
    RPC_STATUSES,
    STATUSES,
    advised_wait,
    gives_reason,
)
from legato.core.errors import error_code
from legato.core.json_text import without_surrogates
from legato.core.python_text import in_words, literal, without_notation

#: Members that give the reason as text. Of two in one object, the later one here is used.
TEXTS: Final = (
    *("title", "faultstring", "reason", "errormessage", "errormsg", "statusmsg", "msg", "message"),
    *("err", "error", "errors", "detail", "details", "raw"),
)
#: Members that hold an error as an object or a list, from the outside in.
_HOLDERS: Final = (
    *("fault", "error", "errors", "baseresp", "metadata", "message", "msg", "detail", "details"),
    "raw",
)
#: Members with a number or a word for the error.
CODES: Final = ("code", "errorcode", "errcode", "statuscode", "httpstatus")
_WAITS: Final = ("retryafter", "retryafterseconds")

#: Values of a `code` without an error.
SUCCESS: Final = frozenset({"", "0", "200", "none", "null", "ok", "success", "successful"})
#: Values of an `error` that is none.
NOTHING: Final[tuple[Any, ...]] = (None, False, "", {}, [])

#: Members with text that gives no reason.
_NO_REASON: Final = frozenset({"code", "type", "status", "param", "loc", "object", "id", "event"})

_BAD_KEYS: Final = ("API_KEY_INVALID", "API_KEY_EXPIRED", "API_KEY_SERVICE_BLOCKED")
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s", re.ASCII)

#: How many errors of a list are read.
MOST: Final = 8
_DEEPEST: Final = 16
_LONGEST_WAIT: Final = 86_400.0


class Problem(Struct, frozen=True):
    """An error as its envelope describes it. `status` is HTTP's; `retry_after` is in seconds."""

    message: str = ""
    code: str | None = None
    kind: str | None = None
    rpc: str | None = None  # google.rpc.Code, or another word in its place
    param: str | None = None
    status: int | None = None
    retry_after: float | None = None

    @property
    def words(self) -> str:
        return self.message or "the upstream gave no reason"

    @property
    def name(self) -> str | None:
        """Its code; else its kind, unless that means no more than that the caller is at fault."""
        kind = None if self.kind in ("invalid_request_error", "error") else self.kind
        return self.code or kind

    def around(self, inner: "Problem") -> "Problem":
        """This one, with the values of the one inside it in place of its own."""
        keeps = not inner.message or (
            gives_reason(self.message) and not gives_reason(inner.message)
        )
        return Problem(
            self.message if keeps else inner.message,
            inner.code or self.code,
            inner.kind or self.kind,
            inner.rpc or self.rpc,
            inner.param or self.param,
            inner.status or self.status,
            inner.retry_after or self.retry_after,
        )


def problem_of(value: Any) -> Problem:
    """The error that `value`, which stands in the place of one, describes."""
    problem = _read(value, 0)
    message = problem.message or _unknown_members(value)
    wait = problem.retry_after or advised_wait(message)
    return replace(
        problem,
        message=without_surrogates(without_notation(message)),
        retry_after=min(wait, _LONGEST_WAIT) if wait else None,
    )


def plain_names(fields: dict[str, Any]) -> dict[str, Any]:
    """Members by names in lower case without `_` and `-`: `error_msg` is `errorMsg`."""
    members: dict[str, Any] = {}
    for name, value in fields.items():
        members.setdefault(str(name).lower().replace("_", "").replace("-", ""), value)
    return members


def http_status(value: Any) -> int | None:
    """`value` where it is the number of an error status of HTTP."""
    if isinstance(value, str) and value.isdecimal() and len(value) == 3:
        value = int(value)
    return value if isinstance(value, int) and 400 <= value < 600 else None


def is_success(code: Any) -> bool:
    return code is None or (isinstance(code, str | int) and str(code).lower() in SUCCESS)


def _read(value: Any, depth: int) -> Problem:
    if depth > _DEEPEST:
        return Problem()
    if isinstance(value, str):
        return _read_text(value.strip(), depth)
    if isinstance(value, list | tuple):
        return _read_list(cast("list[Any]", value), depth)
    fields = as_object(value)
    return _read_object(fields, depth) if fields else Problem()


def _read_text(text: str, depth: int) -> Problem:
    """A text may be JSON or a Python value, or end with one that is an error."""
    if text[:1] in ("{", "["):
        nested = _value_of(text)
        if nested is not None:
            found = _read(nested, depth + 1)
            return found if found.message else replace(found, message=in_words(nested))
    begin, end = text.find("{"), text.rfind("}") + 1
    if 0 < begin < end:
        nested = plain_names(as_object(_value_of(text[begin:end])) or {})
        if nested.keys() & {"error", "errors", "detail"} or "error" in map(str, nested.values()):
            return Problem(without_notation(text[:begin])).around(_read(nested, depth + 1))
    return Problem(without_notation(text))


def _value_of(text: str) -> Any:
    value = decoded(text.encode("utf-8", "replace"))
    return literal(text) if value is None else value


def _read_list(items: list[Any], depth: int) -> Problem:
    """The messages of all, and the first code, status and parameter."""
    found = [_read(each, depth + 1) for each in items[:MOST]]
    problem = Problem()
    for each in reversed(found):
        problem = problem.around(each)
    messages = dict.fromkeys([each.message for each in found if each.message])
    return replace(problem, message="; ".join(messages))


def _read_object(fields: dict[str, Any], depth: int) -> Problem:
    members = plain_names(fields)
    problem = _named(members)
    for name in TEXTS:
        value = members.get(name)
        if isinstance(value, str) and (depth or name != "raw"):
            problem = problem.around(_read(value, depth + 1))
    for name in _HOLDERS:
        value = members.get(name)
        if isinstance(value, dict | list) and value:
            problem = problem.around(_read_holder(name, value, depth + 1))
    choices = members.get("choices")
    if isinstance(choices, list):
        for choice in cast("list[Any]", choices)[:MOST]:
            problem = problem.around(_read((as_object(choice) or {}).get("error"), depth + 1))
    return _located(members, problem)


def _read_holder(name: str, value: Any, depth: int) -> Problem:
    if name == "details" and isinstance(value, list):
        return _read_details(cast("list[Any]", value), depth)
    problem = _read(value, depth)
    fields = as_object(value) or {}
    if name == "errors" and fields and not problem.message:
        return replace(problem, message=in_words(value))  # {"max_tokens": ["is too large"]}
    code = plain_names(fields).get("statuscode")
    if name == "baseresp" and isinstance(code, int):
        return replace(problem, status=BASE_RESP_STATUSES.get(code, problem.status))
    return problem


def _read_details(details: list[Any], depth: int) -> Problem:
    """google.rpc: the reason of a refused key, and the wait before another try. Others have further
    errors there."""
    problem = Problem()
    for each in details[:MOST]:
        detail = as_object(each) or {}
        if detail.get("reason") in _BAD_KEYS:
            problem = problem.around(Problem(status=401))
        delay = detail.get("retryDelay")
        found = _DURATION.fullmatch(delay) if isinstance(delay, str) else None
        if found:
            problem = problem.around(Problem(retry_after=float(found[1]) or None))
        if not detail.keys() & {"@type", "reason", "retryDelay"}:
            problem = problem.around(_read(each, depth))
    return problem


def _named(members: dict[str, Any]) -> Problem:
    """What an object has of its error beside the message."""
    code = _first([_code(members.get(name)) for name in CODES])
    kind = _first([_kind(members.get(name)) for name in ("type", "errortype")])
    rpc = error_code(members.get("status"))
    statuses = [RPC_STATUSES.get(rpc or "")]
    statuses += [http_status(members.get(name)) for name in (*CODES, "status")]
    statuses += [STATUSES.get(kind or ""), STATUSES.get(code or "")]
    param = members.get("param")
    return Problem(
        code=code,
        kind=kind,
        rpc=rpc if rpc is not None and rpc.isupper() else None,
        param=param if isinstance(param, str) and param else None,
        status=_first(statuses),
        retry_after=_first([_seconds(members.get(name)) for name in _WAITS]),
    )


def _first(values: list[Any]) -> Any:
    return next((each for each in values if each is not None), None)


def _code(value: Any) -> str | None:
    return None if http_status(value) or is_success(value) else error_code(value)


def _kind(value: Any) -> str | None:
    """The word in a `type`. RFC 9457 has an address there, and AWS a name space in front of it."""
    if not isinstance(value, str) or "://" in value or value.startswith("about:"):
        return None
    return error_code(value.rpartition("#")[2])


def _seconds(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value < 1e9 else None


def _located(members: dict[str, Any], problem: Problem) -> Problem:
    """`{"loc": ["body", "messages", 0], "msg": "…", "type": …}` of FastAPI, in words."""
    loc = members.get("loc")
    if not isinstance(loc, list | tuple) or not problem.message:
        return problem
    problem = replace(problem, kind=None)  # a rule of the validator
    steps = [each for each in cast("list[Any]", loc) if isinstance(each, str | int)]
    steps = steps[1:] if steps[:1] == ["body"] else steps
    if not steps:
        return problem
    message = f"{'.'.join(map(str, steps))}: {problem.message}"
    path = "".join([f"[{each}]" if isinstance(each, int) else f".{each}" for each in steps])
    return replace(problem, message=message, param=path.removeprefix("."))


def _unknown_members(value: Any, depth: int = 0) -> str:
    """The texts of an error without any member that is known, in words."""
    fields = as_object(value) or {}
    for name in ("error", "detail", "message") if depth else ("error", "detail"):
        inner = as_object(fields.get(name))
        if inner is not None and depth < _DEEPEST:
            return _unknown_members(inner, depth + 1)
    return in_words(
        {
            name: each
            for name, each in fields.items()
            if isinstance(each, str) and name not in _NO_REASON
        }
    )
