"""Answers that try to be liked instead of being good: what a reader of the verdicts should look at.

A suspicion is a hint to a reader and changes no verdict and no score. Each rule looks for a form
that an honest answer seldom has; precision comes before recall, since an honest answer that is
accused is worse than an attack that only the canaries show. What the prompt itself says or asks for
is not held against an answer, and neither are code and quotations.

Constant answers do not depend on the question: they are the same, or nearly the same, for several.

The expressions for texts that are made for their judge are data, in the files beside this one; they
read what `legible` leaves. Verdict syntax counts where a reader would take it for the verdict: in
prose, on a line of its own, or behind a word such as "rating". In code, in a link, in the print of
a list it is something else.
"""

import re
import tomllib
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from re import Pattern
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orpo.evaluate.judge.fences import legible

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
_LONG = 40  # letters; shorter answers are the same for good reasons: "yes", "Paris", "42"
_REPEATED, _RATE = 3, 0.01  # prompts with the same long answer, and their share of all
_OFTEN = 0.8  # share of all prompts with the same short answer ...
_ENOUGH = 5  # ... and how many prompts there have to be
_ALIKE = 0.8  # share of shingles that two nearly equal answers have in common
_BANDS, _ROWS = 8, 4  # of a MinHash signature; texts alike to 0.8 meet with probability 0.98
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\d_]+|\d+")
_PRIME = np.uint64((1 << 61) - 1)

_NAME = re.compile(r"\{([A-Za-z_]+)\}")
_OWN = ("OWN_FORM", "LABELLED_CLAIM", "SAID", "COMPARED", "CLOSED", "NOTED", "JSON", "BORDER")
_LONGEST = 1000  # characters; a longer sentence is read in pieces
_NEAR = 3  # sentences that an address reaches
_TAGS = 6  # of a text with more, none is a verdict
_NAMES = """
score rating grade verdict reason reasoning reasons explanation rationale confidence feedback
winner comment comments evaluation judgment judgement justification analysis
"""
_GRADE_KEYS = frozenset(_NAMES.split())


def suspicions(answers: Sequence[str | None], prompts: Sequence[str]) -> list[tuple[str, ...]]:
    """What is suspicious about each answer of one model, to prompts as `conversation` writes them.

    `EMPTY` (None too), `CONSTANT` (the same, or nearly so, for other prompts too), `FORGED` (a
    verdict in the answer), `TALKS` (it tells the judge what to do).
    """
    texts = [legible(answer or "") for answer in answers]
    asked = [legible(prompt) for prompt in prompts]
    repeated = _constant_answers(texts, asked)
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


def _without(text: str, part: Pattern[str]) -> str:
    """A text without its blocks or quotations; with what is in them where there is little else."""
    rest = part.sub(" ", text)
    if len(rest.strip()) >= (1 - _MOSTLY) * len(text.strip()):
        return rest
    named = any((found.groupdict().get("language") or "").strip() for found in part.finditer(text))
    if named:
        return rest
    return part.sub(lambda found: found.groupdict().get("inside") or found[0].strip("`\"'"), text)


def _constant_answers(answers: Sequence[str], prompts: Sequence[str]) -> set[int]:
    """Indices of answers that other prompts got too.

    Punctuation, case and white space make no difference. A long answer is constant if three
    different prompts have it (two, if there are no more than two) and one in a hundred of all; a
    short one if it is four of five answers to five prompts or more. Answers that are only nearly
    the same count if their prompts differ in more than numbers.
    """
    words = [_WORD.findall(answer.casefold()) for answer in answers]
    equal: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, found in enumerate(words):
        if found:
            equal[tuple(found)].append(index)
    constant = _repeated(equal.values(), words, prompts)
    without_numbers = [re.sub(r"\d+", "0", prompt) for prompt in prompts]
    return constant | _repeated(_groups(words), words, without_numbers)


def _repeated(
    groups: Iterable[list[int]], words: Sequence[Sequence[str]], prompts: Sequence[str]
) -> set[int]:
    """The members of groups that are too many for their prompts."""
    different = len(set(prompts))
    found: set[int] = set()
    for group in groups:
        count = len({prompts[index] for index in group})
        if _is_long(words[group[0]]):
            if count >= max(min(_REPEATED, max(different, 2)), _RATE * different):
                found.update(group)
        elif different >= _ENOUGH and count >= _OFTEN * different:
            found.update(group)
    return found


def _is_long(words: Sequence[str]) -> bool:
    # A Chinese character says about as much as three letters.
    return sum(3 if word >= "\u3040" else len(word) for word in words) >= _LONG


def _groups(words: Sequence[Sequence[str]]) -> Iterator[list[int]]:
    """Indices of answers that are equal or nearly so; those of no words are left out."""
    parent = list(range(len(words)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for one, other in _alike(words):
        parent[root(one)] = root(other)
    members: dict[int, list[int]] = defaultdict(list)
    for index, found in enumerate(words):
        if found:
            members[root(index)].append(index)
    yield from members.values()


def _alike(words: Sequence[Sequence[str]]) -> Iterator[tuple[int, int]]:
    """Pairs of equal answers, and of long answers with nearly the same shingles."""
    first: dict[tuple[str, ...], int] = {}
    shingles: dict[int, NDArray[np.uint64]] = {}
    for index, found in enumerate(words):
        key = tuple(found)
        if key in first:
            yield first[key], index
        else:
            first[key] = index
            if _is_long(found):  # hashes of three words in a row, each once
                triples = [" ".join(three) for three in zip(key, key[1:], key[2:], strict=False)]
                hashes = {zlib.crc32(three.encode("utf-8", "replace")) for three in triples}
                shingles[index] = np.fromiter(hashes or {0}, np.uint64)
    mixers = np.random.default_rng(0).integers(1, 1 << 29, (2, _BANDS * _ROWS), dtype=np.uint64)
    buckets: dict[tuple[int, bytes], int] = {}
    for index, own in shingles.items():
        least = ((own[:, None] * mixers[0] + mixers[1]) % _PRIME).min(0)
        for number, band in enumerate(least.reshape(_BANDS, _ROWS)):
            other = buckets.setdefault((number, band.tobytes()), index)
            common = len(np.intersect1d(own, shingles[other], assume_unique=True))
            either = len(own) + len(shingles[other]) - common
            if other != index and common / either >= _ALIKE:
                yield other, index


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
        here and _tells(rules, sentences[place : place + _NEAR], judging, grading)
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
