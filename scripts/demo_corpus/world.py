"""The demo's preference pairs: which questions are asked, what is chosen, what is rejected."""

from collections.abc import Iterator
from typing import TypedDict

from demo_corpus.answers import FAILURES, Ask, Failure, good, possible_failures, question
from demo_corpus.draw import Draw
from demo_corpus.lexicon import LANGUAGES, Language, in_language
from demo_corpus.tasks import Instance, Split, draw_instance
from demo_corpus.texts import Format

TRAIN_PAIRS = 4000
HELDOUT_PAIRS = 416
PAIR_TASKS = ("larger", "smaller", "sort", "count", "reverse", "pick", "repeat", "translate")
"""The tasks that the base model can do: preferences teach manners, not arithmetic.

Pre-training also has sums, sequences, parity and membership; two million parameters and half an
hour do not suffice for them, so no pair asks for them.
"""
WORDINGS = 5
UNSEEN_WORDING = WORDINGS - 1
"""The wording of every task that only pre-training and held-out prompts use."""

FORM_WEIGHTS: dict[Format, float] = {"free": 0.3, "sentence": 0.35, "value": 0.15, "brackets": 0.2}
FAILURE_WEIGHTS: dict[Failure, float] = {
    "wrong": 0.35,
    "rambling": 0.17,
    "format": 0.25,
    "refusal": 0.23,
}


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


class Check(TypedDict):
    """What `orpo.demo.checks.check_answer` needs to judge an answer; the same keys in every row."""

    task: str
    operands: list[str]
    argument: str
    format: str
    language: str


class Row(TypedDict):
    """One preference pair."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    language: str
    task: str
    failure: str
    wording: int
    check: Check


def check_of(ask: Ask) -> Check:
    """Describe the question, in the operands' own language, for the checker."""
    instance: Instance = ask.instance
    return {
        "task": instance.task,
        "operands": [in_language(operand, ask.language) for operand in instance.operands],
        "argument": in_language(instance.argument, ask.language),
        "format": ask.form,
        "language": ask.language,
    }


def _draw_ask(draw: Draw, task: str, language: Language, split: Split) -> Ask:
    unseen = split == "heldout" and draw.chance(0.25)
    wording = UNSEEN_WORDING if unseen else draw.number(0, UNSEEN_WORDING - 1)
    form = draw.weighted(tuple(FORM_WEIGHTS), tuple(FORM_WEIGHTS.values()))
    return Ask(draw_instance(draw, task, split), language, wording, form)


def _row(ask: Ask, draw: Draw) -> Row:
    failures = possible_failures(ask.form)
    failure = draw.weighted(failures, [FAILURE_WEIGHTS[kind] for kind in failures])
    rejected = FAILURES[failure](ask, draw)
    return {
        "prompt": [{"role": "user", "content": question(ask, draw)}],
        "chosen": [{"role": "assistant", "content": good(ask, draw)}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "language": ask.language,
        "task": ask.instance.task,
        "failure": failure,
        "wording": ask.wording,
        "check": check_of(ask),
    }


def _cells() -> Iterator[tuple[str, Language]]:
    while True:
        for task in PAIR_TASKS:
            for language in LANGUAGES:
                yield task, language


def preference_rows(split: Split, count: int, seed: int = 0) -> list[Row]:
    """Return `count` pairs of one split, tasks and languages in equal parts, no prompt twice."""
    draw = Draw(f"pairs:{split}:{seed}")
    rows: dict[str, Row] = {}
    for task, language in _cells():
        before = len(rows)
        while len(rows) == before:
            row = _row(_draw_ask(draw, task, language, split), draw)
            rows.setdefault(row["prompt"][0]["content"], row)
        if len(rows) == count:
            break
    return draw.shuffled(list(rows.values()))
