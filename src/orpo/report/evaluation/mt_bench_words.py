"""What has to be said beside an MT-Bench score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orpo.report.values import as_count, joined, mapping, number, rows, whole

__all__ = ["remarks"]

_QUESTIONS = 80
_LOWEST, _HIGHEST = 1, 10
_PUBLISHED_BY = {"gpt-4", "gpt-4-0314", "gpt-4-0613"}


def remarks(evaluation: Mapping[str, Any]) -> tuple[str, ...]:
    """Doubts about a score, each in a sentence or two; none where there is none."""
    main = mapping(mapping(evaluation.get("scores")).get(str(evaluation.get("model"))))
    found = [
        *_flagged(main),
        *_distrusted(evaluation),
        *_unscored(main),
        *_doubtful(main),
        *_changed(evaluation),
        *_comparable(evaluation, main),
    ]
    return tuple(found)


def _flagged(main: Mapping[str, Any]) -> list[str]:
    count = whole(main.get("flagged_answers")) or 0
    if not count:
        return []
    kinds = joined(f"{name} ({n})" for name, n in mapping(main.get("flagged")).items())
    rest = number(main.get("without_flagged"))
    without = "nothing is left" if rest is None else f"the score is {rest:.2f}"
    return [
        f"{as_count(count, 'answer')} suspicious: {kinds}. They count as judged; without them "
        f"{without}."
    ]


def _distrusted(evaluation: Mapping[str, Any]) -> list[str]:
    trust = mapping(evaluation.get("trust"))
    return [str(trust.get("sentence"))] if trust and not trust.get("trusted") else []


def _unscored(main: Mapping[str, Any]) -> list[str]:
    found = []
    unparsed, outside = whole(main.get("unparsed")) or 0, whole(main.get("out_of_range")) or 0
    if unparsed:
        found.append(
            f"{as_count(unparsed, 'judgment')} without a score (-1 in FastChat's file), not "
            f"averaged in{_extremes(main, unparsed)}."
        )
    if outside:
        found.append(
            f"{as_count(outside, 'judgment')} with a score off the scale, not averaged in."
        )
    return found


def _extremes(main: Mapping[str, Any], unparsed: int) -> str:
    overall, count = number(main.get("overall")), whole(main.get("n")) or 0
    if overall is None or not count:
        return ""
    low, high = (
        (overall * count + score * unparsed) / (count + unparsed) for score in (_LOWEST, _HIGHEST)
    )
    return f"; were all of them 1 the score would be {low:.2f}, were all of them 10 {high:.2f}"


def _doubtful(main: Mapping[str, Any]) -> list[str]:
    found = []
    again = whole(main.get("judged_again")) or 0
    disagreeing = whole(main.get("disagreeing")) or 0
    conflicting = whole(main.get("conflicting")) or 0
    if again:
        found.append(
            f"{as_count(again, 'answer')} judged more than once by the same judge; all scores are "
            "averaged in, as FastChat does."
        )
    if disagreeing:
        found.append(
            f"{as_count(disagreeing, 'judgment')} whose text names another score than the one "
            "recorded; the recorded one counts."
        )
    if conflicting:
        found.append(
            f"{as_count(conflicting, 'judgment')} naming two different scores; the first counts, "
            "as in the protocol."
        )
    return found


def _changed(evaluation: Mapping[str, Any]) -> list[str]:
    changed = whole(mapping(evaluation.get("account")).get("changed_answers")) or 0
    if not changed:
        return []
    return [
        f"{as_count(changed, 'answer')} with marks of the judge's prompt, a verdict, chat markup "
        "or unseen characters; the judge read them with those made harmless."
    ]


def _comparable(evaluation: Mapping[str, Any], main: Mapping[str, Any]) -> list[str]:
    found = []
    count = whole(mapping(evaluation.get("account")).get("questions")) or 0
    if count and count != _QUESTIONS:
        found.append(
            f"{as_count(count, 'question')}, not the benchmark's {_QUESTIONS}: not to be compared "
            "with published scores."
        )
    judges = {str(name) for name in rows(main.get("judges"))}
    others = {
        str(name)
        for one in mapping(evaluation.get("scores")).values()
        for name in rows(mapping(one).get("judges"))
    }
    if len(judges) > 1:
        found.append(f"The judgments are by {joined(sorted(judges))}, averaged together.")
    if others - judges:
        found.append(
            f"Other models here were judged by {joined(sorted(others - judges))}: scores by "
            "different judges are not comparable."
        )
    if judges and not any(name.startswith("gpt-4") for name in judges):
        found.append(
            "Published MT-Bench scores are by gpt-4; another judge's are on another scale."
        )
    return found
