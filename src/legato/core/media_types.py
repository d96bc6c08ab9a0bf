"""Media types by their registered names, and `data:` URLs (RFC 2397)."""

import re
from typing import Final

_DATA_URL: Final = re.compile(r"(?i:data):([^;,]+)(?:;[^;,]*)*;(?i:base64),(.+)", re.DOTALL)

#: Names that are in use, and the ones that IANA has for them. Vendors take the latter alone.
_REGISTERED: Final = {
    "application/x-pdf": "application/pdf",
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
    "image/x-webp": "image/webp",
}


def media_type(name: str) -> str:
    """The registered name; `name` in lower case where no other is known."""
    name = name.strip().lower()
    return _REGISTERED.get(name, name)


def parse_data_url(url: object) -> tuple[str, str] | None:
    """The media type and the data, in base64, of a `data:` URL; None for anything else."""
    found = _DATA_URL.fullmatch(url) if isinstance(url, str) else None
    return (media_type(found[1]), found[2]) if found is not None else None
