"""API keys: how they are generated, hashed and checked.

A key is 256 random bits; only its SHA-256 is stored. A fast hash is enough for a random secret: it
cannot be guessed from a dictionary.
"""

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Final

from msgspec import Struct

from legato.core.errors import ApiError
from legato.policy.budgets import Budget
from legato.policy.limits import NO_LIMITS, Limits

PREFIX: Final = "lg-"


class Key(Struct, frozen=True):
    """One API key as stored: its digest, never the secret. Times are Unix seconds.

    `owner`: the person or team whose budget it shares. `limits`: its own, over those of its `tier`.
    `routes`: patterns (`smol*`) of the models that it may ask for; empty: all. `previous`: the
    digest of the secret before its last rotation, which is good until `previous_until`.
    """

    id: str
    name: str
    digest: bytes
    created: float
    revoked: float | None = None
    owner: str | None = None
    tier: str | None = None
    limits: Limits = NO_LIMITS
    budget: Budget | None = None
    routes: tuple[str, ...] = ()
    expires: float | None = None
    tags: tuple[str, ...] = ()
    is_disabled: bool = False
    previous: bytes | None = None
    previous_until: float | None = None

    def allows(self, model: str) -> bool:
        return not self.routes or any(fnmatchcase(model, each) for each in self.routes)


def create() -> tuple[str, str, bytes]:
    """Generates a key: (id, secret, digest). The secret is shown once and not stored."""
    key = PREFIX + secrets.token_urlsafe(32)
    return f"key_{secrets.token_hex(8)}", key, digest(key.encode())


def digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class Keyring:
    """All stored keys, indexed by digest. `clock` gives Unix seconds."""

    __slots__ = ("_clock", "_keys", "_size")

    def __init__(self, keys: Iterable[Key] = (), clock: Callable[[], float] = time.time) -> None:
        self._keys: dict[bytes, Key] = {}
        self._size = 0
        self._clock = clock
        self.replace(keys)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Key]:
        return (key for digest, key in self._keys.items() if digest == key.digest)

    def replace(self, keys: Iterable[Key]) -> None:
        found = {key.digest: key for key in keys}
        self._size = len(found)
        self._keys = {key.previous: key for key in found.values() if key.previous is not None}
        self._keys |= found

    def identify(self, headers: Iterable[tuple[bytes, bytes]]) -> Key:
        """The key in a request's headers: `Authorization: Bearer KEY`, else `x-api-key: KEY`.

        Names are in lower case. Raises `ApiError` 401.
        """
        bearer = other = b""
        for name, value in headers:
            if name == b"authorization":
                scheme, _, key = value.partition(b" ")
                bearer = key.strip() if scheme.lower() == b"bearer" else b""
            elif name == b"x-api-key":
                other = value.strip()
        if key := bearer or other:
            return self.find(digest(key))
        raise ApiError(
            401,
            "missing_api_key",
            "Send your API key as `Authorization: Bearer KEY` or `x-api-key: KEY`.",
        )

    def find(self, digest: bytes) -> Key:
        """The key with this digest. Raises `ApiError` 401 if it is unknown, revoked, disabled,
        expired, or was replaced by another."""
        key = self._keys.get(digest)
        if key is None:
            raise ApiError(401, "invalid_api_key", "This API key is not valid.")
        if key.revoked is not None:
            raise ApiError(401, "key_revoked", "This API key has been revoked.")
        if key.is_disabled:
            raise ApiError(401, "key_disabled", "This API key has been disabled.")
        if key.expires is not None and self._clock() >= key.expires:
            raise ApiError(401, "key_expired", "This API key has expired.")
        if key.previous == digest and self._clock() >= (key.previous_until or 0.0):
            raise ApiError(401, "key_rotated", "This API key has been replaced by another.")
        return key
