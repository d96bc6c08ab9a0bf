"""The table of what client SDKs are asked to show, whatever the front: upstream by subject.

yes: it means the same on every front, for every client. 400: refused, with what to do instead.
none: the upstream has no words for it. -: not asked; the engine's model is too small to do it.

text: ends by itself (stop). turn: the results of calls are sent back, and answered. refusal: the
model's own words of it. filtered: the vendor's end of an answer. agent: thoughts, text and two
calls in one answer. cut: the upstream breaks off. Every cell has its finish and its usage.

The column of the engine is shown by `tests/engine/test_engine_sdks.py`, the others by
`tests/scenarios/test_front_sdks.py`.
"""

from typing import Final

FRONTS: Final = ("chat", "messages", "responses")

_TABLE: Final = """
            openai  openai-responses  anthropic  gemini  ollama  engine
text        yes     yes               yes        yes     yes     yes
thinking    yes     yes               yes        yes     yes     yes
one-tool    yes     yes               yes        yes     yes     yes
two-tools   yes     yes               yes        yes     yes     yes
agent       yes     yes               yes        yes     yes     -
turn        yes     yes               yes        yes     yes     yes
image       yes     yes               yes        yes     yes     400
length      yes     yes               yes        yes     yes     yes
refusal     yes     yes               none       none    none    none
filtered    yes     yes               yes        yes     none    none
cut         yes     yes               yes        yes     yes     -
"""

_HEAD, *_LINES = _TABLE.strip("\n").split("\n")

#: Subject -> upstream -> mark.
CELLS: Final[dict[str, dict[str, str]]] = {
    name: dict(zip(_HEAD.split(), marks, strict=True)) for name, *marks in map(str.split, _LINES)
}


def cells(upstream: str, mark: str = "yes") -> list[str]:
    """The subjects that have a mark for an upstream."""
    return [name for name, marks in CELLS.items() if marks[upstream] == mark]


#: Finish reasons of Chat Completions by front; the Vercel AI SDK has the former everywhere.
FINISHES: Final = {
    "chat": {each: each for each in ("stop", "tool_calls", "length", "content_filter")},
    "messages": {
        "stop": "end_turn",
        "tool_calls": "tool_use",
        "length": "max_tokens",
        "content_filter": "refusal",
    },
    "responses": {
        "stop": "completed",
        "tool_calls": "completed",
        "length": "max_output_tokens",
        "content_filter": "content_filter",
    },
}


def finish_of(front: str, client: str, finish: str) -> str:
    return finish if client == "ai-sdk" else FINISHES[front][finish]
