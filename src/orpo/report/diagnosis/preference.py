"""The preference term: too strong, too weak, or won at the price of the chosen answers."""

from __future__ import annotations

from orpo.report.diagnosis.shifts import FEWEST, Shift, held_out, shift, told
from orpo.report.diagnosis.types import Finding, Observed, clear, look, unknown
from orpo.report.values import as_number, as_percent, joined, sentence

__all__ = ["chosen_falls", "orpo_alpha_too_high", "orpo_alpha_too_low"]

_FALL = 0.05  # nats per token
_NLL = 0.02  # of its size
_STILL_ODDS = 0.3
_STILL_ODDS_HELD_OUT = 0.05
_SHARE = 0.1  # a term that is less of the loss does not dominate it
_LEARNED = 0.9
_RISEN = 0.1
_NOTHING = 0.003  # of the loss: a term as small steers nothing


def chosen_falls(seen: Observed) -> Finding:
    """The margin grows while the chosen answers themselves become less probable."""
    name = "chosen_falls"
    odds, chosen = _pair(seen, "log_odds_chosen", "logps/chosen")
    if odds is None or chosen is None:
        return unknown(name, _missing())
    rejected = _same(seen, "logps/rejected", chosen)
    shown = [
        told("the log odds ratio", odds),
        told("log-probability per token of the chosen answers", chosen),
        *([told("of the rejected ones", rejected)] if rejected else []),
    ]
    evidence = sentence(joined(shown)) + _where(odds)
    if not (odds.rose and chosen.fell and chosen.change < -_FALL):
        return clear(name, evidence)
    own = shift(seen.curves.training.get("logps/chosen"))
    if own is not None and own.rose:
        return clear(name, f"{evidence} On training pairs they rose: {told('theirs', own)}.")
    return look(
        name,
        f"The margin grew while the chosen answers became less probable. {evidence}",
        f"Try a lower {_strength(seen)} or a lower learning_rate: the preference shall be learned "
        "from the rejected answers, not at the price of the chosen ones.",
    )


def orpo_alpha_too_high(seen: Observed) -> Finding:
    """The odds-ratio term rules: it improves while the NLL of the chosen answers rises."""
    name = "orpo_alpha_too_high"
    if seen.objective != "orpo":
        return unknown(name, f"The objective is {seen.objective}: it has no such term.")
    odds, nll = _pair(seen, "log_odds_chosen", "nll_loss")
    if odds is None or nll is None:
        return unknown(name, _missing())
    share = _odds_share(seen)
    part = f"; the odds-ratio term was {as_percent(share)} of the loss" if share is not None else ""
    at_start = " at the start" if part else ""
    evidence = sentence(f"{told('NLL', nll)}, {told('log odds ratio', odds)}{part}{at_start}")
    evidence += _where(odds)
    ruled = share is None or share >= _SHARE
    if not (nll.rose and nll.relative > _NLL and odds.rose and ruled):
        return clear(name, evidence)
    own = shift(seen.curves.training.get("nll_loss"))
    if own is not None and own.fell:
        return clear(name, f"{evidence} On training pairs it fell: {told('NLL', own)}.")
    whole, _ = _pair(seen, "loss", "loss")
    if whole is not None and whole.rose and whole.relative > _RISEN:
        return clear(name, f"The whole loss rose: that is the learning rate's doing. {evidence}")
    return look(
        name,
        f"The odds improved at the price of the NLL. {evidence}",
        f"Try {_alpha(seen, 'a half to a tenth of it')}: the model shall go on learning to write "
        "the chosen answers.",
    )


def orpo_alpha_too_low(seen: Observed) -> Finding:
    """The NLL falls, and the odds stay where they are: plain fine-tuning."""
    name = "orpo_alpha_too_low"
    if seen.objective != "orpo":
        return unknown(name, f"The objective is {seen.objective}: it has no such term.")
    odds, nll = _pair(seen, "log_odds_chosen", "nll_loss")
    if odds is None or nll is None:
        return unknown(name, _missing())
    accuracy = _same(seen, "rewards/accuracies", odds)
    shown = [told("NLL", nll), told("log odds ratio", odds)]
    shown += [told("preference accuracy", accuracy, share=True)] if accuracy else []
    evidence = sentence(joined(shown)) + _where(odds)
    still = odds.at_most(_STILL_ODDS if odds.error else _STILL_ODDS_HELD_OUT)
    learned = accuracy is not None and accuracy.first >= _LEARNED
    share = _odds_share(seen)
    if share is not None and share < _NOTHING and not learned:
        return look(
            name,
            f"The odds-ratio term was {as_percent(share)} of the loss at the start: this is plain "
            f"fine-tuning. {evidence}",
            f"Try {_alpha(seen, 'about 0.1')}.",
        )
    if not (nll.fell and nll.relative < -_NLL and still) or learned:
        return clear(name, evidence)
    return look(
        name,
        f"The NLL fell and the preference did not follow. {evidence}",
        f"Try {_alpha(seen, '3 to 10 times that')}; if the odds still do not move, look at the "
        "pairs with `orpo data audit`.",
    )


def _pair(seen: Observed, one: str, other: str) -> tuple[Shift | None, Shift | None]:
    """Both on held-out pairs where they were scored twice, else both on training pairs."""
    tested = held_out(seen.curves, one), held_out(seen.curves, other)
    if None not in tested:
        return tested
    return shift(seen.curves.training.get(one)), shift(seen.curves.training.get(other))


def _same(seen: Observed, metric: str, like: Shift) -> Shift | None:
    """Another metric on the same pairs."""
    if not like.error:
        return held_out(seen.curves, metric)
    return shift(seen.curves.training.get(metric))


def _odds_share(seen: Observed) -> float | None:
    """The part of the loss that is the odds-ratio term, over the first quarter."""
    loss, nll = _pair(seen, "loss", "nll_loss")
    if loss is None or nll is None or loss.first <= 0 or loss.points != nll.points:
        return None
    return min(1.0, max(0.0, 1 - nll.first / loss.first))


def _missing() -> str:
    return (
        f"Fewer than {FEWEST} steps were logged with two answers, and no held-out pairs were "
        "scored twice."
    )


def _where(found: Shift) -> str:
    return " On training pairs." if found.error else " On held-out pairs."


def _strength(seen: Observed) -> str:
    if seen.objective == "dpo":
        return "strength of the preference term"
    shown = f" ({as_number(seen.alpha)} here)" if seen.alpha is not None else ""
    return f"orpo_alpha{shown}"


def _alpha(seen: Observed, aim: str) -> str:
    if seen.alpha is None:
        return f"an orpo_alpha of {aim}"
    return f"an orpo_alpha of {aim} (it was {as_number(seen.alpha)})"
