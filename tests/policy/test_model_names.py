"""Patterns and aliases of public model names."""

import pytest

from legato.core.errors import ApiError
from legato.policy.model_names import Patterns, normalized, resolved
from legato.policy.routing import Route, Router

PATTERNS = ("claude-*", "claude-*-fast", "claude-opus-*", "*", "*-mini", "gpt-*-mini", "gpt-*-nano")

#: A name, and the pattern that it is found by.
FOUND: dict[str, str | None] = {
    "claude-opus-5": "claude-opus-*",
    "claude-opus-": "claude-opus-*",
    "claude-sonnet-5": "claude-*",
    "claude-sonnet-5-fast": "claude-*-fast",
    "claude-opus-5-fast": "claude-opus-*",  # the longest text before the star
    "gpt-5-mini": "gpt-*-mini",
    "gpt-5-nano": "gpt-*-nano",
    "o9-mini": "*-mini",
    "Claude-opus-5": "*",
    "o9": "*",
    "": None,
    " o9": None,
    "o9\n": None,
    "o9\r\nx: y": None,
    "ö": None,
    "owner/o9": "*",
    "owner/.hidden/o9..b/...": "*",
    "owner/../o9": None,
    "owner/./o9": None,
    "claude-/..": None,
    "claude-/.": None,
    "x" * 201: None,
}


@pytest.mark.parametrize("name", FOUND)
def test_the_pattern_of_a_name(name: str) -> None:
    for patterns in (PATTERNS, PATTERNS[::-1]):
        assert Patterns(patterns).find(name) == FOUND[name]


@pytest.mark.parametrize(
    ("pattern", "matched", "others"),
    [
        ("a.b*", ["a.b", "a.bc"], ["aXb", "Xa.b"]),
        ("a*b*c", ["abc", "aXbYc", "abcbc"], ["ab", "acb", "abcX"]),
        ("a*b*b", ["abb", "aXbYb", "abbXb"], ["ab", "abX"]),
        ("*ab*b*", ["abb", "aabb", "aabXb"], ["ab", "ba"]),
        ("a**", ["a", "ab"], ["b"]),
        ("*a", ["a", "ba"], ["ab"]),
        ("a+b*", ["a+b"], ["aab"]),
    ],
)
def test_what_a_pattern_matches(pattern: str, matched: list[str], others: list[str]) -> None:
    found = Patterns([pattern])
    assert [name for name in matched + others if found.find(name)] == matched
    assert normalized(normalized(pattern)) == normalized(pattern)


def test_many_stars_take_no_longer() -> None:
    """Clients choose the names: trying each place for each star would take for ever."""
    assert Patterns(["*a" * 40]).find("a" * 199 + "b") is None


def test_no_patterns() -> None:
    assert Patterns([]).find("a") is None


def test_aliases_of_aliases() -> None:
    assert resolved({"a": "b", "b": "c", "x": "c"}) == {"a": "c", "b": "c", "x": "c"}
    assert resolved({}) == {}


@pytest.mark.parametrize("aliases", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "b", "b": "b"}])
def test_aliases_in_a_loop(aliases: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is a loop"):
        resolved(aliases)


ROUTES = [Route(name, ("d",)) for name in ("exact", "claude-exact", "claude-*", "*-mini")]


def test_routes_by_name() -> None:
    """An alias first, then the exact name, then a pattern."""
    aliases = {"fast": "x-mini", "faster": "fast", "gpt-5-mini": "exact"}
    router = Router(ROUTES, aliases=aliases)
    expected = {
        "exact": "exact",
        "claude-exact": "claude-exact",
        "claude-other": "claude-*",
        "fast": "*-mini",
        "faster": "*-mini",
        "gpt-5-mini": "exact",
        "gpt-6-mini": "*-mini",
    }
    assert {name: router.find(name).model for name in expected} == expected
    assert router.resolve("faster") == "x-mini"
    assert router.resolve("claude-other") == "claude-other"
    assert [name for name, _ in router.models] == ["exact", "claude-exact", *aliases]
    assert [router.aliases_of(route) for route in ROUTES] == [
        ["gpt-5-mini"],
        [],
        [],
        ["fast", "faster"],
    ]


@pytest.mark.parametrize("name", ["nothing", "claude-*", "*-mini", "claude-\r\nx"])
def test_a_name_that_nothing_has(name: str) -> None:
    with pytest.raises(ApiError, match="does not exist") as caught:
        Router(ROUTES).find(name)
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
