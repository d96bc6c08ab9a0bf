"""Builds engines, upstreams and routes from the settings."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from legato import dialects
from legato.core.dialect import Quirks
from legato.engine.catalog import KNOWN
from legato.engine.supervisor import Engine, EngineModel, cache_mib
from legato.policy import prices
from legato.policy.health import Health
from legato.policy.model_names import ANY_MODEL
from legato.policy.providers import PROVIDERS, quirks_of
from legato.policy.routing import Route
from legato.settings import Deployment, Settings, SettingsError
from legato.upstreams import gguf, tls
from legato.upstreams.endpoint import Endpoint
from legato.upstreams.pool import Pool
from legato.upstreams.proxy import Proxy, proxy_for
from legato.upstreams.tokenizers import Tokenizer, TokenizerError, load
from legato.upstreams.upstream import DeploymentOptions, Price, Target, Upstream

Clock = Callable[[], float]

#: Models whose request heads are kept, of a deployment that takes any.
_KNOWN_MODELS: Final = 64


def engines(
    settings: Settings,
    model_files: Mapping[str, Path],
    clock: Clock,
    on_event: Callable[..., Any],
) -> list[Engine]:
    """One engine for each of its models. `model_files`: the file of each model, by name."""
    section = settings.engine
    options = DeploymentOptions(
        first_token_seconds=section.first_token_seconds,
        stall_seconds=section.stall_seconds,
        total_seconds=section.total_seconds,
    )
    logs = settings.data_dir / "logs"
    return [
        Engine(
            model,
            clock=clock,
            log_file=logs / f"{_file_name(model.name)}.log",
            cache=cache_mib(len(settings.engine_models)),
            start_seconds=section.start_seconds,
            # Such models often write the closing tag again after the inserted text.
            options=replace(options, drops_closing_tags=model.thinking_end is not None),
            on_event=on_event,
        )
        for model in (_fitted(each, on_event) for each in _engine_models(settings, model_files))
    ]


def _fitted(model: EngineModel, on_event: Callable[..., Any]) -> EngineModel:
    """With no more context than the model was trained for: llama.cpp gives it no more, in silence,
    and clients go by what we list."""
    trained = gguf.context_length(model.path)
    if trained is None or trained >= model.context:
        return model
    on_event("engine_context_limited", model=model.name, configured=model.context, context=trained)
    return replace(model, context=trained)


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
        configured = {
            "context": each.context,
            "template": Path(each.template).read_text() if each.template else None,
            "thinking_budget": each.thinking_budget_tokens,
        }
        models.append(replace(model, **{k: v for k, v in configured.items() if v is not None}))
    return models


def upstream(deployment: Deployment, clock: Clock) -> Upstream:
    """The upstream of a deployment. Raises `SettingsError` if a file or a proxy cannot be used."""
    provider = PROVIDERS.get(deployment.provider or "")
    dialect = dialects.named(deployment.dialect or (provider.dialect if provider else "openai"))
    endpoint = deployment.endpoint
    quirks = _quirks(deployment)
    files = (deployment.ca_file, deployment.client_cert, deployment.client_key)
    pool = Pool(
        endpoint,
        clock=clock,
        context=_checked(deployment, tls.context, *files),
        proxy=_proxy(deployment, endpoint),
        connect_seconds=deployment.connect_seconds,
        idle_seconds=deployment.idle_seconds,
        max_connections=deployment.max_connections,
    )

    def target_of(model: str) -> Target:
        return Target.of(
            pool, dialect, model, deployment.credentials, quirks, streams=deployment.streams
        )

    takes_any = deployment.model == ANY_MODEL
    found = Upstream(
        deployment.name,
        deployment.model,
        dialect=dialect,
        quirks=quirks,
        options=_options(deployment),
        target=target_of(deployment.model),
        # The model may be in the path, and so in the head of each request.
        target_of=lru_cache(maxsize=_KNOWN_MODELS)(target_of) if takes_any else None,
        provider=deployment.provider or "",
    )
    if takes_any:
        found.listed_price = lambda model: _price(replace(deployment, model=model))
    return found


def load_tokenizers(
    settings: Settings, upstreams: Mapping[str, Upstream], engines: Sequence[Engine]
) -> None:
    """Loads the tokenizers that deployments name. May take seconds, and may download files. Raises
    `SettingsError`."""
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


def _options(deployment: Deployment) -> DeploymentOptions:
    names = set(DeploymentOptions.__struct_fields__) & set(deployment.__struct_fields__)
    provider = PROVIDERS.get(deployment.provider or "")
    bills_anyway = provider is not None and provider.bills_after_disconnect
    return DeploymentOptions(
        **{name: getattr(deployment, name) for name in names - {"price", "on_disconnect"}},
        on_disconnect=deployment.on_disconnect or ("drain" if bills_anyway else "cancel"),
        replays=deployment.continues == "replay",
        price=_price(deployment),
    )


def _price(deployment: Deployment) -> Price | None:
    """The configured price, or else the list price if it is known."""
    configured = deployment.price
    if configured is not None:
        prompt, written = configured.prompt, configured.cache_write
        by_default = prompt if written is None else written * prices.HOUR_BY_DEFAULT
        return Price(
            prompt,
            configured.completion,
            _known(configured.cached, prompt),
            _known(written, prompt),
            _known(configured.cache_write_1h, by_default),
        )
    listed = prices.find(deployment.provider, deployment.model)
    return listed and Price(
        listed.prompt, listed.completion, listed.cached, listed.cache_write, listed.cache_write_1h
    )


def _known(price: float | None, otherwise: float) -> float:
    return otherwise if price is None else price


def _proxy(deployment: Deployment, endpoint: Endpoint) -> Proxy | None:
    """The configured proxy, or else the environment's."""
    if deployment.proxy == "none":
        return None
    if deployment.proxy is not None:
        return _checked(deployment, Proxy.parse, deployment.proxy, setting="proxy: ")
    return _checked(
        deployment,
        proxy_for,
        endpoint.host,
        endpoint.port,
        endpoint.tls,
        os.environ,
        setting="the proxy of the environment ",
    )


def _checked(
    deployment: Deployment, create: Callable[..., Any], *arguments: Any, setting: str = ""
) -> Any:
    """Calls `create`; a ValueError becomes a `SettingsError` that names deployment and setting."""
    try:
        return create(*arguments)
    except ValueError as error:
        raise SettingsError(f"deployments `{deployment.name}`: {setting}{error}") from None


def _quirks(deployment: Deployment) -> Quirks:
    """The quirks of the provider or the dialect, with the operator's overrides."""
    quirks = quirks_of(deployment.provider, deployment.dialect)
    if deployment.n is not None:
        quirks = replace(quirks, has_n=deployment.n == "native")
    if deployment.completions is not None:
        quirks = replace(quirks, completes=deployment.completions)
    match deployment.continues:
        case "prefill" if quirks.continues != "no":
            return quirks  # the provider's own method
        case method if method == quirks.continues:
            return quirks
        case "prefill" | "final-message" | "prefix":
            # The other two quirks belong to the provider's own method.
            return replace(
                quirks, continues=deployment.continues, continues_under=None, echoes_prefix=False
            )
        case "no" | "replay":
            return replace(quirks, continues="no")
        case None:
            return quirks


def routes(
    settings: Settings, upstreams: Mapping[str, Upstream], engines: Sequence[Engine]
) -> list[Route]:
    """The configured routes, and a route for each deployment that is in none of them."""
    now = int(time.time())
    models = {engine.model.name: engine.model for engine in engines}
    known = {each.name: each.context_length for each in settings.deployments}
    known |= {name: model.context for name, model in models.items()}
    contexts = {name: length for name, length in known.items() if length}
    found = [
        Route(
            each.model,
            each.deployments,
            strategy=each.strategy,
            affinity=each.affinity,
            weights=each.weights,
            attempts=each.attempts,
            retry_seconds=each.retry_seconds,
            max_continuations=each.max_continuations,
            count_both_prompts=each.count_both_prompts,
            contexts={name: contexts[name] for name in each.deployments if name in contexts},
            context_length=_longest(contexts, each.deployments),
            created=now,
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
            found.append(
                Route(
                    name,
                    (name,),
                    context_length=contexts.get(name),
                    capabilities=capabilities,
                    created=now,
                )
            )
    return found


def _longest(contexts: Mapping[str, int], names: Sequence[str]) -> int | None:
    """The longest context that is known of these deployments: a request that is too long for one
    goes to the others."""
    return max((contexts[name] for name in names if name in contexts), default=None)


def health(settings: Settings) -> dict[str, Health]:
    return {
        each.name: Health(open_after=each.open_after, open_seconds=each.open_seconds)
        for each in settings.deployments
    }


def _file_name(model: str) -> str:
    """The model's name with characters replaced that are not safe in a file name."""
    return "".join(each if each.isalnum() or each in "._-" else "_" for each in model)
