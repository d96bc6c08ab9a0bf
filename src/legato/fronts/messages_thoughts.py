"""What other vendors want back with the next request, in a block that clients of this format keep.

Encrypted reasoning and signatures of vendors other than Anthropic have no place in a message here.
Clients send blocks of redacted thinking back as they came, so these carry them. Anthropic would
refuse such a block: it is left out of what goes there.
"""

import base64
import binascii
from typing import Any, Final

import msgspec

from legato.core.chunk import as_object, decoded

#: What the data of such a block begins with; Anthropic's own is base64, which has no dots.
_MARK: Final = "legato.1."


def packed(entry: dict[str, Any]) -> dict[str, Any]:
    """The block that carries `entry`."""
    data = base64.urlsafe_b64encode(msgspec.json.encode(entry)).decode()
    return {"type": "redacted_thinking", "data": _MARK + data}


def is_packed(block: dict[str, Any]) -> bool:
    data = block.get("data")
    is_redacted = block.get("type") == "redacted_thinking"
    return is_redacted and isinstance(data, str) and data.startswith(_MARK)


def unpacked(block: dict[str, Any]) -> dict[str, Any] | None:
    """The entry in a block that `is_packed`; None where it was damaged."""
    try:
        text = base64.urlsafe_b64decode(str(block["data"]).removeprefix(_MARK))
    except (binascii.Error, ValueError):
        return None
    return as_object(decoded(text))
