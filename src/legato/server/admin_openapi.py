"""The OpenAPI 3.1 document of the admin API, made from its operations and their types."""

import re
from collections.abc import Collection, Iterable
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import Struct

from legato import __version__
from legato.policy.key_fields import KeyChanges, NewKey
from legato.server.admin import PREFIX, Call, Operation

PATH: Final = "/openapi.json"

_REFERENCE: Final = "#/components/schemas/{name}"


class ErrorDetails(Struct, frozen=True):
    """`param`: the field at fault, where there is one."""

    message: str
    type: str
    code: str | None
    param: str | None


class Error(Struct, frozen=True):
    """Every answer that is an error."""

    error: ErrorDetails


_MEANINGS: Final = {
    400: "The request is not valid; `param` names the field",
    401: "There is no API key, or it is not good",
    403: "The API key is not an admin key, or is a viewer's",
    404: "There is no such API key",
    409: "The API key has been revoked",
    413: "The body is too large",
    415: "The body is not JSON, or has an unknown encoding",
    500: "A fault of the server",
    503: "The database cannot be reached",
}

#: Statuses that any operation may have, and those of operations with a body.
_ALWAYS: Final = (400, 401, 403, 500, 503)
_WITH_BODY: Final = (413, 415)


def described(operations: Iterable[Operation], tiers: Collection[str]) -> list[Operation]:
    """The operations, and one more that answers with the document about all of them. `tiers`: the
    names of all, which the document lists."""

    async def run(_: Call) -> dict[str, Any]:
        return found

    own = Operation("GET", PATH, "getOpenApi", "This document", run, dict[str, Any])
    every = [*operations, own]
    found = document(every, tiers)
    return every


def document(operations: Iterable[Operation], tiers: Collection[str]) -> dict[str, Any]:
    every = list(operations)
    types = [Error, *(each.answer for each in every), *(each.query for each in every)]
    types += [each.body for each in every if each.body is not None]
    _, components = _schemas(*types)
    with_tier = [each.__name__ for each in (NewKey, KeyChanges)]
    warns_and_cuts = {"action": {"const": "warn"}, "hard": {"const": True}}
    no_budget = {"required": [*warns_and_cuts], "properties": warns_and_cuts}
    components = {
        **components,
        **{name: _naming_tiers(components[name], tiers) for name in with_tier},
        "Budget": components["Budget"] | {"not": no_budget},
    }
    paths: dict[str, Any] = {}
    for each in every:
        paths.setdefault(PREFIX + each.path, {})[each.method.lower()] = _operation(each, components)
    queries = {each.query.__name__ for each in every}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Legato admin API",
            "version": __version__,
            "description": "API keys and the audit log. Needs an admin key: one with the role "
            "`viewer` reads, one with the role `admin` writes, too.",
        },
        "security": [{"bearer": []}, {"header": []}],
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in components.items() if name not in queries},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(operation: Operation, components: dict[str, Any]) -> dict[str, Any]:
    statuses = {*_ALWAYS, *operation.errors, *(_WITH_BODY if operation.body else ())}
    responses = {str(operation.status): _content("Done", operation.answer)}
    responses |= {str(each): _content(_MEANINGS[each], Error) for each in sorted(statuses)}
    found: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [*_in_path(operation.path), *_in_query(operation.query, components)],
        "responses": responses,
    }
    if operation.body is not None:
        found["requestBody"] = {"required": True, **_media(operation.body)}
    return found


def _content(description: str, type_: Any) -> dict[str, Any]:
    return {"description": description, **_media(type_)}


def _media(type_: Any) -> dict[str, Any]:
    (schema,), _ = _schemas(type_)
    return {"content": {"application/json": {"schema": schema}}}


@cache  # msgspec looks at all that a type consists of, and many answers have the same types
def _schemas(*types: Any) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    return msgspec.json.schema_components(types, ref_template=_REFERENCE)


def _in_path(path: str) -> list[dict[str, Any]]:
    schema = {"type": "string", "minLength": 1, "maxLength": 64}
    return [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name in re.findall(r"\{(\w+)\}", path)
    ]


def _in_query(type_: type[Struct], components: dict[str, Any]) -> list[dict[str, Any]]:
    schema = components[type_.__name__]
    return [
        {"name": name, "in": "query", "required": False, "schema": each}
        for name, each in schema["properties"].items()
    ]


def _naming_tiers(schema: dict[str, Any], tiers: Collection[str]) -> dict[str, Any]:
    """The same with another schema of the field `tier`, which the settings decide."""
    properties = schema["properties"]
    tier = properties["tier"] | {"anyOf": [{"enum": sorted(tiers)}, {"type": "null"}]}
    return schema | {"properties": properties | {"tier": tier}}
