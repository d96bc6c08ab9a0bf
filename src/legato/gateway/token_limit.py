"""Tokens that one call may ask to be generated: no request asks for more than its limit."""

from typing import Final

from legato.core.errors import ApiError, invalid
from legato.core.front import FrontRequest
from legato.core.request import members, parse
from legato.core.span_edit import with_members

#: The member of a request that limits its tokens, by the client's format.
_MAX_TOKENS: Final = {
    "chat": "max_completion_tokens",
    "completions": "max_tokens",
    "messages": "max_tokens",
    "responses": "max_output_tokens",
}

#: Names that servers have for it besides, and go by before ours: llama.cpp, Ollama, TGI and others.
_OTHER_NAMES: Final = frozenset(
    {"max_new_tokens", "max_output_tokens", "max_tokens_to_sample", "n_predict", "num_predict"}
)

#: Names that servers have for `n` besides: vLLM, llama.cpp. Each choice takes its own tokens.
_OTHER_CHOICES: Final = frozenset({"best_of", "n_cmpl"})


def limit_tokens(request: FrontRequest, most: int | None) -> None:
    """Gives a request the limit on its tokens where it has none of its own. Raises `ApiError` 400
    where it asks for more. `most`: tokens of all its choices together; None: no limit."""
    if most is None:
        return
    chat, name = request.chat, _MAX_TOKENS[request.format]
    _refuse_other_names(request, name)
    # Of the two an upstream may go by either.
    _check(chat.max_completion_tokens, chat.choices, most, name)
    _check(chat.max_tokens, chat.choices, most, "max_tokens" if request.format == "chat" else name)
    asked = chat.max_completion_tokens or chat.max_tokens
    share = most // chat.choices
    thoughts = chat.thinking.budget_tokens if chat.thinking is not None else None
    if thoughts is not None and chat.thinking is not None and chat.thinking.type != "disabled":
        room = asked or share
        # An upstream whose limit counts thoughts gets a higher one where they would not fit.
        reached = thoughts if room > thoughts else room + thoughts
        _check(reached, chat.choices, most, "thinking.budget_tokens")
    if asked is None:
        if not share:
            raise _over("n", f"`n` is {chat.choices}", most)
        request.body = with_members(request.body, {_MAX_TOKENS["chat"]: share})
        request.chat = parse(request.body)
        if request.source is not None:
            request.source = with_members(request.source, {name: share})


def _check(asked: int | None, choices: int, most: int, param: str) -> None:
    """`asked`: tokens of one choice, in the request's field `param`."""
    if asked is not None and asked * choices > most:
        each = f" for each of {choices} choices" if choices > 1 else ""
        raise _over(param, f"`{param}` is {asked}{each}", most)


def _over(param: str, what: str, most: int) -> ApiError:
    return invalid(
        f"{what}, and at most {most} tokens are allowed: lower `{param}`.",
        param=param,
        code="max_tokens_over_limit",
    )


def _refuse_other_names(request: FrontRequest, name: str) -> None:
    """What is not read here would go to the upstream unseen."""
    # What a completion says of `best_of` has been read, and is none of the chat's.
    for body, others in (
        (request.body, _OTHER_NAMES | _OTHER_CHOICES),
        (request.source, _OTHER_NAMES),
    ):
        for other in others.intersection(members(body) if body is not None else ()):
            if other != name:
                known = "n" if other in _OTHER_CHOICES else name
                raise invalid(
                    f"With a limit on tokens `{other}` is not taken: use `{known}`.",
                    param=other,
                    code="unsupported_parameter",
                )
