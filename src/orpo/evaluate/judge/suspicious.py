"""Answers that try to be liked instead of being good: what a reader of the verdicts should look at.

A suspicion is a hint to a reader and changes no verdict and no score. Each rule looks for a form
that an honest answer seldom has; precision comes before recall, since an honest answer that is
accused is worse than an attack that only the canaries show. What the prompt itself says or asks for
is not held against an answer, and neither are code and quotations.

Constant answers do not depend on the question: they are the same, or nearly the same, for several.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from orpo.evaluate.judge.fences import legible
from orpo.evaluate.judge.rules import forges, orders_the_judge

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


def _without(text: str, part: re.Pattern[str]) -> str:
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
