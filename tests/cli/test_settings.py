"""Settings: precedence, and error messages that name the place of the mistake."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from legato.cli.config import TEMPLATE, _toml
from legato.configuration import load, show
from legato.policy.limits import Limits
from legato.settings import DEFAULT_MODELS, Settings, SettingsError
from legato.store.valkey import SCHEMES

DEPLOYMENT = '[[deployments]]\nname = "a"\nbase_url = "http://h/v1"\nmodel = "m"\n'


@pytest.fixture(autouse=True)
def no_garbage() -> None:
    """Nothing here opens anything: no need to collect garbage after every case."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "legato.toml"


def read(
    file: Path, text: str, flags: dict[str, Any] | None = None, /, **environment: str
) -> Settings:
    file.write_text(text)
    return load(file, flags, environment)


def mistake(
    file: Path, text: str, flags: dict[str, Any] | None = None, /, **environment: str
) -> str:
    with pytest.raises(SettingsError) as caught:
        read(file, text, flags, **environment)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(file), "FILE")


def test_the_defaults(file: Path) -> None:
    settings = read(file, "")
    assert settings == Settings()
    assert [each.name for each in settings.engine_models] == list(DEFAULT_MODELS)


@pytest.mark.parametrize(
    ("in_file", "in_environment", "flag", "port"),
    [
        (None, None, None, 8000),
        (1, None, None, 1),
        (1, 2, None, 2),
        (1, 2, 3, 3),
        (1, None, 3, 3),
        (None, 2, None, 2),
        (None, None, 3, 3),
    ],
)
@pytest.mark.parametrize("name", ["LEGATO_PORT", "LEGATO_SERVER_PORT"])
def test_a_flag_goes_before_the_environment_before_the_file(
    file: Path,
    in_file: int | None,
    in_environment: int | None,
    flag: int | None,
    port: int,
    name: str,
) -> None:
    text = "" if in_file is None else f"[server]\nport = {in_file}\n"
    environment = {} if in_environment is None else {name: str(in_environment)}
    settings = read(file, text, {"server.port": flag, "data": None}, **environment)
    assert settings.server.port == port
    assert settings.server.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("LEGATO_HOST", "::", lambda s: s.server.host == "::"),
        ("LEGATO_DATA", "/d", lambda s: s.data == "/d"),
        ("LEGATO_MODELS", "/m", lambda s: s.models == "/m"),
        ("LEGATO_SERVER_IDLE_SECONDS", "7.5", lambda s: s.server.idle_seconds == 7.5),
        ("LEGATO_STREAMS_GATE_SECONDS", "1", lambda s: s.streams.gate_seconds == 1.0),
        ("LEGATO_STREAMS_HEARTBEAT", "chunk", lambda s: s.streams.heartbeat == "chunk"),
        ("LEGATO_ENGINE_SLOTS", "3", lambda s: s.engine.slots == 3),
        ("LEGATO_SERVER_CORS_ORIGINS", "a,b", lambda s: s.server.cors_origins == ("a", "b")),
        ("LEGATO_LIMITS_FAIL", "closed", lambda s: s.limits.fail == "closed"),
        ("LEGATO_LIVE", "valkey://h", lambda s: s.live == "valkey://h"),
        ("LEGATO_API_KEY", "x", lambda s: s == Settings()),
        ("LEGATO_BASE_URL", "x", lambda s: s == Settings()),
        ("LEGATOXYZ", "x", lambda s: s == Settings()),
    ],
)
def test_the_environment(file: Path, name: str, value: str, found: Any) -> None:
    assert found(read(file, "", **{name: value}))


def test_the_file_that_the_environment_names(file: Path) -> None:
    file.write_text("[server]\nport = 7\n")
    assert load(None, None, {"LEGATO_CONFIG": str(file)}).server.port == 7


# text, environment, flags, parts of the message
MISTAKES: dict[str, tuple[str, dict[str, str], dict[str, Any], list[str]]] = {
    "unknown key": (
        "[server]\nhost = 'x'\nprot = 1\n",
        {},
        {},
        ["FILE:3: server.prot: unknown setting", "allowed here: host, port,"],
    ),
    "unknown section": (
        "\n[sever]\nport = 1\n",
        {},
        {},
        ["FILE:2: sever: unknown", "server, streams"],
    ),
    "unknown at the top": ("prot = 1\n", {}, {}, ["FILE:1: prot: unknown setting"]),
    "type": ("[server]\nport = 'x'\n", {}, {}, ["FILE:2: server.port: expected `int`"]),
    "a queue in which nothing waits": (
        DEPLOYMENT + "[[routes]]\nmodel = 'm'\ndeployments = ['a']\nqueue_seconds = 5\n",
        {},
        {},
        ["FILE: routes `m`: queue_seconds: ", "set it"],
    ),
    "an owner that no key can have": (
        '[owners."a\\nb"]\nbudget = "1usd"\n',
        {},
        {},
        ["FILE: owners: 'a\\nb' is not a name"],
    ),
    "a secret without a webhook": ("[alerts]\nsecret = 'x'\n", {}, {}, ["FILE: alerts: webhook"]),
    "range": ("[server]\n\nport = 65536\n", {}, {}, ["FILE:3: server.port: ", "<= 65535"]),
    "zero seconds": (
        "[streams]\ngate_seconds = 0\n",
        {},
        {},
        ["FILE:2: streams.gate_seconds", "> 0"],
    ),
    "nan seconds": ("[streams]\ngate_seconds = nan\n", {}, {}, ["FILE:2: streams.gate_seconds"]),
    "second deployment": (
        DEPLOYMENT + DEPLOYMENT + "bogus = 1\n",
        {},
        {},
        ["FILE:9: deployments[1].bogus: unknown setting", "name, model, provider"],
    ),
    "missing": (
        "[[deployments]]\nname = 'a'\n",
        {},
        {},
        ["FILE", "deployments[0].model is required"],
    ),
    "no place": (
        "[[deployments]]\nname = 'a'\nmodel = 'm'\n",
        {},
        {},
        ["FILE", "deployments `a`: base_url is required: there is no provider"],
    ),
    "no place at the provider": (
        "[[deployments]]\nname = 'a'\nmodel = 'm'\nprovider = 'vllm'\n",
        {},
        {},
        ["FILE", "deployments `a`: base_url is required: the provider has no default"],
    ),
    "dialect": (
        DEPLOYMENT + "dialect = 'x'\n",
        {},
        {},
        ["FILE: deployments `a`: dialect: `x` is not one of ", "openai"],
    ),
    "provider": (
        DEPLOYMENT + "provider = 'x'\n",
        {},
        {},
        ["FILE: deployments `a`: provider: `x` is not one of openai"],
    ),
    "weight of nobody": (
        DEPLOYMENT + "[[routes]]\nmodel = 'm'\ndeployments = ['a']\nweights = {b = 1}\n",
        {},
        {},
        ["FILE: routes `m`: weights: `b` is not one of the route's deployments"],
    ),
    "list in the second route": (
        DEPLOYMENT + "[[routes]]\nmodel = 'a'\ndeployments = ['a']\n"
        "[[routes]]\nmodel = 'b'\ndeployments = [7]\n",
        {},
        {},
        ["FILE:10: routes[1].deployments[0]: expected `str`"],
    ),
    "heartbeat": (
        "[streams]\nheartbeat = 'event'\n",
        {},
        {},
        ["FILE:2: streams.heartbeat: invalid enum value 'event'"],
    ),
    "streams": (DEPLOYMENT + "streams = 'no'\n", {}, {}, ["FILE:5: deployments[0].streams: "]),
    "user info": (
        DEPLOYMENT.replace("//h", "//me:s3cret@h"),
        {},
        {},
        ["FILE: deployments `a`: base_url: may have no user name or password"],
    ),
    "port": (DEPLOYMENT.replace("//h", "//h:x"), {}, {}, ["FILE: deployments `a`: base_url: "]),
    "url": (DEPLOYMENT.replace("http:", "ftp:"), {}, {}, ["FILE", "`a`", "base_url", "http://"]),
    "api key": (
        DEPLOYMENT + "api_key = 'a b'\n",
        {},
        {},
        ["FILE", "`a`", "api_key: only printable ASCII"],
    ),
    "twice": (DEPLOYMENT * 2, {}, {}, ["FILE", "deployments.name", "`a` is used twice"]),
    "route to nowhere": (
        DEPLOYMENT + "[[routes]]\nmodel = 'x'\ndeployments = ['b']\n",
        {},
        {},
        ["FILE", "routes `x`: deployment `b` does not exist; the deployments are: a"],
    ),
    "a pattern twice": (
        DEPLOYMENT + "[[routes]]\nmodel = 'x-*'\ndeployments = ['a']\n"
        "[[routes]]\nmodel = 'x-**'\ndeployments = ['a']\n",
        {},
        {},
        ["FILE: routes.model: `x-*` is used twice"],
    ),
    "a pattern with a space": (
        DEPLOYMENT + "[[routes]]\nmodel = 'x *'\ndeployments = ['a']\n",
        {},
        {},
        ["FILE:6: routes[0].model: "],
    ),
    "a pattern as a deployment's model": (
        DEPLOYMENT.replace('"m"', '"m-*"'),
        {},
        {},
        ["FILE: deployments `a`: model: `m-*` is not a name"],
    ),
    "any model without a route": (
        DEPLOYMENT.replace('"m"', '"*"'),
        {},
        {},
        ['FILE: deployments `a`: model: "*" needs a route'],
    ),
    "a budget that only warns and yet cuts": (
        "[owners.a]\nbudget = '5usd'\naction = 'warn'\nhard = true\n",
        {},
        {},
        ["FILE: owners `a`: budget: a budget that only warns cuts no calls: leave out `hard`"],
    ),
    "alias to nothing": (
        DEPLOYMENT + "[aliases]\nb = 'c'\n",
        {},
        {},
        ["FILE: aliases: `b` stands for `c`, which does not exist; the models are: a"],
    ),
    "alias to a deployment of a route": (
        DEPLOYMENT + "[[routes]]\nmodel = 'm'\ndeployments = ['a']\n[aliases]\nb = 'a'\n",
        {},
        {},
        ["FILE: aliases: `b` stands for `a`, which does not exist; the models are: m"],
    ),
    "alias to a pattern": (
        DEPLOYMENT + "[[routes]]\nmodel = 'x-*'\ndeployments = ['a']\n[aliases]\nb = 'x-*'\n",
        {},
        {},
        ["FILE: aliases: `x-*` is not a name"],
    ),
    "an alias with a space": (
        DEPLOYMENT + "[aliases]\n'b c' = 'a'\n",
        {},
        {},
        ["FILE: aliases: `b c` is not a name"],
    ),
    "an alias of another type": (
        DEPLOYMENT + "[aliases]\nb = ['a']\n",
        {},
        {},
        ["FILE", "aliases[...]: expected `str`"],
    ),
    "aliases in a loop": (
        DEPLOYMENT + "[aliases]\nb = 'c'\nc = 'd'\nd = 'b'\n",
        {},
        {},
        ["FILE: aliases: b -> c -> d -> b is a loop"],
    ),
    "alias of itself": (DEPLOYMENT + "[aliases]\nb = 'b'\n", {}, {}, ["b -> b is a loop"]),
    "alias with the name of a model": (
        DEPLOYMENT + "[aliases]\na = 'a'\n",
        {},
        {},
        ["aliases: a -> a is a loop"],
    ),
    "alias in the way of a model": (
        DEPLOYMENT + DEPLOYMENT.replace('"a"', '"b"') + "[aliases]\na = 'b'\n",
        {},
        {},
        ["FILE: aliases: `a` is a model already"],
    ),
    "a tier's unknown limit": (
        "[tiers.free]\nconcurrent = 1\n[tiers.x-y]\nrpm = 1\n",
        {},
        {},
        ["FILE", "tiers.x-y.rpm: unknown setting; allowed here: requests_per_minute, "],
    ),
    "a limit of 0": (
        "[tiers.free]\n\nconcurrent = 0\n",
        {},
        {},
        ["FILE:3: tiers.free.concurrent: expected `int` >= 1"],
    ),
    "a tier that is a number": ("[tiers]\nfree = 1\n", {}, {}, ["FILE:2: tiers.free: expected"]),
    "a tier's name": (
        "[tiers.'a b']\nconcurrent = 1\n",
        {},
        {},
        ["FILE: tiers: `a b` is not a name: letters,"],
    ),
    "a route's unknown limit": (
        DEPLOYMENT + "[[routes]]\nmodel = 'm'\ndeployments = ['a']\nlimits = { rpm = 1 }\n",
        {},
        {},
        ["FILE", "routes[0].limits.rpm: unknown setting; allowed here: requests_per_minute"],
    ),
    "fail": ("[limits]\nfail = 'maybe'\n", {}, {}, ["FILE:2: limits.fail: ", "maybe"]),
    "live nowhere": ("live = 'valkey://:s3cret@/0'\n", {}, {}, ["FILE: live: there is no host"]),
    "live by another scheme": (
        "live = 'http://:s3cret@h/0'\n",
        {},
        {},
        ["FILE: live: the value is unknown", '"memory"', "valkey://host:6379/0"],
    ),
    "live as a word": ("live = 's3cret'\n", {}, {}, ["FILE: live: the value is unknown"]),
    "live at a port": ("live = 'valkey://:s3cret@h:x'\n", {}, {}, ["the port is not a number"]),
    "live in a database": ("live = 'valkey://s3cret@h/x'\n", {}, {}, ["FILE: live: the path"]),
    "live without a socket": ("live = 'unix://'\n", {}, {}, ["FILE: live: there is no socket"]),
    "tls half": (
        "[server]\ntls_cert = 'x'\n",
        {},
        {},
        ["FILE: server: set both tls_cert and tls_key, or neither"],
    ),
    "no toml": ("[server\n", {}, {}, ["FILE", "line 1"]),
    "unknown variable": ("", {"LEGATO_PROT": "1"}, {}, ["LEGATO_PROT: unknown", "LEGATO_PORT"]),
    "unknown in a section": ("", {"LEGATO_SERVER_PROT": "1"}, {}, ["LEGATO_SERVER_PROT: unknown"]),
    "variable's type": ("", {"LEGATO_PORT": "x"}, {}, ["LEGATO_PORT: server.port: expected `int`"]),
    "flag's range": ("", {}, {"server.port": -1}, ["--port: server.port: ", ">= 0"]),
    "flag with a dash": ("", {}, {"server.tls_cert": 7}, ["--tls-cert: server.tls_cert"]),
    "model flag": ("", {}, {"engine.models": [{"name": ""}]}, ["--model: engine.models[0].name"]),
    "missing in the environment": (
        DEPLOYMENT + "api_key = '${NOT_THERE}'\n",
        {},
        {},
        ["FILE: deployments[0].api_key: the environment variable NOT_THERE is not set"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_where_it_was_made(file: Path, name: str) -> None:
    text, environment, flags, parts = MISTAKES[name]
    message = mistake(file, text, flags, **environment)
    for part in parts:
        assert part in message
    assert "s3cret" not in message


@pytest.mark.parametrize("kind", ["comment", "chunk"])
def test_the_kinds_of_heartbeat(file: Path, kind: str) -> None:
    assert read(file, f"[streams]\nheartbeat = '{kind}'\n").streams.heartbeat == kind
    assert read(file, "").streams.heartbeat is None


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"the configuration file .*none\.toml does not exist"):
        load(tmp_path / "none.toml", None, {})
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path, None, {})


def test_variables_in_strings(file: Path) -> None:
    text = DEPLOYMENT + 'api_key = "a${ONE}b${TWO}"\n[server]\ncors_origins = ["${ONE}", "$ONE"]\n'
    settings = read(file, text, ONE="1", TWO="${ONE}")
    assert settings.deployments[0].api_key == "a1b${ONE}"
    assert settings.server.cors_origins == ("1", "$ONE")


def test_secrets_are_hidden_and_all_else_is_shown(file: Path) -> None:
    more = (
        '[metrics]\ntoken = "s3cret"\n[alerts]\nwebhook = "https://x/s3cret"\nsecret = "s3cret"\n'
    )
    text = 'live = "valkey://:s3cret@x"\ndatabase = "postgresql://u:s3cret@x/y"\n' + DEPLOYMENT
    settings = read(file, text + 'api_key = "s3cret"\n[server]\nport = 7\n' + more)
    shown = show(settings)
    assert "s3cret" not in repr(shown)
    assert shown["deployments"][0]["api_key"] == "********"
    assert shown["server"]["port"] == 7


@pytest.mark.parametrize(
    "folder", ["/d", '/a"b\\c', "/ž", "/🐎"], ids=["plain", "quote", "bmp", "beyond"]
)
def test_what_is_shown_is_a_file_that_says_the_same(file: Path, folder: str) -> None:
    text = DEPLOYMENT + "[engine]\nslots = 2\n[aliases]\n'gpt-4.1' = 'a'\nb = 'a'\n"
    text += "[tiers.'a.b']\nconcurrent = 1\n"
    settings = read(file, text, {"data": folder})
    shown = _toml(show(settings))
    again = read(file, shown)
    assert again.data == folder
    assert show(again) == show(settings)


def test_the_template_says_the_defaults(file: Path) -> None:
    assert read(file, TEMPLATE) == Settings()


def test_the_template_s_examples_are_right(file: Path) -> None:
    text = re.sub(r"(?m)^# ?(\[\[?[\w.]+\]\]?$|\w+ = )", r"\1", TEMPLATE)
    settings = read(file, text, UPSTREAM_KEY="k", METRICS_TOKEN="t", WEBHOOK_SECRET="s")
    assert settings.deployments[0].api_key == "k"
    assert settings.routes[0].deployments == ("primary",)
    tree = tomllib.loads(text)
    for section in ("server", "streams", "limits", "metrics", "engine"):
        known = set(getattr(Settings(), section).__struct_fields__)
        assert set(tree[section]) <= known
        assert known - set(tree[section]) <= {"start_seconds"}


def test_tiers_are_changed_and_added(file: Path) -> None:
    text = "[tiers.free]\nrequests_per_minute = 5\n[tiers.own]\nmax_tokens = 7\n"
    tiers = read(file, text).all_tiers
    assert list(tiers) == ["free", "basic", "pro", "enterprise", "own"]
    assert tiers["free"] == Limits(5, 40_000, 500)
    assert tiers["own"] == Limits(max_tokens=7)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_address_of_a_valkey(file: Path, scheme: str) -> None:
    url = f"{scheme}:///tmp/x" if "unix" in scheme else f"{scheme}://user:s3cret@[::1]:1/2?x=y"
    settings = read(file, f'live = "{url}"\n')
    assert settings.live == url
    assert "s3cret" not in repr(show(settings))


def test_the_token_of_the_metrics_is_never_shown(file: Path) -> None:
    settings = read(
        file, "[metrics]\nport = 9100\n", LEGATO_METRICS_TOKEN="s3cret", WEBHOOK_SECRET="s"
    )
    assert (settings.metrics.token, settings.metrics.port) == ("s3cret", 9100)
    assert "s3cret" not in repr(show(settings))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('token = ""', "metrics.token: it has to be printable ASCII characters without spaces"),
        ('token = "a b"', "metrics.token: it has to be printable ASCII characters without spaces"),
        ("port = 8000", "metrics.port: 8000 is server.port: choose another"),
        ("port = 65536", "FILE:2: metrics.port: expected"),
        ("tokens = 1", "metrics.tokens: unknown setting; allowed here: token, port, host"),
    ],
)
def test_mistakes_in_the_metrics(file: Path, text: str, wanted: str) -> None:
    message = mistake(file, f"[metrics]\n{text}\n")
    assert wanted in message
    assert "a b" not in message
