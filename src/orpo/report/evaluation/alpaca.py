"""The page of AlpacaEval 2: win rates, and who stands near on the published leaderboard."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo.report.evaluation.types import Figure, Page, Table
from orpo.report.evaluation.win_rate_parts import (
    EXAMPLES_NOTE,
    by_length,
    category_table,
    distrust,
    headlines,
    judge_facts,
    judge_table,
    length_remark,
    passages,
    percent,
    settings,
    span,
    suspicious_remark,
    suspicious_table,
)
from orpo.report.svg import COLOURS, SERIES, dress, plain
from orpo.report.values import as_count, joined, mapping, number, records, rows, whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["build_page"]

_INSTRUCTIONS = 805
_FEATURES = {
    "np.tanh(std_delta_len)": "difference in length",
    "instruction_difficulty": "difficulty of the instruction",
    "not_gamed_baseline.astype(float)": "the model",
}


def build_page(evaluation: Mapping[str, Any], folder: Path) -> Page:  # noqa: ARG001 - all is in it
    """The page of `orpo evaluate alpaca`.

    Args:
        evaluation: What stands in evaluation.json.
        folder: Of the evaluation.
    """
    model = str(evaluation.get("model") or "model")
    baseline = str(evaluation.get("baseline") or "the baseline")
    near = _near(evaluation)
    return Page(
        kicker="AlpacaEval 2",
        title=model,
        verdict=_verdict(evaluation, model, baseline),
        remarks=_remarks(evaluation),
        headlines=headlines(evaluation, tone=False),
        facts=(*_facts(evaluation, baseline), *judge_facts(evaluation)),
        figures=(*_leaderboard_figure(evaluation, model, near), *by_length(evaluation)),
        tables=(
            *_leaderboard_table(evaluation, model, near),
            *category_table(evaluation),
            *judge_table(evaluation),
            *_coefficients(evaluation),
            *suspicious_table(evaluation),
        ),
        passages=passages(evaluation, (baseline, model)),
        passages_note=EXAMPLES_NOTE,
        settings=settings(evaluation),
    )


def _verdict(evaluation: Mapping[str, Any], model: str, baseline: str) -> str:
    rate = mapping(evaluation.get("win_rate"))
    if number(rate.get("win_rate")) is None:
        count = whole(mapping(evaluation.get("account")).get("instructions")) or 0
        return f"{model} has answered {as_count(count, 'instruction')}; nobody has judged yet."
    raw = f"wins {percent(rate.get('win_rate'))} against {baseline} ({span(rate.get('interval'))})"
    controlled = ""
    if number(rate.get("lc_win_rate")) is not None:
        sure = span(rate.get("lc_interval"))
        controlled = f", {percent(rate.get('lc_win_rate'))} with length controlled"
        controlled += f" ({sure})" if sure else ""
    return f"{model} {raw}{controlled}{_coverage(evaluation)}.{distrust(evaluation)}"


def _coverage(evaluation: Mapping[str, Any]) -> str:
    """On how many of the rows, where not on all of them; and whether that compares."""
    count = whole(mapping(evaluation.get("win_rate")).get("n")) or 0
    found = f", on {count:,} of {_INSTRUCTIONS} rows" if count < _INSTRUCTIONS else ""
    return found + (
        ", not comparable with the leaderboard" if evaluation.get("not_comparable") else ""
    )


def _remarks(evaluation: Mapping[str, Any]) -> tuple[str, ...]:
    found = [str(text) for text in rows(evaluation.get("remarks"))]
    reason = evaluation.get("not_comparable")
    if isinstance(reason, str) and reason:
        found.insert(0, f"Not to be compared with the published leaderboard. {reason}")
    found += [*_gone(evaluation), *suspicious_remark(evaluation)]
    if evaluation.get("by_position") is True:
        found.append(
            "Nothing in the annotations says which instruction a row is of, so they were taken in "
            "the order of the evaluation set, as the official tool does."
        )
    found += length_remark(evaluation)
    missing = mapping(evaluation.get("missing"))
    if missing:
        found.append(f"Files that were not there: {joined(missing)}.")
    return tuple(found)


def _gone(evaluation: Mapping[str, Any]) -> list[str]:
    """Where rows and instructions without a verdict have gone, by name."""
    account = mapping(evaluation.get("account"))
    named = [
        ("instructions without a row", account.get("without_a_row")),
        ("rows without a verdict", account.get("without_a_verdict")),
        ("rows whose index is another instruction's (their text counts)",
         evaluation.get("contradicting")),
        *mapping(account.get("left_out")).items(),
    ]  # fmt: skip
    counts = [f"{n:,} {why}" for why, given in named if (n := whole(given))]
    judged, of = whole(account.get("judged")), whole(account.get("in_the_set"))
    if not counts and judged == of:
        return []
    whole_set = f"{judged or 0:,} of {of or 0:,} instructions have a verdict"
    return [f"{whole_set}{f': {joined(counts)}' if counts else ''}."]


def _facts(evaluation: Mapping[str, Any], baseline: str) -> tuple[tuple[str, str], ...]:
    account, rate = mapping(evaluation.get("account")), mapping(evaluation.get("win_rate"))
    counts = [whole(rate.get(name)) or 0 for name in ("n_wins", "n_draws", "n_losses")]
    left = [f"{why}: {n}" for why, n in mapping(account.get("left_out")).items()]
    error = number(rate.get("standard_error"))
    lc_error = number(rate.get("lc_standard_error"))
    entries = (
        ("Baseline", baseline),
        ("Instructions", f"{whole(account.get('instructions')) or 0:,}"),
        ("Left out", ", ".join(left)),
        ("Without a verdict", f"{whole(rate.get('unjudged')) or 0:,}" if rate else ""),
        ("Wins, draws, losses", ", ".join(f"{n:,}" for n in counts) if rate else ""),
        ("Standard error of the win rate", "" if error is None else f"{error:.2f}"),
        ("LC standard error, as the leaderboard prints it",
         "" if lc_error is None else f"{lc_error:.2f}"),
        ("Annotator", str(evaluation.get("annotator") or "")),
        ("Outputs", str(evaluation.get("outputs") or "")),
    )  # fmt: skip
    return tuple((label, value) for label, value in entries if value)


def _near(evaluation: Mapping[str, Any]) -> list[tuple[str, float, float, float]]:
    """(name, LC win rate, win rate, length) of the published neighbours, best first."""
    found = []
    for one in records(mapping(evaluation.get("leaderboard")).get("neighbours")):
        values = [number(one.get(n)) for n in ("lc_win_rate", "win_rate", "avg_length")]
        if None not in values:
            lc, raw, length = (float(v) for v in values if v is not None)
            found.append((str(one.get("name")), lc, raw, length))
    return found


def _leaderboard_table(
    evaluation: Mapping[str, Any], model: str, near: list[tuple[str, float, float, float]]
) -> tuple[Table, ...]:
    rate = mapping(evaluation.get("win_rate"))
    own = number(rate.get("lc_win_rate"))
    if not near or own is None:
        return ()
    length = number(mapping(evaluation.get("mean_length")).get("model")) or 0.0
    lines = [(name, percent(lc), percent(raw), f"{size:,.0f}") for name, lc, raw, size in near]
    place = sum(lc > own for _, lc, _, _ in near)
    here = (f"{model} (here)", percent(own), percent(rate.get("win_rate")), f"{length:,.0f}")
    lines.insert(place, here)
    board = mapping(evaluation.get("leaderboard"))
    reason = evaluation.get("not_comparable")
    note = (
        f"It would be number {whole(board.get('rank')) or 0} beside "
        f"{whole(board.get('published')) or 0} published models."
        if not reason
        else "The published figures are of another judge or another set: not to be compared."
    )
    heads = ("model", "LC win rate", "win rate", "mean length")
    return (Table("Neighbours on the published leaderboard", heads, tuple(lines), note),)


def _leaderboard_figure(
    evaluation: Mapping[str, Any], model: str, near: list[tuple[str, float, float, float]]
) -> tuple[Figure, ...]:
    rate = mapping(evaluation.get("win_rate"))
    own = number(rate.get("lc_win_rate"))
    if not near or own is None:
        return ()
    bars = [(name, lc, False) for name, lc, _, _ in near]
    bars.insert(sum(lc > own for _, lc, _, _ in near), (f"{model} (here)", own, True))
    interval = mapping(rate.get("lc_interval"))
    ends = (number(interval.get("low")), number(interval.get("high")))
    doubt = (
        " The published ones were judged otherwise, so they say little about this one."
        if evaluation.get("not_comparable")
        else ""
    )
    caption = (
        f"Length-controlled win rates against {evaluation.get('baseline') or 'the baseline'}: "
        f"{model} {percent(own)}, between published results.{doubt}"
    )
    return (
        Figure(
            "leaderboard",
            "Among its neighbours on the leaderboard",
            caption,
            (7.2, 1.2 + 0.36 * len(bars)),
            partial(_paint_bars, bars, ends),
        ),
    )


def _paint_bars(
    bars: list[tuple[str, float, bool]], ends: tuple[float | None, float | None], canvas: Canvas
) -> None:
    axes = canvas.add_subplot()
    dress(axes)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=COLOURS["rule"], linewidth=0.8)
    places = list(range(len(bars)))[::-1]
    published = [(y, value) for y, (_, value, here) in zip(places, bars, strict=True) if not here]
    grey = {"color": COLOURS["muted"], "alpha": 0.35, "label": "published"}
    axes.barh(*zip(*published, strict=True), height=0.62, **grey)
    y, value = next((y, v) for y, (_, v, here) in zip(places, bars, strict=True) if here)
    axes.barh([y], [value], height=0.62, color=SERIES[0].colour, label="here")
    right = [v for _, v, _ in bars]
    if ends[0] is not None and ends[1] is not None:
        axes.hlines([y], ends[0], ends[1], color=COLOURS["ink"], linewidth=1.6)
        right[bars.index(next(bar for bar in bars if bar[2]))] = ends[1]
    for place, (_, number_, _), end in zip(places, bars, right, strict=True):
        axes.annotate(
            f"{number_:.1f}", (max(end, number_), place), xytext=(5, 0),
            textcoords="offset points", va="center", color=COLOURS["ink"], fontsize=10,
        )  # fmt: skip
    axes.set_yticks(places, [plain(name) for name, _, _ in bars])
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
    axes.set_xlim(0, 1.12 * max(*right, 1.0))
    axes.xaxis.set_major_formatter("{x:.0f} %")
    canvas.legend(
        loc="outside lower center", ncols=2, frameon=False, labelcolor=COLOURS["ink"], fontsize=10
    )


def _coefficients(evaluation: Mapping[str, Any]) -> tuple[Table, ...]:
    rate = mapping(evaluation.get("win_rate"))
    found = mapping(rate.get("coefficients"))
    if not found:
        return ()
    lines = tuple(
        (_FEATURES.get(name, name), f"{number(value) or 0:.4f}".replace("-", "−"))
        for name, value in found.items()
    )
    strength = number(rate.get("strength"))
    note = (
        "Of the logistic model of the verdicts; the length-controlled win rate leaves the first "
        f"out. L1 penalty with C = {strength or 0:.3g}."
    )
    return (Table("The length-controlled model", ("term", "coefficient"), lines, note),)
