"""Which session a call belongs to, and which deployments it prefers."""

import hashlib
import json
import random
from collections import Counter
from typing import Any

import pytest

from legato.core.errors import ApiError
from legato.core.request import ChatRequest, parse
from legato.policy.health import Health
from legato.policy.routing import Route, Router
from legato.policy.sessions import (
    MAX_LENGTH,
    by_preference,
    session_headers,
    session_key,
    with_overloaded_last,
)

CLAUDE_USER = json.dumps({"device_id": "d", "account_uuid": "", "session_id": "s-1"})


def asked(**members: Any) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]} | members
    return parse(json.dumps(body).encode())


def hashed(user: str) -> str:
    """The session of a user who names none: nobody can read from it who that is."""
    data = user.encode()
    digest = hashlib.blake2b(b"%d:%b" % (len(data), data), digest_size=8)
    return f"user-{digest.hexdigest()}"


#: The headers and the members of a request, and its session.
KEYS: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
    "Claude Code": ({"x-claude-code-session-id": "a", "session-id": "b"}, {}, "a"),
    "Codex": ({"session-id": "b"}, {"prompt_cache_key": "c"}, "b"),
    "OpenCode": ({"x-session-affinity": "d", "x-session-id": "e"}, {}, "d"),
    "another": ({"x-session-id": " e "}, {}, "e"),
    "an empty header": ({"session-id": " ", "x-session-id": "e"}, {}, "e"),
    "a cache key": ({}, {"prompt_cache_key": "c", "user": "u"}, "c"),
    "an empty cache key": ({}, {"prompt_cache_key": "", "user": "u"}, hashed("u")),
    "a user id that is no text": ({}, {"metadata": {"user_id": 7}, "user": "u"}, hashed("u")),
    "a user": ({}, {"metadata": {"user_id": "u"}, "user": "v"}, hashed("u")),
    "a user with a session": ({}, {"metadata": {"user_id": CLAUDE_USER}}, "s-1"),
    "OpenAI's name for it": ({}, {"user": CLAUDE_USER}, "s-1"),
    "a user that is no object": ({}, {"metadata": {"user_id": "{u"}}, hashed("{u")),
    "a user without a session": ({}, {"metadata": {"user_id": "{}"}}, hashed("{}")),
    "a user with another session": (
        {},
        {"metadata": {"user_id": '{"session_id": 7}'}},
        hashed('{"session_id": 7}'),
    ),
}


def headers_of(**fields: str) -> dict[bytes, bytes]:
    return {name.replace("_", "-").encode(): value.encode() for name, value in fields.items()}


@pytest.mark.parametrize("name", KEYS)
def test_the_session_of_a_request(name: str) -> None:
    fields, members, key = KEYS[name]
    headers = headers_of(**fields, accept="x")
    assert session_key(headers, asked(**members)) == key
    assert session_key(session_headers(headers), asked(**members)) == key
    assert b"accept" not in session_headers(headers)


SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Hello"}
MORE = [{"role": "assistant", "content": "Hi"}, {"role": "user", "content": "And now?"}]


def test_the_prompt_as_a_session() -> None:
    """Later messages change nothing; the key shows nothing of the text."""
    first = session_key({}, asked(messages=[SYSTEM, USER]))
    assert first is not None
    assert first.startswith("prompt-")
    assert len(first) == len("prompt-") + 16
    assert session_key({}, asked(messages=[SYSTEM, USER, *MORE])) == first
    assert (
        session_key({}, asked(messages=[SYSTEM, USER, *MORE], metadata={"a": "b"}, user=" "))
        == first
    )
    parts = [{"type": "text", "text": "Hello"}]
    same = session_key(
        {}, asked(messages=[SYSTEM | {"role": "developer"}, USER | {"content": parts}])
    )
    assert same == first
    others = [
        [USER],
        [SYSTEM],
        [SYSTEM, MORE[1]],
        [SYSTEM | {"content": "Be brief.Hello"}, USER | {"content": ""}],
    ]
    keys = {session_key({}, asked(messages=each)) for each in others}
    assert len(keys | {first}) == len(others) + 1
    assert session_key({}, asked(messages=[MORE[0]])) is None


@pytest.mark.parametrize("odd", ["k" * (MAX_LENGTH + 1), "a\tb", "a\x7f", "a\u2028b", "a\x00b"])
def test_keys_that_are_no_keys_are_hashed(odd: str) -> None:
    key = session_key({}, asked(prompt_cache_key=odd))
    assert key is not None
    assert key.startswith("hash-")
    assert len(key) < 30
    assert key == session_key({}, asked(prompt_cache_key=odd))
    assert key != session_key({}, asked(prompt_cache_key=odd + "x"))
    assert len(session_key({}, asked(prompt_cache_key="k" * MAX_LENGTH)) or "") == MAX_LENGTH


SESSIONS = [f"s{number}" for number in range(3000)]


def test_sessions_are_spread_by_weight() -> None:
    even = Counter(by_preference(each, "abc", {})[0] for each in SESSIONS)
    assert all(count / len(SESSIONS) == pytest.approx(1 / 3, abs=0.04) for count in even.values())
    weighted = Counter(by_preference(each, "ab", {"a": 3.0})[0] for each in SESSIONS)
    assert weighted["a"] / len(SESSIONS) == pytest.approx(0.75, abs=0.04)


def test_only_sessions_of_a_deployment_that_is_gone_move() -> None:
    for each in SESSIONS[:300]:
        three = by_preference(each, "abc", {})
        assert by_preference(each, "cab", {}) == three
        without = [name for name in three if name != "b"]
        assert by_preference(each, "ac", {}) == without


#: Open calls and weights, and the deployments that are asked last.
LOADS: dict[str, tuple[dict[str, int], dict[str, float], str]] = {
    "none": ({"a": 0, "b": 0}, {}, ""),
    "two of one": ({"a": 2, "b": 0}, {}, ""),
    "three of one": ({"a": 3, "b": 0}, {}, "a"),
    "even": ({"a": 9, "b": 9}, {}, ""),
    "nearly even": ({"a": 9, "b": 6}, {}, ""),
    "a third": ({"a": 9, "b": 9, "c": 0}, {}, "ab"),
    "by weight": ({"a": 9, "b": 3}, {"a": 3.0}, ""),
    "against the weights": ({"a": 3, "b": 4}, {"a": 3.0}, "b"),
}


@pytest.mark.parametrize("name", LOADS)
def test_who_is_overloaded(name: str) -> None:
    busy, weights, last = LOADS[name]
    names = sorted(busy)
    found = with_overloaded_last(names, busy, weights)
    assert found == [each for each in names if each not in last] + list(last)


# Plans


def router(route: Route, **health: Health) -> Router:
    return Router([route], health, random.Random(5).random)


ROUTE = Route("m", ("a", "b", "c"), affinity="session", strategy="fastest")


def test_a_session_keeps_its_order() -> None:
    plans = router(ROUTE)
    for session in SESSIONS[:50]:
        assert plans.plan(ROUTE, 0.0, session) == by_preference(session, "abc", {})
        assert plans.ordered(ROUTE, 0.0, session) == tuple(by_preference(session, "abc", {}))


def test_a_call_without_a_session_or_a_route_without_affinity() -> None:
    plain = Route("m", ("a", "b", "c"))
    assert {tuple(router(plain).plan(plain, 0.0, each)) for each in SESSIONS} == {("a", "b", "c")}
    assert router(ROUTE).plan(ROUTE, 0.0) == ["a", "b", "c"]


def test_health_comes_first() -> None:
    plans = router(ROUTE)
    first, second, third = plans.plan(ROUTE, 0.0, "s")
    plans.health[first].open_until = 10.0
    assert plans.plan(ROUTE, 5.0, "s") == [second, third]
    assert plans.plan(ROUTE, 11.0, "s") == [first, second, third], "it may try again"
    for name in (second, third):
        plans.health[name].open_until = 20.0
    plans.health[first].busy = 99
    assert plans.plan(ROUTE, 11.0, "s") == [first], "there is no other"
    plans.health[first].open_until = 20.0
    with pytest.raises(ApiError, match="healthy"):
        plans.plan(ROUTE, 12.0, "s")


def test_the_load_is_bounded() -> None:
    """Calls of one session that never end: no deployment has more than its share allows."""
    plans = router(ROUTE)
    order = plans.plan(ROUTE, 0.0, "s")
    chosen = []
    for _ in range(300):
        name = plans.plan(ROUTE, 0.0, "s")[0]
        plans.health[name].begin(0.0)
        chosen.append(name)
    assert chosen[:2] == [order[0]] * 2
    count = Counter(chosen)
    assert count[order[0]] >= count[order[1]] >= count[order[2]] > 0
    assert count[order[0]] <= 1.25 * 100 + 3
