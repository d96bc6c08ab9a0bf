"""How much a client wants thought: two ways of saying it, read as one."""

from typing import Final

from msgspec import Struct

from legato.core.request import ChatRequest, Effort

#: Tokens of thinking that go with an effort where an upstream wants a number.
BUDGETS: Final[dict[str, int]] = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 24576}

#: More than `high`, for those that have a word for it; a number stays that of `high`.
_MORE: Final = ("xhigh", "max")


class ReasoningRequest(Struct, frozen=True):
    """`thinks` None: the client said nothing. `budget`: in tokens, where it named a number."""

    thinks: bool | None = None
    effort: Effort | None = None
    budget: int | None = None

    def tokens(self, budgets: dict[str, int]) -> int | None:
        """A number of tokens in any case but silence and `none`."""
        effort = "high" if self.effort in _MORE else self.effort
        return self.budget if self.budget is not None else budgets.get(effort or "")

    def word(self, *, most: Effort = "max") -> Effort | None:
        """An effort in any case but silence: of a number, the least that allows as much. `most`:
        the strongest word that is known there."""
        if self.effort is not None or self.thinks is None:
            return "high" if self.effort in _MORE and most == "high" else self.effort
        if not self.thinks:
            return "none"
        if self.budget is None:
            return "medium"
        for name, tokens in BUDGETS.items():
            if self.budget <= tokens:
                return name  # type: ignore[return-value]
        return "high"


def reasoning_request(request: ChatRequest) -> ReasoningRequest:
    """`thinking` is the more precise of the two and wins where they say different things."""
    effort, thinking = request.reasoning_effort, request.thinking
    if thinking is not None:
        if thinking.type == "disabled":
            return ReasoningRequest(False, "none")
        return ReasoningRequest(True, None if effort == "none" else effort, thinking.budget_tokens)
    if effort is None:
        return ReasoningRequest()
    return ReasoningRequest(effort != "none", effort)
