"""Examples out of pages, made runnable: base URL, key and model id are put in, nothing else."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
SEED = Path(__file__).parents[3] / "shared" / "seed" / "streaming.txt"


def of_page(name: str, language: str) -> list[str]:
    text = (DOCS / name).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def filled(example: str, url: str, key: str, model: str, thinking: str) -> str:
    """Base URL, key and model ids of our own page and of the seed's."""
    for placeholder, value in (
        ("BASE_URL", f"{url}/v1"),
        ("https://api.yuhuanstudio.com/v1", f"{url}/v1"),
        ("YOUR_API_KEY", key),
        ("THINKING_MODEL", thinking),
        ("model-id", model),
        ("MODEL", model),
    ):
        example = example.replace(placeholder, value)
    return example


def of_seed() -> dict[str, str]:
    """The seed's four examples, with the indentation that its plain-text form lost."""
    text = SEED.read_text()
    python = _between(text, "from openai import OpenAI", 'print(content, end="", flush=True)')
    javascript = _between(text, 'import OpenAI from "openai";', "process.stdout.write(content);\n}")
    curl = _between(text, "curl https://", "}'")
    start = text.index("stream = client.chat.completions.create(", text.index("Reasoning Models"))
    reasoning = _between(text[start:], "stream =", 'print(content, end="")')
    client = python[: python.index("stream =")]
    return {
        "python": _indented(python),
        "javascript": javascript,
        "curl": curl,
        "reasoning": client + _indented(reasoning),
    }


def _between(text: str, first: str, last: str) -> str:
    start = text.index(first)
    return text[start : text.index(last, start) + len(last)] + "\n"


def _indented(code: str) -> str:
    """Every block opens with a colon; a comment in the loop goes back to the loop's own level."""
    level = 0
    lines: list[str] = []
    for line in code.splitlines():
        if line.startswith("# "):
            level = 1
        lines.append("    " * level + line)
        if line.endswith(":"):
            level += 1
        elif line == ")":
            level = 0
    return "\n".join(lines) + "\n"
