"""Verdicts on pairs, what they say together, and what the judge goes by besides quality."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal, TypeAlias

import numpy as np

from orpo.evaluate.intervals import Interval, mean_interval
from orpo.evaluate.judge.canaries import Trust
from orpo.evaluate.judge.replies import Spend
from orpo.evaluate.settings import JudgeSettings

Preferred: TypeAlias = Literal["first", "second", "tie"]
"""Which answer a verdict is for, whatever the order was."""

Flags: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]
"""What is suspicious about both answers; it changes no verdict."""

_VALUE: dict[Preferred, float] = {"first": 0.0, "tie": 0.5, "second": 1.0}


@dataclass(frozen=True)
class PairVerdict:
    """What the judge said about one pair, with `first` shown first, and with `second`."""

    id: str
    group: str  # its prompt
    verdicts: tuple[Preferred | None, Preferred | None]  # None is unparsed
    lengths: tuple[int, int]  # characters of both answers
    reasons: tuple[str, str]  # the judge's replies
    failures: tuple[str, str]  # why a verdict is missing; empty where it is not
    flags: Flags = ((), ())

    def mean(self, missing: float = 0.5) -> float:
        """The preference of both orders together; an unparsed verdict counts as `missing`."""
        return sum(missing if one is None else _VALUE[one] for one in self.verdicts) / 2

    @property
    def preference(self) -> float:
        """For `second`, from 0 to 1: what the judge said, the mean of both orders."""
        return self.mean()

    @property
    def unparsed(self) -> int:
        """Verdicts of the two that could not be read."""
        return self.verdicts.count(None)

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
    """All verdicts of a run, and what they say together."""

    settings: JudgeSettings
    items: tuple[PairVerdict, ...]  # in the order of the pairs
    trust: Trust  # what the canaries say about the judge
    spend: Spend  # what all requests took, the canaries' among them
    reported: tuple[str, ...] = ()  # the judge's names as its server reports them

    @property
    def win_rate(self) -> Interval | None:
        """The mean preference for `second`, as the judge said it, whatever is suspicious."""
        return self._share(item.preference for item in self.items)

    @property
    def without_flagged(self) -> Interval | None:
        """The same of the pairs in which nothing is suspicious."""
        return self._share(None if any(item.flags) else item.preference for item in self.items)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The win rate if all unparsed verdicts had been losses, or wins."""
        low, high = (self._share(item.mean(end) for item in self.items) for end in (0.0, 1.0))
        return None if low is None or high is None else (low.value, high.value)

    @property
    def unparsed(self) -> int:
        """Verdicts that could not be read, of two for each pair."""
        return sum(item.unparsed for item in self.items)

    @property
    def bias(self) -> dict[str, Interval | None]:
        """What the judge goes by besides quality.

        How often both orders say the same; how often the answer shown first wins, where quality has
        no part, since each pair was shown in both orders; how often the longer one wins, which can
        be longer because it is better; and how well the difference in length alone tells which
        pairs `second` wins, where what one model has over the other in all pairs drops out.
        """
        both = [item for item in self.items if not item.unparsed]
        placed = [
            (float(verdict == shown_first), item.group)
            for item in both
            for verdict, shown_first in zip(item.verdicts, ("first", "second"), strict=True)
            if verdict != "tie"
        ]
        won = [
            (item.preference > 0.5, item.lengths[1] - item.lengths[0], item.group)
            for item in self.items
            if item.preference != 0.5
        ]
        return {
            "consistency": share_interval(
                [(float(item.verdicts[0] == item.verdicts[1]), item.group) for item in both]
            ),
            "first_position_wins": share_interval(placed),
            "longer_wins": share_interval(
                [(float(second == (more > 0)), group) for second, more, group in won if more]
            ),
            "length_auc": auc_interval(
                [more for second, more, _ in won if second],
                [more for second, more, _ in won if not second],
            ),
        }

    @property
    def counts(self) -> dict[str, int]:
        """Account of the pairs: each is a win, a tie or a loss of `second`, as judged."""
        both = Counter(item.verdicts for item in self.items if not item.unparsed)
        agreed = {name: both[name, name] for name in _VALUE}
        return {
            "pairs": len(self.items),
            "wins": sum(item.preference > 0.5 for item in self.items),
            "ties": sum(item.preference == 0.5 for item in self.items),
            "losses": sum(item.preference < 0.5 for item in self.items),
            "agreed_wins": agreed["second"],
            "agreed_ties": agreed["tie"],
            "agreed_losses": agreed["first"],
            "orders_differ": both.total() - sum(agreed.values()),
            "verdicts": 2 * len(self.items),
            "tie_verdicts": sum(item.verdicts.count("tie") for item in self.items),
            "unparsed_verdicts": self.unparsed,
            "pairs_with_unparsed": len(self.items) - both.total(),
            "flagged_pairs": sum(any(item.flags) for item in self.items),
        }

    @property
    def flags(self) -> dict[str, dict[str, int]]:
        """How many answers of each side are suspicious, by reason."""
        return {
            name: dict(Counter(flag for item in self.items for flag in item.flags[side]))
            for side, name in enumerate(("first", "second"))
        }

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the verdicts one by one."""
        rates = {"win_rate": self.win_rate, "win_rate_without_flagged": self.without_flagged}
        figures = {**rates, **self.bias}
        return {
            **{name: None if f is None else f.as_dict() for name, f in figures.items()},
            "win_rate_bounds": None if self.bounds is None else list(self.bounds),
            "counts": self.counts,
            "failures": dict(Counter(f for i in self.items for f in i.failures if f)),
            "flags": self.flags,
            "trust": vars(self.trust),
            "judge": {**self.settings.as_dict(), "reported": list(self.reported)},
            "cost": vars(self.spend),
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
        bias = self.bias
        place, length = bias["first_position_wins"], bias["length_auc"]
        if place is not None and not place.low <= 0.5 <= place.high:
            said.append(
                f"The judge goes by the place: the answer shown first won {_shown(place)} of the "
                "verdicts with a winner. Both orders were asked, so that this evens out."
            )
        if length is not None and not length.low <= 0.5 <= length.high:
            said.append(
                "Length and verdict go together: the difference in length alone tells wins from "
                f"losses in {_shown(length)} of the cases."
            )
        return [*said, self.suspicion] if self.suspicion else said

    @property
    def suspicion(self) -> str:
        """How many pairs are suspicious, and the win rate without them; empty if none is."""
        flagged, rest = sum(any(item.flags) for item in self.items), self.without_flagged
        if not flagged:
            return ""
        without = f"; without them the win rate is {100 * rest.value:.1f} %" if rest else ""
        return (
            f"{flagged} of {len(self.items)} pairs have a suspicious answer: one that is empty, "
            f"constant, or made for the judge. They count as judged{without}."
        )

    def _share(self, values: Iterable[float | None]) -> Interval | None:
        """The mean over the pairs, each with its value or none."""
        found = zip(values, self.items, strict=True)
        return share_interval([(value, one.group) for value, one in found if value is not None])


def _shown(interval: Interval) -> str:
    value, low, high = (100 * x for x in (interval.value, interval.low, interval.high))
    return f"{value:.0f} % (95 % interval {low:.0f} to {high:.0f})"


def share_interval(values: Sequence[tuple[float, Hashable]]) -> Interval | None:
    """The mean of shares, each with what it was observed of, and its interval; None of nothing."""
    if not values:
        return None
    return mean_interval([one for one, _ in values], [group for _, group in values], share=True)


def auc_interval(
    positives: Sequence[float], negatives: Sequence[float], *, level: float = 0.95
) -> Interval | None:
    """How often a positive is above a negative, a tie counting half; None if either is missing.

    The area under the curve with Newcombe's score-like interval on Hanley and McNeil's variance
    (Statistics in Medicine 25, 2006, method 5), which holds near 0 and 1 too.
    """
    wins, losses = len(positives), len(negatives)
    if not wins or not losses:
        return None
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives) + np.searchsorted(ordered, positives, "right")
    value = float(below.sum() / (2 * wins * losses))
    z = NormalDist().inv_cdf(0.5 + level / 2)

    def outside(theta: float) -> bool:
        half = (wins + losses) / 2 - 1
        spread = theta * (1 - theta) / (wins * losses)
        spread *= 1 + half * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return abs(value - theta) > z * math.sqrt(spread)

    def border(far: float) -> float:
        """Where being outside begins between a point that may be and one that is not."""
        near = value
        if not outside(far):
            return far
        for _ in range(60):
            middle = (far + near) / 2
            far, near = (middle, near) if outside(middle) else (far, middle)
        return near

    ends = (border(0.0), border(1.0))
    return Interval(value, *ends, n=wins + losses, clusters=wins + losses, level=level)
