"""Which program a client is: name and version, from its headers."""

import re
from functools import lru_cache
from typing import Final

#: Longest result, in characters: a name, a slash, a version.
MAX_NAME_LENGTH: Final = 40
MAX_VERSION_LENGTH: Final = 23
MAX_LENGTH: Final = MAX_NAME_LENGTH + 1 + MAX_VERSION_LENGTH

#: Bytes of a user agent that are read. Its first product is what counts.
_READ: Final = 256

#: The first product, and a version that stands apart (`OpenAI/Python 2.1.0`).
_PRODUCT: Final = re.compile(r"([\w.+@-]+(?:/[\w.+@-]+)*)(?: +(v?\d[\w.+-]*))?", re.ASCII)
_VERSION: Final = re.compile(r"v?\d")

#: Names of products, in lower case, and the program that they are.
_PROGRAMS: Final = {
    "claude-cli": "claude-code",
    "claude-code": "claude-code",
    "qwencode": "qwen-code",
    "geminicli": "gemini-cli",
}
#: Codex names its part that asks: `codex_cli_rs`, `codex_exec`, `codex-tui`, `codex_vscode`.
_CODEX: Final = re.compile(r"codex(?:[_-].*)?", re.ASCII)
#: The official SDKs: `OpenAI/Python`, `AsyncAnthropic/Python`, `OpenAI/JS`.
_SDK: Final = re.compile(r"(?:async)?(openai|anthropic)/(\w+)", re.ASCII)

#: Libraries: what they say is not the program's name. An SDK's name begins with one of the last.
_LIBRARIES: Final = frozenset(
    {
        *("aiohttp", "axios", "bun", "deno", "go-http-client", "got", "litellm", "node"),
        *("node-fetch", "okhttp", "python-httpx", "python-requests", "reqwest", "undici"),
    }
)
_SDK_PREFIXES: Final = ("openai-", "anthropic-", "ai-sdk/")


def agent_of(user_agent: bytes | None, title: bytes | None = None) -> str | None:
    """`claude-code/2.1.197`, `opencode/1.18.33`, `curl/8.5.0`; None if the client does not say.

    `title`: the header `x-title`, in which programs that use an SDK or a library name themselves.
    The result has at most `MAX_LENGTH` characters of ASCII and no space.
    """
    name, agent = _product(user_agent[:_READ]) if user_agent else ("", None)
    if title and (not name or name in _LIBRARIES or name.startswith(_SDK_PREFIXES)):
        return _title(title) or agent
    return agent


@lru_cache(maxsize=256)
def _product(user_agent: bytes) -> tuple[str, str | None]:
    """(name in lower case, name and version) of the first product."""
    found = _PRODUCT.match(user_agent.decode("latin-1").strip())
    if found is None:
        return "", None
    product: str = found[1]
    name, _, version = product.rpartition("/")
    if not name or not _VERSION.match(version):
        name, version = product, found[2] or ""
    lower = name.lower()
    if sdk := _SDK.fullmatch(lower):
        lower = name = f"{sdk[1]}-{sdk[2]}"
    elif _CODEX.fullmatch(lower):
        name = "codex"
    else:
        name = _PROGRAMS.get(lower, name)
    name, version = name[:MAX_NAME_LENGTH], version[:MAX_VERSION_LENGTH]
    return lower, f"{name}/{version}" if version else name


def _title(title: bytes) -> str:
    words = re.findall(r"[\w.+@-]+", title[:_READ].decode("latin-1").lower(), re.ASCII)
    return "-".join(words)[:MAX_NAME_LENGTH]
