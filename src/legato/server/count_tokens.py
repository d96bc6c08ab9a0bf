"""`POST /v1/messages/count_tokens`: the tokens of a prompt, before it is sent."""

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from legato.core.chunk import NOT_JSON, as_object
from legato.core.errors import invalid
from legato.core.request import as_text
from legato.policy.keys import Key, Keyring
from legato.policy.routing import Router
from legato.upstreams.count_tokens import Count, count
from legato.upstreams.upstream import Upstream

PATH: Final = "/v1/messages/count_tokens"

#: What the names of headers begin with that go to upstreams of the same format.
_PASSED: Final = b"anthropic-"


class TokenCounts:
    """The endpoint. `clock`: the one that the router's health goes by. `admit` raises `ApiError`
    where a key counts too often: most counts are those of an upstream."""

    def __init__(
        self,
        keyring: Keyring,
        router: Router,
        upstreams: Mapping[str, Upstream],
        clock: Callable[[], float],
        admit: Callable[[Key], Awaitable[None]],
    ) -> None:
        self._keyring = keyring
        self._router = router
        self._upstreams = upstreams
        self._clock = clock
        self._admit = admit

    async def __call__(self, request: Request) -> Response:
        headers: list[tuple[bytes, bytes]] = request.scope["headers"]
        key = self._keyring.identify(headers)
        body = as_text(await request.body())
        model, router, now = _model(body), self._router, self._clock()
        route = router.find_for(key.allows, model)
        await self._admit(key)
        names = router.ordered(route, now)
        name = next((each for each in names if router.allows(each, now)), names[0])
        lines = [b"%b: %b\r\n" % each for each in headers if each[0].startswith(_PASSED)]
        found = await count(self._upstreams[name], body, router.resolve(model), b"".join(lines))
        shown = {"x-legato-deployment": name}
        if isinstance(found, Count):
            if not found.is_exact:
                shown["x-legato-count"] = "estimated"
            answer = msgspec.json.encode({"input_tokens": found.tokens})
            return Response(answer, 200, shown, media_type="application/json")
        if found.retry_after is not None:
            shown["retry-after"] = str(max(1, math.ceil(found.retry_after)))
        return Response(found.body, found.status, shown, media_type="application/json")


def _model(body: bytes) -> str:
    """The model that a request names. Raises `ApiError` 400 for what is no request."""
    try:
        value: Any = msgspec.json.decode(body)
    except NOT_JSON as error:
        raise invalid(f"The request body is not valid JSON: {error}", code="invalid_json") from None
    fields = as_object(value)
    if fields is None:
        raise invalid("The request body is not a JSON object.", code="invalid_json")
    model, messages = fields.get("model"), fields.get("messages")
    for name in ("model", "messages"):
        if fields.get(name) is None:
            code = "missing_required_parameter"
            raise invalid(f"`{name}` is required.", param=name, code=code)
    if not isinstance(model, str):
        raise invalid("`model` is not a string.", param="model", code="invalid_value")
    if not isinstance(messages, list) or not messages:
        problem = "`messages` is not a list with at least one message."
        raise invalid(problem, param="messages", code="invalid_value")
    return model
