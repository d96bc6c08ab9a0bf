"""Members of messages and tools that OpenAI's API does not have, for servers that refuse them.

Requests of other client formats have them: marks for the cache of prompts, thinking with its
signature, what a vendor wants back with a tool call.
"""

from typing import Any, Final, cast

import msgspec
from msgspec import Raw

from legato.core.chunk import as_object

#: The names of the extensions, and the members of a message whose entries may have them too.
_EXTENSIONS: Final = ("cache_control", "reasoning_details", "extra_content")
_MARKS: Final = tuple([f'"{name}"'.encode() for name in _EXTENSIONS])
_OWNERS: Final = ("content", "tool_calls")


def leave_out_extensions(fields: dict[str, Any]) -> None:
    """Removes them from the raw members of a request body. What has none stays as it came."""
    for name in ("messages", "tools"):
        raw = fields.get(name)
        if isinstance(raw, Raw) and any(mark in bytes(raw) for mark in _MARKS):
            fields[name] = [_plain(each) for each in msgspec.json.decode(raw)]


def _plain(value: Any) -> Any:
    owner = as_object(value)
    if owner is None:
        return value
    plain = {name: each for name, each in owner.items() if name not in _EXTENSIONS}
    for name in _OWNERS:
        if isinstance(plain.get(name), list):
            plain[name] = [_plain(each) for each in cast("list[Any]", plain[name])]
    return plain
