"""Grades of single answers, and what they say together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orpo.evaluate.intervals import Interval, mean_interval
from orpo.evaluate.judge.bias import spearman_interval
from orpo.evaluate.judge.canaries import Trust
from orpo.evaluate.judge.cost import Spend
from orpo.evaluate.judge.types import JudgeSettings

__all__ = ["GradedAnswer", "SingleResult"]


@dataclass(frozen=True)
class GradedAnswer:
    """What the judge said about one answer.

    Attributes:
        id: Of the answer.
        group: Its prompt.
        score: From 1 to 10, as the judge gave it; None is unparsed.
        flags: What is suspicious about the answer; it changes no score.
        length: Its characters.
        reason: The judge's reply.
        failure: Why there is no grade, or nothing.
    """

    id: str
    group: str
    score: float | None
    flags: tuple[str, ...]
    length: int
    reason: str
    failure: str

    def as_dict(self) -> dict[str, Any]:
        """A line of `judgments.jsonl`."""
        return {**vars(self), "flags": list(self.flags)}


@dataclass(frozen=True)
class SingleResult:
    """All grades of a run, and what they say together.

    Attributes:
        settings: Which judge, and how.
        items: In the order of the answers.
        trust: What the canaries say about the judge.
        spend: What all requests took, the canaries' among them.
        reported: The judge's names as its server reports them.
    """

    settings: JudgeSettings
    items: tuple[GradedAnswer, ...]
    trust: Trust
    spend: Spend
    reported: tuple[str, ...] = ()

    @property
    def score(self) -> Interval | None:
        """The mean grade of what could be read, as the judge said it, whatever is suspicious."""
        return _mean([(item.score, item.group) for item in self.items])

    @property
    def without_flagged(self) -> Interval | None:
        """The same of the answers about which nothing is suspicious."""
        return _mean([(item.score, item.group) for item in self.items if not item.flags])

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The mean grade if every unparsed one had been 1, or 10."""
        if not self.items:
            return None
        scores = [item.score for item in self.items]
        low, high = (
            sum(missing if score is None else score for score in scores) / len(scores)
            for missing in (1.0, 10.0)
        )
        return low, high

    @property
    def length_correlation(self) -> Interval | None:
        """Spearman's correlation of an answer's length with the judge's grade.

        An answer can be longer because it is better; where every grade is the same there is none.
        """
        read = [(i.length, i.score) for i in self.items if i.score is not None]
        return spearman_interval([float(length) for length, _ in read], [s for _, s in read])

    @property
    def counts(self) -> dict[str, int]:
        """Account of the answers."""
        return {
            "answers": len(self.items),
            "graded": sum(item.score is not None for item in self.items),
            "unparsed": sum(item.score is None for item in self.items),
            "flagged": sum(bool(item.flags) for item in self.items),
        }

    @property
    def flags(self) -> dict[str, int]:
        """Flag -> answers."""
        return dict(Counter(flag for item in self.items for flag in item.flags))

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the grades one by one."""
        figures = {
            "score": self.score,
            "score_without_flagged": self.without_flagged,
            "length_correlation": self.length_correlation,
        }
        return {
            **{name: None if f is None else f.as_dict() for name, f in figures.items()},
            "score_bounds": None if self.bounds is None else list(self.bounds),
            "counts": self.counts,
            "failures": dict(Counter(i.failure for i in self.items if i.failure)),
            "flags": self.flags,
            "trust": self.trust.as_dict(),
            "judge": {**self.settings.as_dict(), "reported": list(self.reported)},
            "cost": self.spend.as_dict(),
            "remarks": self.remarks(),
        }

    def remarks(self) -> list[str]:
        """What has to be said beside the mean grade, in sentences."""
        said, counts = [self.trust.sentence], self.counts
        if counts["unparsed"] and self.bounds is not None:
            low, high = self.bounds
            said.append(
                f"{counts['unparsed']} of {counts['answers']} grades could not be read and are no "
                f"part of the mean; if all were 1 it would be {low:.2f}, if all were 10 {high:.2f}."
            )
        grades = {item.score for item in self.items} - {None}
        if len(grades) == 1 and len(self.items) > 1:
            said.append("The judge gave every answer the same grade, which tells nothing.")
        length = self.length_correlation
        if length is not None and not length.low <= 0 <= length.high:
            said.append(
                f"Length and grade go together: rank correlation {length.value:.2f} "
                f"(95 % interval {length.low:.2f} to {length.high:.2f})."
            )
        if counts["flagged"]:
            said.append(
                f"{counts['flagged']} of {counts['answers']} answers are suspicious: empty, "
                "constant, or made for the judge. They keep the grade that the judge gave."
            )
        return said


def _mean(scores: Sequence[tuple[float | None, str]]) -> Interval | None:
    read = [(score, group) for score, group in scores if score is not None]
    if not read:
        return None
    return mean_interval([s for s, _ in read], [group for _, group in read], share=False)
