"""API keys: how they are generated, hashed and checked.

A key is 256 random bits; only its SHA-256 is stored. A fast hash is enough for a random secret: it
cannot be guessed from a dictionary.
"""

import hashlib
import secrets
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from legato.core.errors import ApiError

PREFIX: Final = "lg-"


class Key(Struct, frozen=True):
    """One API key as stored: its digest, never the secret. Times are Unix seconds."""

    id: str
    name: str
    digest: bytes
    created: float
    revoked: float | None = None


def create() -> tuple[str, str, bytes]:
    """Generates a key: (id, secret, digest). The secret is shown once and not stored."""
    key = PREFIX + secrets.token_urlsafe(32)
    return f"key_{secrets.token_hex(8)}", key, digest(key.encode())


def digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class Keyring:
    """All stored keys, indexed by digest."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys: dict[bytes, Key] = {}
        self.replace(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    def replace(self, keys: Iterable[Key]) -> None:
        self._keys = {key.digest: key for key in keys}

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
        """The key with this digest. Raises `ApiError` 401 if it is unknown or revoked."""
        key = self._keys.get(digest)
        if key is None:
            raise ApiError(401, "invalid_api_key", "This API key is not valid.")
        if key.revoked is not None:
            raise ApiError(401, "key_revoked", "This API key has been revoked.")
        return key
