"""Whose reasoning a request carries: signed and encrypted reasoning goes back to its maker alone.

Vendors sign what their models thought (Anthropic's `signature`, Gemini's `thought_signature`), or
encrypt it (OpenAI's `encrypted_content`). A client sends it back with its next turn, and another
vendor's server refuses it. So it is noted who made which signature, and what is another's is left
out of a request, so that a fallback or a change of model does not break the turn.
"""

import base64
import re
import zlib
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final, cast

import msgspec
from msgspec import Raw

from legato.core.chunk import Chunk, as_object, decoded
from legato.core.errors import ApiError
from legato.core.span_edit import with_members

#: Signatures that are remembered at most; each takes about 200 bytes.
REMEMBERED: Final = 50_000

#: The first word of a model's name that begins with a digit, and all behind it: a version.
_VERSION: Final = re.compile(r"[-_.:@ ]?v?\d.*$")

#: Client formats, and the types of reasoning that belong to each.
_SHAPES: Final = {"thinking": "messages", "redacted_thinking": "messages"}
_RESPONSES: Final = "openai-responses-v1"
_GOOGLE: Final = "google"

#: What a chunk or a request has in it where there may be a signature.
_MARKS: Final = (b'"reasoning_details"', b'"thought_signature"')

_decode_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list: Final = msgspec.json.Decoder(list[Raw]).decode

Json = dict[str, Any]


def maker(provider: str, model: str) -> str:
    """Who signs: a provider and a family of its models: `anthropic/claude-sonnet`."""
    name = model.rpartition("/")[2].lower()
    return f"{provider}/{_VERSION.sub('', name) or name}"


def shape_of(detail: Json) -> str | None:
    """The client format that an entry of `reasoning_details` belongs to; None: a chat server's."""
    if detail.get("format") == _RESPONSES:
        return "responses"
    return _SHAPES.get(str(detail.get("type")))


# Clients of the Responses API send nothing back of reasoning but its `encrypted_content`. So signed
# blocks of Anthropic's are carried in one: as compressed JSON behind a mark of ours.

#: What a carried one begins with; a vendor's own is base64, which has no dots.
_CARRIED: Final = "legato-1."

#: Bytes of JSON that are read of one at most.
_MOST_CARRIED: Final = 8 * 1024 * 1024


def carried(details: list[Json]) -> str:
    """Entries of `reasoning_details` as one string, for a member of another format that clients
    send back as it came."""
    packed = zlib.compress(msgspec.json.encode(details))
    return _CARRIED + base64.urlsafe_b64encode(packed).decode()


def is_carried(content: str) -> bool:
    """Whether such a member holds what `carried` has made, or what looks like it."""
    return content.startswith(_CARRIED)


def uncarried(content: str) -> list[Json]:
    """The entries in what `carried` has made; none where it is anything else, or damaged."""
    if not is_carried(content):
        return []
    try:
        packed = base64.urlsafe_b64decode(content.removeprefix(_CARRIED))
        unpacked = zlib.decompressobj()
        text = unpacked.decompress(packed, _MOST_CARRIED)
        return _objects(msgspec.json.decode(text)) if unpacked.eof else []
    except (ValueError, RecursionError, zlib.error):
        return []


#: In the names of models whose server refuses thinking without a signature. Others of its format
#: may sign nothing, and want it back all the same.
_CLAUDE: Final = "/claude"

#: How a vendor's server refuses reasoning that it did not sign, whose tokens it cannot read, or of
#: which it knows no item with this id.
_BLAME: Final = re.compile(r"signature|encrypted[ _]content|item with id '?rs_", re.IGNORECASE)


def blames_signature(error: ApiError) -> bool:
    """Whether an upstream refused a request for the reasoning in it."""
    return error.status == 400 and bool(_BLAME.search(f"{error.code} {error.message}"))


class Makers:
    """Who made the signatures that went by, the newest of them. It is not needed to be right: one
    that is not known here is judged by its shape, and a refusal by its words."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, str] = OrderedDict()

    def note(self, signature: str, maker: str) -> None:
        known, key = self._known, _key(signature)
        known[key] = maker
        known.move_to_end(key)
        if len(known) > REMEMBERED:
            known.popitem(last=False)

    def maker(self, signature: str) -> str | None:
        return self._known.get(_key(signature))


def _key(signature: str) -> bytes:
    return blake2b(signature.encode("utf-8", "replace"), digest_size=16).digest()


class SignatureNotes:
    """A chunk transform that changes nothing: it notes the signatures of one answer."""

    __slots__ = ("_maker", "_makers")

    def __init__(self, makers: Makers, maker: str) -> None:
        self._makers = makers
        self._maker = maker

    def passes(self, index: int) -> bool:
        return True

    def transform(self, chunk: Chunk) -> Chunk:
        if chunk.raw is not None and not any(mark in chunk.raw for mark in _MARKS):
            return chunk
        if chunk.raw is not None or chunk.fields is not None:
            for member in chunk.members():
                self._note(as_object(member.get("delta")) or {})
        return chunk

    def _note(self, delta: Json) -> None:
        owners = [delta, *_objects(delta.get("tool_calls"))]
        signatures = [signature_of(each) for each in _objects(delta.get("reasoning_details"))]
        signatures += [_google(each) for each in owners]
        for signature in signatures:
            if signature:
                self._makers.note(signature, self._maker)


def signature_of(detail: Json) -> str | None:
    """Of an entry of `reasoning_details`, or of a block of thinking."""
    value = detail.get("signature") or detail.get("data") or detail.get("encrypted_content")
    return value if isinstance(value, str) and value else None


def _google(owner: Json) -> str | None:
    google = as_object((as_object(owner.get("extra_content")) or {}).get("google")) or {}
    value = google.get("thought_signature")
    return value if isinstance(value, str) else None


def _objects(value: Any) -> list[Json]:
    found = cast("list[Any]", value) if isinstance(value, list) else []
    return [each for each in found if isinstance(each, dict)]


class Owner:
    """Tells what of a request's reasoning a deployment may be sent.

    `client_format`: the format that its dialect is (`core.dialect.Dialect`). `keeps_none`: it has
    refused what it was sent.
    """

    __slots__ = ("_format", "_keeps_none", "_maker", "_makers")

    def __init__(
        self, makers: Makers, maker: str, client_format: str, *, keeps_none: bool = False
    ) -> None:
        self._makers = makers
        self._maker = maker
        self._format = client_format
        self._keeps_none = keeps_none

    def keeps(self, signature: str | None, shape: str | None) -> bool:
        """Whether reasoning with this signature goes to the deployment. One whose maker is not
        known does where its shape (`shape_of`) is that of the deployment's own format."""
        if self._keeps_none or (signature is not None and is_carried(signature)):
            return False
        if signature is None and shape == "messages" and _CLAUDE in self._maker:
            return False
        known = self._makers.maker(signature) if signature else None
        if known is not None:
            return known == self._maker
        if shape == _GOOGLE:
            return self._format in ("", "chat")  # its own API, and its copy of OpenAI's
        return (shape or "chat") == self._format

    def of_chat(self, body: bytes) -> tuple[bytes, int]:
        """A request of Chat Completions without what is another's, and how much was left out."""
        if not any(mark in body for mark in _MARKS):
            return body, 0
        return _edited(body, "messages", self._strip_message)

    def of_source(self, client_format: str, body: bytes) -> tuple[bytes, int]:
        """The same for a request as it came in another format. The same bytes where nothing is
        left out."""
        if client_format == "messages" and b"thinking" in body:
            return _edited(body, "messages", self._strip_blocks)
        if client_format == "responses" and self._may_strip_items(body):
            return _edited(body, "input", self._strip_item)
        return body, 0

    def _strip_message(self, message: Json) -> tuple[Json | None, int]:
        details = _objects(message.get("reasoning_details"))
        kept = [each for each in details if self.keeps(signature_of(each), shape_of(each))]
        count = len(details) - len(kept)
        if count:
            rest = {"reasoning_details": kept} if kept else {}
            message = {k: v for k, v in message.items() if k != "reasoning_details"} | rest
        calls: list[Any] = []
        for owner in (message, *_objects(message.get("tool_calls"))):
            signature = _google(owner)
            if signature and not self.keeps(signature, _GOOGLE):
                owner["extra_content"]["google"].pop("thought_signature")
                calls.append(owner)
        return message, count + len(calls)

    def _strip_blocks(self, message: Json) -> tuple[Json | None, int]:
        content = message.get("content")
        if message.get("role") != "assistant" or not isinstance(content, list):
            return message, 0
        blocks = cast("list[Any]", content)
        kept = [each for each in blocks if not self._is_foreign(each)]
        count = len(blocks) - len(kept)
        if not count:
            return message, 0
        return (message | {"content": kept} if kept else None), count

    def _is_foreign(self, block: Any) -> bool:
        fields = as_object(block) or {}
        shape = _SHAPES.get(str(fields.get("type")))
        return shape is not None and not self.keeps(signature_of(fields), shape)

    def _may_strip_items(self, body: bytes) -> bool:
        return b"encrypted_content" in body or (self._keeps_none and b'"reasoning"' in body)

    def _strip_item(self, item: Json) -> tuple[Json | None, int]:
        if item.get("type") != "reasoning":
            return item, 0
        if not item.get("encrypted_content"):  # its id may be another server's
            return (None, 1) if self._keeps_none else (item, 0)
        return (item, 0) if self.keeps(signature_of(item), "responses") else (None, 1)


def _edited(
    body: bytes, name: str, strip: Callable[[Json], tuple[Json | None, int]]
) -> tuple[bytes, int]:
    """All that nothing is left out of stays as it came."""
    entries = _decode_members(body).get(name)
    if entries is None or not bytes(entries).startswith(b"["):
        return body, 0
    kept: list[Raw] = []
    count = 0
    for entry in _decode_list(entries):
        fields = as_object(decoded(bytes(entry)))
        left, stripped = strip(fields) if fields is not None else (fields, 0)
        count += stripped
        if not stripped:
            kept.append(entry)
        elif left is not None:
            kept.append(Raw(msgspec.json.encode(left)))
    return (with_members(body, {name: kept}), count) if count else (body, 0)
