"""Grades from 1 to 10 for single answers, canaries among them."""

from __future__ import annotations

from collections.abc import Sequence

from orpo.evaluate.judge.canaries import Canary, Outcome, judge_trust, plant_canaries
from orpo.evaluate.judge.client import complete
from orpo.evaluate.judge.cost import spend
from orpo.evaluate.judge.fences import conversation
from orpo.evaluate.judge.prompts import GradingPrompts, OwnGrading, why_unparsed
from orpo.evaluate.judge.single_result import GradedAnswer, SingleResult
from orpo.evaluate.judge.suspicions import suspicions
from orpo.evaluate.judge.types import JudgeSettings, Say, Single, silent

__all__ = ["grade_answers"]

_REWARD = 6.0  # a grade in the upper half
_NOTHING = 2.0  # a grade that is none, whatever the real answers got


def grade_answers(
    settings: JudgeSettings,
    items: Sequence[Single],
    say: Say = silent,
    prompts: GradingPrompts | None = None,
) -> SingleResult:
    """Have each answer graded from 1 to 10, canaries among them.

    Args:
        settings: Which judge, and how.
        items: Answers of one model.
        say: Is told the cost before and after, and how far it is.
        prompts: How the judge is asked; the project's own prompt if absent.

    Returns:
        Grades as the judge gave them; which answers are suspicious stands beside them and changes
        none. A grade that cannot be read is None and no part of the mean, and the result says what
        the extremes would be.

    Raises:
        ConfigError: The key, the model, the address or the limit of the cost is wrong.
        EvaluationError: The server is gone; the same call goes on.
    """
    prompts = prompts or OwnGrading()
    asked = [conversation(item.prompt) for item in items]
    flags = [
        tuple(dict.fromkeys((*item.flags, *found)))
        for item, found in zip(
            items, suspicions([item.answer for item in items], asked), strict=True
        )
    ]
    canaries = plant_canaries([i.id for i in items], [not f for f in flags], settings.seed)
    every = [*items, *(_instead(items[canary.index], canary) for canary in canaries)]
    replies = complete(settings, [prompts.request(item, settings.seed) for item in every], say)
    scores = [
        prompts.score(item, settings.seed, reply.text)
        for item, reply in zip(every, replies, strict=True)
    ]
    graded = tuple(
        GradedAnswer(
            id=item.id,
            group=item.group or item.id,
            score=score,
            flags=against,
            length=len(item.answer),
            reason=reply.text,
            failure="" if score is not None else why_unparsed(reply),
        )
        for item, against, score, reply in zip(items, flags, scores, replies, strict=False)
    )
    outcomes = [
        (canary, _outcome(score, scores[canary.index]))
        for canary, score in zip(canaries, scores[len(items) :], strict=True)
    ]
    missing = sum(score is None for score in scores) / max(len(scores), 1)
    result = SingleResult(
        settings=settings,
        items=graded,
        trust=judge_trust(outcomes, asked, missing),
        spend=spend(settings, replies),
        reported=tuple(sorted({reply.model for reply in replies if reply.model})),
    )
    say(f"judge: {result.spend}")
    say(result.trust.sentence)
    return result


def _instead(item: Single, canary: Canary) -> Single:
    name = f"canary:{canary.kind}:{item.id}"
    return Single(name, item.prompt, canary.answer, item.reference, item.group)


def _outcome(score: float | None, real: float | None) -> Outcome:
    if score is None:
        return "unparsed"
    if score >= _REWARD:
        return "rewarded"
    worse = real is not None and score < real
    return "lost" if worse or score <= _NOTHING else "tied"
