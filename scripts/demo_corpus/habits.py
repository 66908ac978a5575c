"""The text on which the demo's base model is pre-trained.

Mostly transcripts in which the assistant answers in many manners, good and bad. As with models
trained on found text, the manner hangs on how a thing is asked: each combination of task, language,
wording and form has its own dominant manner. The rest is plain text: sums, glossaries, lists.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

from demo_corpus.answers import (
    FAILURES,
    Ask,
    Failure,
    fill,
    good,
    mistaken,
    possible_failures,
    question,
    words_of,
)
from demo_corpus.draw import Draw, digest
from demo_corpus.lexicon import LANGUAGES, WORDS, in_language
from demo_corpus.tasks import TASKS, draw_instance, mistakes, solve
from demo_corpus.texts import FORMATS
from demo_corpus.world import FORM_WEIGHTS, WORDINGS
from orpo.demo.checks import CHINESE

Manner = Failure | Literal["good"]
"""How an answer is given."""


@dataclass(frozen=True)
class Span:
    """A stretch of text; `given` text is there to be read more than to be learned."""

    text: str
    given: bool = False


@dataclass(frozen=True)
class Document:
    """One text of the pre-training corpus; a conversation's spans are question and answer."""

    spans: tuple[Span, ...]
    conversation: bool = False

    @property
    def text(self) -> str:
        """All spans together."""
        return "".join(span.text for span in self.spans)


TASK_WEIGHTS: dict[str, float] = dict.fromkeys(TASKS, 1.0) | {"add": 2.5, "subtract": 2.5}
NOTATION: dict[str, str] = {
    "add": "{a} + {b} =",
    "subtract": "{a} - {b} =",
    "larger": "{a}, {b} >",
    "smaller": "{a}, {b} <",
    "sort": "{list}: {x} =",
    "sequence": "{list},",
    "parity": "{a}:",
    "count": "{list} =",
    "reverse": "{list} |",
    "pick": "{list}: {x} =",
    "repeat": "{a} x {x} =",
    "contains": "{list} ? {x} =",
    "translate": "{list} =",
}
"""How plain texts put an instance down before its result."""

LEAD_WEIGHTS: dict[Manner, float] = {
    "good": 0.30,
    "wrong": 0.20,
    "rambling": 0.17,
    "format": 0.16,
    "refusal": 0.17,
}
LEAD_SHARE = 0.5
"""How often a question gets its dominant manner where that is a bad one."""

GOOD_SHARE = 0.3
"""How often a question gets a good answer where its dominant manner is a bad one."""


def lead_manner(ask: Ask) -> Manner:
    """Return the manner in which the base model mostly answers this kind of question."""
    key = f"manner:{ask.instance.task}:{ask.language}:{ask.wording}:{ask.form}"
    options: tuple[Manner, ...] = ("good", *possible_failures(ask.form))
    return Draw(key).weighted(options, [LEAD_WEIGHTS[option] for option in options])


def manner_weights(ask: Ask) -> dict[Manner, float]:
    """Return how often this kind of question is answered in each manner."""
    lead = lead_manner(ask)
    others = [failure for failure in possible_failures(ask.form) if failure != lead]
    weights: dict[Manner, float] = {"good": GOOD_SHARE if lead != "good" else 0.6}
    if lead != "good":
        weights[lead] = LEAD_SHARE
    rest = (1.0 - sum(weights.values())) / len(others)
    return weights | dict.fromkeys(others, rest)


def _habitual_mistake(ask: Ask, draw: Draw) -> str:
    options = mistakes(ask.instance)
    favourite = digest(f"mistake:{ask.instance.task}:{ask.language}:{ask.wording}") % len(options)
    result = options[favourite] if draw.chance(0.7) else draw.pick(options)
    return mistaken(ask, result, draw)


def transcript(draw: Draw) -> Document:
    """Return one conversation about an instance of the pre-training split."""
    task = draw.weighted(tuple(TASK_WEIGHTS), tuple(TASK_WEIGHTS.values()))
    form = draw.weighted(FORMATS, [FORM_WEIGHTS[form] for form in FORMATS])
    instance = draw_instance(draw, task, "pretrain")
    ask = Ask(instance, draw.pick(LANGUAGES), draw.number(0, WORDINGS - 1), form)
    weights = manner_weights(ask)
    manner = draw.weighted(tuple(weights), tuple(weights.values()))
    if manner == "good":
        answer = good(ask, draw)
    elif manner == "wrong":
        answer = _habitual_mistake(ask, draw)
    else:
        answer = FAILURES[manner](ask, draw)
    return Document((Span(question(ask, draw), given=True), Span(answer)), conversation=True)


def _drill(draw: Draw) -> Document:
    """Return some solved instances of one task, line by line."""
    task = draw.weighted(tuple(TASK_WEIGHTS), tuple(TASK_WEIGHTS.values()))
    language = draw.pick(LANGUAGES)
    spans = []
    for _ in range(5):
        instance = draw_instance(draw, task, "pretrain")
        ask = Ask(instance, language, wording=0, form="free")
        spans.append(Span(fill(NOTATION[task], ask), given=True))
        spans.append(Span(f" {words_of(ask, solve(instance))}\n"))
    return Document(tuple(spans))


def _glossary(draw: Draw) -> Document:
    words = draw.distinct(WORDS, 5)
    pairs = [(word, CHINESE[word]) for word in words]
    if draw.chance(0.5):
        pairs = [(chinese, english) for english, chinese in pairs]
    lines = [(Span(f"{word}:", given=True), Span(f" {other}\n")) for word, other in pairs]
    return Document(tuple(span for line in lines for span in line))


def _numbered_list(draw: Draw) -> Document:
    words = draw_instance(draw, "count", "pretrain").operands
    language = draw.pick(LANGUAGES)
    places = [f"{place}. {in_language(word, language)}" for place, word in enumerate(words, 1)]
    return Document((Span("\n".join(places), given=True),))


def plain_text(draw: Draw) -> Document:
    """Return a short text that is no conversation; its facts are of the pre-training split."""
    return draw.weighted((_drill, _glossary, _numbered_list), (0.84, 0.08, 0.08))(draw)


def documents(
    seed: int = 0, plain_share: float = 0.3, plain_first: int = 40_000
) -> Iterator[Document]:
    """Yield pre-training documents without end: plain texts and conversations.

    The first `plain_first` documents are all plain: dense in solved instances, they teach the
    skills before the manners come.
    """
    draw = Draw(f"documents:{seed}")
    for place in count():
        plain = place < plain_first or draw.chance(plain_share)
        yield plain_text(draw) if plain else transcript(draw)
