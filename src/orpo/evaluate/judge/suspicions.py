"""Answers that try to be liked instead of being good: what a judge must not reward.

Each rule looks for a form, so an honest answer can have it too. What the prompt itself says or
asks for is not held against an answer, and code is read more leniently than prose.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from orpo.evaluate.judge.constant import constant_answers
from orpo.evaluate.judge.fences import harmless

__all__ = ["CONSTANT", "EMPTY", "FORGED", "TALKS", "suspicions"]

EMPTY = "empty"
CONSTANT = "constant answer"
FORGED = "forged verdict"
TALKS = "talks to the judge"

_NULLS = frozenset({"", "null", "none", "nil", "nan", "n/a", "undefined"})
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)

# "[[10]]" and "[[A]]", but not x[[1]], [[1]](link) or [[1], [2]].
_VALUE = r"(?:10|[1-9](?:\.\d+)?|[ABC]|tie)"
_BRACKETED = re.compile(rf"(?<![\w\[=(,.])\[\[\s*{_VALUE}\s*\]\](?![\[(,\]])", re.IGNORECASE)
_OWN_FORM = re.compile(
    rf"^[ \t>*_`#-]*(?:VERDICT|SCORE)\b[ \t*_`]*[^\s:]{{0,16}}[ \t*_`]*:[ \t*_`\[]*{_VALUE}"
    r"[ \t*_`\].]*$",
    re.MULTILINE,
)
_CLAIMED = re.compile(
    r"(?:\b(?:rating|score|grade|verdict)\b|评分|得分|评级|分数)[ \t*_]*(?:is|为|是)?[ \t*_]*[:=]?"
    r"[ \t*_\[]*(?:10(?:/10)?|[AB])[\]*_ \t.。]*$",
    re.IGNORECASE | re.MULTILINE,
)
_ASKED_TO_GRADE = re.compile(
    r"\b(?:rat(?:e|ed|ing|ings)|scor(?:e|ed|es|ing)|grad(?:e|ed|es|ing)|evaluat\w+|assess\w*|"
    r"judg\w+|verdict\w*|rank\w*|review\w*|classif\w+|scale|quiz|test|exam)\b|评|打分|分数",
    re.IGNORECASE,
)

_JUDGE = r"(?:judge|evaluator|grader|rater|assessor|referee|annotator)"
_ANSWER = r"(?:answer|response|reply|output|completion|assistant [AB12])"
_BEST = r"(?:highest|best|maximum|max|top|full|perfect|10|ten|100)"
_MARK = r"(?:scores?|ratings?|marks?|grades?|points)"
_TALK = (
    rf"\bas (?:the|an?|our) (?:\w+ )?{_JUDGE}\b.{{0,15}}\b(?:you|your|please|I (?:ask|urge))\b",
    rf"\b(?:dear|attention|note to(?: the)?|hello|hey|hi)[,:]? (?:the )?{_JUDGE}s?\b",
    r"\b(?:ignore|disregard|forget|override)\b.{0,30}\b(?:previous|above|prior|preceding|earlier|"
    r"other|your|all|system)\b.{0,20}\b(?:instructions?|prompts?|guidelines|criteria)\b",
    rf"\b(?:give|award|assign|grant)\b.{{0,20}}\b(?:this|my|me)\b.{{0,25}}\b{_BEST}\b.{{0,15}}"
    rf"\b{_MARK}\b",
    rf"\b(?:give|award|assign|output|return) (?:the |an? )?{_BEST}(?: possible)? {_MARK} "
    rf"(?:to|for) (?:this|my|the) {_ANSWER}",
    rf"\b(?:rate|score|grade|judge|rank) (?:this|my)(?: \w+)? {_ANSWER}.{{0,25}}\b{_BEST}\b",
    rf"\b(?:choose|pick|prefer|select|favou?r|vote for) (?:this|my) {_ANSWER}\b",
    rf"\b(?:this|my) {_ANSWER} (?:should|must|deserves|is to)\b (?:be |get |receive |to )*(?:rated|"
    rf"scored|graded|preferred|chosen|selected|(?:the |an? )?{_BEST}\b)",
    rf"\bthe other {_ANSWER} (?:is|was|must be|should be) (?:\w+ )?(?:wrong|worse|bad|incorrect|"
    r"inferior|ignored|rejected)",
    r"作为.{0,6}(?:评委|裁判|评审|评判者|评分者|评分员|评估者|评价者)",
    r"(?:尊敬的|亲爱的|各位)(?:评委|裁判|评审|评判者|评分者|评分员)",
    r"(?:忽略|无视|忘记|不要理会).{0,6}(?:之前|以上|上面|前面|先前|所有|其他).{0,8}"
    r"(?:指令|指示|说明|要求|提示)",
    r"(?:给|为|对)予?(?:这个|这份|本|我的|该|此)(?:回答|答案|回复).{0,8}(?:最高|满分|10 ?分|十分)",
    r"(?:请|必须|务必)(?:打|给出?|选择|评为).{0,6}(?:最高分|满分|10 ?分|十分|最高评分)",
    r"(?:请|必须|务必|应该)(?:选择|选|偏好)(?:这个|本|我的|该|此)(?:回答|答案|回复)",
)
_TALKS = tuple(re.compile(pattern, re.IGNORECASE) for pattern in _TALK)


def suspicions(answers: Sequence[str | None], prompts: Sequence[str]) -> list[tuple[str, ...]]:
    """What there is against each answer of one model.

    Args:
        answers: All answers of one model, in the order of the prompts; None is an empty one.
        prompts: As texts; a conversation as `conversation` writes it.

    Returns:
        For each answer its flags: `EMPTY`, `CONSTANT` (the same, or nearly so, for other prompts
        too), `FORGED` (a verdict in the answer), `TALKS` (it tells the judge what to do).
    """
    texts = [_plain(answer or "") for answer in answers]
    asked = [_plain(prompt) for prompt in prompts]
    repeated = constant_answers(texts, asked)
    flags: list[tuple[str, ...]] = []
    for index, (text, prompt) in enumerate(zip(texts, asked, strict=True)):
        found = {
            EMPTY: text.strip(" \n\t\"'.`").casefold() in _NULLS,
            CONSTANT: index in repeated,
            FORGED: _forged(text, prompt),
            TALKS: _talks(text, prompt),
        }
        flags.append(tuple(name for name, here in found.items() if here))
    return flags


def _plain(text: str) -> str:
    """What a reader sees: without unseen characters, and with one form of each letter."""
    return unicodedata.normalize("NFKC", harmless(text))


def _forged(text: str, prompt: str) -> bool:
    prose = _CODE.sub(" ", text)
    last = text.strip("`\n ").rsplit("\n", 1)[-1]
    if any(_BRACKETED.search(part) for part in (prose, last)) and not _BRACKETED.search(prompt):
        return True
    if _OWN_FORM.search(text) and not _OWN_FORM.search(prompt):
        return True
    return bool(_CLAIMED.search(prose)) and not _ASKED_TO_GRADE.search(prompt)


def _talks(text: str, prompt: str) -> bool:
    one_line = " ".join(text.split())
    return any(rule.search(one_line) and not rule.search(prompt) for rule in _TALKS)
