"""Which key a request has, and what it may ask for."""

from typing import Any

import pytest

from legato.core.errors import ApiError
from legato.policy.keys import Key, Keyring, digest

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
