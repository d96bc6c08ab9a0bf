"""API keys: how they are generated, hashed and checked.

A key is 256 random bits; only its SHA-256 is stored. A fast hash is enough for a random secret: it
cannot be guessed from a dictionary.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Final, Literal

from msgspec import Struct

from legato.core.errors import ApiError
from legato.policy.budgets import Budget
from legato.policy.limits import NO_LIMITS, Limits

PREFIX: Final = "lg-"

#: Admin keys use the admin API and nothing else; a viewer reads, an admin writes, too.
ADMIN_PREFIX: Final = "lga-"
Role = Literal["admin", "viewer"]


class Key(Struct, frozen=True, gc=False):  # 100,000 of them would slow each collection
    """One API key as stored: its digest, never the secret. Times are Unix seconds.

    `owner`: the person or team whose budget it shares. `limits`: its own, over those of its `tier`.
    `routes`: patterns (`smol*`) of the models that it may ask for; empty: all. `previous`: the
    digest of the secret before its last rotation, which is good until `previous_until`. `role`:
    that of an admin key; None: it is an ordinary one.
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
    role: Role | None = None

    def allows(self, model: str) -> bool:
        return not self.routes or any(fnmatchcase(model, each) for each in self.routes)


def create(role: Role | None = None) -> tuple[str, str, bytes]:
    """Generates a key: (id, secret, digest). The secret is shown once and not stored."""
    secret, hashed = create_secret(role)
    return f"key_{secrets.token_hex(8)}", secret, hashed


def create_secret(role: Role | None = None) -> tuple[str, bytes]:
    """Generates a secret and its digest."""
    secret = (ADMIN_PREFIX if role else PREFIX) + secrets.token_urlsafe(32)
    return secret, digest(secret.encode())


def digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class Keyring:
    """All stored keys, indexed by digest. `clock` gives Unix seconds."""

    __slots__ = ("_by_id", "_clock", "_keys")

    def __init__(self, keys: Iterable[Key] = (), clock: Callable[[], float] = time.time) -> None:
        self._keys: dict[bytes, Key] = {}
        self._by_id: dict[str, Key] = {}
        self._clock = clock
        self.update(keys)

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._by_id.values())

    def get(self, identity: str) -> Key | None:
        """The key with this id."""
        return self._by_id.get(identity)

    def replace(self, keys: Iterable[Key]) -> None:
        """Forgets all keys but these."""
        self._keys, self._by_id = {}, {}
        self.update(keys)

    def update(self, keys: Iterable[Key]) -> None:
        """Adds these keys, or replaces those with the same ids."""
        for key in keys:
            self._forget(key.id)
            self._by_id[key.id] = key
            self._keys[key.digest] = key
            if key.previous is not None and not self._is_secret(key.previous):
                self._keys[key.previous] = key

    def _forget(self, identity: str) -> None:
        old = self._by_id.pop(identity, None)
        if old is None:
            return
        for each in (old.digest, old.previous):
            if each is not None and self._keys.get(each) is old:
                del self._keys[each]

    def _is_secret(self, digest: bytes) -> bool:
        """Whether this is the digest of a key's own secret, not of one before its rotation."""
        found = self._keys.get(digest)
        return found is not None and found.digest == digest

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
        expired, or was replaced by another.

        How long the search takes tells nothing of a secret: it compares SHA-256 digests, which a
        caller cannot choose.
        """
        key = self._keys.get(digest)
        if key is None:
            raise ApiError(401, "invalid_api_key", "This API key is not valid.")
        if key.revoked is not None:
            raise ApiError(401, "key_revoked", "This API key has been revoked.")
        if key.is_disabled:
            raise ApiError(401, "key_disabled", "This API key has been disabled.")
        if key.expires is not None and self._clock() >= key.expires:
            raise ApiError(401, "key_expired", "This API key has expired.")
        is_own = hmac.compare_digest(key.digest, digest)
        if not is_own and self._clock() >= (key.previous_until or 0.0):
            raise ApiError(401, "key_rotated", "This API key has been replaced by another.")
        return key
