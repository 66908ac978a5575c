"""Many requests to a judge: cached, paced, repeated, paid for, and never asked twice."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orpo.errors import ConfigError, EvaluationError, OrpoError
from orpo.evaluate.judge.cache import ReplyCache
from orpo.evaluate.judge.cost import Spend, allow, estimate, money, spend
from orpo.evaluate.judge.endpoint import Endpoint, GaveUp
from orpo.evaluate.judge.pacing import Pacer, Stopped, in_threads
from orpo.evaluate.judge.types import JudgeSettings, Reply, Request, Say, silent

__all__ = ["complete"]

_REFUSALS = 8  # without one answer: then it is not the request, it is all of them


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
    with ReplyCache(settings.cache) as cache:
        missing = {key: request for key, request in wanted.items() if key not in cache}
        had = [cache[key] for key in wanted if key in cache]
        if missing:
            ahead = estimate(settings, missing.values())
            spent = spend(settings, had)
            allow(settings, ahead, spent)
            known = f"; {len(had):,} more are in the cache" if had else ""
            say(f"judge {settings.model}: {ahead}{known}")
            _Asking(settings, cache, len(wanted), spent, say).ask(missing)
        return [cache[request.key(settings)] for request in requests]


@dataclass
class _Asking:
    """One round of questions.

    Attributes:
        settings: Which judge, and how.
        cache: Takes the replies.
        wanted: Different requests in all, those in the cache included.
        spent: What those in the cache had cost.
        say: Is told how far it is.
    """

    settings: JudgeSettings
    cache: ReplyCache
    wanted: int
    spent: Spend
    say: Say
    replies: list[Reply] = field(default_factory=list)
    failures: list[GaveUp] = field(default_factory=list)
    fatal: OrpoError | None = None
    _in_a_row: int = 0
    _cost: float = 0.0
    _told: int = 0

    def ask(self, missing: Mapping[str, Request]) -> None:
        stop = threading.Event()
        pacer = Pacer(self.settings.requests_per_minute, stop=stop)
        with Endpoint(self.settings, pacer, self.say) as endpoint:

            def work(request: Request) -> Reply:
                try:
                    reply = endpoint.ask(request)
                except OrpoError:
                    stop.set()
                    raise
                self.cache.add(reply)  # here, ahead of this thread's next request
                return reply

            items = list(missing.values())
            for _, result in in_threads(work, items, self.settings.concurrency, stop):
                self._take(result)
                if self.fatal is not None or self._hopeless():
                    stop.set()
                self._tell(len(missing))
        self._conclude()

    def _take(self, result: Reply | Exception) -> None:
        if isinstance(result, Reply):
            self.replies.append(result)
            self._in_a_row = 0
            self._watch_cost()
        elif isinstance(result, GaveUp):
            self.failures.append(result)
            self._in_a_row += 1
        elif isinstance(result, OrpoError):
            self.fatal = self.fatal or result
        elif not isinstance(result, Stopped):
            raise result

    def _watch_cost(self) -> None:
        self._cost += spend(self.settings, [self.replies[-1]]).cost or 0
        limit, whole = self.settings.max_cost, self._cost + (self.spent.cost or 0)
        if limit is not None and whole > limit:
            self.fatal = self.fatal or EvaluationError(
                f"--max_cost: {money(whole)} are spent, and the limit is {money(limit)}"
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
            raise ConfigError(
                f"the judge's server does not answer ({self.failures[0]})",
                where=self.settings.as_dict()["base_url"] or "OpenAI",
                fix="Is it running, and is --judge_url right?",
            )
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
