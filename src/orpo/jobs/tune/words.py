"""What a tuning says, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orpo.jobs.tune.choice import Choice
from orpo.jobs.tune.spec import Values

__all__ = ["band_words", "recipe_words", "verdict_of"]

_BETTER, _WORSE, _UNTOLD, _SAME = "better", "worse", "cannot be told apart", "the same"


def verdict_of(
    start: Values, choice: Choice, comparison: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Which of the two to take, and why.

    The recipe's own values stand unless the trials tell the best one apart from them, and the test
    does not say that it is worse: chosen as the best of several it looks better than it is.

    Returns:
        verdict: "better", "worse", "cannot be told apart", "the same" or "not compared";
        keep_start: whether the start is recommended; why: a sentence.
    """
    best = choice.best.values
    if best == start:
        why = f"No trial was better than the recipe's own {start}."
        return {"verdict": _SAME, "keep_start": True, "why": why}
    beside = [one for one in choice.near if one.start]
    if beside:
        behind = choice.behind[beside[0].number].as_dict()
        why = (
            f"The recipe's own {start} stands: no trial can be told apart from it for the better. "
            f"Beside the best of them, {best}, its score is {_signed(behind)}."
        )
        return {"verdict": _UNTOLD, "keep_start": True, "why": why}
    if comparison is None:
        why = f"{best} was the best of the trials; it was not compared with {start} on other pairs."
        return {"verdict": "not compared", "keep_start": False, "why": _sentence(why)}
    change = comparison["measures"]["score"]["change"]
    low, high = change["low"], change["high"]
    verdict = _UNTOLD
    if low is not None and low > 0:
        verdict = _BETTER
    elif high is not None and high < 0:
        verdict = _WORSE
    words = {
        _BETTER: f"{best} is better than the recipe's own {start}",
        _WORSE: f"{best} was the best of the trials, but is worse than {start} in the test",
        _UNTOLD: f"{best} was the best of the trials; the test cannot tell it apart from {start}",
    }
    why = f"{words[verdict]}: {_signed(change)} of the score on pairs that no trial has seen."
    return {"verdict": verdict, "keep_start": verdict == _WORSE, "why": _sentence(why)}


def recipe_words(result: Mapping[str, Any]) -> list[str]:
    """What the recipe says of itself."""
    found, account = result["recommended"], result["account"]
    steps, full = result["steps"], result["full_steps"]
    trials = account["complete"] + account["pruned"]
    words = [
        f"Found by orpo tune in {trials} trials of {steps} steps of {result['batch']} pairs, "
        f"seed {result['seed']}. {found['why']}",
        f"Trials that cannot be told apart from the best: {found['band_words']}.",
    ]
    if steps < full:
        words.append(
            f"This recipe takes {full} steps, the trials took {steps}, each with its whole "
            "schedule. The best learning rate tends to fall as runs grow longer: if the loss "
            "is restless, halve it."
        )
    return words


def band_words(found: Mapping[str, Any]) -> str:
    """The ranges of both knobs among the trials that are near."""
    band = found["band"]
    if len(found["near"]) < 2:
        return "none but itself"
    parts = []
    for name, label in (("learning_rate", "learning rate"), ("orpo_alpha", "lambda")):
        low, high = band[name]
        parts.append(f"{label} {low:.3g}" + ("" if low == high else f" to {high:.3g}"))
    return f"{', '.join(parts)} ({len(found['near'])} trials)"


def _signed(change: Mapping[str, Any]) -> str:
    ends = [change[name] for name in ("value", "low", "high")]
    value, low, high = ("not known" if end is None else f"{end:+.4f}" for end in ends)
    return f"{value} (95 % interval {low} to {high})".replace("-", "−")


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
