"""The pages of win rates: two models on prompts of one's own, and AlpacaEval 2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from orpo.evaluate.intervals import Interval
from orpo.evaluate.results import (
    AlpacaResult,
    Entry,
    JudgedRates,
    LengthRate,
    PairJudge,
    Suspicious,
    WinRate,
    WinRateResult,
)
from orpo.report.page import (
    Figure,
    Headline,
    Page,
    Passage,
    Table,
    Words,
    ends_of,
    pct,
    span,
)
from orpo.report.style import COLOURS, rows
from orpo.report.values import as_count, joined, minus, shortened, thousands, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_NOTE = (
    "Nobody picked these: the three clearest wins and the three clearest losses, of equally clear "
    "ones the first in the order of the prompts, and the first three pairs with a flag."
)
_NAMED, _ROWS = 8, 50
_RATES = {
    "Length-controlled win rate": ("lc_win_rate", "lc_interval"),
    "Win rate": ("win_rate", "interval"),
}
_HABITS = {
    "consistency": "says the same in both orders",
    "first_position_wins": "prefers what is shown first (50 % is fair)",
    "longer_wins": "prefers the longer answer",
    "length_auc": "length alone tells wins from losses (50 %: not at all)",
}
_FEATURES = {
    "np.tanh(std_delta_len)": "difference in length",
    "instruction_difficulty": "difficulty of the instruction",
    "not_gamed_baseline.astype(float)": "the model",
}
_GONE = {
    "without_a_row": "instructions without a row",
    "without_a_verdict": "rows without a verdict",
}


def win_rate_page(r: WinRateResult) -> Page:
    """The page of `orpo evaluate win-rate`."""
    words = Words("win_rate", r=r, suspicious=_named(r.rates.suspicious))
    return Page(
        kicker="Win rate",
        title=f"{r.model} against {r.baseline}",
        verdict=words["verdict"],
        remarks=words.all("remarks"),
        headlines=tuple(_headlines(r.rates, tone=True)),
        facts=words.pairs("facts"),
        figures=_by_length(r.rates),
        tables=(*_judge(r.judged), *_by_category(r.rates), *_suspicious(r.rates)),
        passages=_passages(r.rates, (r.baseline, r.model)),
        passages_note=_NOTE,
        settings=_settings(r),
    )


def alpaca_page(r: AlpacaResult) -> Page:
    """The page of `orpo evaluate alpaca`."""
    rates, rate = r.rates, r.rates.win_rate if r.rates else None
    board = r.rates.leaderboard if r.rates else None
    near = board.neighbours if board and rate and rate.lc_win_rate is not None else ()
    suspicious = _named(rates.suspicious if rates else None)
    words = Words("alpaca", r=r, rate=rate, board=board, suspicious=suspicious, gone=_gone(r))
    return Page(
        kicker="AlpacaEval 2",
        title=r.model,
        verdict=words["verdict"],
        remarks=words.all("remarks"),
        headlines=tuple(_headlines(rates, tone=False)),
        facts=words.pairs("facts"),
        figures=(*_leaderboard(r.model, rate, near, words), *_by_length(rates)),
        tables=(
            *_neighbours(r, rate, near, words),
            *_by_category(rates),
            *_judge(r.judged),
            *_coefficients(rate),
            *_suspicious(rates),
        ),
        passages=_passages(rates, (r.baseline or "the baseline", r.model)),
        passages_note=_NOTE,
        settings=_settings(r),
    )


def _settings(r: WinRateResult | AlpacaResult) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(value)) for name, value in {**r.settings, **r.versions}.items())


def _headlines(rates: JudgedRates | None, *, tone: bool) -> Iterator[Headline]:
    """As judged, and without suspicious rows; above 50 % is better where the interval says so."""
    if rates is None:
        return
    found = rates.suspicious
    for label, (name, sure) in _RATES.items():
        value, interval = getattr(rates.win_rate, name), getattr(rates.win_rate, sure)
        if value is not None:
            word = _tone(interval) if tone and interval else ""
            yield Headline(label, pct(value), span(interval), word)
        if found and found.without and (rest := getattr(found.without, name)) is not None:
            left = f"{as_count(found.pairs, 'row')} left out"
            yield Headline(f"{label} without suspicious rows", pct(rest), left)


def _tone(interval: Interval) -> str:
    return "better" if interval.low > 50 else "worse" if interval.high < 50 else ""


def _named(found: Suspicious | None) -> str:
    """The first of the suspicious rows: "rows 3, 7 and 12 more"."""
    if found is None:
        return ""
    names = list(dict.fromkeys(shortened(str(one.index), 40) for one in found.rows))
    more = f" and {len(names) - _NAMED} more" if names[_NAMED:] else ""
    return f"{'rows' if names[1:] else 'row'} {', '.join(names[:_NAMED])}{more}"


def _gone(r: AlpacaResult) -> list[str]:
    """Where rows and instructions without a verdict have gone, by name."""
    named: dict[str, Any] = {why: r.account.get(name) for name, why in _GONE.items()}
    named["rows whose index is another instruction's (their text counts)"] = r.contradicting
    named |= r.account.get("left_out") or {}
    return [f"{n:,} {why}" for why, n in named.items() if n]


def _suspicious(rates: JudgedRates | None) -> tuple[Table, ...]:
    """The suspicious rows, to be looked at."""
    every = rates.suspicious.rows if rates and rates.suspicious else ()
    if not every:
        return ()
    lines = [
        (
            shortened(str(one.index), 80),
            one.side,
            joined(one.flags),
            "–" if one.preference is None else f"{one.preference:.2f}",
            visible(one.excerpt),
        )
        for one in every[:_ROWS]
    ]
    heads = ("row", "whose", "why", "preference", "the answer")
    return (Table("Suspicious rows", heads, lines, suspicious_note(len(every) - _ROWS)),)


def suspicious_note(left: int) -> str:
    """What stands below a table of suspicious answers, of which `left` are not shown."""
    note = "A rule found these; whether it is right, only reading tells. They count as judged."
    return f"{note} {left:,} more are in evaluation.json." if left > 0 else note


def _by_category(rates: JudgedRates | None) -> tuple[Table, ...]:
    if rates is None or len(rates.by_category) < 2:
        return ()
    heads = ("where the prompts come from", "prompts", "win rate", "95 % interval")
    lines = [
        (name, f"{one.n:,}", pct(one.win_rate.value), ends_of(one.win_rate))
        for name, one in rates.by_category.items()
    ]
    return (Table("By source of the prompts", heads, lines),)


def _judge(judged: PairJudge | None) -> tuple[Table, ...]:
    """What the judge goes by, in numbers."""
    if judged is None:
        return ()
    lines = []
    for name, label in _HABITS.items():
        one = judged.bias.get(name)
        if one is not None:
            value, low, high = (pct(100 * end) for end in (one.value, one.low, one.high))
            lines.append((label, value, f"{low} to {high}", f"{one.n:,}"))
    for kind, outcomes in judged.trust.kinds.items():
        tried = sum(outcomes.get(name, 0) for name in ("lost", "tied", "rewarded", "unparsed"))
        found = f"{outcomes.get('rewarded', 0)} of {tried}"
        lines.append((f"rewards a planted answer: {kind}", found, "–", f"{tried}"))
    heads = ("", "found", "95 % interval", "n")
    note = _verdicts(judged.verdicts)
    return (Table("What the judge goes by", heads, lines, note),) if lines else ()


def _verdicts(counts: Mapping[str, int]) -> str:
    if not counts:
        return ""
    names = ("verdicts", "pairs", "unparsed_verdicts", "orders_differ")
    verdicts, pairs, unparsed, differ = (counts.get(name, 0) for name in names)
    return (
        f"{verdicts:,} verdicts on {as_count(pairs, 'pair')}, {unparsed:,} of them unreadable; "
        f"{as_count(differ, 'pair')} with different verdicts in the two orders."
    )


def _coefficients(rate: WinRate | None) -> tuple[Table, ...]:
    if rate is None or not rate.coefficients:
        return ()
    lines = [
        (_FEATURES.get(name, name), minus(f"{value:.4f}"))
        for name, value in rate.coefficients.items()
    ]
    note = (
        "Of the logistic model of the verdicts; the length-controlled win rate leaves the first "
        f"out. L1 penalty with C = {rate.strength or 0:.3g}."
    )
    return (Table("The length-controlled model", ("term", "coefficient"), lines, note),)


def _passages(rates: JudgedRates | None, names: tuple[str, str]) -> tuple[Passage, ...]:
    """The examples, with both answers and what the judge said."""
    kinds = {"win": "Win", "loss": "Loss", "flagged": "Flagged"}
    found = []
    for place, one in enumerate(rates.examples if rates else (), 1):
        shown = "" if one.preference is None else f", preference {one.preference:.2f}"
        sizes = [as_count(length, "character") for length in one.lengths]
        reasons = [text for text in one.reasons if text]
        parts = (
            ("Prompt", one.prompt),
            (f"{names[0]}, {sizes[0]}", one.baseline),
            (f"{names[1]}, {sizes[1]}", one.model),
            *((f"The judge, order {n}", text) for n, text in enumerate(reasons, 1)),
        )
        tags = [f"baseline: {flag}" for flag in one.flags_baseline]
        tags += [f"model: {flag}" for flag in one.flags_model]
        found.append(Passage(f"{place}. {kinds.get(one.kind, 'Pair')}{shown}", parts, tags))
    return tuple(found)


def _by_length(rates: JudgedRates | None) -> tuple[Figure, ...]:
    """The win rate by how much longer the model's answer is; nothing for few prompts."""
    groups = rates.by_length if rates else ()
    if len(groups) < 3:
        return ()
    seen = (
        f"Win rate in {len(groups)} equally large groups of prompts, by how many characters the "
        "model's answer is longer than the baseline's, with 95 % intervals. A line that rises says "
        "that length and verdict go together; why, it does not say."
    )
    title, paint = "Win rate by difference in length", partial(_paint_lengths, groups)
    return (Figure("by-length", title, seen, (7.2, 3.6), paint),)


def _paint_lengths(groups: Sequence[LengthRate], canvas: Canvas) -> None:
    axes = canvas.add_subplot()
    x, rate = [group.mean for group in groups], [group.win_rate for group in groups]
    colour = COLOURS["chosen"]
    axes.axhline(50, color=COLOURS["muted"], linewidth=0.9)
    axes.axvline(0, color=COLOURS["rule"], linewidth=0.9)
    axes.vlines(x, [one.low for one in rate], [one.high for one in rate], color=colour, lw=1.6)
    style = {"linewidth": 2, "marker": "o", "markersize": 6, "clip_on": False}
    axes.plot(x, [one.value for one in rate], color=colour, **style)
    axes.set_ylim(0, 100)
    axes.yaxis.set_major_formatter("{x:.0f} %")
    axes.xaxis.set_major_formatter(lambda value, _: minus(f"{value:+,.0f}"))
    axes.set_xlabel("characters more than the baseline's answer")


def _neighbours(
    r: AlpacaResult, rate: WinRate | None, near: Sequence[Entry], words: Words
) -> tuple[Table, ...]:
    if not near or not r.rates or not rate or rate.lc_win_rate is None:
        return ()
    length = r.rates.mean_length.get("model", 0.0)
    lines = [
        (one.name, pct(one.lc_win_rate), pct(one.win_rate), thousands(one.avg_length))
        for one in near
    ]
    own = (f"{r.model} (here)", pct(rate.lc_win_rate), pct(rate.win_rate), thousands(length))
    lines.insert(_place(rate.lc_win_rate, near), own)
    heads = ("model", "LC win rate", "win rate", "mean length")
    return (Table("Neighbours on the published leaderboard", heads, lines, words["neighbours"]),)


def _place(own: float, near: Sequence[Entry]) -> int:
    return sum(one.lc_win_rate > own for one in near)


def _leaderboard(
    model: str, rate: WinRate | None, near: Sequence[Entry], words: Words
) -> tuple[Figure, ...]:
    if not near or not rate or rate.lc_win_rate is None:
        return ()
    bars = [(one.name, one.lc_win_rate) for one in near]
    own = _place(rate.lc_win_rate, near)
    bars.insert(own, (f"{model} (here)", rate.lc_win_rate))
    title, size = "Among its neighbours on the leaderboard", (7.2, 1.2 + 0.36 * len(bars))
    paint = partial(_paint_bars, bars, own, rate.lc_interval)
    return (Figure("leaderboard", title, words["leaderboard"], size, paint),)


def _paint_bars(
    bars: list[tuple[str, float]], own: int, sure: Interval | None, canvas: Canvas
) -> None:
    axes = canvas.add_subplot()
    rows(axes, [name for name, _ in bars])
    published = [(y, value) for y, (_, value) in enumerate(bars) if y != own]
    grey = {"color": COLOURS["muted"], "alpha": 0.35, "label": "published"}
    axes.barh(*zip(*published, strict=True), height=0.62, **grey)
    axes.barh([own], [bars[own][1]], height=0.62, color=COLOURS["chosen"], label="here")
    ends = [value for _, value in bars]
    if sure is not None and ends_of(sure):
        axes.hlines([own], sure.low, sure.high, color=COLOURS["ink"], linewidth=1.6)
        ends[own] = max(ends[own], sure.high)
    place = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": 10}
    for y, ((_, value), end) in enumerate(zip(bars, ends, strict=True)):
        axes.annotate(f"{value:.1f}", (end, y), **place)
    axes.set_xlim(0, 1.12 * max(*ends, 1.0))
    axes.xaxis.set_major_formatter("{x:.0f} %")
    canvas.legend(loc="outside lower center", ncols=2)
