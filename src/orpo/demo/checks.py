"""Says whether an answer to one of the demo's prompts is right, and if not, why not.

The checker recomputes the result from the operands and reads the answer for what it states; it
knows none of the wordings in which the demo's own answers are written. An answer is correct if it

* does not refuse,
* is at most two sentences long and not wordier than the result needs,
* states the right result and nothing else in its place, and
* has the form that the prompt asked for.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

_WORDS = (
    "cat 猫, dog 狗, bird 鸟, fish 鱼, horse 马, cow 奶牛, sheep 羊, rabbit 兔子, "
    "tiger 老虎, pig 猪, apple 苹果, banana 香蕉, orange 橙子, pear 梨, grape 葡萄, "
    "peach 桃子, sun 太阳, moon 月亮, star 星星, river 河流, tree 大树, flower 鲜花, rain 雨, "
    "snow 雪, cloud 云, mountain 高山, book 书, pen 钢笔, table 桌子, chair 椅子, door 门, "
    "window 窗户, lamp 灯, cup 杯子, clock 时钟, shoe 鞋, hat 帽子, house 房子, car 汽车, "
    "boat 小船, bridge 桥, city 城市, bread 面包, milk 牛奶, egg 鸡蛋, rice 米饭, tea 茶, "
    "salt 盐, sugar 糖, eye 眼睛, king 国王, doctor 医生, teacher 老师, friend 朋友, "
    "red 红色, blue 蓝色, green 绿色, yellow 黄色"
)
CHINESE: dict[str, str] = dict(pair.split() for pair in _WORDS.split(", "))
"""Each English word with its Chinese translation; the translations are all different."""

ENGLISH: dict[str, str] = {chinese: english for english, chinese in CHINESE.items()}

Reason = Literal["correct", "empty", "refused", "rambling", "wrong result", "wrong format"]

MAX_WORDS = 16
"""Words (in Chinese: characters) that an answer may use besides the items it names."""

_REFUSAL = re.compile(
    r"\b(sorry|unfortunately|unable|not able|cannot|can not|can't|won't|refuse|don't know)\b"
    r"|抱歉|对不起|很遗憾|不好意思|无法|不能|不会|帮不了|不知道|拒绝",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?。！？]+")
_NUMBER = re.compile(r"-?\d+")
_CHINESE_WORD = re.compile("|".join(sorted(ENGLISH, key=len, reverse=True)))
_LATIN_WORD = re.compile(r"[a-z]+")
_YES = re.compile(r"\byes\b|\b(?:is in|is among|contains?|includes?)\b|是|有|在|包含|包括")
_NO = re.compile(r"\b(?:no|not)\b|n't\b|没(?!问题|关系)有?|不(?:在|包含|包括|是)")
_PLAIN_YES = re.compile(r"\byes\b|(?:^|[，,：:、!！\s])(?:是的?|有|在)(?=[，,。！!]|$)")
_PARITY = {"odd": "odd", "even": "even", "奇": "odd", "偶": "even"}
_BRACKETED = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True)
class Verdict:
    """The judgement on one answer."""

    correct: bool  # right, to the point and in the form that was asked for
    reason: Reason  # "correct", or the first thing found wrong with it


@dataclass(frozen=True)
class _Question:
    task: str
    operands: list[str]
    argument: str
    form: str
    language: str

    @property
    def numbers(self) -> list[int]:
        return [int(operand) for operand in self.operands]

    @property
    def expected(self) -> list[str]:
        return [str(item) for item in _SOLVERS[self.task](self)]


def check_answer(answer: str, check: Mapping[str, Any]) -> Verdict:
    """Judge `answer` to the question that `check` describes.

    `check` is the column of that name in the demo's pairs: `task`, `operands`, `argument`,
    `format` ("free", "sentence", "value" or "brackets") and `language`.
    """
    named = {name: check[name] for name in ("task", "argument", "language")}
    question = _Question(operands=list(check["operands"]), form=check["format"], **named)
    reason = _reason(answer.strip(), question)
    return Verdict(reason == "correct", reason)


def _reason(answer: str, question: _Question) -> Reason:
    if not answer:
        return "empty"
    if _REFUSAL.search(answer):
        return "refused"
    if _is_rambling(answer, question):
        return "rambling"
    if not _states_result(answer, question):
        return "wrong result"
    return "correct" if _has_form(answer, question) else "wrong format"


_SOLVERS: dict[str, Callable[[_Question], Sequence[int | str]]] = {
    "add": lambda q: [sum(q.numbers)],
    "subtract": lambda q: [q.numbers[0] - q.numbers[1]],
    "larger": lambda q: [max(q.numbers)],
    "smaller": lambda q: [min(q.numbers)],
    "sort": lambda q: sorted(q.numbers, reverse=q.argument == "descending"),
    "sequence": lambda q: [2 * q.numbers[-1] - q.numbers[-2]],
    "parity": lambda q: ["odd" if q.numbers[0] % 2 else "even"],
    "count": lambda q: [len(q.operands)],
    "reverse": lambda q: q.operands[::-1],
    "pick": lambda q: [q.operands[-1 if q.argument == "last" else int(q.argument) - 1]],
    "repeat": lambda q: q.operands * int(q.argument),
    "contains": lambda q: ["yes" if q.argument in q.operands else "no"],
    "translate": lambda q: [
        (CHINESE if q.language == "en" else ENGLISH)[word] for word in q.operands
    ],
}


def _polarity(text: str) -> list[str]:
    """Return ["yes"], ["no"], nothing, or both where a plain yes stands beside a negation."""
    negations = len(_NO.findall(text))
    affirmed = bool(_YES.search(_NO.sub(" ", text)))
    if not negations:
        return ["yes"] if affirmed else []
    return ["no", "yes"] if _PLAIN_YES.search(text) else ["no"]


def _items(text: str, question: _Question) -> list[str]:
    """Return the items that the text states, in order and of the kind that the task asks for."""
    text = text.lower()
    if question.task == "contains":
        return _polarity(text)
    if question.task == "parity":
        return [_PARITY[word] for word in re.findall(r"\bodd\b|\beven\b|[奇偶]", text)]
    if question.operands[0].isdigit() or question.task == "count":
        return _NUMBER.findall(text)
    if (question.language == "zh") != (question.task == "translate"):  # of the answer
        return _CHINESE_WORD.findall(text)
    return [word for word in _LATIN_WORD.findall(text) if word in CHINESE]


def _states_result(answer: str, question: _Question) -> bool:
    stated, expected = _items(answer, question), question.expected
    operands = question.operands
    if question.task in ("add", "subtract"):
        return stated == expected or sorted(stated) == sorted(operands + expected)
    if question.task in ("larger", "smaller"):
        other = [operand for operand in operands if operand not in expected]
        return stated in (expected, expected + other, operands + expected)
    if question.task == "repeat":
        return stated == expected
    return stated in (expected, operands + expected)


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def _without_items(text: str, question: _Question) -> str:
    words = sorted({*question.operands, *question.expected}, key=len, reverse=True)
    pattern = "|".join(rf"\b{word}\b" if word.isascii() else word for word in words)
    return re.sub(rf"{pattern}|{_NUMBER.pattern}", " ", text.lower())


def _word_count(text: str) -> int:
    return len(re.findall(r"[a-z']+|[\u4e00-\u9fff]", text))


def _is_rambling(answer: str, question: _Question) -> bool:
    """Tell whether the answer runs on; the items it names don't count, but too many of them do."""
    if len(_sentences(answer)) > 2:
        return True
    room = len(question.operands) + len(question.expected) + 4
    if len(_items(answer, question)) > room:
        return True
    return _word_count(_without_items(answer, question)) > MAX_WORDS


def _is_bare(text: str, question: _Question) -> bool:
    """Tell whether the text consists of the expected items and separators alone."""
    expected = question.expected
    if question.task in ("contains", "parity"):
        return _items(text, question) == expected and _word_count(text.lower()) <= 2
    rest = re.sub(r"\band\b|和", "", _without_items(text, question))
    return _items(text, question) == expected and not re.search(r"[^\W_]|[\[\](){}]", rest)


def _has_form(answer: str, question: _Question) -> bool:
    if question.form == "value":
        return _is_bare(answer, question)
    if question.form == "brackets":
        bracketed = _BRACKETED.findall(answer)
        return len(bracketed) == 1 and _is_bare(bracketed[0], question)
    if question.form != "sentence":
        return True
    # One sentence, at most led in by an interjection ("Sure!").
    lead_in = sum(_word_count(sentence.lower()) for sentence in _sentences(answer)[:-1])
    return lead_in <= 4 and answer[-1] in ".!。！" and not _is_bare(answer, question)
