"""What a training made of a model: one verdict from what was measured, wherever it is told.

That a model ranks held-out pairs rightly proves nothing alone: a ruined model can rank. So it is
"better" only if the ranking rose beyond its interval, the chosen answers did not become
improbable, and what the model writes still reads as text and, where it was checked, is not worse.
Whatever speaks against it is said first.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from statistics import fmean, median
from typing import Any, Literal

from orpo.audit.texts import broken, script_of
from orpo.evaluate.intervals import paired_interval
from orpo.quantities import joined, number, perplexity
from orpo.runs.files import AUDIT, OTHER_TEMPLATE, Run
from orpo.runs.reading import read_object

Word = Literal["better", "ranks better", "doubtful", "worse", "undecided", "unmeasured"]

FEWEST_PAIRS = 20
"""Held-out prompts without which nothing is decided."""
_FEWEST_ANSWERS = 3
NO_SENSE = 4.0
"""Nats per token: a perplexity of 55, far from any text that a model knows."""
_IMPROBABLE = math.log(1.5)  # nats per token: half as much perplexity again
_LESS_PROBABLE = 0.05  # nats per token; a smaller loss is no one's concern
_ODD = 0.2  # share of answers
_SWAPPED = 0.4  # ranked right less often than that, the labels may be the wrong way round
_LONGER, _SHORTER = 1.5, 1 / 3  # times the length of before
_BY_LENGTH = 0.75  # of the pairs prefer the longer answer
_MOMENTS = ("before", "after")

_HEADS: dict[Word, str] = {
    "better": "Better than {than}",
    "ranks better": (
        "It ranks held-out pairs better than {than}; what it writes was {looked} looked at"
    ),
    "doubtful": "Not shown to be better than {than}",
    "worse": "This model is worse than {than}",
    "undecided": "No clear difference from {than}",
    "unmeasured": "Nothing was measured that could show a gain over {than}",
}
THE_START = "the one it started from"


@dataclass(frozen=True)
class Verdict:
    """What was found, in a word, in a sentence, and point by point."""

    word: Word
    says: str
    against: tuple[str, ...] = ()  # what broke, or speaks against it
    gained: tuple[str, ...] = ()
    head: str = ""  # what `says` begins with
    reasons: tuple[str, ...] = ()  # and what it goes on with

    @property
    def good(self) -> bool:
        """Whether anything of it may be called better or healthy."""
        return self.word in ("better", "ranks better")


@dataclass(frozen=True)
class Moved:
    """A mean before and after; `low` and `high` are the ends of the change, where it is known."""

    after: float
    before: float | None = None
    low: float = -math.inf
    high: float = math.inf
    n: int = 0  # prompts
    needed: int | None = None  # pairs that would show such a change

    @property
    def change(self) -> float:
        """`after - before`; 0 where nothing was measured before."""
        return 0.0 if self.before is None else self.after - self.before


@dataclass(frozen=True)
class Answer:
    """What a model wrote before and after training."""

    before: str
    after: str
    chosen: str = ""  # the preferred answer in the data
    prompt: str = ""  # what was asked last
    endless: tuple[bool, bool] = (False, False)  # cut off at the limit, before and after


@dataclass(frozen=True)
class Measured:
    """Everything that a verdict looks at; None where it was not measured."""

    ranking: Moved | None = None  # share of pairs whose chosen answer is more probable per token
    chosen: Moved | None = None  # log-probability per token of the chosen answers
    checked: Moved | None = None  # share of answers that pass their check
    answers: Sequence[Answer] | None = None  # None: of no concern here
    longer_chosen: float | None = None  # share of pairs whose chosen answer is the longer one
    trained: tuple[float, float] | None = None  # `chosen` on training pairs: first, last
    broke: int | None = None  # a step at which the loss was NaN or infinite, and none was later
    remembered: tuple[int, int] | None = None  # held-out rows whose prompts were trained on, of all
    other_template: bool = False  # asked and trained with another one than the model's own


@dataclass
class _Case:
    """What speaks for and against a model: `ruin` makes it worse, `doubts` leave it open."""

    ruin: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    gained: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)


def verdict(run: Run) -> Verdict:
    """The verdict on a run, from its folder."""
    return judge(measured(run))


def judge(seen: Measured, than: str = THE_START) -> Verdict:
    """The verdict on what was measured, `than` being the model that is compared with."""
    case = _Case()
    right = seen.checked is not None and seen.checked.low > 0
    ranks = _judge_ranking(seen.ranking, case, right=right)
    if ranks and seen.chosen is None and seen.trained is None:
        case.doubts.append("how probable the chosen answers became was not measured")
    checks = _judge_checks(seen.checked, case)
    _judge_probability(seen, case)
    if seen.remembered is not None and seen.remembered[0] >= _ODD * seen.remembered[1]:
        known, of = seen.remembered
        case.doubts.append(
            f"the prompts of {known:,} of {of:,} held-out rows are in the training data: what was "
            "measured is memory"
        )
    _judge_answers(seen.answers or (), seen.longer_chosen or 0.0, case, right=right)
    if seen.other_template and not right:
        case.doubts.append("both were measured with another chat template than the model's own")
    word: Word = "undecided"
    if case.ruin:
        word = "worse"
    elif seen.ranking is None and seen.checked is None:
        word = "doubtful" if case.doubts else "unmeasured"
    elif case.doubts:
        word = "doubtful"
    elif ranks:
        word = "better" if len(seen.answers or ()) >= _FEWEST_ANSWERS else "ranks better"
    against = (*case.ruin, *case.doubts)
    good = word in ("better", "ranks better")
    told = case.gained if good else [*against, *case.open]
    head = _HEADS[word].format(than=than, looked="hardly" if seen.answers else "not")
    beside = [] if good else case.gained if against else checks
    though = [f"Though {joined(beside)}"] if beside else []
    says = f"{'. '.join([f'{head}: ' + '; '.join(told), *though])}." if told else f"{head}."
    return Verdict(word, says, against, tuple(case.gained), head, (*told, *though))


def _judge_probability(seen: Measured, case: _Case) -> None:
    """The chosen answers must not become improbable."""
    one = seen.chosen
    if seen.broke is not None:
        case.ruin.append(f"the loss is no number since step {seen.broke:,}")
    if one is None:
        if seen.trained is not None and seen.trained[0] - seen.trained[1] >= _IMPROBABLE:
            told = _nll(Moved(seen.trained[1], seen.trained[0]))
            case.ruin.append(f"the chosen answers of its training pairs became improbable ({told})")
        return
    if not math.isfinite(one.after):
        case.ruin.append("the chosen answers have no finite probability")
        return
    lost, sure = -one.change, one.high < 0 or not math.isfinite(one.high)
    if lost >= _IMPROBABLE:
        told = "became" if sure else "may have become"
        (case.ruin if sure else case.doubts).append(
            f"the chosen answers {told} improbable ({_nll(one)})"
        )
    elif lost > _LESS_PROBABLE and sure:
        case.doubts.append(f"the chosen answers became less probable ({_nll(one)})")
    elif -one.after > NO_SENSE:
        case.doubts.append(f"the chosen answers are improbable to it ({_nll(one)})")
    elif one.before is not None:
        kept = "became more probable" if one.low > 0 else "stayed as probable"
        case.gained.append(f"the chosen answers {kept} ({_nll(one)})")


def _judge_ranking(one: Moved | None, case: _Case, *, right: bool) -> bool:
    """Whether the ranking rose beyond its interval; `right` if more checked answers are right."""
    if one is None:
        case.open.append("no held-out pairs were scored (--held_out keeps some back)")
        return False
    now = f"{_percent(one.after)} of {one.n:,} held-out prompts" if one.n else _percent(one.after)
    if one.before is None:
        case.open.append(f"it prefers the chosen answer in {now}, and before was not measured")
        return False
    shown = f"it prefers the chosen answer in {now}, before in {_percent(one.before)}{_ends(one)}"
    if one.n < FEWEST_PAIRS:
        case.open.append(f"fewer than {FEWEST_PAIRS} held-out prompts decide nothing; {shown}")
    elif one.high < 0:
        case.ruin.append(f"it ranks worse: {shown}")
    elif one.low <= 0 and max(one.before, one.after) < _SWAPPED and not right:
        case.doubts.append(
            f"{shown}: it prefers the rejected answers, so see whether chosen and rejected are the "
            "wrong way round"
        )
    elif one.low <= 0:
        same = "its ranking is the same" if one.change == 0 else "chance may explain its ranking"
        needed = (
            f"; about {float(f'{one.needed:.2g}'):,.0f} pairs would show such a change"
            if one.needed
            else ""
        )
        case.open.append(f"{same}: {shown}{needed}")
    elif one.before < _SWAPPED and not right:
        case.doubts.append(
            f"{shown}: it preferred the rejected answers before, so see whether chosen and "
            "rejected are the wrong way round"
        )
    else:
        case.gained.append(shown)
        return True
    return False


def _judge_checks(one: Moved | None, case: _Case) -> list[str]:
    """Answers that were checked must not be wrong more often; what was gained by them."""
    if one is None or one.before is None:
        return []
    shown = f"{_percent(one.after)} of {one.n:,} checked answers are right, before "
    shown += f"{_percent(one.before)}{_ends(one)}"
    fell, rose = one.high < 0, one.low > 0
    (case.ruin if fell else case.gained if rose else case.open).append(shown)
    return [shown] if rose else []


def _judge_answers(answers: Sequence[Answer], longer: float, case: _Case, *, right: bool) -> None:
    """What is written must still read as text, come to an end, and differ from prompt to prompt."""
    n, least = len(answers), max(2, math.ceil(_ODD * len(answers)))
    if not n:
        return
    sound = _judge_texts(answers, least, case)
    # An answer that the data would have ended long before; others are just long.
    endless = [
        sum(one.endless[i] and len(getattr(one, m)) > 1.5 * len(one.chosen) for one in answers)
        for i, m in enumerate(_MOMENTS)
    ]
    odd = {"that do not come to an end": endless}
    if not right:
        odd["that repeat the prompt"] = _count(answers, lambda one, text: _same(text, one.prompt))
        odd["in another script than the preferred ones"] = _count(answers, _foreign)
    for what, (old, now) in odd.items():
        if now - old >= least:
            case.doubts.append(f"answers {what}: {now} of {n} (before: {old})")
            sound = False
    grown = _times([(len(one.before), len(one.after)) for one in answers])
    wanted = _times([(len(one.before), len(one.chosen)) for one in answers if one.chosen])
    if grown >= _LONGER and longer >= _BY_LENGTH and not right:
        case.doubts.append(
            f"its answers are {grown:.1f} times as long, and the longer answer is the chosen one "
            f"in {_percent(longer)} of the pairs: length may be all it learned"
        )
    elif grown <= _SHORTER and grown < wanted / 2 and not right:
        case.doubts.append(f"its answers shrank to {_percent(grown)} of their length")
    if sound:
        case.gained.append(f"its {n} answer{'s read' if n > 1 else ' reads'} as text")


def _judge_texts(answers: Sequence[Answer], least: int, case: _Case) -> bool:
    """Whether what is written reads as text, and is not the same whatever was asked."""
    n, sound = len(answers), True
    faults = [[broken(getattr(one, moment)) for one in answers] for moment in _MOMENTS]
    before, after = ([fault for fault in some if fault] for some in faults)
    more = len(after) - len(before) >= least
    if more or len(after) >= max(1, n / 2):
        kinds = ", ".join(f"{kind} in {count}" for kind, count in Counter(after).most_common())
        told = f"answers that do not read as text: {len(after)} of {n} ({kinds}; "
        told += f"before: {len(before)})"
        (case.ruin if more else case.doubts).append(told)
        sound = False
    old, now, wanted = (
        max(Counter(text for one in answers if (text := getattr(one, name))).values(), default=0)
        for name in (*_MOMENTS, "chosen")
    )
    # Labels, such as Yes and No, are the same as often as the data has them so; not all of them.
    meant = wanted < n and now <= wanted + least / 2
    if n >= 3 and now >= max(3, n / 2) and now > old and not meant:
        case.ruin.append(f"answers that are word for word the same: {now} of {n}")
        sound = False
    return sound


def _count(answers: Sequence[Answer], is_so: Callable[[Answer, str], bool]) -> list[int]:
    """How many answers are so, before and after."""
    return [sum(is_so(one, getattr(one, moment)) for one in answers) for moment in _MOMENTS]


def _same(text: str, other: str) -> bool:
    return bool(text.strip()) and text.split() == other.split()


def _foreign(one: Answer, text: str) -> bool:
    """Whether a text is clearly in another script than the preferred answer."""
    said, wanted = script_of(text), script_of(one.chosen)
    return said.clear and wanted.clear and said.name != wanted.name


def _times(lengths: Sequence[tuple[int, int]]) -> float:
    """The geometric mean of how many times as long; 1 where there is nothing to compare."""
    ratios = [math.log(after / before) for before, after in lengths if before and after]
    return math.exp(fmean(ratios)) if ratios else 1.0


# What is said


def _nll(one: Moved) -> str:
    """The answers' own NLL, and what it means as a perplexity."""
    now = f"{-one.after:.2f}, a perplexity of {_perplexity(-one.after)}"
    before = "" if one.before is None else f"; before {-one.before:.2f}, {_perplexity(-one.before)}"
    return f"NLL per token {now}{before}"


def _perplexity(nll: float) -> str:
    value = perplexity(nll)
    if value >= 1000:
        return "over a thousand" if value < 1e6 else "over a million"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _ends(one: Moved) -> str:
    """The ends of a change of shares, in points."""
    if not (math.isfinite(one.low) and math.isfinite(one.high)):
        return ""
    low, high = (f"{100 * end:+.1f}".replace("-", "−") for end in (one.low, one.high))
    return f" (change {low} to {high} points)"


# What was measured


def measured(run: Run) -> Measured:
    """What a run folder holds for the verdict."""
    before, after = (_dict(_dict(run.evaluation).get(moment)) for moment in _MOMENTS)
    logged = [n for line in run.training if (n := _number(line.get("logps/chosen"))) is not None]
    part = max(1, len(logged) // 10)
    since = takewhile(lambda line: _number(line.get("loss")) is None, reversed(run.training))
    broke = [int(_number(line.get("step")) or 0) for line in since]
    notes = _dict(run.recipe.get("_run")).get("notes")
    checked, whole = _checked(run.samples), _moved(before, after, "correct_answers", share=True)
    if checked is None or (whole is not None and checked.n < whole.n):
        checked = whole  # answers to some prompts only were kept
    return replace(
        of_pairs(before, after),
        checked=checked,
        answers=[
            Answer(
                str(row["before"]),
                str(row["after"]),
                str(row.get("chosen") or ""),
                _asked(row.get("prompt")),
                (row.get("cut_before") is True, row.get("cut_after") is True),
            )
            for row in run.samples
            if row.get("before") is not None and row.get("after") is not None
        ],
        trained=(median(logged[:part]), median(logged[-part:])) if len(logged) > 1 else None,
        broke=broke[-1] if broke else None,
        remembered=remembered(run),
        other_template=OTHER_TEMPLATE in str(notes),
    )


def remembered(run: Run) -> tuple[int, int] | None:
    """How many held-out rows ask what was trained on, and of how many, as the audit found."""
    try:
        found = read_object(run.path / AUDIT).get("findings")
    except (OSError, ValueError):
        return None
    for one in map(_dict, found if isinstance(found, list) else []):
        known, of = _number(one.get("count")), _number(one.get("of"))
        if one.get("check") == "leakage" and known and of:
            return int(known), int(of)
    return None


def _asked(prompt: object) -> str:
    """The last turn of a prompt."""
    turns = prompt if isinstance(prompt, list) else [prompt]
    last = turns[-1] if turns else None
    return str(_dict(last).get("content") or "") if isinstance(last, dict) else str(last or "")


def of_pairs(before: Mapping[str, Any], after: Mapping[str, Any]) -> Measured:
    """What both sides of an evaluation.json hold for the verdict; nothing was answered."""
    sizes = {
        name: _number(_dict(group).get("n")) or 0
        for name, group in _dict(_dict(after.get("groups")).get("longer answer")).items()
    }
    longer, shorter = (sizes.get(f"{name} is longer", 0) for name in ("chosen", "rejected"))
    return Measured(
        ranking=_moved(before, after, "preference_accuracy", share=True),
        chosen=_moved(before, after, "logps/chosen"),
        longer_chosen=longer / (longer + shorter) if longer + shorter else None,
    )


def _moved(
    before: Mapping[str, Any], after: Mapping[str, Any], name: str, *, share: bool = False
) -> Moved | None:
    """A metric with the change that was measured pair by pair.

    Of folders that hold no such change, a share's ends are those of two shares drawn apart.
    """
    old, new = (_value(side, name) for side in (before, after))
    if new is None or (share and not math.isfinite(new)):
        return None
    told = _dict(_dict(after.get("changes")).get(name))
    change, low, high = (_number(told.get(key)) for key in ("value", "low", "high"))
    if old is None or not math.isfinite(old):
        old = None if change is None else new - change
    sizes = (told.get("clusters"), after.get("prompts"), after.get("pairs"))
    size = int(next((n for n in map(_number, sizes) if n), 0))
    if not told and share and size and old is not None:
        error = 1.96 * math.sqrt(sum(p * (1 - p) for p in (old, new) if 0 <= p <= 1) / size)
        low, high = new - old - error, new - old + error
    ends = -math.inf if low is None else low, math.inf if high is None else high
    needed = _number(told.get("pairs_needed"))
    return Moved(new, old, *ends, size, None if needed is None else int(needed))


def _value(side: Mapping[str, Any], name: str) -> float | None:
    known = side.get(name), _dict(_dict(side.get("intervals")).get(name)).get("value")
    return next((n for n in map(number, known) if n is not None), None)


def _checked(samples: Sequence[Mapping[str, Any]]) -> Moved | None:
    pairs = [[row.get(f"correct_{moment}") for moment in _MOMENTS] for row in samples]
    judged = [[float(bool(o)) for o in one] for one in pairs if all(type(o) is bool for o in one)]
    if not judged:
        return None
    before, after = (list(side) for side in zip(*judged, strict=True))
    one = paired_interval(before, after, share=True)
    return Moved(fmean(after), fmean(before), one.low, one.high, one.n)


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    """A number that is finite."""
    found = number(value)
    return found if found is not None and math.isfinite(found) else None
