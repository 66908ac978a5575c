"""What asking a judge costs: an estimate before, the server's own count after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orpo.errors import ConfigError
from orpo.evaluate.judge.types import JudgeSettings, Reply, Request

__all__ = ["Estimate", "Spend", "allow", "estimate", "spend"]

_MILLION = 1e6
_CHARACTERS = 4  # of English a token; of other scripts one, which is rather too many
_FRAME = 4  # tokens around each message


@dataclass(frozen=True)
class Estimate:
    """What requests will take, before they are sent.

    Attributes:
        requests: How many.
        prompt_tokens: About so many, guessed from the length of the texts.
        completion_tokens: At most so many.
        cost: At most about so much; None without prices.
    """

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None

    def __str__(self) -> str:
        cost = "" if self.cost is None else f", so at most about {money(self.cost)}"
        return (
            f"{self.requests:,} requests, an estimated {self.prompt_tokens:,} tokens of prompts "
            f"and at most {self.completion_tokens:,} of replies{cost}"
        )


@dataclass(frozen=True)
class Spend:
    """What replies have taken, as the server counted.

    Attributes:
        requests: Different requests.
        from_cache: Those that an earlier run had asked.
        prompt_tokens: Of all, the earlier ones included.
        completion_tokens: Of all.
        without_usage: Replies for which the server told no tokens; they count as nothing.
        refused: Requests that the server would not answer.
        cost: Of all; None without prices.
        cost_now: Of those that were asked now; None without prices.
    """

    requests: int
    from_cache: int
    prompt_tokens: int
    completion_tokens: int
    without_usage: int
    refused: int
    cost: float | None
    cost_now: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(vars(self))

    def __str__(self) -> str:
        cost = "" if self.cost is None else f", {money(self.cost)}"
        now = "" if self.cost_now is None else f" ({money(self.cost_now)} of it now)"
        silent = f"; no usage told for {self.without_usage:,}" if self.without_usage else ""
        return (
            f"{self.requests:,} requests ({self.from_cache:,} from the cache), "
            f"{self.prompt_tokens:,} + {self.completion_tokens:,} tokens{cost}{now}{silent}"
        )


def money(amount: float) -> str:
    """An amount in the currency of the prices, with digits that matter."""
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.4f}"


def estimate(settings: JudgeSettings, requests: Iterable[Request]) -> Estimate:
    """What some requests will take; the tokens of prompts are a guess from characters."""
    count = prompt = completion = 0
    for request in requests:
        count += 1
        completion += request.max_tokens or settings.max_tokens
        prompt += sum(_FRAME + _guess(message["content"]) for message in request.messages)
    return Estimate(count, prompt, completion, _cost(settings, prompt, completion))


def spend(settings: JudgeSettings, replies: Iterable[Reply]) -> Spend:
    """What some replies have taken; a request that was asked once is counted once."""
    unique: dict[str, Reply] = {}
    for reply in replies:
        unique.setdefault(reply.key, reply)
    every = list(unique.values())
    answered = [reply for reply in every if not reply.error]
    prompt, completion = _tokens(every)
    return Spend(
        requests=len(every),
        from_cache=sum(reply.cached for reply in every),
        prompt_tokens=prompt,
        completion_tokens=completion,
        without_usage=sum(reply.prompt_tokens is None for reply in answered),
        refused=len(every) - len(answered),
        cost=_cost(settings, prompt, completion),
        cost_now=_cost(settings, *_tokens([reply for reply in every if not reply.cached])),
    )


def allow(settings: JudgeSettings, ahead: Estimate, spent: Spend) -> None:
    """Refuse what would cost more than `max_cost`, with what was spent on it before.

    Raises:
        ConfigError: It would.
    """
    if settings.max_cost is None or ahead.cost is None or not ahead.requests:
        return
    whole = ahead.cost + (spent.cost or 0)
    if whole > settings.max_cost:
        before = f", {money(spent.cost)} were spent before" if spent.cost else ""
        raise ConfigError(
            f"{ahead}{before}, and the limit is {money(settings.max_cost)}; nothing was asked",
            where="--max_cost",
            fix="Raise it, evaluate fewer prompts, or lower --judge_max_tokens.",
        )


def _guess(text: str) -> int:
    plain = sum(character.isascii() for character in text)
    return plain // _CHARACTERS + len(text) - plain


def _tokens(replies: Sequence[Reply]) -> tuple[int, int]:
    return (
        sum(reply.prompt_tokens or 0 for reply in replies),
        sum(reply.completion_tokens or 0 for reply in replies),
    )


def _cost(settings: JudgeSettings, prompt: int, completion: int) -> float | None:
    if settings.price_in is None or settings.price_out is None:
        return None
    return (prompt * settings.price_in + completion * settings.price_out) / _MILLION
