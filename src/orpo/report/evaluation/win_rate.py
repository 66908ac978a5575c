"""The page of two models on prompts of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orpo.report.evaluation.types import Page
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
from orpo.report.values import as_count, mapping, number, rows, whole

__all__ = ["build_page"]

_SMALL = 100


def build_page(evaluation: Mapping[str, Any], folder: Path) -> Page:  # noqa: ARG001 - all is in it
    """The page of `orpo evaluate win-rate`.

    Args:
        evaluation: What stands in evaluation.json.
        folder: Of the evaluation.
    """
    model, baseline = (str(evaluation.get(name) or name) for name in ("model", "baseline"))
    return Page(
        kicker="Win rate",
        title=f"{model} against {baseline}",
        verdict=_verdict(evaluation, model, baseline),
        remarks=_remarks(evaluation),
        headlines=headlines(evaluation, tone=True),
        facts=(*_facts(evaluation), *judge_facts(evaluation)),
        figures=by_length(evaluation),
        tables=(
            *judge_table(evaluation),
            *category_table(evaluation),
            *suspicious_table(evaluation),
        ),
        passages=passages(evaluation, (baseline, model)),
        passages_note=EXAMPLES_NOTE,
        settings=settings(evaluation),
    )


def _verdict(evaluation: Mapping[str, Any], model: str, baseline: str) -> str:
    rate = mapping(evaluation.get("win_rate"))
    interval = mapping(rate.get("interval"))
    low, high = number(interval.get("low")), number(interval.get("high"))
    if low is None or high is None:
        return f"It cannot be said whether {model} is better than {baseline}."
    if low > 50:
        said = f"{model} answers better than {baseline}"
    elif high < 50:
        said = f"{model} answers worse than {baseline}"
    else:
        said = f"No difference between {model} and {baseline} can be told"
    prompts = as_count(whole(interval.get("clusters")) or 0, "prompt")
    found = f"{model} wins {percent(rate.get('win_rate'))} ({span(interval)}; {prompts})"
    return f"{said}: {found}.{distrust(evaluation)}"


def _remarks(evaluation: Mapping[str, Any]) -> tuple[str, ...]:
    rate = mapping(evaluation.get("win_rate"))
    prompts = whole(mapping(rate.get("interval")).get("clusters")) or 0
    found = [str(text) for text in rows(evaluation.get("remarks"))]
    found += [*suspicious_remark(evaluation), *length_remark(evaluation)]
    if prompts < _SMALL:
        found.append(
            f"{as_count(prompts, 'prompt')} tell only large differences apart; even {_SMALL} leave "
            "about ten points of doubt on either side."
        )
    if number(rate.get("lc_win_rate")) is not None:
        found.append(
            "The length-controlled win rate is a logistic model of the verdicts with two terms, "
            "the tanh of the standardised difference in length and a constant (L1 penalty, "
            "C = 100); it is what the constant alone predicts. AlpacaEval's third term, the "
            "difficulty of its instructions, is not known for other prompts."
        )
    return tuple(found)


def _facts(evaluation: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    account, rate = mapping(evaluation.get("account")), mapping(evaluation.get("win_rate"))
    counts = [whole(rate.get(name)) or 0 for name in ("n_wins", "n_draws", "n_losses")]
    cut = [whole(account.get(f"{who}_truncated_answers")) or 0 for who in ("baseline", "model")]
    empty = [whole(account.get(f"{who}_empty_answers")) or 0 for who in ("baseline", "model")]
    same = whole(account.get("identical_answers")) or 0
    return (
        ("Prompts", f"{whole(account.get('prompts')) or 0:,}"),
        ("Wins, draws, losses", ", ".join(f"{count:,}" for count in counts)),
        ("Cut off, baseline and model", f"{cut[0]:,} and {cut[1]:,}"),
        ("Empty, baseline and model", f"{empty[0]:,} and {empty[1]:,}"),
        ("Identical answers", f"{same:,}"),
    )
