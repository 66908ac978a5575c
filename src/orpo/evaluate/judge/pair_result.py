"""Verdicts on pairs, what they say together, and what the judge goes by besides quality."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orpo.evaluate.intervals import Interval, mean_interval
from orpo.evaluate.judge.canaries import Trust
from orpo.evaluate.judge.replies import Spend
from orpo.evaluate.settings import JudgeSettings

Preferred: TypeAlias = Literal["first", "second", "tie"]
"""Which answer a verdict is for, whatever the order was."""

_VALUE = {"first": 0.0, "tie": 0.5, "second": 1.0}


@dataclass(frozen=True)
class PairVerdict:
    """What the judge said about one pair.

    Attributes:
        id: Of the pair.
        group: Its prompt.
        verdicts: With `first` shown first, and with `second` shown first; None is unparsed.
        lengths: Characters of both answers.
        reasons: The judge's replies in both orders.
        failures: Why a verdict is missing, in both orders; empty where it is not.
        flags: What is suspicious about both answers; it changes no verdict.
    """

    id: str
    group: str
    verdicts: tuple[Preferred | None, Preferred | None]
    lengths: tuple[int, int]
    reasons: tuple[str, str]
    failures: tuple[str, str]
    flags: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    @staticmethod
    def mean(verdicts: Sequence[Preferred | None], missing: float = 0.5) -> float:
        """The preference of both orders together; an unparsed verdict counts as `missing`."""
        values = [missing if verdict is None else _VALUE[verdict] for verdict in verdicts]
        return sum(values) / len(values)

    @property
    def preference(self) -> float:
        """For `second`, from 0 to 1: what the judge said, the mean of both orders."""
        return self.mean(self.verdicts)

    @property
    def unparsed(self) -> int:
        """Verdicts of the two that could not be read."""
        return sum(verdict is None for verdict in self.verdicts)

    @property
    def flagged(self) -> bool:
        """Whether one of the answers is suspicious."""
        return any(self.flags)

    def as_dict(self) -> dict[str, Any]:
        """A line of `judgments.jsonl`."""
        return {
            "id": self.id,
            "preference": self.preference,
            "verdicts": list(self.verdicts),
            "reasons": list(self.reasons),
            "failures": list(self.failures),
            "flags_first": list(self.flags[0]),
            "flags_second": list(self.flags[1]),
        }


@dataclass(frozen=True)
class PairwiseResult:
    """All verdicts of a run, and what they say together.

    Attributes:
        settings: Which judge, and how.
        items: In the order of the pairs.
        trust: What the canaries say about the judge.
        spend: What all requests took, the canaries' among them.
        reported: The judge's names as its server reports them.
    """

    settings: JudgeSettings
    items: tuple[PairVerdict, ...]
    trust: Trust
    spend: Spend
    reported: tuple[str, ...] = ()

    @property
    def win_rate(self) -> Interval | None:
        """The mean preference for `second`, as the judge said it, whatever is suspicious."""
        return self._mean(self.items, lambda item: item.preference)

    @property
    def without_flagged(self) -> Interval | None:
        """The same of the pairs in which nothing is suspicious."""
        plain = [item for item in self.items if not item.flagged]
        return self._mean(plain, lambda item: item.preference)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The win rate if all unparsed verdicts had been losses, or wins."""
        ends = [
            self._mean(self.items, lambda item, m=missing: item.mean(item.verdicts, m))  # type: ignore[misc]
            for missing in (0.0, 1.0)
        ]
        return None if ends[0] is None or ends[1] is None else (ends[0].value, ends[1].value)

    @property
    def unparsed(self) -> int:
        """Verdicts that could not be read, of two for each pair."""
        return sum(item.unparsed for item in self.items)

    @property
    def consistency(self) -> Interval | None:
        """How often both orders say the same, of the pairs with two verdicts."""
        both = self._readable()
        same = [float(item.verdicts[0] == item.verdicts[1]) for item in both]
        return share_interval(same, [item.group for item in both])

    @property
    def first_position(self) -> Interval | None:
        """How often the answer shown first wins; 0.5 of a judge that does not look at the place.

        Each pair was shown in both orders, so the answers' quality has no part in it.
        """
        values, groups = [], []
        for item in self._readable():
            for verdict, shown_first in zip(item.verdicts, ("first", "second"), strict=True):
                if verdict != "tie":
                    values.append(float(verdict == shown_first))
                    groups.append(item.group)
        return share_interval(values, groups)

    @property
    def longer_wins(self) -> Interval | None:
        """How often the longer answer wins, of pairs with a winner and answers of two lengths.

        An answer can be longer because it is better: see also `length_auc`.
        """
        found = [i for i in self._decided() if i.lengths[0] != i.lengths[1]]
        values = [float((i.preference > 0.5) == (i.lengths[1] > i.lengths[0])) for i in found]
        return share_interval(values, [item.group for item in found])

    @property
    def length_auc(self) -> Interval | None:
        """How well the difference in length alone tells which pairs `second` wins; 0.5: not at all.

        What one model has over the other in all pairs, in quality and in length, drops out.
        """
        gains: dict[bool, list[float]] = {True: [], False: []}
        for item in self._decided():
            gains[item.preference > 0.5].append(float(item.lengths[1] - item.lengths[0]))
        return auc_interval(gains[True], gains[False])

    @property
    def counts(self) -> dict[str, int]:
        """Account of the pairs: each is a win, a tie or a loss of `second`, as judged."""
        names = {True: "wins", False: "losses"}
        found = Counter(
            "ties" if item.preference == 0.5 else names[item.preference > 0.5]
            for item in self.items
        )
        readable = self._readable()
        return {
            "pairs": len(self.items),
            **{name: found[name] for name in ("wins", "ties", "losses")},
            "agreed_wins": sum(i.verdicts == ("second", "second") for i in readable),
            "agreed_ties": sum(i.verdicts == ("tie", "tie") for i in readable),
            "agreed_losses": sum(i.verdicts == ("first", "first") for i in readable),
            "orders_differ": sum(i.verdicts[0] != i.verdicts[1] for i in readable),
            "verdicts": 2 * len(self.items),
            "tie_verdicts": sum(i.verdicts.count("tie") for i in self.items),
            "unparsed_verdicts": self.unparsed,
            "pairs_with_unparsed": len(self.items) - len(readable),
            "flagged_pairs": sum(item.flagged for item in self.items),
        }

    @property
    def flags(self) -> dict[str, dict[str, int]]:
        """{"first": {flag: answers}, "second": ...}."""
        return {
            name: dict(Counter(flag for item in self.items for flag in item.flags[side]))
            for side, name in enumerate(("first", "second"))
        }

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the verdicts one by one."""
        figures = {
            "win_rate": self.win_rate,
            "win_rate_without_flagged": self.without_flagged,
            "consistency": self.consistency,
            "first_position_wins": self.first_position,
            "longer_wins": self.longer_wins,
            "length_auc": self.length_auc,
        }
        return {
            **{name: None if f is None else f.as_dict() for name, f in figures.items()},
            "win_rate_bounds": None if self.bounds is None else list(self.bounds),
            "counts": self.counts,
            "failures": dict(Counter(f for i in self.items for f in i.failures if f)),
            "flags": self.flags,
            "trust": self.trust.as_dict(),
            "judge": {**self.settings.as_dict(), "reported": list(self.reported)},
            "cost": self.spend.as_dict(),
            "remarks": self.remarks(),
        }

    def remarks(self) -> list[str]:
        """What has to be said beside the win rate, in sentences."""
        said = [self.trust.sentence]
        if self.unparsed and self.bounds is not None:
            low, high = self.bounds
            said.append(
                f"{self.unparsed} of {2 * len(self.items)} verdicts could not be read and count as "
                f"ties; if all were losses the win rate would be {100 * low:.1f} %, if all were "
                f"wins {100 * high:.1f} %."
            )
        place = self.first_position
        if place is not None and not place.low <= 0.5 <= place.high:
            said.append(
                f"The judge goes by the place: the answer shown first won {_shown(place)} of the "
                "verdicts with a winner. Both orders were asked, so that this evens out."
            )
        length = self.length_auc
        if length is not None and not length.low <= 0.5 <= length.high:
            said.append(
                "Length and verdict go together: the difference in length alone tells wins from "
                f"losses in {_shown(length)} of the cases."
            )
        return [*said, self.suspicion] if self.suspicion else said

    @property
    def suspicion(self) -> str:
        """How many pairs are suspicious, and the win rate without them; empty if none is."""
        flagged, rest = self.counts["flagged_pairs"], self.without_flagged
        if not flagged:
            return ""
        without = f"; without them the win rate is {100 * rest.value:.1f} %" if rest else ""
        return (
            f"{flagged} of {len(self.items)} pairs have a suspicious answer: one that is empty, "
            f"constant, or made for the judge. They count as judged{without}."
        )

    @staticmethod
    def _mean(
        items: Sequence[PairVerdict], value: Callable[[PairVerdict], float]
    ) -> Interval | None:
        return share_interval([value(item) for item in items], [item.group for item in items])

    def _readable(self) -> list[PairVerdict]:
        return [item for item in self.items if not item.unparsed]

    def _decided(self) -> list[PairVerdict]:
        return [item for item in self.items if item.preference != 0.5]


def _shown(interval: Interval) -> str:
    value, low, high = (100 * x for x in (interval.value, interval.low, interval.high))
    return f"{value:.0f} % (95 % interval {low:.0f} to {high:.0f})"


def share_interval(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> Interval | None:
    """The mean of shares with its interval; None of nothing."""
    return mean_interval(values, clusters, share=True) if values else None


def auc_interval(
    positives: Sequence[float], negatives: Sequence[float], *, level: float = 0.95
) -> Interval | None:
    """How often a positive is above a negative, a tie counting half; None if either is missing.

    Args:
        positives: Such as how much longer the answers are that won.
        negatives: The same of those that lost.
        level: How often such intervals shall contain the truth.

    Returns:
        The area under the curve with Newcombe's score-like interval on Hanley and McNeil's
        variance (Statistics in Medicine 25, 2006, method 5), which holds near 0 and 1 too.
    """
    wins, losses = len(positives), len(negatives)
    if not wins or not losses:
        return None
    placed = ranks([*positives, *negatives])[:wins].sum()
    value = float((placed - wins * (wins + 1) / 2) / (wins * losses))
    z = NormalDist().inv_cdf(0.5 + level / 2)

    def outside(theta: float) -> bool:
        half = (wins + losses) / 2 - 1
        spread = theta * (1 - theta) / (wins * losses)
        spread *= 1 + half * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return abs(value - theta) > z * math.sqrt(spread)

    ends = (_border(outside, 0.0, value), _border(outside, 1.0, value))
    return Interval(value, *ends, n=wins + losses, clusters=wins + losses, level=level)


def ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Ranks from 1 on; equal values share the mean of theirs."""
    _, where, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle: NDArray[np.float64] = (last - counts + 1 + last) / 2
    return middle[where]


def _border(outside: Callable[[float], bool], far: float, near: float) -> float:
    """Where being outside begins between a point that may be and one that is not."""
    if not outside(far):
        return far
    for _ in range(60):
        middle = (far + near) / 2
        far, near = (middle, near) if outside(middle) else (far, middle)
    return near
