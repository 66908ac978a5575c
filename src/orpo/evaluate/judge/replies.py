"""Many requests to a judge: estimated, kept as they come, counted, and never asked twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from orpo.errors import ConfigError, EvaluationError, OrpoError
from orpo.evaluate.asking import Client, Refused, Reply, Unanswered, endpoint_of
from orpo.evaluate.pacing import Pacer, Say, Stopped, in_threads, silent
from orpo.evaluate.settings import JudgeSettings
from orpo.evaluate.store import Store, open_store

Chat: TypeAlias = Sequence[Mapping[str, str]]
"""A conversation: [{"role", "content"}]."""

_KEPT = (
    "key",
    "text",
    "finish_reason",
    "model",
    "prompt_tokens",
    "completion_tokens",
    "logprobs",
)
_REFUSALS = 8  # without one answer: then it is not the request, it is all of them
_MILLION = 1e6
_CHARACTERS = 4  # of English a token; of other scripts one, which is rather too many
_FRAME = 4  # tokens around each message


@dataclass(frozen=True)
class Request:
    """One question to the judge.

    Attributes:
        messages: The conversation that it completes.
        max_tokens: Instead of the settings' own.
        temperature: Instead of the settings' own.
        top_logprobs: Ask for so many alternatives of each token of the reply, and their
            log-probabilities; 0 asks for none.
    """

    messages: Chat
    max_tokens: int | None = None
    temperature: float | None = None
    top_logprobs: int = 0

    def arguments(self, settings: JudgeSettings) -> dict[str, Any]:
        """What the protocol calls it."""
        temperature = settings.temperature if self.temperature is None else self.temperature
        return {
            "messages": self.messages,
            "max_tokens": self.max_tokens or settings.max_tokens,
            "temperature": temperature,
            "seed": settings.seed if temperature else None,
            "logprobs": True if self.top_logprobs else None,
            "top_logprobs": self.top_logprobs or None,
        }

    def key(self, settings: JudgeSettings) -> str:
        """sha256 of all that decides the reply: equal requests are asked once."""
        temperature = settings.temperature if self.temperature is None else self.temperature
        facts = {
            "server": settings.base_url,
            "model": settings.model,
            "messages": [dict(message) for message in self.messages],
            "max_tokens": self.max_tokens or settings.max_tokens,
            "temperature": temperature,
            "seed": settings.seed if temperature else None,
            "top_logprobs": self.top_logprobs,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


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
    """Refuse what would cost more than `max_cost`, with what was spent on it before."""
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


def complete(
    settings: JudgeSettings, requests: Sequence[Request], say: Say = silent
) -> list[Reply]:
    """The judge's replies, in the order of the requests.

    Equal requests are asked once, and what is in the settings' cache is not asked at all. Every
    reply is in the cache as soon as it has come: after a break the same call goes on.

    Args:
        settings: Which judge, and how.
        requests: What to ask.
        say: Is told the estimated cost before, and how far it is.

    Returns:
        One reply for each request. A request that the server refuses for good, such as one that
        is too long for the judge, has a reply with an empty text and an `error`.

    Raises:
        ConfigError: The key, the model, the address or the limit of the cost is wrong.
        EvaluationError: The server is gone or too busy; the message says how many are done.
    """
    wanted = {request.key(settings): request for request in requests}
    with open_store(settings.cache, _kept, begins='{"key": ', strict=False, say=say) as store:
        replies = {key: _kept(store.lines[key]) for key in wanted if key in store.lines}
        missing = {key: request for key, request in wanted.items() if key not in replies}
        if missing:
            ahead, spent = estimate(settings, missing.values()), spend(settings, replies.values())
            allow(settings, ahead, spent)
            known = f"; {len(replies):,} more are in the cache" if replies else ""
            say(f"judge {settings.model}: {ahead}{known}")
            asking = _Asking(settings, store, len(wanted), spent, say)
            asking.ask(missing)
            replies |= {reply.key: reply for reply in asking.replies}
    # One that is refused is asked again by the next run, and stands for itself in this one.
    return [replies[request.key(settings)] for request in requests]


def _kept(line: Mapping[str, Any]) -> Reply:
    """The reply that a line of the cache holds."""
    known = {name: line[name] for name in _KEPT if name in line}
    known["logprobs"] = tuple(known.get("logprobs") or ())
    if not isinstance(known["text"], str):
        raise TypeError(known["text"])
    return Reply(**known, cached=True)


@dataclass
class _Asking:
    """One round of questions; `wanted` requests in all, of which some had been paid before."""

    settings: JudgeSettings
    store: Store
    wanted: int
    spent: Spend
    say: Say
    replies: list[Reply] = field(default_factory=list)
    failures: list[Unanswered] = field(default_factory=list)
    fatal: OrpoError | None = None
    _in_a_row: int = 0
    _cost: float = 0.0
    _told: int = 0

    def ask(self, missing: Mapping[str, Request]) -> None:
        settings = self.settings
        pacer = Pacer(settings.requests_per_minute, settings.backoff, self.say)
        optional = ("temperature", "seed")
        with Client(endpoint_of(settings), pacer, optional, self.say) as client:

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
            items = list(missing.items())
            for _, result in in_threads(work, items, settings.concurrency, pacer.stop):
                self._take(result)
                if self.fatal is not None or self._hopeless():
                    pacer.stop.set()
                self._tell(len(missing))
        self._conclude()

    def _take(self, result: Reply | Exception) -> None:
        if isinstance(result, Reply):
            self.replies.append(result)
            self._in_a_row = 0
            self._watch_cost()
        elif isinstance(result, Unanswered) and not result.all_are:
            self.failures.append(result)
            self._in_a_row += 1
        elif isinstance(result, Unanswered):
            self.fatal = self.fatal or EvaluationError(f"the judge's server, {result}")
        elif isinstance(result, OrpoError):
            self.fatal = self.fatal or result
        elif not isinstance(result, Stopped):
            raise result

    def _watch_cost(self) -> None:
        self._cost += spend(self.settings, [self.replies[-1]]).cost or 0
        limit, total = self.settings.max_cost, self._cost + (self.spent.cost or 0)
        if limit is not None and total > limit:
            self.fatal = self.fatal or EvaluationError(
                f"--max_cost: {money(total)} are spent, and the limit is {money(limit)}"
            )

    def _hopeless(self) -> bool:
        """Whether nothing will come of the rest: the server is gone, or refuses everything."""
        several = self.settings.concurrency
        if self._in_a_row >= several or len(self.failures) >= 2 * several:
            return True
        refused = sum(bool(reply.error) for reply in self.replies)
        return refused == len(self.replies) and refused >= _REFUSALS

    def _tell(self, total: int) -> None:
        done = sum(not reply.error for reply in self.replies)
        if self._told + max(total / 10, 10) <= done < total:
            self._told = done
            self.say(f"judge: {done:,} of {total:,} replies")

    def _conclude(self) -> None:
        answered = [reply for reply in self.replies if not reply.error]
        refused = [reply for reply in self.replies if reply.error]
        done = self.spent.requests + len(answered)
        kept = "; the same command goes on from there" if self.settings.cache else ""
        how_many = f"{done:,} of {self.wanted:,} requests are answered{kept}"
        if isinstance(self.fatal, ConfigError) or (self.fatal and not done):
            raise self.fatal
        if self.fatal is not None:
            raise EvaluationError(f"{self.fatal}; {how_many}")
        if self.failures and not done:
            raise self.failures[0]
        if self.failures:
            raise EvaluationError(
                f"the judge's server failed {len(self.failures):,} requests for good "
                f"({self.failures[0]}); {how_many}"
            )
        if refused and not done:
            raise ConfigError(
                f"the judge's server refuses every request ({refused[0].error})",
                where=f"--judge {self.settings.model}",
            )
        if len(refused) > done:
            raise EvaluationError(
                f"the judge's server refuses {len(refused):,} requests ({refused[0].error}); "
                f"{how_many}"
            )
