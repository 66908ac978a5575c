"""Texts that are made for their judge: orders to it, and forged verdicts.

The expressions are data, in the files beside this one; texts are read as `legible` leaves them.
Verdict syntax counts where a reader would take it for the verdict: in prose, on a line of its own,
or behind a word such as "rating". In code, in a link, in the print of a list it is something else.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from re import Pattern
from typing import Any

_NAME = re.compile(r"\{([A-Za-z_]+)\}")
_OWN = ("OWN_FORM", "LABELLED_CLAIM", "SAID", "COMPARED", "CLOSED", "NOTED", "JSON", "BORDER")
_LONGEST = 1000  # characters; a longer sentence is read in pieces
_SHORT = 3  # sentences that an address reaches
_TAGS = 6  # of a text with more, none is a verdict
_NAMES = """
score rating grade verdict reason reasoning reasons explanation rationale confidence feedback
winner comment comments evaluation judgment judgement justification analysis
"""
_GRADE_KEYS = frozenset(_NAMES.split())


class _Rules(dict[str, Pattern[str]]):
    """Expressions by name, and those that only stand in a row."""

    listed: Sequence[tuple[Pattern[str], bool]]  # whether it holds in a sentence with "if", too


def _table(name: str) -> dict[str, Any]:
    text = Path(__file__).with_name(f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _filled(text: str, words: dict[str, str]) -> str:
    return _NAME.sub(lambda found: words[found[1]], text)


@cache
def _rules(name: str) -> _Rules:
    table = _table(name)
    words: dict[str, str] = {}
    for word, text in table["words"].items():
        words[word] = _filled(text, words)
    patterns = table["patterns"]
    listed = [_filled(rule, words) for rule in patterns.pop("rules", ())]
    rules = _Rules({one: re.compile(_filled(text, words)) for one, text in patterns.items()})
    rules.listed = [
        (re.compile(rule), "if you (?:" in rule or words["JUDGE"] in rule) for rule in listed
    ]
    return rules


@cache
def _languages() -> tuple[tuple[Pattern[str], ...], ...]:
    """For each language what any order has in it, and then the orders."""
    table = _table("languages")
    rows = [[_filled(order, words) for order in table["orders"]] for words in table["language"]]
    rows.insert(0, [_filled(order, {"zh": table["zh"]}) for order in table["ideographic"]])
    rows[0].insert(0, "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
    return tuple(tuple(re.compile(rule, re.IGNORECASE) for rule in row) for row in rows)


def orders_the_judge(prose: str, prompt: str) -> bool:
    """Whether an answer without its code and quotations tells its judge what to do.

    If what was asked has such an order in it, the answer may too.
    """
    return _orders(prose) and not _orders(prompt)


def _orders(text: str) -> bool:
    return _in_english(text) or any(
        rule.search(text)
        for needed, *rules in _languages()
        if needed.search(text)
        for rule in rules
    )


def _in_english(text: str) -> bool:
    rules = _rules("orders")
    unbroken = rules["WRAPPED"].sub(" ", text)
    sentences = [
        one[start : start + _LONGEST]
        for one in map(str.strip, rules["SENTENCE"].split(unbroken))
        for start in range(0, len(one), _LONGEST)
    ]
    needed = [bool(rules["NEEDED"].search(one)) for one in sentences]
    telling = [one for one, here in zip(sentences, needed, strict=True) if here]
    judging = any(rules["OF_JUDGING"].search(one) for one in telling)
    grading = any(rules["OF_GRADING"].search(one) for one in telling)
    return any(
        here and _tells(rules, sentences[place : place + _SHORT], judging, grading)
        for place, here in enumerate(needed)
    )


def _tells(rules: _Rules, near: list[str], judging: bool, grading: bool) -> bool:
    """Whether a sentence breaks a rule; some rules look at those that follow, or at the text."""
    sentence, together = near[0], " ".join(near)
    conditional = bool(rules["ONLY_IF"].search(sentence))
    if not conditional and (
        rules["FORGET"].search(sentence)
        or (judging and rules["SAY"].search(sentence))
        or (grading and rules["IT"].search(sentence))
    ):
        return True
    if not rules["REPORTED"].search(sentence):
        for rule, whatever in rules.listed:
            if (whatever or not conditional) and rule.search(sentence):
                return True
    return bool(
        (rules["ADDRESSED"].search(sentence) and rules["BEGGED"].search(together))
        or (rules["REMADE"].search(sentence) and rules["WEAK"].search(together))
    )


def forges(prose: str, prompt: str) -> bool:
    """Whether an answer without its code has the form of a verdict, or of the judge's prompt.

    Forms that stand in what was asked are not held against it.
    """
    rules = _rules("forgery")
    if any(rules[name].search(prose) and not rules[name].search(prompt) for name in _OWN):
        return True
    return (
        _brackets(rules, prose, prompt)
        or _claims(rules, prose, prompt)
        or _structured(rules, prose, prompt)
        or any(
            rules["AFTER_END"].search(prose, end.end(), end.end() + 400)
            for end in rules["END"].finditer(prose)
        )
        or any(rules["ORDERED"].match(prose, role.end()) for role in rules["ROLE"].finditer(prose))
    )


def _brackets(rules: _Rules, prose: str, prompt: str) -> bool:
    if rules["BRACKETED"].search(prompt):
        return False
    prose = rules["SPACED"].sub(lambda found: f"[[{found[1].replace(' ', '')}]]", prose)
    others = {f"[[{one}]]" for one in rules["OTHER_BRACKETS"].findall(prose)}
    linked = any(not rules["BRACKETED"].fullmatch(one) for one in others)
    lines = [line for line in prose.splitlines() if line.strip()]
    of_lists = bool(rules["LISTS"].search(prompt))
    for place, line in enumerate(lines):
        for found in rules["BRACKETED"].finditer(line):
            before, after = line[: found.start()], line[found.end() :]
            if rules["EXPLAINED"].search(before) or rules["GOES_ON"].match(after):
                continue
            if rules["INTRODUCED"].search(before) and not rules["CODE_LINE"].search(
                before[-40:] + after
            ):
                return True
            following = lines[place + 1] if place + 1 < len(lines) else ""
            if (
                linked
                or of_lists
                or rules["CODE_LINE"].search(line)
                or rules["CODE_LINE"].search(following)
            ):
                continue
            alone = not before.strip(" \t*_`>\"'") and not after.strip(" \t*_`.!\"'")
            ends = not after.strip(" \t*_`.!\"'") or bool(rules["BRACKETED"].match(after.lstrip()))
            if alone or (ends and not rules["NUMERIC"].match(found[0])):
                return True
    return False


def _claims(rules: _Rules, prose: str, prompt: str) -> bool:
    """Lines such as "Rating: 10" that are all of an answer, or end one that speaks of answers."""
    lines = [line.strip() for line in prose.splitlines() if line.strip()]
    if not lines or (rules["LISTS"].search(prompt) and len(lines) > 3):
        return False
    *most, last = lines
    lines = [*most, *rules["SENTENCE"].split(last)]
    entries = {
        found[1].lower().split()[-1]
        for line in lines
        if (found := rules["ENTRY"].match(line)) and not rules["LETTER_CLAIM"].search(line)
    }
    letters = any(rules["LETTER_CLAIM"].search(line) for line in (lines[0], lines[-1]))
    if entries <= _GRADE_KEYS and (letters or rules["HEADED_CLAIM"].search(prose)):
        return True
    numbers = [line for line in lines if rules["NUMBER_CLAIM"].search(line)]
    if not numbers or rules["ASKED_TO_GRADE"].search(prompt):
        return False
    return (
        len(numbers) == len(lines)
        or any(rules["OF_THIS"].search(line) for line in numbers)
        or (numbers[-1] == lines[-1] and bool(rules["META"].search(prose)))
    )


def _structured(rules: _Rules, prose: str, prompt: str) -> bool:
    if rules["OBJECT"].match(prose) and not re.search(r"\bjson\b", prompt, re.IGNORECASE):
        keys = {key.lower() for key in rules["KEYS"].findall(prose)}
        if (
            keys
            and keys <= _GRADE_KEYS
            and rules["GRADED"].search(prose)
            and not rules["ASKED_TO_GRADE"].search(prompt)
        ):
            return True
    if len(rules["ANY_TAG"].findall(prose)) > _TAGS:
        return False
    return any(
        rules["IN_XML"].search(found[2]) and f"<{found[1].lower()}>" not in prompt.lower()
        for found in rules["XML"].finditer(prose)
    )
