"""Many requests to a judge: estimated, kept as they come, counted, and never asked twice."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from orpo.errors import ConfigError, EvaluationError, OrpoError
from orpo.evaluate.answers import Store, open_store
from orpo.evaluate.asking import Pacer, Refused, Reply, Unanswered, endpoint_of, in_threads
from orpo.evaluate.settings import JudgeSettings
from orpo.terminal import Say, silent, under_way

Chat: TypeAlias = Sequence[Mapping[str, str]]
"""A conversation: [{"role", "content"}]."""

_KEPT = ("key", "text", "finish_reason", "model", "prompt_tokens", "completion_tokens")
_REFUSALS = 8  # without one answer: then it is not the request, it is all of them
_CHARACTERS = 4  # of English a token; of other scripts one, which is rather too many
_FRAME = 4  # tokens around each message


@dataclass(frozen=True)
class Request:
    """One question to the judge: the conversation that it completes."""

    messages: Chat

    def arguments(self, settings: JudgeSettings) -> dict[str, Any]:
        """What the protocol calls it."""
        return {
            "messages": [dict(message) for message in self.messages],
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
            "seed": settings.seed if settings.temperature else None,
        }

    def key(self, settings: JudgeSettings) -> str:
        """sha256 of all that decides the reply: equal requests are asked once."""
        facts = {
            **self.arguments(settings),
            "server": settings.base_url,
            "model": settings.model,
            "top_logprobs": 0,  # as kept replies have it
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Spend:
    """What replies have taken, as the server counted."""

    requests: int  # different ones
    from_cache: int  # those that an earlier run had asked
    prompt_tokens: int  # of all, the earlier ones included
    completion_tokens: int
    without_usage: int  # replies for which the server told no tokens; they count as nothing
    refused: int  # requests that the server would not answer
    cost: float | None  # of all; None without prices
    cost_now: float | None  # of those that were asked now

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


def spend(settings: JudgeSettings, replies: Iterable[Reply]) -> Spend:
    """What some replies have taken; a request that was asked once is counted once."""
    every = {reply.key: reply for reply in replies}.values()
    now = [reply for reply in every if not reply.cached]
    prompt, completion = _tokens(every)
    return Spend(
        requests=len(every),
        from_cache=len(every) - len(now),
        prompt_tokens=prompt,
        completion_tokens=completion,
        without_usage=sum(one.prompt_tokens is None and not one.error for one in every),
        refused=sum(bool(one.error) for one in every),
        cost=_cost(settings, prompt, completion),
        cost_now=_cost(settings, *_tokens(now)),
    )


def _tokens(replies: Iterable[Reply]) -> tuple[int, int]:
    pairs = [(one.prompt_tokens or 0, one.completion_tokens or 0) for one in replies]
    return sum(prompt for prompt, _ in pairs), sum(completion for _, completion in pairs)


def _cost(settings: JudgeSettings, prompt: int, completion: int) -> float | None:
    if settings.price_in is None or settings.price_out is None:
        return None
    return (prompt * settings.price_in + completion * settings.price_out) / 1e6


def _foreseen(settings: JudgeSettings, requests: Iterable[Request], spent: Spend) -> str:
    """What some requests will take, in words; refused where it would pass `max_cost`."""
    texts = [[message["content"] for message in one.messages] for one in requests]
    prompt, completion = 0, len(texts) * settings.max_tokens
    for text in (text for one in texts for text in one):
        plain = sum(character.isascii() for character in text)
        prompt += _FRAME + plain // _CHARACTERS + len(text) - plain
    cost = _cost(settings, prompt, completion)
    most = "" if cost is None else f", so at most about {money(cost)}"
    told = (
        f"{len(texts):,} requests, an estimated {prompt:,} tokens of prompts "
        f"and at most {completion:,} of replies{most}"
    )
    limit = settings.max_cost
    if limit is not None and cost is not None and cost + (spent.cost or 0) > limit:
        before = f", {money(spent.cost)} were spent before" if spent.cost else ""
        raise ConfigError(
            f"{told}{before}, and the limit is {money(limit)}; nothing was asked",
            where="--max_cost",
            fix="Raise it, evaluate fewer prompts, or lower --judge_max_tokens.",
        )
    return told


def complete(
    settings: JudgeSettings, requests: Sequence[Request], say: Say = silent
) -> list[Reply]:
    """The judge's replies, in the order of the requests.

    Equal requests are asked once, and what is in the settings' cache is not asked at all: every
    reply is there as soon as it has come, and after a break, an EvaluationError that says how many
    are done, the same call goes on. A request that the server refuses for good, such as one that is
    too long for the judge, has a reply with an empty text and an `error`.
    """
    wanted = {request.key(settings): request for request in requests}
    with open_store(settings.cache, _kept, begins='{"key": ', strict=False, say=say) as store:
        replies = {key: _kept(store.lines[key]) for key in wanted if key in store.lines}
        missing = {key: request for key, request in wanted.items() if key not in replies}
        if missing:
            spent = spend(settings, replies.values())
            known = f"; {len(replies):,} more are in the cache" if replies else ""
            ahead = _foreseen(settings, missing.values(), spent)
            say(f"judge {settings.model}: {ahead}{known}")
            found = _Round(settings, store, missing, spent, say).ask()
            replies |= {reply.key: reply for reply in found}
    # One that is refused is asked again by the next run, and stands for itself in this one.
    return [replies[request.key(settings)] for request in requests]


def _kept(line: Mapping[str, Any]) -> Reply:
    """The reply that a line of the cache holds."""
    known = {name: line[name] for name in _KEPT if name in line}
    if not isinstance(known["text"], str):
        raise TypeError(known["text"])
    return Reply(**known, cached=True)


@dataclass
class _Round:
    """One round of questions, beside what had been asked and paid before."""

    settings: JudgeSettings
    store: Store
    missing: Mapping[str, Request]
    spent: Spend
    say: Say
    answered: list[Reply] = field(default_factory=list)
    refused: list[Reply] = field(default_factory=list)
    failures: list[Unanswered] = field(default_factory=list)
    in_a_row: int = 0  # of the failures
    fatal: OrpoError | None = None

    def ask(self) -> list[Reply]:
        from orpo.evaluate.served import Client  # noqa: PLC0415 - loads openai

        settings = self.settings
        pacer = Pacer(settings.requests_per_minute, settings.backoff, self.say)
        optional = ("temperature", "seed")
        with closing(Client(endpoint_of(settings), pacer, optional, self.say)) as client:

            def work(item: tuple[str, Request]) -> Reply:
                key, request = item
                try:
                    reply = client.ask(key=key, **request.arguments(settings))
                except Refused as error:
                    return Reply(key, "", "refused", settings.model, error=error.said)
                except OrpoError as error:
                    if not isinstance(error, Unanswered) or error.all_are:
                        pacer.stop.set()
                    raise
                # Here, ahead of this thread's next request.
                self.store.add({name: getattr(reply, name) for name in _KEPT})
                return reply

            try:
                client.probe()
            except Unanswered as error:
                self.failures.append(error)
                self._conclude()
            items = list(self.missing.items())
            with under_way("judging", len(items)) as advance:
                for _, result in in_threads(work, items, settings.concurrency, pacer.stop):
                    self._take(result)
                    advance(1)
                    if self._hopeless():
                        pacer.stop.set()
        self._conclude()
        return self.answered + self.refused

    def _take(self, result: Reply | Exception) -> None:
        self.in_a_row = self.in_a_row + 1 if isinstance(result, Unanswered) else 0
        match result:
            case Reply(error=""):
                self.answered.append(result)
                self._count()
            case Reply():
                self.refused.append(result)
            case Unanswered(all_are=False):
                self.failures.append(result)
            case Unanswered():
                self.fatal = self.fatal or EvaluationError(f"the judge's server, {result}")
            case OrpoError():
                self.fatal = self.fatal or result
            case Exception():
                raise result

    def _count(self) -> None:
        """What the answers have cost."""
        limit = self.settings.max_cost
        paid = (_cost(self.settings, *_tokens(self.answered)) or 0) + (self.spent.cost or 0)
        if limit is not None and paid > limit:
            self.fatal = self.fatal or EvaluationError(
                f"--max_cost: {money(paid)} are spent, and the limit is {money(limit)}"
            )

    def _hopeless(self) -> bool:
        """Whether nothing will come of the rest: the server is gone, or refuses everything."""
        several = self.settings.concurrency
        gone = self.in_a_row >= several or len(self.failures) >= 2 * several
        refuses = len(self.refused) >= _REFUSALS and not self.answered
        return self.fatal is not None or gone or refuses

    def _conclude(self) -> None:
        done, fatal, why = self.spent.requests + len(self.answered), self.fatal, ""
        if fatal is not None:
            if isinstance(fatal, ConfigError) or not done:
                raise fatal
            why = str(fatal)
        elif self.failures:
            if not done:
                raise self.failures[0]
            many = f"{len(self.failures):,} requests"
            why = f"the judge's server failed {many} for good ({self.failures[0]})"
        elif self.refused:
            because = self.refused[0].error
            if not done:
                what = f"the judge's server refuses every request ({because})"
                raise ConfigError(what, where=f"--judge {self.settings.model}")
            if len(self.refused) > done:
                why = f"the judge's server refuses {len(self.refused):,} requests ({because})"
        if why:
            kept = "; the same command goes on from there" if self.settings.cache else ""
            total = self.spent.requests + len(self.missing)
            raise EvaluationError(f"{why}; {done:,} of {total:,} requests are answered{kept}")
