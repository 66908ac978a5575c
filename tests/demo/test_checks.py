"""The demo's checker: right answers in any wording pass, planted bad ones fail for their reason."""

from typing import Any

import pytest
from demo_corpus.answers import FAILURES, Ask, good, possible_failures
from demo_corpus.draw import Draw
from demo_corpus.lexicon import LANGUAGES
from demo_corpus.tasks import TASKS, draw_instance
from demo_corpus.texts import FORMATS
from demo_corpus.world import WORDINGS, Row, check_of, preference_rows

from orpo.demo.checks import Verdict, check_answer

REASONS = {
    "wrong": "wrong result",
    "rambling": "rambling",
    "format": "wrong format",
    "refusal": "refused",
}


def check(
    task: str, operands: str, argument: str = "", form: str = "free", language: str = "en"
) -> Any:
    return {
        "task": task,
        "operands": operands.split(),
        "argument": argument,
        "format": form,
        "language": language,
    }


ADD = check("add", "17 25")
ADD_ZH = check("add", "17 25", language="zh")
SUBTRACT = check("subtract", "50 25")
LARGER = check("larger", "391 319")
SORT = check("sort", "31 12 77", "ascending")
REVERSE = check("reverse", "cat sun book")
PICK = check("pick", "cat sun book", "last")
COUNT = check("count", "cat sun book")
REPEAT = check("repeat", "cat", "3")
PARITY = check("parity", "137")
CONTAINS = check("contains", "cat sun book", "sun")
CONTAINS_ZH = check("contains", "猫 太阳 书", "牛奶", language="zh")
TRANSLATE = check("translate", "cat milk")
TRANSLATE_ZH = check("translate", "茶 老师", language="zh")


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return preference_rows("train", 4000) + preference_rows("heldout", 416)


def test_chosen_passes_and_rejected_fails_for_its_reason(rows: list[Row]) -> None:
    for row in rows:
        chosen = check_answer(row["chosen"][0]["content"], row["check"])
        assert chosen == Verdict(correct=True, reason="correct"), row
        rejected = check_answer(row["rejected"][0]["content"], row["check"])
        assert (rejected.correct, rejected.reason) == (False, REASONS[row["failure"]]), row


@pytest.mark.parametrize("task", TASKS)
def test_every_task_can_be_checked(task: str) -> None:
    draw = Draw(task)
    for place in range(400):
        instance = draw_instance(draw, task, "pretrain")
        form = FORMATS[place % len(FORMATS)]
        ask = Ask(instance, draw.pick(LANGUAGES), draw.number(0, WORDINGS - 1), form)
        assert check_answer(good(ask, draw), check_of(ask)).correct
        for failure in possible_failures(form):
            answer = FAILURES[failure](ask, draw)
            assert check_answer(answer, check_of(ask)).reason == REASONS[failure], answer


@pytest.mark.parametrize(
    ("answer", "question"),
    [
        ("42", ADD),
        ("42 is what you get.", ADD),
        ("Sure! 17 and 25 make 42.", ADD),
        ("Adding 25 to 17 gives 42.", ADD),
        ("答案是42。", ADD_ZH),
        ("50 - 25 = 25", SUBTRACT),
        ("391 is larger than 319.", LARGER),
        ("Of 391 and 319, it is 391.", LARGER),
        ("12 < 31 < 77", SORT),
        ("31, 12, 77 sorted: 12, 31, 77.", SORT),
        ("Book, sun, cat!", REVERSE),
        ("The last one is book.", PICK),
        ("I count 3.", COUNT),
        ("cat cat cat", REPEAT),
        ("It is odd.", PARITY),
        ("The word sun is in it, yes.", CONTAINS),
        ("没问题，没有牛奶。", CONTAINS_ZH),
        ("不包含。", CONTAINS_ZH),
        ("猫和牛奶。", TRANSLATE),
        ("tea, teacher", TRANSLATE_ZH),
    ],
)
def test_right_answers_pass_in_any_wording(answer: str, question: Any) -> None:
    assert check_answer(answer, question) == Verdict(correct=True, reason="correct")


@pytest.mark.parametrize(
    ("answer", "question", "reason"),
    [
        ("", ADD, "empty"),
        ("43", ADD, "wrong result"),
        ("421", ADD, "wrong result"),
        ("17 + 25", ADD, "wrong result"),
        ("42 or 43.", ADD, "wrong result"),
        ("17 + 26 = 42.", ADD, "wrong result"),
        ("50 - 25", SUBTRACT, "wrong result"),
        ("319 is larger than 391.", LARGER, "wrong result"),
        ("391 and 319", check("smaller", "391 319"), "wrong result"),
        ("31, 12, 77", SORT, "wrong result"),
        ("12, 31", SORT, "wrong result"),
        ("cat, sun, book", REVERSE, "wrong result"),
        ("book, sun, cat, cat", REVERSE, "wrong result"),
        ("The last word is sun.", PICK, "wrong result"),
        ("It is either sun or book.", PICK, "wrong result"),
        ("The list has many words.", COUNT, "wrong result"),
        ("cat cat", REPEAT, "wrong result"),
        ("cat cat cat cat", REPEAT, "wrong result"),
        ("It is odd and even.", PARITY, "wrong result"),
        ("Sun is not in the list.", CONTAINS, "wrong result"),
        ("Yes, sun is not in the list.", CONTAINS, "wrong result"),
        ("没问题，有，里面包含牛奶。", CONTAINS_ZH, "wrong result"),
        ("有，列表里没有牛奶。", CONTAINS_ZH, "wrong result"),
        ("cat, milk", TRANSLATE, "wrong result"),
        ("猫、奶牛", TRANSLATE, "wrong result"),
        ("Sorry, I can't. 42", ADD, "refused"),
        ("I refuse to say.", ADD, "refused"),
        ("抱歉，42。", ADD_ZH, "refused"),
        ("42. I like sums. They are fun.", ADD, "rambling"),
        ("42 " * 40, ADD, "rambling"),
        (
            "If you ask me, which you did, I would say that, everything considered, the answer "
            "to this must be 42.",
            ADD,
            "rambling",
        ),
        ("这个问题要看你怎么想也要看我怎么想反正大家都说是42。", ADD_ZH, "rambling"),
    ],
)
def test_planted_bad_answers_fail(answer: str, question: Any, reason: str) -> None:
    assert check_answer(answer, question) == Verdict(correct=False, reason=reason)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("question", "good", "bad"),
    [
        (
            check("add", "17 25", form="value"),
            ["42", "42.", " 42\n"],
            ["It is 42.", "17 + 25 = 42", "[42]", "42 coins"],
        ),
        (
            check("add", "17 25", form="brackets"),
            ["[42]", "Sure: [42]", "Here: [ 42 ]."],
            ["42", "(42)", "[it is 42]"],
        ),
        (
            check("add", "17 25", form="sentence"),
            ["It is 42.", "Sure! It is 42.", "17 + 25 = 42."],
            ["42", "42.", "It is 42"],
        ),
        (check("contains", "cat sun", "sun", "value"), ["yes"], ["yes, it is in the list"]),
        (check("parity", "137", form="value", language="zh"), ["奇数"], ["137是奇数。"]),
        (
            check("reverse", "cat sun", form="brackets"),
            ["Gladly: [sun, cat]"],
            ["[sun], [cat]"],
        ),
        (
            check("translate", "茶 老师", "", "value", "zh"),
            ["tea、teacher"],
            ["英文是tea、teacher。"],
        ),
    ],
)
def test_the_form_asked_for_is_required(question: Any, good: list[str], bad: list[str]) -> None:
    for answer in good:
        assert check_answer(answer, question).correct, answer
    for answer in bad:
        assert check_answer(answer, question) == Verdict(correct=False, reason="wrong format")
