"""One deployment, spoken to."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from legato.core.continuation import Replay
from legato.core.dialect import Delivered, Dialect, OutgoingRequest, Quirks, Source
from legato.core.errors import ApiError, bad_gateway, blames_parameter
from legato.core.logprobs import NoAlternatives
from legato.core.request import ChatRequest
from legato.core.signatures import Makers, Owner, SignatureNotes, maker
from legato.core.stream import Stream
from legato.core.think_tags import ClosingTagFilter, TagSplitter, ThinkTags
from legato.core.token_counting import Counter
from legato.dialects import named, openai
from legato.upstreams import images
from legato.upstreams.connection import Connection
from legato.upstreams.endpoint import Endpoint
from legato.upstreams.pool import Pool
from legato.upstreams.response import ChunkTransform, ChunkTransforms, Response

#: How a model says what it thinks. field: in a member of its deltas; think-tags: between `<think>`
#: and `</think>` in its text; think-tags-open: the same, and its text begins inside.
Reasoning = Literal["field", "think-tags", "think-tags-open"]


#: How servers with `Quirks.completes` complete a bare prompt.
_COMPLETIONS: Final = named("_openai_completions")

#: The `accept` header, by whether the upstream streams.
_ACCEPTS: Final = {True: "text/event-stream", False: "application/json"}


class Price(Struct, frozen=True):
    """US dollars for a million tokens; `cached` and `cache_write`: of the prompt, read from a cache
    or written to it; `cache_write_1h`: to one that lives for an hour."""

    prompt: float
    completion: float
    cached: float
    cache_write: float
    cache_write_1h: float


class DeploymentOptions(Struct, frozen=True):
    """How long a deployment is waited for, and what is done with its answers."""

    first_token_seconds: float = 120.0  # from the request to the first chunk that counts
    stall_seconds: float = 60.0  # between two such chunks
    total_seconds: float = 3600.0  # from the request to the end of the answer
    stall_client_seconds: float | None = None  # None: as for the server as a whole
    on_disconnect: Literal["cancel", "drain"] = "cancel"
    drain_seconds: float = 60.0  # at most, after the client has left
    reasoning: Reasoning = "field"
    drops_closing_tags: bool = False  # drops each `</think>` that its model writes in its answers
    unsupported: Literal["drop", "error"] = "drop"
    streams: bool = True  # False: it gives its answer in one piece
    replays: bool = False  # goes on with an answer that broke elsewhere by saying it all again
    fetch_images: images.Fetch = "public"  # for an upstream that does not fetch them itself
    price: Price | None = None

    @property
    def soonest(self) -> float:
        """Seconds after which the first of these timers may be due."""
        client = self.stall_client_seconds or self.stall_seconds
        return min(self.first_token_seconds, self.stall_seconds, self.total_seconds, client)


class Target(Struct):
    """Where a deployment can be reached at this moment."""

    pool: Pool
    heads: tuple[bytes, ...]  # one a credential: request line and headers, up to the content length
    continuing: tuple[bytes, ...]  # the same, of requests that go on with an answer
    completing: tuple[bytes, ...] = ()  # the same, of requests to complete a bare prompt
    counting: tuple[bytes, ...] = ()  # the same, of requests to count the tokens of a prompt

    @classmethod
    def of(
        cls,
        pool: Pool,
        dialect: Dialect,
        model: str,
        credentials: tuple[str | None, ...],
        quirks: Quirks,
        *,
        streams: bool = True,
    ) -> "Target":
        path, accepts = dialect.path(model, streams=streams), _ACCEPTS[streams]
        headers = [dialect.headers(each) for each in credentials]

        def heads(endpoint: Endpoint, path: str, accepts: str = accepts) -> tuple[bytes, ...]:
            return tuple(cls._head(endpoint, path, accepts, each) for each in headers)

        usual = pool.endpoint
        target = cls(pool, heads(usual, path), heads(usual, path))
        if (under := quirks.continues_under) is not None:
            other = replace(usual, path=usual.path.removesuffix("/v1").removesuffix(under) + under)
            target.continuing = heads(other, path)
        if quirks.completes != "no":
            target.completing = heads(usual, _COMPLETIONS.path(model, streams=streams))
        if quirks.counts_tokens:
            version = "/v1" if dialect.client_format == "messages" else ""
            target.counting = heads(usual, f"{version}/messages/count_tokens", _ACCEPTS[False])
        return target

    def counting_request(self, credential: int, lines: bytes, payload: bytes) -> bytes:
        """A request to count tokens. `lines`: the client's header lines."""
        head = self.counting[credential % len(self.counting)]
        head = _with_lines(head, lines) if lines else head
        return b"%b%d\r\n\r\n%b" % (head, len(payload), payload)

    @staticmethod
    def _head(endpoint: Endpoint, path: str, accepts: str, headers: list[tuple[str, str]]) -> bytes:
        lines = [
            f"POST {endpoint.target(path)} HTTP/1.1",
            f"host: {endpoint.authority}",
            "user-agent: legato",
            "content-type: application/json",
            f"accept: {accepts}",
            "accept-encoding: identity",
            *(f"{name}: {value}" for name, value in headers),
            "content-length: ",
        ]
        return "\r\n".join(lines).encode("latin-1")


#: What each head of a request ends with; its value comes next.
_LENGTH: Final = b"content-length: "


def _with_lines(head: bytes, lines: bytes) -> bytes:
    """A head with the client's header lines in place of our own of the same names."""
    names = {line.partition(b":")[0].lower() for line in lines.splitlines()}
    ours = head.removesuffix(_LENGTH).splitlines(keepends=True)
    kept = [ours[0], *(each for each in ours[1:] if each.partition(b":")[0] not in names)]
    return b"".join([*kept, lines, _LENGTH])


async def _fresh(pool: Pool) -> Connection:
    """A connection that is nobody else's. Dialling has a time limit, and so a task of its own."""
    dialing = asyncio.ensure_future(pool.connect())
    try:
        return await dialing
    except asyncio.CancelledError:
        if dialing.done() and not dialing.cancelled() and dialing.exception() is None:
            dialing.result().close()  # it came in the turn in which nobody wanted it any more
        raise


#: What is our own addition to a request, as refusals name it, and the quirk that adds each.
_ADDED: Final = {
    "stream_options": "includes_usage",
    "return_progress": "reports_progress",
    "Encrypted content": "encrypts_reasoning",
    "reasoning.encrypted_content": "encrypts_reasoning",
    "reasoning.summary": "summarizes_reasoning",
    "reasoning summaries": "summarizes_reasoning",
}


class Upstream:
    """A deployment: where it is, what it is called there, how it is spoken to.

    `target` is None while the deployment cannot be reached and it is known why (an engine that is
    still loading); `wait` then comes back when it can, or raises `UpstreamError`.
    """

    def __init__(
        self,
        name: str,
        model: str,
        *,
        dialect: Dialect = openai,
        quirks: Quirks | None = None,
        options: DeploymentOptions | None = None,
        target: Target | None = None,
        wait: Callable[[], Coroutine[Any, Any, None]] | None = None,
        provider: str = "",
        target_of: Callable[[str], Target] | None = None,
    ) -> None:
        """`provider`: whose models these are; the deployment's own name where that is not known.
        `target_of`: the target for a model, of a deployment that takes the client's (`model` is
        `*`)."""
        self.name = name
        self._provider = provider or name
        self.maker = maker(self._provider, model)
        self.header = f"x-legato-deployment: {name}\r\n".encode("latin-1", "replace")
        self.model = model
        self.dialect = dialect
        self.quirks = quirks or Quirks()
        self.options = options or DeploymentOptions()
        self.soonest = self.options.soonest
        if not self.quirks.fetches_images:
            images.load_client()
        self.target = target
        self._target_of = target_of
        self._wait = wait
        self.fast_path = True
        """Relays text events without decoding them."""
        self.credential = 0  # which one is used, modulo their number
        self.recover: Callable[[], Coroutine[Any, Any, None]] | None = None
        """Where set: a call that was dropped unanswered may be asked again once this comes back."""
        self.counter: Counter | None = None
        """Where set: counts tokens that the upstream does not tell."""
        self.amend: Callable[[OutgoingRequest], bytes] | None = None
        """Where set: gives the body that this upstream is to have in place of the client's."""
        self.makers = Makers()
        """Who signed what; shared by all upstreams of a server."""
        self.listed_price: Callable[[str], Price | None] | None = None
        """Where set: the price of a model, of a deployment that takes the client's."""

    @property
    def credentials(self) -> int:
        """How many there are to use in turn."""
        return len(self.target.heads) if self.target is not None else 1

    def model_of(self, asked: str) -> str:
        """The model's name at the upstream. `asked`: what the client calls it, without an alias."""
        return self.model if self._target_of is None else asked

    def _maker(self, asked: str) -> str:
        return self.maker if self._target_of is None else maker(self._provider, asked)

    def price_of(self, model: str) -> Price | None:
        """`model`: the client's name, without an alias."""
        if self.options.price is None and self.listed_price is not None:
            return self.listed_price(model)
        return self.options.price

    def stop_adding(self, refusal: ApiError) -> bool:
        """Whether the upstream has refused a parameter that we add to each request, so that it may
        be asked again: from now on without it."""
        for parameter, quirk in _ADDED.items():
            if getattr(self.quirks, quirk) and blames_parameter(refusal, parameter):
                self.quirks = replace(self.quirks, **{quirk: False})
                return True
        return False

    def takes(self, source: Source | None, delivered: Delivered | None) -> bool:
        """Whether a request goes to the upstream as it came, and its events come back likewise."""
        return (
            source is not None
            and source.format == self.dialect.client_format
            and delivered is None
            and self.options.reasoning == "field"
            and not self.options.drops_closing_tags
            and self.amend is None
        )

    def completes(self, source: Source | None) -> bool:
        """Whether a request for a text completion goes to the upstream as one."""
        if source is None or source.format != _COMPLETIONS.client_format:
            return False
        completes = self.quirks.completes
        return completes == "suffix" or (completes == "prompt" and not source.goes_beyond)

    def owner(self, asked: str, *, keeps_none: bool = False) -> Owner:
        """Tells which of a client's signed reasoning is this upstream's. `asked`: as in `model_of`;
        `keeps_none`: it has refused what it was sent."""
        made_by, format_ = self._maker(asked), self.dialect.client_format
        return Owner(self.makers, made_by, format_, keeps_none=keeps_none)

    def rotate(self, used: int) -> None:
        """The credential `used` is used up: the next one. Of several calls that find it out at
        once, the first one says so."""
        if self.credential == used:
            self.credential += 1

    async def send(
        self,
        body: bytes,
        request: ChatRequest,
        stream: Stream,
        on_fail: Callable[[ApiError], None],
        *,
        fresh: bool = False,
        delivered: Delivered | None = None,
        replay: Replay | None = None,
        source: Source | None = None,
    ) -> Response:
        """Sends a request. The response goes into `stream`; `on_fail` is called where the upstream
        fails, before its answer or during it: another deployment may be asked.

        `delivered`: what the client has of the answer, which the upstream is to continue;
        `replay`: the same, where it is to answer from the start. `source`: the client's request as
        it came, which is sent where the upstream takes it (`takes`)."""
        outgoing = await self.prepare(body, request, delivered)
        if self.takes(source, delivered) or self.completes(source):
            outgoing.source = source
        if source is not None and source.format == self.dialect.client_format:
            outgoing.lines = source.lines  # also where it goes on with an answer
        return await self.send_prepared(outgoing, stream, on_fail, fresh=fresh, replay=replay)

    async def prepare(
        self, body: bytes, request: ChatRequest, delivered: Delivered | None = None
    ) -> OutgoingRequest:
        """The request with what this upstream needs in its body. Raises `ApiError`."""
        options = self.options
        outgoing = OutgoingRequest(
            body,
            request,
            self.model_of(request.model),
            self.quirks,
            options.unsupported,
            delivered,
            options.streams,
        )
        if self.amend is not None:
            outgoing.body = self.amend(outgoing)
        if not self.quirks.fetches_images and b'"image_url"' in outgoing.body:
            outgoing.body = await images.inlined(outgoing.body, options.fetch_images)
        return outgoing

    async def send_prepared(
        self,
        outgoing: OutgoingRequest,
        stream: Stream,
        on_fail: Callable[[ApiError], None],
        *,
        fresh: bool = False,
        replay: Replay | None = None,
    ) -> Response:
        """As `send`. `outgoing` may be sent several times."""
        source = outgoing.source
        completes = self.completes(source)
        dialect = _COMPLETIONS if completes else self.dialect
        if source is None or completes:
            payload = dialect.encode(outgoing)
        else:
            payload = outgoing.passed_through(source)
        if self.target is None and self._wait is not None:
            await asyncio.ensure_future(self._wait())
        target = self.target
        if target is not None and self._target_of is not None:
            target = self._target_of(outgoing.model)
        if target is None:
            raise bad_gateway("The upstream is not running.", code="upstream_unreachable")
        connection = None if fresh else target.pool.idle()
        if connection is None:
            connection = await _fresh(target.pool)
        transforms = self._transforms(outgoing, replay)
        answer = Response(
            connection, stream, on_fail, dialect, transforms, fast_path=self.fast_path
        )
        if completes:
            heads = target.completing
        else:
            heads = target.heads if outgoing.delivered is None else target.continuing
        head = heads[self.credential % len(heads)]
        if outgoing.lines:
            head = _with_lines(head, outgoing.lines)
        connection.send(b"%b%d\r\n\r\n%b" % (head, len(payload), payload), answer)
        return answer

    def _transforms(self, outgoing: OutgoingRequest, replay: Replay | None) -> ChunkTransforms:
        """What changes the chunks of an answer."""
        if self.completes(outgoing.source):
            return ()
        transforms: list[ChunkTransform] = []
        if self.dialect.client_format != "chat" or self.quirks.effort_style == "openrouter":
            transforms.append(SignatureNotes(self.makers, self._maker(outgoing.model)))
        delivered = outgoing.delivered
        if outgoing.hides_alternatives:
            transforms.append(NoAlternatives())
        # Where the text of an answer has begun, its reasoning is over.
        if self.options.reasoning != "field" and delivered is None:
            opened = self.options.reasoning == "think-tags-open"
            transforms.append(ThinkTags(partial(TagSplitter, opened=opened)))
        elif self.options.drops_closing_tags:
            transforms.append(ThinkTags(ClosingTagFilter))
        if delivered is not None and self.quirks.echoes_prefix:
            replay = Replay(delivered)
        if replay is not None:
            transforms.append(replay)
        return tuple(transforms)
