"""API keys: how they look, how they are kept, who a caller is.

A key is 256 random bits; its SHA-256 is what is kept. A fast hash is right for a random secret:
there is nothing to guess.
"""

import hashlib
import secrets
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from legato.core.errors import ApiError

PREFIX: Final = "lg-"


class Key(Struct, frozen=True):
    """One key as it is known: never the secret itself. Times are Unix seconds."""

    id: str
    name: str
    digest: bytes
    created: float
    revoked: float | None = None


def create() -> tuple[str, str, bytes]:
    """(id, the key itself, its digest). The key is shown once and kept nowhere."""
    key = PREFIX + secrets.token_urlsafe(32)
    return f"key_{secrets.token_hex(8)}", key, digest(key.encode())


def digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class Keyring:
    """The keys in force, by digest."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys: dict[bytes, Key] = {}
        self.replace(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def replace(self, keys: Iterable[Key]) -> None:
        self._keys = {key.digest: key for key in keys}

    def authenticate(self, authorization: bytes | None) -> Key:
        """Who sends this `Authorization` header. Raises `ApiError` 401."""
        scheme, _, key = (authorization or b"").partition(b" ")
        key = key.strip()
        if scheme.lower() != b"bearer" or not key:
            raise ApiError(
                401, "missing_api_key", "Send your API key as `Authorization: Bearer KEY`."
            )
        return self.known(digest(key))

    def known(self, digest: bytes) -> Key:
        """The key with this digest. Raises `ApiError` 401."""
        known = self._keys.get(digest)
        if known is None:
            raise ApiError(401, "invalid_api_key", "This API key is not known here.")
        if known.revoked is not None:
            raise ApiError(401, "key_revoked", "This API key has been revoked.")
        return known
