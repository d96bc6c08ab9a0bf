"""The operator's settings: typed, validated at startup, immutable.

Only `cli` and `server.app` read them; all other modules receive plain values. `configuration` loads
them from a file, the environment and flags.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

import platformdirs
from msgspec import Meta, Struct, field

from legato.policy.limits import NO_LIMITS, Limits
from legato.policy.limits import tiers as all_tiers
from legato.policy.providers import PROVIDERS
from legato.upstreams.endpoint import Endpoint

Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Amount = Annotated[float, Meta(ge=0)]
NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*\Z"
Name = Annotated[str, Meta(pattern=NAME)]
NameOrPattern = Annotated[str, Meta(pattern=r"^[A-Za-z0-9*][A-Za-z0-9._:/@+*-]*\Z")]

DEFAULT_MODELS: Final = ("smollm2-135m", "smollm2-135m-thinking")


class SettingsError(ValueError):
    """An unknown or invalid setting. The message names its place and the allowed values."""


class Server(Struct, frozen=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    cors_origins: tuple[str, ...] = ()
    tls_cert: str | None = None
    tls_key: str | None = None
    max_body_bytes: Count = 32 * 1024 * 1024
    max_header_bytes: Count = 64 * 1024
    max_connections: Count = 20_000
    request_seconds: Seconds = 30.0
    idle_seconds: Seconds = 75.0
    trusted_proxies: tuple[str, ...] = ()
    drain_seconds: Seconds = 30.0


class Streams(Struct, frozen=True, forbid_unknown_fields=True):
    gate_seconds: Seconds = 5.0
    heartbeat_seconds: Seconds = 10.0
    heartbeat: Literal["comment", "chunk"] | None = None  # None: as the client supports it
    stall_client_seconds: Seconds = 120.0
    backlog_bytes: Annotated[int, Meta(ge=65536)] = 4 * 1024 * 1024
    padding: Literal["auto", "on", "off"] = "auto"
    fast_path: Literal["on", "off"] = "on"


class Price(Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars per million tokens. `cached`: prompt tokens that were read from a cache;
    `cache_write`: those that were written to it; `cache_write_1h`: for an hour."""

    prompt: Amount = 0.0
    completion: Amount = 0.0
    cached: Amount | None = None  # None: the same as `prompt`
    cache_write: Amount | None = None  # None: the same as `prompt`
    cache_write_1h: Amount | None = None  # None: from `cache_write` as at Anthropic, or `prompt`


class Deployment(Struct, frozen=True, forbid_unknown_fields=True):
    name: Name
    model: str
    provider: str | None = None
    dialect: str | None = None
    base_url: str | None = None
    api_key: str | None = None
    api_keys: tuple[str, ...] = ()
    connect_seconds: Seconds = 10.0
    first_token_seconds: Seconds = 120.0
    stall_seconds: Seconds = 60.0
    total_seconds: Seconds = 3600.0
    stall_client_seconds: Seconds | None = None
    on_disconnect: Literal["cancel", "drain"] | None = (
        None  # None: drain if the provider bills anyway
    )
    drain_seconds: Seconds = 60.0
    streams: bool = True  # False: answers are requested unstreamed
    reasoning: Literal["field", "think-tags", "think-tags-open"] = "field"
    n: Literal["native", "fan-out"] | None = None
    completions: Literal["no", "prompt", "suffix"] | None = None
    unsupported: Literal["drop", "error"] = "drop"
    fetch_images: Literal["public", "any", "no"] = "public"
    continues: Literal["no", "prefill", "final-message", "prefix", "replay"] | None = field(
        default=None, name="continue"
    )
    context_length: Count | None = None
    tokenizer: str | None = None
    price: Price | None = None
    open_after: Annotated[int, Meta(ge=0)] = 5
    open_seconds: Seconds = 10.0
    max_connections: Count = 10_000
    idle_seconds: Seconds = 55.0
    proxy: str | None = None
    ca_file: str | None = None
    client_cert: str | None = None
    client_key: str | None = None

    @property
    def credentials(self) -> tuple[str | None, ...]:
        """The API keys, used in rotation; a single None if the deployment needs none."""
        return (*((self.api_key,) if self.api_key else ()), *self.api_keys) or (None,)

    @property
    def endpoint(self) -> Endpoint:
        """The address from `base_url`, or else from the provider. Raises ValueError if there is
        none, or if it is not valid."""
        provider = PROVIDERS.get(self.provider or "")
        base_url = self.base_url or (provider.base_url if provider else None)
        if base_url is None:
            raise ValueError("is required: the provider has no default")
        return Endpoint.parse(base_url)


class Route(Struct, frozen=True, forbid_unknown_fields=True):
    model: NameOrPattern
    deployments: Annotated[tuple[str, ...], Meta(min_length=1)]
    strategy: Literal["order", "least-busy", "fastest"] = "order"
    affinity: Literal["none", "session"] = "none"
    weights: dict[str, Annotated[float, Meta(gt=0)]] = {}
    attempts: Count = 3
    retry_seconds: Seconds = 30.0
    max_continuations: Annotated[int, Meta(ge=0)] = 1
    count_both_prompts: bool = False
    limits: Limits = NO_LIMITS  # of all keys together
    max_concurrent: Count | None = None  # calls that go on at once; others wait in turn
    max_queue: Annotated[int, Meta(ge=0)] = 100
    queue_seconds: Seconds = 30.0


class Owner(Struct, frozen=True, forbid_unknown_fields=True):
    """What all keys of one owner may spend together."""

    budget: str
    action: Literal["warn", "block"] = "block"
    hard: bool = False  # calls in progress are cut when it is spent


class Alerts(Struct, frozen=True, forbid_unknown_fields=True):
    """Whom a budget's thresholds are told, beside the log. `secret` signs what is sent."""

    webhook: str | None = None
    secret: str | None = None


class Responses(Struct, frozen=True, forbid_unknown_fields=True):
    store: bool = False  # keeps the text of prompts and answers
    keep_days: Annotated[float, Meta(gt=0)] = 30.0


class LimitChecks(Struct, frozen=True, forbid_unknown_fields=True):
    #: While Valkey is away: `open`: each server checks against what it admitted itself; `closed`:
    #: calls that have a limit are refused.
    fail: Literal["open", "closed"] = "open"


class Metrics(Struct, frozen=True, forbid_unknown_fields=True):
    """Prometheus metrics. They are served if there is a token, a port or both."""

    token: str | None = None
    port: Annotated[int, Meta(ge=0, le=65535)] | None = None  # None: the server's own
    host: str = "127.0.0.1"  # for a port of their own

    @property
    def is_served(self) -> bool:
        return self.token is not None or self.port is not None


class EngineModel(Struct, frozen=True, forbid_unknown_fields=True):
    name: Name
    path: str | None = None
    context: Annotated[int, Meta(ge=64)] | None = None
    template: str | None = None
    thinking_budget_tokens: Annotated[int, Meta(ge=-1)] | None = None


class Engine(Struct, frozen=True, forbid_unknown_fields=True):
    models: tuple[EngineModel, ...] | None = None
    slots: Annotated[int, Meta(ge=1, le=256)] = 8
    threads: Annotated[int, Meta(ge=0)] = 0
    gpu_layers: Annotated[int, Meta(ge=-1)] = -1
    start_seconds: Seconds = 60.0
    first_token_seconds: Seconds = 120.0
    stall_seconds: Seconds = 60.0
    total_seconds: Seconds = 3600.0


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    server: Server = Server()
    streams: Streams = Streams()
    engine: Engine = Engine()
    responses: Responses = Responses()
    limits: LimitChecks = LimitChecks()
    metrics: Metrics = Metrics()
    tiers: dict[str, Limits] = {}
    live: str = "memory"  # or the URL of a Valkey, with its password
    owners: dict[str, Owner] = {}
    alerts: Alerts = Alerts()
    deployments: tuple[Deployment, ...] = ()
    routes: tuple[Route, ...] = ()
    aliases: dict[str, str] = {}
    database: str | None = None  # None: SQLite in `data`
    retention_days: Annotated[float, Meta(gt=0)] | None = None  # None: rows are kept
    data: str = field(default_factory=lambda: platformdirs.user_data_dir("legato"))
    models: str = field(
        default_factory=lambda: str(Path(platformdirs.user_cache_dir("legato")) / "models")
    )

    @property
    def data_dir(self) -> Path:
        return Path(self.data).expanduser()

    @property
    def models_dir(self) -> Path:
        return Path(self.models).expanduser()

    @property
    def all_tiers(self) -> dict[str, Limits]:
        """Those that exist without configuration, and those in `tiers`."""
        return all_tiers(self.tiers)

    @property
    def engine_models(self) -> tuple[EngineModel, ...]:
        """The models that the engine runs. If none are configured, and there are no deployments,
        the default models."""
        if self.engine.models is not None:
            return self.engine.models
        return () if self.deployments else tuple(EngineModel(name) for name in DEFAULT_MODELS)
