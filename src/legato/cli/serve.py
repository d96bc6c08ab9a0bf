"""`legato serve`: starts the server and prints examples for its API."""

import asyncio
import gc
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from legato.cli.options import Config, Data
from legato.cli.terminal import ProgressBar, settings, stop
from legato.configuration import engine_model
from legato.engine.catalog import Catalog, UnknownModel
from legato.engine.download import FetchError
from legato.settings import Settings, SettingsError

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: any free port.")] = None,
    data: Data = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Model for the local engine: a name of `legato models list`, a .gguf file, or"
            " hf:owner/repository/file.gguf. May be given several times."
        ),
    ] = None,
    config: Config = None,
    tls_cert: Annotated[str | None, typer.Option(help="Certificate chain in PEM.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="Private key in PEM.")] = None,
) -> None:
    """Start the server.

    When it is ready, it prints its address and examples that can be pasted.
    """
    chosen = settings(
        config,
        server__host=host,
        server__port=port,
        data=data,
        server__tls_cert=tls_cert,
        server__tls_key=tls_key,
        engine__models=[engine_model(each) for each in model] if model else None,
    )
    files = _model_files(chosen)
    _run(chosen, files)


def _model_files(chosen: Settings) -> dict[str, Path]:
    """The file of each of the engine's models; downloads those that are missing."""
    catalog = Catalog(chosen.models_dir, ProgressBar)
    files: dict[str, Path] = {}
    for each in chosen.engine_models:
        try:
            files[each.name] = catalog.pull(each.path or each.name)
        except UnknownModel as error:
            stop(f"engine.models: name: {error}", 2)
        except (FetchError, OSError) as error:
            stop(error)
    return files


def _run(chosen: Settings, files: dict[str, Path]) -> None:
    import uvloop
    from sqlalchemy.exc import SQLAlchemyError

    from legato.server.app import App
    from legato.server.logs import configure_logging

    configure_logging()

    async def run() -> None:
        app = App(chosen, files)
        server = app.server()
        try:
            await app.open()
            _tune_garbage_collection()
            greeting = asyncio.create_task(_print_greeting(app, server))
            await server.serve()
            greeting.cancel()
        finally:
            await app.close()

    try:
        uvloop.run(run())
    except KeyboardInterrupt:
        sys.exit(130)
    except SettingsError as error:
        stop(error, 2)
    except OSError as error:
        stop(error)
    except SQLAlchemyError as error:  # a full disk, for example
        stop(f"the database cannot be used: {getattr(error, 'orig', None) or error}")


def _tune_garbage_collection() -> None:
    """Excludes objects that live as long as the server, and raises the thresholds. With Python's
    defaults, garbage collection took a seventh of the cost of a chunk."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


async def _print_greeting(app: "object", server: "object") -> None:
    """Waits until the server is ready, then prints the greeting."""
    from legato.server.app import App
    from legato.server.key_sync import FIRST_KEY_FILE
    from legato.server.uvicorn_server import Server

    assert isinstance(app, App)
    assert isinstance(server, Server)
    while not server.started or not app.ready()["ready"]:
        await asyncio.sleep(0.02)
    models = [name for name, _ in app.services.router.models]
    key_file = app.settings.data_dir / FIRST_KEY_FILE
    chat = _chat_command(server.url, app.settings)
    print(greeting(server.url, models, app.first_key, key_file, chat), flush=True)


def _chat_command(url: str, chosen: Settings) -> str:
    """The shell command that starts `legato chat` with this server."""
    program = shutil.which("legato")
    command = ["legato" if program == sys.argv[0] else sys.argv[0], "chat"]
    if not command[0].endswith("legato"):
        command = [sys.executable, "-m", "legato", "chat"]
    defaults = Settings()
    if url != f"http://{defaults.server.host}:{defaults.server.port}":
        command += ["--base-url", f"{url}/v1"]
    if chosen.data != defaults.data:
        command += ["--data", str(chosen.data_dir)]
    return shlex.join(command)


def greeting(url: str, models: list[str], first_key: str | None, key_file: Path, chat: str) -> str:
    """The text that is printed when the server is ready. Its examples run without changes.

    `chat`: the command that starts `legato chat` with this server.
    """
    if first_key is not None:
        shell_key, python_key, node_key = first_key, f'"{first_key}"', f'"{first_key}"'
        node_import = ""
        key_notice = f"API key (shown once, stored in {key_file}):\n\n    {first_key}"
    else:
        shell_key = f"$(cat {shlex.quote(str(key_file))})"
        python_key = f'open("{key_file}").read().strip()'
        node_key = f'fs.readFileSync("{key_file}", "utf8").trim()'
        node_import = 'import fs from "node:fs";\n'
        key_notice = f"The API key that was created on the first start is in {key_file}"
        if not key_file.exists():  # another server of the database created it, or it was moved
            key_notice = (
                "The database has API keys; `legato keys create NAME` creates another. For the\n"
                f"examples, write one to {key_file}"
            )
    model = models[0] if models else "MODEL"
    return f"""
Legato is listening on {url}
Models: {", ".join(models)}
{key_notice}

curl:

curl {url}/v1/chat/completions \\
  -H "Authorization: Bearer {shell_key}" \\
  -H "Content-Type: application/json" \\
  -N \\
  -d '{{
    "model": "{model}",
    "messages": [{{"role": "user", "content": "Tell me a story."}}],
    "stream": true
  }}'

Python (pip install openai):

from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key={python_key})
stream = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "Tell me a story."}}],
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)

JavaScript (npm install openai; save as story.mjs):

{node_import}import OpenAI from "openai";

const client = new OpenAI({{ baseURL: "{url}/v1", apiKey: {node_key} }});
const stream = await client.chat.completions.create({{
  model: "{model}",
  messages: [{{ role: "user", content: "Tell me a story." }}],
  stream: true,
}});
for await (const chunk of stream) {{
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
}}

Or chat right here, in another terminal:

{chat}
"""
