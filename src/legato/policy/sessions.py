"""Which session a call belongs to, and which deployments a session prefers."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from legato.core.chunk import as_object
from legato.core.request import ChatRequest, Message

#: Headers of agents with the id of a session: Claude Code, Codex, OpenCode (both), others.
HEADERS: Final = (
    b"x-claude-code-session-id",
    b"session-id",
    b"x-session-affinity",
    b"x-session-id",
)

#: Longer keys are hashed.
MAX_LENGTH: Final = 128

#: Bytes of a hash, which is written as twice as many digits.
_HASH_BYTES: Final = 8

#: How much more than its share of the calls a deployment may have for the sake of its sessions.
LOAD_FACTOR: Final = 1.25

NO_HEADERS: Final[Mapping[bytes, bytes]] = {}


def session_headers(fields: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """Those of a request's headers that `session_key` reads. Names are in lower case."""
    found = {name: fields[name] for name in HEADERS if name in fields}
    return found or NO_HEADERS


def session_key(headers: Mapping[bytes, bytes], request: ChatRequest) -> str | None:
    """The session that a request belongs to: at most `MAX_LENGTH` printable characters.

    That which the client names, else a hash of the first system and user messages, which are the
    same in all calls of a session. None for a request without messages of either.
    """
    return named_session(headers, request) or _prompt_hash(request.messages)


def named_session(headers: Mapping[bytes, bytes], request: ChatRequest) -> str | None:
    """The session that the client names, in the first of these that says something: the headers of
    agents, `prompt_cache_key`, `metadata.user_id` (Anthropic's) or `user` (OpenAI's name for it).
    Of what names a person only a hash is returned. `headers`: names are in lower case.
    """
    for name in HEADERS:
        if key := _key(headers.get(name, b"").decode("latin-1")):
            return key
    return (
        _key(request.prompt_cache_key)
        or _user_session((request.metadata or {}).get("user_id"))
        or _user_session(request.user)
    )


def _key(value: Any) -> str | None:
    """`value` where it may serve as a key as it is, else its hash; None where it says nothing."""
    text = value.strip() if isinstance(value, str) else ""
    if not text:
        return None
    if len(text) > MAX_LENGTH or not text.isprintable():
        return f"hash-{_hash([text])}"
    return text


def _user_session(value: Any) -> str | None:
    """The session in a user id: Claude Code's is a JSON object as a string."""
    if not isinstance(value, str):
        return None
    if value.lstrip().startswith("{"):
        try:
            found = as_object(msgspec.json.decode(value)) or {}
        except (msgspec.DecodeError, UnicodeEncodeError):
            found = {}
        if key := _key(found.get("session_id")):
            return key
    return f"user-{_hash([value])}" if value.strip() else None


def _prompt_hash(messages: list[Message]) -> str | None:
    system = next((each for each in messages if each.role in ("system", "developer")), None)
    user = next((each for each in messages if each.role == "user"), None)
    if user is None and system is None:
        return None
    return f"prompt-{_hash([_text(system), _text(user)])}"


def _text(message: Message | None) -> str:
    content = message.content if message is not None else None
    if isinstance(content, list):
        return "\0".join(part.text or "" for part in content)
    return content or ""


def _hash(texts: Iterable[str]) -> str:
    state = hashlib.blake2b(digest_size=_HASH_BYTES)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        state.update(b"%d:" % len(data))
        state.update(data)
    return state.hexdigest()


def by_preference(session: str, names: Iterable[str], weights: Mapping[str, float]) -> list[str]:
    """Deployments in the order in which a session prefers them (weighted rendezvous hashing): where
    one is added or removed, no session moves but to it or from it."""

    def score(name: str) -> float:
        data = f"{name}\0{session}".encode("utf-8", "surrogatepass")
        drawn = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
        # 52 bits: so the quotient is neither 0 nor, rounded, 1.
        return weights.get(name, 1.0) / -math.log(((drawn >> 12) + 0.5) / 2**52)

    return sorted(names, key=score, reverse=True)


def with_overloaded_last(
    names: list[str], busy: Mapping[str, int], weights: Mapping[str, float]
) -> list[str]:
    """The same order, but for deployments with more than 1.25 times their share of all open calls,
    and one: these come last. `busy`: open calls of each."""
    total = sum(busy[name] for name in names)
    shares = sum(weights.get(name, 1.0) for name in names)

    def is_overloaded(name: str) -> bool:
        share = total * weights.get(name, 1.0) / shares
        return busy[name] > LOAD_FACTOR * share + 1

    return sorted(names, key=is_overloaded)
