"""The page of `orpo tune`: what is recommended, how sure that is, and every trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orpo.errors import DataError
from orpo.report.evaluation.tuning_figures import tuning_figure
from orpo.report.evaluation.types import Headline, Page, Table
from orpo.report.values import (
    as_count,
    as_duration,
    as_number,
    as_percent,
    mapping,
    number,
    records,
    rows,
    sentence,
    whole,
)
from orpo.runs.names import short_name

__all__ = ["build_page"]

_MEASURES = {
    "score": "Score",
    "correct_answers": "Right answers",
    "preference_accuracy": "Prefers the chosen answer",
    "chosen_logps": "l(chosen), per token",
}
_SHARES = {"correct_answers", "preference_accuracy"}
_NEUTRAL = {"chosen_logps"}
_STATES = {
    "complete": "whole",
    "pruned": "given up early",
    "failed": "broken",
    "cut off": "cut off and run again",
    "running": "under way elsewhere",
}
_KNOBS = {"learning_rate": "learning rate", "orpo_alpha": "lambda"}
_FLAGS = {"learning_rate": "--learning_rates", "orpo_alpha": "--alphas"}


def build_page(evaluation: Mapping[str, Any], folder: Path) -> Page:
    """The page of a tuning.

    Args:
        evaluation: What stands in evaluation.json; what is missing there is missing here.
        folder: Where that is; named in messages.

    Raises:
        DataError: No trial has come to its end yet.
    """
    found = mapping(evaluation)
    recommended = mapping(found.get("recommended"))
    if not recommended:
        raise DataError(
            "the tuning is not finished: no trial has come to its end yet",
            where=str(folder),
            fix="Run the same command again.",
        )
    return Page(
        kicker="Tuning",
        title=short_name(found.get("model")) or "a model",
        verdict=sentence(str(recommended.get("why", ""))),
        remarks=tuple(_remarks(found, recommended)),
        headlines=tuple(_headlines(found, recommended)),
        facts=tuple(_facts(found)),
        figures=tuple(filter(None, [tuning_figure(found)])),
        tables=tuple(_tables(found, recommended)),
        settings=tuple(_settings(found)),
    )


def _remarks(found: dict[str, Any], recommended: dict[str, Any]) -> Iterator[str]:
    words = str(recommended.get("band_words", ""))
    if words:
        yield sentence(f"Trials that cannot be told apart from the best: {words}")
    for edge in rows(recommended.get("edges")):
        name, which = (str(part) for part in [*rows(edge), "", ""][:2])
        if name in _KNOBS:
            yield (
                f"The best {_KNOBS[name]} lies at the {which} end of its range: what is beyond "
                f"was not tried. Widen it with `{_FLAGS[name]}`."
            )
    steps, full = whole(found.get("steps")) or 0, whole(found.get("full_steps")) or 0
    if 0 < steps < full:
        yield (
            f"Trials took {as_count(steps, 'step')}, each with its whole schedule; the recipe "
            f"takes {full:,}. The best learning rate tends to fall as runs grow longer."
        )
    if not found.get("finished", True):
        yield "The search was stopped: the same command goes on."
    yield (
        "Intervals are over prompts. How much another order of the data would change is not in "
        "them: every trial has the same seed, and the test another one."
    )


def _headlines(found: dict[str, Any], recommended: dict[str, Any]) -> Iterator[Headline]:
    values, band = mapping(recommended.get("values")), mapping(recommended.get("band"))
    for name, label in _KNOBS.items():
        low, high = (number(end) for end in [*rows(band.get(name)), None, None][:2])
        ends = ""
        if low is not None and high is not None and low < high:
            ends = f"not told apart: {as_number(low)} to {as_number(high)}"
        yield Headline(label[0].upper() + label[1:], as_number(number(values.get(name))), ends)
    measures = mapping(mapping(found.get("comparison")).get("measures"))
    for name in ("score", "correct_answers", "preference_accuracy"):
        change = mapping(mapping(measures.get(name)).get("change"))
        if change:
            yield Headline(
                f"{_MEASURES[name]}, best − start",
                _signed(name, change.get("value")),
                f"95 % interval {_range(name, change)}",
                str(change.get("verdict", "")),
            )


def _facts(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    held_out, machine = mapping(found.get("held_out")), mapping(found.get("machine"))
    account = mapping(found.get("account"))
    yield "Model", short_name(found.get("model")) or "–"
    yield "Training data", short_name(found.get("dataset")) or "–"
    told = [
        f"{count} {word}" for state, word in _STATES.items() if (count := whole(account.get(state)))
    ]
    yield "Trials", ", ".join(told) or "–"
    steps, batch = whole(found.get("steps")), whole(found.get("batch"))
    if steps and batch:
        yield "A trial", f"{as_count(steps, 'step')} of {as_count(batch, 'pair')}"
    sides = {"choosing": "to choose by", "test": "for the test alone"}
    counts = {name: whole(held_out.get(name)) for name in sides}
    yield (
        "Held-out pairs",
        ", ".join(f"{counts[name]:,} {text}" for name, text in sides.items() if counts[name])
        or "–",
    )
    yield "Score", "l(chosen) + 0.1 log sigmoid(z), per pair; at most 0, higher is better"
    space = mapping(found.get("space"))
    for name, label in _KNOBS.items():
        ends = [as_number(number(end)) for end in rows(space.get(name))]
        yield f"Range of the {label}", " to ".join(ends) or "–"
    seed = whole(found.get("seed"))
    yield "Seed", "–" if seed is None else str(seed)
    yield "Study", f"{found.get('study', '–')} in {found.get('storage') or 'this folder'}"
    threads = whole(machine.get("threads")) or 1
    yield "Machine", f"{machine.get('device', '–')}, {as_count(threads, 'thread')}"
    seconds = number(found.get("seconds"))
    if seconds is not None:
        yield "This call took", as_duration(seconds)


def _tables(found: dict[str, Any], recommended: dict[str, Any]) -> Iterator[Table]:
    measures = mapping(mapping(found.get("comparison")).get("measures"))
    if measures:
        yield Table(
            "The test: pairs that no trial has seen",
            ("", "Start", "Best trial", "Change", "Verdict"),
            tuple(
                (label, *_compared(name, mapping(measures[name])))
                for name, label in _MEASURES.items()
                if mapping(measures.get(name))
            ),
            "Both were trained once more, with a seed that no trial had and as many steps. In "
            "brackets 95 % intervals, over prompts.",
        )
    trials = records(found.get("trials"))
    yield Table(
        "Every trial",
        ("Trial", "Learning rate", "Lambda", "Score", "Less than the best", "Prefers chosen", ""),
        tuple(_trial(one, recommended) for one in trials),
        "Not told apart: the 95 % interval of the difference to the best holds 0. The score of a "
        "trial that was given up is that of the step that it reached.",
    )


def _compared(name: str, measure: dict[str, Any]) -> tuple[str, str, str, str]:
    change = mapping(measure.get("change"))
    sides = [mapping(measure.get(side)) for side in ("start", "best")]
    shown = [f"{_value(name, one.get('value'))} ({_level(name, one)})" for one in sides]
    verdict = "–" if name in _NEUTRAL else str(change.get("verdict", "–"))
    return (
        shown[0],
        shown[1],
        f"{_signed(name, change.get('value'))} ({_range(name, change)})",
        verdict,
    )


def _trial(one: dict[str, Any], recommended: dict[str, Any]) -> tuple[str, ...]:
    marks = [str(mark) for mark in _marks(one, recommended)]
    behind = mapping(one.get("behind_the_best"))
    less = f"{_signed('', behind.get('value'))} ({_range('', behind)})" if behind else ""
    return (
        str(one.get("number", "?")),
        as_number(number(one.get("learning_rate"))),
        as_number(number(one.get("orpo_alpha"))),
        _value("", one.get("score")) if number(one.get("score")) is not None else "",
        "" if "best" in marks else less,
        as_percent(number(one.get("preference_accuracy"))) if behind else "",
        ", ".join(marks),
    )


def _marks(one: dict[str, Any], recommended: dict[str, Any]) -> Iterator[str]:
    best = one.get("number") == recommended.get("trial")
    if best:
        yield "best"
    if one.get("start"):
        yield "start"
    state = str(one.get("state"))
    if state == "pruned":
        yield f"given up at step {one.get('steps')}"
    elif state != "complete":
        reason = str(one.get("reason", ""))
        yield f"{_STATES.get(state, state)}{': ' if reason else ''}{reason}"
    elif one.get("near") and not best:
        yield "not told apart"


def _settings(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "command", str(found.get("command", "–"))
    settings = mapping(found.get("settings"))
    for name, value in mapping(settings.get("training")).items():
        yield name, str(value)
    for name, value in mapping(found.get("versions")).items():
        yield name, str(value)


def _value(name: str, value: object) -> str:
    found = number(value)
    if found is None:
        return "not known"
    return as_percent(found) if name in _SHARES else f"{found:.4f}".replace("-", "−")


def _level(name: str, interval: Mapping[str, Any]) -> str:
    ends = (number(interval.get(end)) for end in ("low", "high"))
    scale, digits = (100, 1) if name in _SHARES else (1, 4)
    shown = ("?" if end is None else f"{scale * end:.{digits}f}" for end in ends)
    return " to ".join(shown).replace("-", "−")


def _signed(name: str, value: object) -> str:
    found = number(value)
    if found is None:
        return "not known"
    text = f"{100 * found:+.1f} pp" if name in _SHARES else f"{found:+.4f}"
    return text.replace("-", "−")


def _range(name: str, interval: Mapping[str, Any]) -> str:
    scale, digits = (100, 1) if name in _SHARES else (1, 4)
    ends = (number(interval.get(end)) for end in ("low", "high"))
    shown = ("?" if end is None else f"{scale * end:+.{digits}f}" for end in ends)
    return " to ".join(shown).replace("-", "−")
