"""`legato config`: prints the effective settings, or writes a commented settings file."""

import re
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from legato.cli.options import Config
from legato.cli.terminal import settings, stop
from legato.configuration import DEFAULT_FILE, show

app = typer.Typer(add_completion=False, no_args_is_help=True)

TEMPLATE: Final = """\
# Settings of Legato. All of them are optional; values after a `#` are defaults or examples.
# ${NAME} in a string is replaced by the environment variable NAME.
# Flags of `legato serve` take precedence over the environment (LEGATO_PORT, ...), which takes
# precedence over this file.

# data = "/var/lib/legato"        # API keys and ledger; default: the platform's data folder
# database = "postgresql://user:password@host/name"   # default: SQLite in the data folder
# retention_days = 400            # older rows of the ledger are deleted; default: never
# models = "/var/cache/legato"    # model files; default: the platform's cache folder
# live = "memory"                 # limits in use; several servers share "valkey://host:6379/0"

[server]
host = "127.0.0.1"
port = 8000
# cors_origins = ["https://app.example"]   # origins of browsers that may call; "*": all
# tls_cert = "cert.pem"
# tls_key = "key.pem"
# max_body_bytes = 33554432
# max_header_bytes = 65536
# max_connections = 20000
# request_seconds = 30.0          # time for a client to send a request
# idle_seconds = 75.0             # idle connections are closed after this time
# trusted_proxies = ["10.0.0.1"]  # proxies whose x-forwarded-* headers are used
# drain_seconds = 30.0            # time for running streams to finish after SIGTERM

[streams]
gate_seconds = 5.0                # the status waits at most so long for the first token
heartbeat_seconds = 10.0          # a heartbeat after so much silence
# heartbeat = "comment"           # or "chunk"; default: a chunk for clients that fail on comments
# stall_client_seconds = 120.0    # a client that takes nothing for so long is cut
# backlog_bytes = 4194304         # beyond it the upstream waits for a slow client
# padding = "auto"                # frames of even sizes: "auto" is where the line is encrypted
# fast_path = "on"                # "off": every chunk is decoded; the output is the same

[limits]
fail = "open"                     # without Valkey each server checks alone; "closed": 503

# Prometheus metrics: at /metrics for who has the token, or at a port of their own, or both.
[metrics]
# token = "${METRICS_TOKEN}"       # Authorization: Bearer TOKEN
# port = 9100                     # then not at the server's own port
# host = "127.0.0.1"

# Tiers of keys: free, basic, pro and enterprise exist. What is set changes one, or adds another.
# [tiers.free]
# requests_per_minute = 10
# tokens_per_minute = 40000
# requests_per_day = 500
# concurrent = 4                  # calls in progress
# max_tokens = 4096               # that one call may ask for

# Budgets that all keys of one owner share.
# [owners.research]
# budget = "500usd/month"         # or "2Mtokens"; without a period: for good
# action = "block"                # "warn": alerts alone
# hard = false                    # true: calls in progress are cut when it is spent

# Who is told, beside the log, when 50, 80 and 100 % of a budget are spent.
# [alerts]
# webhook = "https://hooks.example/legato"
# secret = "${WEBHOOK_SECRET}"    # signs each message

# The local engine. Without `models`, and without deployments, it runs the two default models.
[engine]
slots = 8                         # concurrent answers of one model
# threads = 0                     # 0: all cores
# gpu_layers = -1                 # -1: as many as fit
# first_token_seconds = 120.0     # as for deployments, below
# stall_seconds = 60.0
# total_seconds = 3600.0

# [[engine.models]]
# name = "smollm2-135m"           # a name of `legato models list`, or any name with a path:
# path = "/models/some.gguf"      # or "hf:owner/repository/file.gguf"
# context = 4096                  # tokens per slot
# thinking_budget_tokens = 256

# A deployment is a model of an upstream. One that is in no route is called by its own name.
# [[deployments]]
# name = "primary"
# provider = "deepseek"           # sets dialect, base_url and prices; see docs/providers.md
# dialect = "openai"              # "anthropic", "gemini", "ollama"
# base_url = "http://127.0.0.1:9000/v1"
# api_key = "${UPSTREAM_KEY}"
# model = "upstream-model-id"     # "*": the name that the client asks for
# connect_seconds = 10.0
# first_token_seconds = 120.0     # from the request to the first token
# stall_seconds = 60.0            # longest time without progress
# total_seconds = 3600.0          # from the request to the end of the answer
# stall_client_seconds = 120.0    # as in [streams], for this deployment
# on_disconnect = "drain"         # read the rest of an answer that is billed anyway; or "cancel"
# drain_seconds = 60.0            # longest time for that
# streams = false                 # the upstream does not stream: answers are requested unstreamed
# reasoning = "think-tags"        # <think>...</think> in its text; "think-tags-open": begins inside
# n = "native"                    # "fan-out": one request for each choice
# completions = "prompt"          # it has /completions; "suffix": and fills in; "no"
# unsupported = "drop"            # "error": parameters that the upstream does not support are a 400
# fetch_images = "public"         # for Ollama: "any": also from private addresses; "no"
# continue = "prefill"            # continues answers that broke elsewhere; "replay", "no"
# context_length = 131072         # tokens
# tokenizer = "o200k_base"        # counts unreported tokens; or a tokenizer.json, or a .gguf
# open_after = 5                  # consecutive failures that open the circuit breaker; 0: never
# open_seconds = 10.0             # time that it stays open at first
# max_connections = 10000
# idle_seconds = 55.0             # idle connections are closed after this time
# proxy = "http://proxy:3128"     # default: the environment's; "none"
# ca_file = "ca.pem"
# client_cert = "cert.pem"
# client_key = "key.pem"
# [deployments.price]
# prompt = 0.15                   # US dollars per million tokens
# completion = 0.6
# cached = 0.075                  # prompt tokens read from a cache; default: as prompt
# cache_write = 0.1875            # prompt tokens written to a cache; default: as prompt
# cache_write_1h = 0.3            # to a cache that lives for an hour; default: 1.6 cache_write

# [[routes]]
# model = "public-model-id"       # or a pattern: "claude-*"
# deployments = ["primary"]
# strategy = "order"              # "least-busy", "fastest"
# affinity = "none"               # "session": calls of one session go to one deployment
# weights = { primary = 1.0 }     # shares of the calls
# attempts = 3                    # requests for one call before its first token
# retry_seconds = 30.0            # time for them
# max_continuations = 1           # times that another deployment continues a broken stream
# limits = { concurrent = 100 }   # of all keys together; the same names as in [tiers.NAME]
# max_concurrent = 16             # calls that go on at once; others wait in turn
# max_queue = 100                 # calls that may wait
# queue_seconds = 30.0            # how long each of them may
# count_both_prompts = false      # usage of a continued answer includes the prompts of both

# Names that clients insist on, and the models that they stand for.
# [aliases]
# other-model-id = "public-model-id"
"""


@app.command("show")
def show_settings(
    config: Config = None,
) -> None:
    """Print the effective settings as TOML, with secrets masked."""
    print(_toml(show(settings(config))), end="")


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path(DEFAULT_FILE),
) -> None:
    """Write a commented settings file."""
    try:
        with path.open("x") as file:
            file.write(TEMPLATE)
    except FileExistsError:
        stop(f"{path} already exists")
    except OSError as error:
        stop(error)
    print(f"wrote {path}")


def _toml(tree: dict[str, Any], prefix: str = "") -> str:
    """`tree` as TOML: values first, then tables and arrays of tables, as TOML requires."""
    lines = [f"{_key(k)} = {_value(v)}" for k, v in tree.items() if not _is_table(v)]
    text = "\n".join(lines) + ("\n" if lines else "")
    for name, value in tree.items():
        if isinstance(value, dict):
            table = f"{prefix}{_key(name)}"
            text += f"\n[{table}]\n{_toml(value, f'{table}.')}"
        elif _is_table(value):
            for each in value:
                text += f"\n[[{prefix}{name}]]\n{_toml(each, f'{prefix}{name}.')}"
    return text


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    )


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name)


def _value(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)
