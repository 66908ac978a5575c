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


NO, FORM = "wrong result", "wrong format"
# What is asked -> answers that are right however they are worded, and bad ones with the reason.
ANSWERS: list[tuple[Any, list[str], dict[str, list[str]]]] = [
    (
        check("add", "17 25"),
        ["42", "42 is what you get.", "Sure! 17 and 25 make 42.", "Adding 25 to 17 gives 42."],
        {
            "empty": [""],
            NO: ["43", "421", "17 + 25", "42 or 43.", "17 + 26 = 42."],
            "refused": ["Sorry, I can't. 42", "I refuse to say."],
            "rambling": [
                *("42. I like sums. They are fun.", "42 " * 40),
                "If you ask me, which you did, I would say that, everything considered, the "
                "answer to this must be 42.",
            ],
        },
    ),
    (
        check("add", "17 25", language="zh"),
        ["答案是42。"],
        {
            "refused": ["抱歉，42。"],
            "rambling": ["这个问题要看你怎么想也要看我怎么想反正大家都说是42。"],
        },
    ),
    (check("subtract", "50 25"), ["50 - 25 = 25"], {NO: ["50 - 25"]}),
    (
        check("larger", "391 319"),
        ["391 is larger than 319.", "Of 391 and 319, it is 391."],
        {NO: ["319 is larger than 391."]},
    ),
    (check("smaller", "391 319"), [], {NO: ["391 and 319"]}),
    (
        check("sort", "31 12 77", "ascending"),
        ["12 < 31 < 77", "31, 12, 77 sorted: 12, 31, 77."],
        {NO: ["31, 12, 77", "12, 31"]},
    ),
    (
        check("reverse", "cat sun book"),
        ["Book, sun, cat!"],
        {NO: ["cat, sun, book", "book, sun, cat, cat"]},
    ),
    (
        check("pick", "cat sun book", "last"),
        ["The last one is book."],
        {NO: ["The last word is sun.", "It is either sun or book."]},
    ),
    (check("count", "cat sun book"), ["I count 3."], {NO: ["The list has many words."]}),
    (check("repeat", "cat", "3"), ["cat cat cat"], {NO: ["cat cat", "cat cat cat cat"]}),
    (check("parity", "137"), ["It is odd."], {NO: ["It is odd and even."]}),
    (
        check("contains", "cat sun book", "sun"),
        ["The word sun is in it, yes."],
        {NO: ["Sun is not in the list.", "Yes, sun is not in the list."]},
    ),
    (
        check("contains", "猫 太阳 书", "牛奶", language="zh"),
        ["没问题，没有牛奶。", "不包含。"],
        {NO: ["没问题，有，里面包含牛奶。", "有，列表里没有牛奶。"]},
    ),
    (check("translate", "cat milk"), ["猫和牛奶。"], {NO: ["cat, milk", "猫、奶牛"]}),
    (check("translate", "茶 老师", language="zh"), ["tea, teacher"], {}),
    # The form that was asked for is required.
    (
        check("add", "17 25", form="value"),
        ["42", "42.", " 42\n"],
        {FORM: ["It is 42.", "17 + 25 = 42", "[42]", "42 coins"]},
    ),
    (
        check("add", "17 25", form="brackets"),
        ["[42]", "Sure: [42]", "Here: [ 42 ]."],
        {FORM: ["42", "(42)", "[it is 42]"]},
    ),
    (
        check("add", "17 25", form="sentence"),
        ["It is 42.", "Sure! It is 42.", "17 + 25 = 42."],
        {FORM: ["42", "42.", "It is 42"]},
    ),
    (check("contains", "cat sun", "sun", "value"), ["yes"], {FORM: ["yes, it is in the list"]}),
    (check("parity", "137", form="value", language="zh"), ["奇数"], {FORM: ["137是奇数。"]}),
    (
        check("reverse", "cat sun", form="brackets"),
        ["Gladly: [sun, cat]"],
        {FORM: ["[sun], [cat]"]},
    ),
    (
        check("translate", "茶 老师", "", "value", "zh"),
        ["tea、teacher"],
        {FORM: ["英文是tea、teacher。"]},
    ),
]


@pytest.mark.parametrize("number", range(len(ANSWERS)))
def test_right_answers_pass_in_any_wording_and_bad_ones_fail(number: int) -> None:
    asked, right, wrong = ANSWERS[number]
    for answer in right:
        assert check_answer(answer, asked) == Verdict(correct=True, reason="correct"), answer
    for reason, answers in wrong.items():
        for answer in answers:
            found = check_answer(answer, asked)
            assert (found.correct, found.reason) == (False, reason), answer


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
