"""Checks of settings that concern several of them: unique names, references, pairs."""

import re
from typing import Final
from urllib.parse import urlsplit

from legato import dialects
from legato.policy.budgets import parse as parse_budget
from legato.policy.key_fields import LINE
from legato.policy.limits import Limits
from legato.policy.model_names import ANY_MODEL, Patterns, is_pattern, normalized, resolved
from legato.policy.providers import PROVIDERS
from legato.settings import NAME, Alerts, Deployment, Owner, Route, Settings, SettingsError
from legato.store.urls import postgresql_url


def check(settings: Settings, path: str) -> None:
    """Checks what concerns several settings: unique names, references, pairs. `path`: the file, for
    messages. Raises `SettingsError`."""
    names = [each.name for each in (*settings.deployments, *settings.engine_models)]
    _check_unique(path, "deployments.name", names)
    _check_unique(path, "routes.model", [normalized(each.model) for each in settings.routes])
    for route in settings.routes:
        _check_route(path, route, names)
    routed = {name for route in settings.routes for name in route.deployments}
    for deployment in settings.deployments:
        _check_deployment(path, deployment, is_routed=deployment.name in routed)
    own = [name for name in names if name not in routed]
    _check_aliases(path, settings.aliases, [*(each.model for each in settings.routes), *own])
    _check_live(path, settings.live)
    _check_tiers(path, settings.tiers)
    _check_owners(path, settings.owners)
    _check_alerts(path, settings.alerts)
    _check_metrics(path, settings)
    if bool(settings.server.tls_cert) != bool(settings.server.tls_key):
        raise SettingsError(f"{path}: server: set both tls_cert and tls_key, or neither")
    if settings.database is not None:
        try:
            postgresql_url(settings.database)
        except ValueError as error:
            raise SettingsError(f"{path}: database: {error}") from None


#: Where the live state may be. The same as those of `store.valkey`, which is imported where it is
#: used: the client library takes memory.
_LIVE_SCHEMES: Final = ("valkey", "valkeys", "valkey+unix", "redis", "rediss", "unix")


def _check_live(path: str, live: str) -> None:
    """The value is never shown: it may have a password."""
    if live == "memory":
        return
    allowed = '"memory" or a URL like "valkey://host:6379/0" (TLS: "valkeys://…")'
    try:
        url = urlsplit(live)
        port = url.port
    except ValueError:
        raise SettingsError(f"{path}: live: the port is not a number; allowed: {allowed}") from None
    if url.scheme not in _LIVE_SCHEMES:
        raise SettingsError(f"{path}: live: the value is unknown; allowed: {allowed}")
    if url.scheme.endswith("unix"):
        if not url.path.strip("/"):
            raise SettingsError(f'{path}: live: there is no socket: write "{url.scheme}:///path"')
        return
    if not url.hostname or port == 0:
        raise SettingsError(f"{path}: live: there is no host; allowed: {allowed}")
    if not re.fullmatch(r"(/\d*)?", url.path):
        raise SettingsError(f"{path}: live: the path has to be the number of a database, like /0")


def _check_owners(path: str, owners: dict[str, Owner]) -> None:
    for name, owner in owners.items():
        if not (len(name) <= 200 and re.match(LINE, name)):
            problem = "has 1 to 200 characters on one line, without control characters"
            raise SettingsError(f"{path}: owners: {name!r} is not a name: one {problem}")
        try:
            parse_budget(owner.budget, action=owner.action, hard=owner.hard)
        except ValueError as error:
            raise SettingsError(f"{path}: owners `{name}`: budget: {error}") from None


def _check_alerts(path: str, alerts: Alerts) -> None:
    """The address is never shown: it may have a token."""
    if alerts.webhook is None:
        if alerts.secret is not None:
            raise SettingsError(f"{path}: alerts: webhook: it is required beside a secret")
        return
    if urlsplit(alerts.webhook).scheme not in ("http", "https"):
        raise SettingsError(f"{path}: alerts: webhook: it is no URL that begins with https://")
    if not alerts.secret:
        raise SettingsError(f"{path}: alerts: secret: it is required, as it signs each message")


def _check_metrics(path: str, settings: Settings) -> None:
    metrics, server = settings.metrics, settings.server
    if metrics.token is not None and not re.fullmatch(r"[\x21-\x7e]+", metrics.token):
        raise SettingsError(
            f"{path}: metrics.token: it has to be printable ASCII characters without spaces, at"
            " least one"
        )
    if metrics.port and metrics.port == server.port:
        raise SettingsError(
            f"{path}: metrics.port: {metrics.port} is server.port: choose another, or leave it out"
            " and set metrics.token"
        )


def _check_tiers(path: str, tiers: dict[str, Limits]) -> None:
    for name in tiers:
        if not re.fullmatch(NAME, name):
            raise SettingsError(
                f"{path}: tiers: `{name}` is not a name: letters, digits and any of ._:/@+- "
                "are allowed"
            )


def _check_unique(path: str, setting: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"{path}: {setting}: `{name}` is used twice")


def _check_route(path: str, route: Route, names: list[str]) -> None:
    where = f"{path}: routes `{route.model}`"
    for name in route.deployments:
        if name not in names:
            known = ", ".join(names) or "none"
            raise SettingsError(
                f"{where}: deployment `{name}` does not exist; the deployments are: {known}"
            )
    for name in route.weights:
        if name not in route.deployments:
            raise SettingsError(f"{where}: weights: `{name}` is not one of the route's deployments")
    usual = Route(route.model, route.deployments)
    for name in ("max_queue", "queue_seconds"):
        if route.max_concurrent is None and getattr(route, name) != getattr(usual, name):
            raise SettingsError(f"{where}: {name}: nothing waits without `max_concurrent`: set it")


def _check_aliases(path: str, aliases: dict[str, str], models: list[str]) -> None:
    """`models`: all public names, patterns included."""
    for name in (*aliases, *aliases.values()):
        if not re.fullmatch(NAME, name):
            raise SettingsError(
                f"{path}: aliases: `{name}` is not a name: letters, digits and any of ._:/@+- "
                "are allowed"
            )
    try:
        targets = resolved(aliases)
    except ValueError as error:
        raise SettingsError(f"{path}: aliases: {error}") from None
    patterns = Patterns(filter(is_pattern, models))
    for alias, target in targets.items():
        if alias in models:
            raise SettingsError(
                f"{path}: aliases: `{alias}` is a model already: rename the alias or the route"
            )
        if target not in models and patterns.find(target) is None:
            known = ", ".join(models) or "none"
            raise SettingsError(
                f"{path}: aliases: `{alias}` stands for `{target}`, which does not exist; "
                f"the models are: {known}"
            )


def _check_deployment(path: str, deployment: Deployment, *, is_routed: bool) -> None:
    where = f"{path}: deployments `{deployment.name}`"
    if is_pattern(deployment.model) and deployment.model != ANY_MODEL:
        raise SettingsError(
            f"{where}: model: `{deployment.model}` is not a name; "
            'only "*" alone stands for the name that the client asks for'
        )
    if deployment.model == ANY_MODEL and not is_routed:
        raise SettingsError(
            f'{where}: model: "*" needs a route with this deployment: '
            "without one there is no name to ask for"
        )
    provider = deployment.provider
    if provider is not None and provider not in PROVIDERS:
        known = ", ".join(PROVIDERS)
        raise SettingsError(f"{where}: provider: `{provider}` is not one of {known}")
    if deployment.dialect is not None and deployment.dialect not in dialects.NAMES:
        known = ", ".join(dialects.NAMES)
        raise SettingsError(f"{where}: dialect: `{deployment.dialect}` is not one of {known}")
    if not deployment.base_url and (provider is None or PROVIDERS[provider].base_url is None):
        reason = "there is no provider" if provider is None else "the provider has no default"
        raise SettingsError(f"{where}: base_url is required: {reason}")
    try:
        _ = deployment.endpoint
    except ValueError as error:
        raise SettingsError(f"{where}: base_url: {error}") from None
    for key in deployment.credentials:
        if key is not None and not re.fullmatch(r"[\x21-\x7e]+", key):
            raise SettingsError(
                f"{where}: api_key: only printable ASCII characters without spaces are allowed"
            )
