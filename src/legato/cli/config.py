"""`legato config`: what is in force, and a file to begin with."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from legato.cli.terminal import settings, stop
from legato.configuration import DEFAULT_FILE, show

app = typer.Typer(add_completion=False, no_args_is_help=True)

TEMPLATE: Final = """\
# Legato's settings. All of it is optional; what stands after a `#` is a default or an example.
# ${NAME} in a string is replaced by the environment variable NAME.
# A flag of `legato serve` goes before the environment (LEGATO_PORT, ...), that before this file.

# data = "/var/lib/legato"        # keys and usage; default: the platform's data folder
# models = "/var/cache/legato"    # model files; default: the platform's cache folder

[server]
host = "127.0.0.1"
port = 8000
# cors_origins = ["https://app.example"]   # browsers from there may call; "*" is all
# tls_cert = "cert.pem"
# tls_key = "key.pem"
# max_body_bytes = 33554432
# max_header_bytes = 65536
# max_connections = 20000
# request_seconds = 30.0          # time that a client has to send a request
# idle_seconds = 75.0             # time that a connection may be idle
# trusted_proxies = ["10.0.0.1"]  # whose x-forwarded-proto counts
# drain_seconds = 30.0            # time that running streams have after a SIGTERM

[streams]
gate_seconds = 5.0                # the status waits at most so long for the first token
heartbeat_seconds = 10.0          # a heartbeat after so much silence
# heartbeat = "comment"           # or "chunk"; default: a chunk for clients that fail on comments
# stall_client_seconds = 120.0    # a client that takes nothing for so long is cut
# backlog_bytes = 4194304         # beyond it the upstream waits for a slow client
# padding = "auto"                # frames of even sizes: "auto" is where the line is encrypted
# fast_path = "on"                # "off": every chunk is decoded; the output is the same

# The local engine. Leave `models` out, and have no deployments: the two default models run.
[engine]
slots = 8                         # answers that one model writes at a time
# threads = 0                     # 0: all cores
# gpu_layers = -1                 # -1: as many as fit
# first_token_seconds = 120.0     # as for deployments, below
# stall_seconds = 60.0
# total_seconds = 3600.0

# [[engine.models]]
# name = "smollm2-135m"           # a name of `legato models list`, or any name with a path:
# path = "/models/some.gguf"      # or "hf:owner/repo/file.gguf"
# context = 4096                  # tokens a slot
# thinking_budget_tokens = 256

# A deployment is a model at an upstream. One that no route names is called by its own name.
# [[deployments]]
# name = "primary"
# provider = "deepseek"           # says dialect, base_url and prices; docs/providers.md has them
# dialect = "openai"              # "anthropic", "gemini", "ollama"
# base_url = "http://127.0.0.1:9000/v1"
# api_key = "${UPSTREAM_KEY}"
# model = "upstream-model-id"
# connect_seconds = 10.0
# first_token_seconds = 120.0     # from the request to the first chunk that counts
# stall_seconds = 60.0            # without progress
# total_seconds = 3600.0          # from the request to the end of the answer
# stall_client_seconds = 120.0    # as in [streams], for this deployment
# on_disconnect = "drain"         # what is paid for is heard to its end; "cancel" is the usual
# drain_seconds = 60.0            # at most
# streams = false                 # the upstream may not stream: it answers in one piece
# reasoning = "think-tags"        # <think>...</think> in its text; "think-tags-open": begins inside
# n = "native"                    # "fan-out": an upstream that gives one choice a request
# unsupported = "drop"            # "error": a parameter that the upstream does not take is a 400
# fetch_images = "public"         # for Ollama: "any", also from one's own machines; "no"
# continue = "prefill"            # goes on with an answer that broke elsewhere; "replay", "no"
# context_length = 131072         # tokens
# tokenizer = "o200k_base"        # counts what it does not tell; or a tokenizer.json, or a .gguf
# open_after = 5                  # failures in a row after which it is left alone; 0: never
# open_seconds = 10.0             # for so long at first
# max_connections = 10000
# idle_seconds = 55.0             # a kept connection is closed then
# proxy = "http://proxy:3128"     # default: the environment's; "none"
# ca_file = "ca.pem"
# client_cert = "cert.pem"
# client_key = "key.pem"
# [deployments.price]
# prompt = 0.15                   # US dollars for a million tokens
# completion = 0.6
# cached = 0.075

# [[routes]]
# model = "public-model-id"
# deployments = ["primary"]
# strategy = "order"              # "least-busy", "fastest"
# weights = { primary = 1.0 }     # shares of the calls
# attempts = 3                    # requests for one call, before its first chunk
# retry_seconds = 30.0            # and the time for them
# max_continuations = 1           # a stream that breaks goes on elsewhere; 0: it fails
# count_both_prompts = false      # usage then has the prompt of each upstream, not one of them
"""


@app.command("show")
def show_settings(
    config: Annotated[Path | None, typer.Option(help="TOML file; else ./legato.toml.")] = None,
) -> None:
    """Print the settings in force as TOML, secrets hidden."""
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
        stop(f"{path} is there already; remove it first")
    except OSError as error:
        stop(error)
    print(f"wrote {path}")


def _toml(tree: dict[str, Any], prefix: str = "") -> str:
    """Plain values first, then tables, then arrays of tables: TOML's own order."""
    lines = [f"{k} = {_value(v)}" for k, v in tree.items() if not _is_table(v)]
    text = "\n".join(lines) + ("\n" if lines else "")
    for name, value in tree.items():
        if isinstance(value, dict):
            text += f"\n[{prefix}{name}]\n{_toml(value, f'{prefix}{name}.')}"
        elif _is_table(value):
            for each in value:
                text += f"\n[[{prefix}{name}]]\n{_toml(each, f'{prefix}{name}.')}"
    return text


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    )


def _value(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)
