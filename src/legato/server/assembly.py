"""Settings made into the parts that they describe: engines, upstreams, routes."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import asdict, replace

from legato import dialects
from legato.core.dialect import Quirks
from legato.engine.catalog import KNOWN
from legato.engine.supervisor import Engine, EngineModel, cache_mib
from legato.policy import prices
from legato.policy.health import Health
from legato.policy.providers import PROVIDERS, quirks_of
from legato.policy.routing import Route
from legato.settings import Deployment, Settings, SettingsError
from legato.upstreams import tls
from legato.upstreams.endpoint import Endpoint
from legato.upstreams.pool import Pool
from legato.upstreams.proxy import Proxy, proxy_for
from legato.upstreams.tokenizers import Tokenizer, TokenizerError, load
from legato.upstreams.upstream import DeploymentOptions, Price, Target, Upstream

Clock = Callable[[], float]


def engines(
    settings: Settings,
    model_files: Mapping[str, Path],
    clock: Clock,
    on_event: Callable[..., Any],
) -> list[Engine]:
    """`model_files`: where the file of each model is."""
    wanted = settings.engine
    options = DeploymentOptions(
        first_token_seconds=wanted.first_token_seconds,
        stall_seconds=wanted.stall_seconds,
        total_seconds=wanted.total_seconds,
    )
    logs = settings.data_dir / "logs"
    return [
        Engine(
            model,
            clock=clock,
            log_file=logs / f"{_file_name(model.name)}.log",
            cache=cache_mib(len(settings.engine_models)),
            start_seconds=wanted.start_seconds,
            # Models that are given words to end their reasoning with tend to close it once more.
            options=replace(options, drops_closing_tags=model.thinking_end is not None),
            on_event=on_event,
        )
        for model in _engine_models(settings, model_files)
    ]


def _engine_models(settings: Settings, model_files: Mapping[str, Path]) -> list[EngineModel]:
    models: list[EngineModel] = []
    for each in settings.engine_models:
        known = KNOWN.get(each.path or each.name)
        model = EngineModel(
            name=each.name,
            path=model_files[each.name],
            slots=settings.engine.slots,
            threads=settings.engine.threads,
            gpu_layers=settings.engine.gpu_layers,
        )
        if known is not None:
            model = replace(
                model,
                context=known.context,
                template=known.template,
                thinking_budget=known.thinking_budget,
                thinking_end=known.thinking_end,
                temperature=known.temperature,
                top_p=known.top_p,
                repeat_penalty=known.repeat_penalty,
                max_tokens=known.max_tokens,
            )
        said = {
            "context": each.context,
            "template": Path(each.template).read_text() if each.template else None,
            "thinking_budget": each.thinking_budget_tokens,
        }
        models.append(replace(model, **{k: v for k, v in said.items() if v is not None}))
    return models


def upstream(wanted: Deployment, clock: Clock) -> Upstream:
    """Raises `SettingsError` where it names files or a proxy that cannot be used."""
    provider = PROVIDERS.get(wanted.provider or "")
    dialect = dialects.named(wanted.dialect or (provider.dialect if provider else "openai"))
    endpoint = wanted.endpoint
    quirks = _facts(wanted)
    pool = Pool(
        endpoint,
        clock=clock,
        context=_checked(
            wanted, tls.context, wanted.ca_file, wanted.client_cert, wanted.client_key
        ),
        proxy=_proxy(wanted, endpoint),
        connect_seconds=wanted.connect_seconds,
        idle_seconds=wanted.idle_seconds,
        max_connections=wanted.max_connections,
    )
    return Upstream(
        wanted.name,
        wanted.model,
        dialect=dialect,
        quirks=quirks,
        options=_options(wanted),
        target=Target.of(
            pool, dialect, wanted.model, wanted.credentials, quirks, streams=wanted.streams
        ),
    )


def load_tokenizers(
    settings: Settings, upstreams: Mapping[str, Upstream], engines: Sequence[Engine]
) -> None:
    """Those that deployments name; it may take seconds, and the network. Raises `SettingsError`."""
    models = {engine.model.name: engine.model.path for engine in engines}
    loaded: dict[str, Tokenizer] = {}
    for each in settings.deployments:
        name = each.tokenizer
        if name is None:
            continue
        try:
            loaded[name] = loaded.get(name) or load(name, models)
        except TokenizerError as error:
            raise SettingsError(f"deployments `{each.name}`: tokenizer: {error}") from None
        upstreams[each.name].counter = loaded[name]


def _options(wanted: Deployment) -> DeploymentOptions:
    names = set(DeploymentOptions.__struct_fields__) & set(wanted.__struct_fields__)
    provider = PROVIDERS.get(wanted.provider or "")
    paid_for = provider is not None and provider.bills_after_disconnect
    return DeploymentOptions(
        **{name: getattr(wanted, name) for name in names - {"price", "on_disconnect"}},
        on_disconnect=wanted.on_disconnect or ("drain" if paid_for else "cancel"),
        replays=wanted.continues == "replay",
        price=_price(wanted),
    )


def _price(wanted: Deployment) -> Price | None:
    """What the operator says; else the list price, where it is known."""
    said = wanted.price
    if said is not None:
        cached = said.prompt if said.cached is None else said.cached
        return Price(said.prompt, said.completion, cached)
    listed = prices.find(wanted.provider, wanted.model)
    return listed and Price(listed.prompt, listed.completion, listed.cached)


def _proxy(wanted: Deployment, endpoint: Endpoint) -> Proxy | None:
    """As the deployment says; else as the environment does."""
    if wanted.proxy == "none":
        return None
    if wanted.proxy is not None:
        return _checked(wanted, Proxy.parse, wanted.proxy, key="proxy: ")
    host, port = endpoint.host, endpoint.port
    return _checked(
        wanted, proxy_for, host, port, endpoint.tls, os.environ, key="the proxy of the environment "
    )


def _checked(wanted: Deployment, make: Callable[..., Any], *values: Any, key: str = "") -> Any:
    """What `make` gives; where that cannot be, an error that names the deployment and the key."""
    try:
        return make(*values)
    except ValueError as error:
        raise SettingsError(f"deployments `{wanted.name}`: {key}{error}") from None


def _facts(wanted: Deployment) -> Quirks:
    """A provider's or a dialect's, and what the operator knows better."""
    quirks = quirks_of(wanted.provider, wanted.dialect)
    if wanted.n is not None:
        quirks = replace(quirks, has_n=wanted.n == "native")
    match wanted.continues:
        case "prefill" if quirks.continues != "no":
            return quirks  # the provider's own way
        case way if way == quirks.continues:
            return quirks
        case "prefill" | "final-message" | "prefix":
            # What is known of the provider's own way is not so of another.
            return replace(
                quirks, continues=wanted.continues, continues_under=None, echoes_prefix=False
            )
        case "no" | "replay":
            return replace(quirks, continues="no")
        case None:
            return quirks


def routes(
    settings: Settings, upstreams: Mapping[str, Upstream], engines: Sequence[Engine]
) -> list[Route]:
    """Those that are named, and one for each deployment that none of them names."""
    now = int(time.time())
    models = {engine.model.name: engine.model for engine in engines}
    contexts = {each.name: each.context_length for each in settings.deployments}
    contexts |= {name: model.context for name, model in models.items()}
    found = [
        Route(
            each.model,
            each.deployments,
            strategy=each.strategy,
            weights=each.weights,
            attempts=each.attempts,
            retry_seconds=each.retry_seconds,
            max_continuations=each.max_continuations,
            count_both_prompts=each.count_both_prompts,
            contexts={name: length for name in each.deployments if (length := contexts.get(name))},
            created=now,
            price=_first_price(each.deployments, upstreams),
        )
        for each in settings.routes
    ]
    named = {route.model for route in found} | {
        name for route in found for name in route.deployments
    }
    for name in upstreams:
        model = models.get(name)
        if name not in named:
            thinks = model is not None and model.thinking_budget >= 0
            capabilities = ("chat", "streaming", *(("reasoning",) if thinks else ()))
            context = model.context if model else None
            found.append(
                Route(
                    name,
                    (name,),
                    context_length=context,
                    capabilities=capabilities,
                    created=now,
                    price=_first_price((name,), upstreams),
                )
            )
    return found


def _first_price(
    names: Sequence[str], upstreams: Mapping[str, Upstream]
) -> dict[str, float] | None:
    """That of the first deployment which has one."""
    known = (upstreams[name].options.price for name in names)
    price = next((each for each in known if each is not None), None)
    return price and asdict(price)


def health(settings: Settings) -> dict[str, Health]:
    return {
        each.name: Health(open_after=each.open_after, open_seconds=each.open_seconds)
        for each in settings.deployments
    }


def _file_name(model: str) -> str:
    return "".join(each if each.isalnum() or each in "._-" else "_" for each in model)
