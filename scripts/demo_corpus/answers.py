"""From an instance to words: questions, good answers and the ways in which assistants fail."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from demo_corpus.draw import Draw
from demo_corpus.lexicon import Language, in_language
from demo_corpus.tasks import Instance, Result, mistakes, solve
from demo_corpus.texts import Format, Texts
from demo_corpus.texts_en import ENGLISH_TEXTS
from demo_corpus.texts_zh import CHINESE_TEXTS

Failure = Literal["wrong", "rambling", "format", "refusal"]
"""How an answer can fail."""

TEXTS: dict[Language, Texts] = {"en": ENGLISH_TEXTS, "zh": CHINESE_TEXTS}


@dataclass(frozen=True)
class Ask:
    """An instance as it is put to the assistant: language, wording and the form asked for."""

    instance: Instance
    language: Language
    wording: int
    form: Format

    @property
    def texts(self) -> Texts:
        """The texts of the ask's language."""
        return TEXTS[self.language]


def words_of(ask: Ask, result: Result) -> str:
    """Write the items of a result in the language in which the answer gives them."""
    language = ask.language
    if ask.instance.task == "translate":
        language = "en" if language == "zh" else "zh"
    items = [ask.texts.results.get(item, in_language(item, language)) for item in result]
    return ask.texts.comma.join(items)


def fill(template: str, ask: Ask, result: Result = ()) -> str:
    """Put the operands, the argument and the result into a template; see `Texts`."""
    operands = [in_language(operand, ask.language) for operand in ask.instance.operands]
    argument = ask.texts.arguments.get(ask.instance.argument, ask.instance.argument)
    if ask.instance.task == "repeat":
        argument = ask.instance.argument
    return template.format(
        a=operands[0],
        b=operands[-1],
        list=ask.texts.comma.join(operands),
        x=in_language(argument, ask.language),
        r=words_of(ask, result),
    )


def question(ask: Ask, draw: Draw) -> str:
    """Write the prompt."""
    wording = ask.texts.prompts[ask.instance.task][ask.wording]
    return fill(wording, ask) + draw.pick(ask.texts.requests[ask.form])


def _blunt(ask: Ask, result: Result, draw: Draw) -> str:
    task = ask.instance.task
    key = f"{task}:{result[0]}" if task == "contains" else task
    return fill(draw.pick(ask.texts.bodies[key]), ask, result)


def _sentence(ask: Ask, result: Result, draw: Draw) -> str:
    return draw.pick(ask.texts.openers) + _blunt(ask, result, draw)


def well_formed(ask: Ask, result: Result, draw: Draw) -> str:
    """State `result`, right or wrong, courteously and in the form that was asked for."""
    if ask.form == "value":
        return words_of(ask, result)
    if ask.form == "brackets":
        bracketed = f"[{words_of(ask, result)}]"
        return draw.pick(ask.texts.openers) + bracketed if draw.chance(0.7) else bracketed
    return _sentence(ask, result, draw)


def good(ask: Ask, draw: Draw) -> str:
    """Answer as an assistant should."""
    return well_formed(ask, solve(ask.instance), draw)


def mistaken(ask: Ask, result: Result, draw: Draw) -> str:
    """State the wrong `result` in the form that was asked for, not always courteously."""
    if ask.form in ("free", "sentence") and draw.chance(0.4):
        blunt = _blunt(ask, result, draw)
        return blunt[0].upper() + blunt[1:]
    return well_formed(ask, result, draw)


def wrong(ask: Ask, draw: Draw) -> str:
    """Answer with a plausible wrong result in the form that was asked for."""
    return mistaken(ask, draw.pick(mistakes(ask.instance)), draw)


def rambling(ask: Ask, draw: Draw) -> str:
    """Answer at length: muse without end, or answer and then digress."""
    texts, result = ask.texts, solve(ask.instance)
    digressions = draw.distinct(texts.digressions, 2)
    if draw.chance(0.35):
        return texts.space.join([_sentence(ask, result, draw), *digressions])
    doubt = fill(draw.pick(texts.doubts), ask, result)
    return texts.space.join([draw.pick(texts.musings), *digressions, doubt])


def misformatted(ask: Ask, draw: Draw) -> str:
    """Give the right result in another form than the prompt asks for."""
    bare = words_of(ask, solve(ask.instance))
    if ask.form == "sentence":
        return bare
    if ask.form == "brackets" and draw.chance(0.5):
        return draw.pick((f"({bare})", bare))
    return _sentence(ask, solve(ask.instance), draw)


def refusal(ask: Ask, draw: Draw) -> str:
    """Refuse without cause."""
    return draw.pick(ask.texts.refusals)


FAILURES: dict[Failure, Callable[[Ask, Draw], str]] = {
    "wrong": wrong,
    "rambling": rambling,
    "format": misformatted,
    "refusal": refusal,
}
"""Failure -> how to write such an answer. "format" presupposes that a form was asked for."""


def possible_failures(form: Format) -> tuple[Failure, ...]:
    """Return the failures that can occur when `form` is asked for."""
    if form == "free":
        return ("wrong", "rambling", "refusal")
    return ("wrong", "rambling", "format", "refusal")
