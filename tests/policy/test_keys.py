"""Which key a request has, and what it may ask for."""

from typing import Any

import pytest

from legato.core.errors import ApiError
from legato.policy.keys import Key, Keyring, create, create_secret, digest

NOW = 1_000.0
SECRET, OLD = b"lg-new", b"lg-old"


def key(**fields: Any) -> Key:
    return Key(**{"id": "key_1", "name": "one", "digest": digest(SECRET), "created": 1.0} | fields)


def identified(ring: Keyring, secret: bytes) -> Key | str:
    """The key, or the code of the refusal."""
    try:
        return ring.identify([(b"authorization", b"Bearer " + secret)])
    except ApiError as error:
        return error.code if error.status == 401 else f"{error.status}"


ROTATED = {"previous": digest(OLD), "previous_until": NOW + 60}


@pytest.mark.parametrize(
    ("fields", "secret", "wanted"),
    [
        ({}, SECRET, None),
        ({}, b"lg-other", "invalid_api_key"),
        ({"revoked": 2.0}, SECRET, "key_revoked"),
        ({"is_disabled": True}, SECRET, "key_disabled"),
        ({"expires": NOW + 0.1}, SECRET, None),
        ({"expires": NOW}, SECRET, "key_expired"),
        (ROTATED, SECRET, None),
        (ROTATED, OLD, None),
        (ROTATED | {"previous_until": NOW}, OLD, "key_rotated"),
        (ROTATED | {"previous_until": NOW}, SECRET, None),
        (ROTATED | {"revoked": 2.0}, OLD, "key_revoked"),
    ],
)
def test_who_is_let_in(fields: dict[str, Any], secret: bytes, wanted: str | None) -> None:
    ring = Keyring([key(**fields)], clock=lambda: NOW)
    found = identified(ring, secret)
    assert found == (wanted or key(**fields))


def test_a_rotated_key_is_one_key() -> None:
    rotated, other = key(**ROTATED), key(id="key_2", digest=digest(b"lg-2"))
    ring = Keyring([rotated, other], clock=lambda: NOW)
    assert len(ring) == 2
    assert list(ring) == [rotated, other]


def test_the_secret_of_another_key_is_never_an_old_one() -> None:
    """However the database was filled: who has a secret of its own gets its own key."""
    taken = key(id="key_2", digest=digest(b"lg-2"), previous=digest(SECRET))
    ring = Keyring([key(), taken], clock=lambda: NOW)
    assert identified(ring, SECRET) == key()


@pytest.mark.parametrize(
    ("routes", "model", "wanted"),
    [
        ((), "anything", True),
        (("smol*",), "smollm2", True),
        (("smol*",), "gpt-5", False),
        (("a", "claude-*"), "claude-opus", True),
        (("a",), "A", False),
        (("a",), "ab", False),
    ],
)
def test_models_that_a_key_may_ask_for(routes: tuple[str, ...], model: str, wanted: bool) -> None:
    assert key(routes=routes).allows(model) is wanted


# A ring that follows changes


def test_a_change_replaces_a_key_and_what_it_was_known_by() -> None:
    ring = Keyring([key(), key(id="key_2", digest=digest(b"lg-2"))], clock=lambda: NOW)
    ring.update([key(**ROTATED | {"digest": digest(b"lg-3")})])
    assert identified(ring, SECRET) == "invalid_api_key"
    assert (
        identified(ring, b"lg-3")
        == identified(ring, OLD)
        == key(**ROTATED | {"digest": digest(b"lg-3")})
    )
    ring.update([key(revoked=1.0)])
    assert [identified(ring, each) for each in (SECRET, OLD, b"lg-3")] == [
        "key_revoked",
        "invalid_api_key",
        "invalid_api_key",
    ]
    assert len(ring) == 2
    ring.replace([])
    assert (len(ring), identified(ring, b"lg-2")) == (0, "invalid_api_key")


@pytest.mark.parametrize("first", ["owner", "other"])
def test_an_old_secret_never_takes_the_place_of_a_secret(first: str) -> None:
    owner, other = key(), key(id="key_2", digest=digest(b"lg-2"), previous=digest(SECRET))
    ring = Keyring([], clock=lambda: NOW)
    for each in (owner, other) if first == "owner" else (other, owner):
        ring.update([each])
    assert identified(ring, SECRET) == owner


def test_secrets_say_what_they_are_for() -> None:
    assert create()[1].startswith("lg-")
    assert create("viewer")[1].startswith("lga-")
    assert create_secret("admin")[0].startswith("lga-")
