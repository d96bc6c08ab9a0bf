"""Tokens of a prompt in the format of Anthropic's Messages API, counted by who will read it."""

import asyncio
from typing import Any, Final

from msgspec import Struct

from legato.core.chunk import as_object, decoded
from legato.core.errors import ApiError, UpstreamError
from legato.core.span_edit import with_members
from legato.policy.prompt_texts import prompt_texts
from legato.upstreams.fetch import Fetched, fetch
from legato.upstreams.upstream import Upstream

#: Seconds that an upstream may take to count.
PATIENCE: Final = 20.0

#: Statuses of servers that have no such endpoint.
_ABSENT: Final = (404, 405, 501)


class Count(Struct, frozen=True):
    """`is_exact`: it was not estimated."""

    tokens: int
    is_exact: bool


async def count(upstream: Upstream, body: bytes, asked: str, lines: bytes = b"") -> Count | Fetched:
    """The tokens of a request's prompt: as the upstream counts them, else as the tokenizer of its
    deployment does, else estimated by its size. Or the refusal of an upstream of the same format.

    `body`: the request, a JSON object with `messages`. `asked`: its model, without an alias.
    `lines`: header lines for an upstream of the same format. Raises `ApiError` where our own
    credential is refused.
    """
    is_same_format = upstream.dialect.client_format == "messages"
    fetched = await _ask(upstream, body, asked, lines if is_same_format else b"")
    if fetched is not None and fetched.status == 200:
        tokens = (as_object(decoded(fetched.body)) or {}).get("input_tokens")
        if isinstance(tokens, int):
            return Count(tokens, is_exact=True)
    elif fetched is not None and is_same_format and fetched.status not in _ABSENT:
        error = upstream.dialect.refusal(fetched.status, fetched.body, fetched.retry_after)
        if _is_ours(fetched.status, error):
            raise error
        return fetched
    return await _count_here(upstream, body)


async def _ask(upstream: Upstream, body: bytes, asked: str, lines: bytes) -> Fetched | None:
    """What the upstream answers; None where it is not asked, or cannot be reached."""
    target = upstream.target
    if target is None or not target.counting:
        return None
    payload, _ = upstream.owner(asked).of_source("messages", body)
    payload = with_members(payload, {"model": upstream.model_of(asked)})
    request = target.counting_request(upstream.credential, lines, payload)
    try:
        return await fetch(target.pool, request, PATIENCE)
    except UpstreamError:
        return None


def _is_ours(status: int, error: ApiError) -> bool:
    """Whether a refusal concerns our credential or our account, and is nobody else's business."""
    return status in (401, 402, 403) or error.code == "upstream_quota"


async def _count_here(upstream: Upstream, body: bytes) -> Count:
    request: Any = decoded(body)
    prompt = prompt_texts(as_object(request) or {})
    counter = upstream.counter
    if counter is None:
        return Count(prompt.estimate, is_exact=False)
    tell = counter.begin([each for each in prompt.texts if each])
    tokens = await asyncio.to_thread(tell)  # it may have to wait for a thread of its own
    return Count(tokens + prompt.fixed, is_exact=not prompt.has_media)
