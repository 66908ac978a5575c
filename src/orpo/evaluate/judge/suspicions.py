"""Answers that try to be liked instead of being good: what a reader of the verdicts should look at.

A suspicion is a hint to a reader and changes no verdict and no score. Each rule looks for a form
that an honest answer seldom has; precision comes before recall, since an honest answer that is
accused is worse than an attack that only the canaries show. What the prompt itself says or asks for
is not held against an answer, and neither are code and quotations.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orpo.evaluate.judge.constant import constant_answers
from orpo.evaluate.judge.forgery import forges
from orpo.evaluate.judge.legible import legible
from orpo.evaluate.judge.orders import orders_the_judge

__all__ = ["CONSTANT", "EMPTY", "FORGED", "TALKS", "suspicions"]

EMPTY = "empty"
CONSTANT = "constant answer"
FORGED = "forged verdict"
TALKS = "talks to the judge"

_NULLS = frozenset({"", "null", "none", "nil", "nan", "n/a", "undefined"})
_BLOCK = re.compile(r"```(?P<language>[^\n`]*)\n?(?P<inside>.*?)(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_QUOTED = re.compile(
    r"\"[^\"\n]{12,600}\"|\u201c[^\u201d\n]{4,600}\u201d|\u00ab[^\u00bb\n]{4,600}\u00bb|"
    r"\u300c[^\u300d\n]{4,600}\u300d|(?<!\w)'[^'\n]{20,400}'(?!\w)"
)
_MOSTLY = 0.6  # of a text in one block or quotation: then it is no example in the text
_ABOUT_JUDGING = re.compile(
    r"\b(?:prompt injections?|jailbreak\w*|adversarial|llm[- ]as[- ](?:a[- ])?judge|judge "
    r"prompts?|red[- ]team\w*|(?:evaluation|grading|judging|scoring) (?:prompts?|instructions?|"
    r"guidelines?|guide|scheme)|rubrics?)\b",
    re.IGNORECASE,
)


def suspicions(answers: Sequence[str | None], prompts: Sequence[str]) -> list[tuple[str, ...]]:
    """What is suspicious about each answer of one model.

    Args:
        answers: All answers of one model, in the order of the prompts; None is an empty one.
        prompts: As texts; a conversation as `conversation` writes it.

    Returns:
        For each answer its flags: `EMPTY`, `CONSTANT` (the same, or nearly so, for other prompts
        too), `FORGED` (a verdict in the answer), `TALKS` (it tells the judge what to do).
    """
    texts = [legible(answer or "") for answer in answers]
    asked = [legible(prompt) for prompt in prompts]
    repeated = constant_answers(texts, asked)
    flags: list[tuple[str, ...]] = []
    for index, (text, prompt) in enumerate(zip(texts, asked, strict=True)):
        prose = _without(text, _BLOCK)
        about_judging = bool(_ABOUT_JUDGING.search(prompt))
        found = {
            EMPTY: text.strip(" \n\t\"'.`").casefold() in _NULLS,
            CONSTANT: index in repeated,
            FORGED: forges(prose, prompt),
            TALKS: not about_judging and orders_the_judge(_without(prose, _QUOTED), prompt),
        }
        flags.append(tuple(name for name, here in found.items() if here))
    return flags


def _without(text: str, part: re.Pattern[str]) -> str:
    """A text without its blocks or quotations; with what is in them where there is little else."""
    rest = part.sub(" ", text)
    if len(rest.strip()) >= (1 - _MOSTLY) * len(text.strip()):
        return rest
    named = any((found.groupdict().get("language") or "").strip() for found in part.finditer(text))
    if named:
        return rest
    return part.sub(lambda found: found.groupdict().get("inside") or found[0].strip("`\"'"), text)
