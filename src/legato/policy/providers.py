"""What is known of providers, as rows of data: a deployment that names one need say no more."""

from typing import Final

from msgspec import Struct

from legato.core.dialect import Facts


class Provider(Struct, frozen=True):
    """`base_url` None: it is the operator's own server."""

    name: str
    title: str
    base_url: str | None
    dialect: str = "openai"
    facts: Facts = Facts()


_ROWS: Final = (
    Provider("openai", "OpenAI", "https://api.openai.com/v1", facts=Facts(asks="effort")),
    Provider("llama.cpp", "llama.cpp", None, facts=Facts(asks="llama", reports_progress=True)),
)

PROVIDERS: Final = {row.name: row for row in _ROWS}
