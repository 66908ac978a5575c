"""Which of two answers is better: asked in both orders, counted with what the judge goes by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from orpo.evaluate.judge.canaries import Canary, Outcome, judge_trust, plant_canaries
from orpo.evaluate.judge.client import complete
from orpo.evaluate.judge.cost import spend
from orpo.evaluate.judge.fences import conversation
from orpo.evaluate.judge.pair_result import PairVerdict, PairwiseResult, Preferred
from orpo.evaluate.judge.prompts import Pick, pair_request, read_pick, why_unparsed
from orpo.evaluate.judge.suspicions import suspicions
from orpo.evaluate.judge.types import Comparison, JudgeSettings, Reply, Say, silent

__all__ = ["compare_pairs"]

Flags: TypeAlias = list[tuple[str, ...]]

_ORDERS = (False, True)


def compare_pairs(
    settings: JudgeSettings, items: Sequence[Comparison], say: Say = silent
) -> PairwiseResult:
    """Ask which answer of each pair is better, in both orders, canaries among them.

    Args:
        settings: Which judge, and how.
        items: Pairs; `first` is one model's answers, `second` the other's.
        say: Is told the cost before and after, and how far it is.

    Returns:
        Preferences for `second`: 1 it is better, 0 it is worse, the mean of both orders, as the
        judge said it; which answers are suspicious stands beside it and changes none. A verdict
        that cannot be read counts as a tie, and the result says what the extremes would be.

    Raises:
        ConfigError: The key, the model, the address or the limit of the cost is wrong.
        EvaluationError: The server is gone; the same call goes on.
    """
    prompts = [conversation(item.prompt) for item in items]
    flags = (
        suspicions([item.first for item in items], prompts),
        suspicions([item.second for item in items], prompts),
    )
    canaries = _planted(settings, items, flags)
    asked = [*items, *(_beside(items[c.index], c, flags) for c in canaries)]
    replies = complete(
        settings,
        [pair_request(item, settings.seed, swapped=order) for item in asked for order in _ORDERS],
        say,
    )
    verdicts = [
        _verdict(settings, item, (replies[2 * index], replies[2 * index + 1]))
        for index, item in enumerate(asked)
    ]
    real, tried = verdicts[: len(items)], verdicts[len(items) :]
    judged = [
        replace(verdict, flags=(first, second))
        for verdict, first, second in zip(real, *flags, strict=True)
    ]
    missing = sum(verdict.unparsed for verdict in verdicts) / max(2 * len(verdicts), 1)
    outcomes = [(canary, _outcome(v)) for canary, v in zip(canaries, tried, strict=True)]
    result = PairwiseResult(
        settings=settings,
        items=tuple(judged),
        trust=judge_trust(outcomes, prompts, missing),
        spend=spend(settings, replies),
        reported=tuple(sorted({reply.model for reply in replies if reply.model})),
    )
    say(f"judge: {result.spend}")
    say(result.trust.sentence)
    return result


def _planted(
    settings: JudgeSettings, items: Sequence[Comparison], flags: tuple[Flags, Flags]
) -> list[Canary]:
    usable = [not first or not second for first, second in zip(*flags, strict=True)]
    return plant_canaries([item.id for item in items], usable, settings.seed)


def _beside(item: Comparison, canary: Canary, flags: tuple[Flags, Flags]) -> Comparison:
    """The canary as the second answer, beside a real one without a flag."""
    real = item.second if flags[0][canary.index] else item.first
    return Comparison(f"canary:{canary.kind}:{item.id}", item.prompt, real, canary.answer)


def _verdict(
    settings: JudgeSettings, item: Comparison, replies: tuple[Reply, Reply]
) -> PairVerdict:
    picks = [
        read_pick(item, settings.seed, reply.text, swapped=order)
        for order, reply in zip(_ORDERS, replies, strict=True)
    ]
    verdicts = (_preferred(picks[0], swapped=False), _preferred(picks[1], swapped=True))
    return PairVerdict(
        id=item.id,
        group=item.group or item.id,
        verdicts=verdicts,
        lengths=(len(item.first), len(item.second)),
        reasons=(replies[0].text, replies[1].text),
        failures=(
            "" if verdicts[0] else why_unparsed(replies[0]),
            "" if verdicts[1] else why_unparsed(replies[1]),
        ),
    )


def _preferred(pick: Pick | None, *, swapped: bool) -> Preferred | None:
    if pick is None or pick == "tie":
        return pick
    return "second" if (pick == "A") == swapped else "first"


def _outcome(verdict: PairVerdict) -> Outcome:
    if verdict.unparsed == 2:
        return "unparsed"
    if verdict.preference == 0.5:
        return "tied"
    return "rewarded" if verdict.preference > 0.5 else "lost"
