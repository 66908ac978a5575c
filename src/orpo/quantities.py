"""What a number is called and how a person is shown it: one way in terminals, on pages and cards.

Two or three digits that are read, units that are known, no exponent where a word does. What is
written for machines keeps its names and all its digits.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Measure(NamedTuple):
    """What a number is."""

    label: str
    meaning: str = ""
    better: int = 0  # +1: more is better, -1: less is better, 0: neither
    share: bool = False
    short: str = ""  # where there is little room; the label if empty


_PREFERS = Measure(
    label="Prefers the chosen answer",
    meaning="pairs whose chosen answer is more probable per token",
    better=1,
    share=True,
    short="accuracy",
)
MEASURES = {
    "preference_accuracy": _PREFERS,
    "rewards/accuracies": _PREFERS,
    "correct_answers": Measure("Correct answers", "greedy answers that pass the check", 1, True),
    "judged": Measure("Preferred by the judge", "", 1, True, "judge"),
    "nll/chosen": Measure("NLL of the chosen answers, per token", "prompts are not counted", -1),
    "perplexity/chosen": Measure("Perplexity of the chosen answers", "e to the power of that NLL"),
    "nll/rejected": Measure("NLL of the rejected answers, per token", "prompts are not counted"),
    "log_odds_chosen": Measure("Log odds ratio, mean", "chosen over rejected", 1, short="log-odds"),
    "rewards/margins": Measure("Reward margin, mean", "chosen less rejected", 1, short="margin"),
    "logps/margin": Measure("NLL of rejected less that of chosen answers, per token", "", 1),
    "nll_loss": Measure("NLL in the loss (prompt and chosen answer)", "per token", -1),
    "nll_loss/completion": Measure("NLL in the loss (chosen answer)", "per token", -1),
    "loss": Measure("Loss", "NLL + orpo_alpha × odds-ratio term", -1),
    "loss/sft": Measure("Loss", "the NLL alone", -1),
    "loss/dpo": Measure("Loss", "of DPO", -1),
    "tokens_per_second": Measure("Tokens per second", short="tokens/s"),
    "learning_rate": Measure("Learning rate"),
    "grad_norm": Measure("Gradient norm"),
    "score": Measure("Score", "", 1, short="score"),
}
"""Name in metrics.jsonl and evaluation.json, or in `told_of`: what it is."""

COUNTED = re.compile(r"pairs|prompts|n|compared|step|epoch|.*runtime|(?!tokens).*_per_second")
"""Names that say on how much was measured, and how long it took."""


def measure(name: str, recipe: Mapping[str, Any] | None = None) -> Measure:
    """What a number is, in a run of such settings; one that is not known is called by its name."""
    name, recipe = name.removeprefix("eval_"), recipe or {}
    of = {"nll_loss": recipe.get("nll_scope"), "loss": recipe.get("objective")}.get(name)
    return MEASURES.get(f"{name}/{of}") or MEASURES.get(name) or Measure(name)


def told_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics as they are told, the known ones first: l of an answer as its NLL and perplexity."""
    found = {name.removeprefix("eval_"): value for name, value in metrics.items()}
    for side in ("chosen", "rejected"):
        value = number(found.pop(f"logps/{side}", None))
        if value is not None:
            found[f"nll/{side}"] = -value
            if side == "chosen":
                found["perplexity/chosen"] = perplexity(-value)
    order = {name: place for place, name in enumerate(MEASURES)}
    return dict(sorted(found.items(), key=lambda one: order.get(one[0], len(order))))


def told_ends(ends: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """The intervals of metrics under the names of `told_of`."""
    turned = {f"logps/{side}": f"nll/{side}" for side in ("chosen", "rejected")}
    return {
        turned.get(name, name): (-high, -low) if name in turned else (low, high)
        for name, (low, high) in ends.items()
    }


def beside(
    before: Mapping[str, Any], after: Mapping[str, Any], recipe: Mapping[str, Any] | None = None
) -> list[tuple[str, str, str, str]]:
    """Every measure of `after` as (name, label, value before, value after), as shown."""
    olds, found = told_of(before), []
    for name, value in told_of(after).items():
        old, new, what = number(olds.get(name)), number(value), measure(name, recipe)
        if new is not None and not COUNTED.fullmatch(name):
            both = (as_percent(old), as_percent(new)) if what.share else as_pair(old, new)
            found.append((name, what.label, *both))
    return found


def perplexity(nll: float) -> float:
    """e to the power of it: among how many tokens the model wavers."""
    return math.exp(nll) if nll < 700 else math.inf


# Numbers


def number(value: object) -> float | None:
    """The number that a value is, NaN and infinity among them; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def minus(text: str) -> str:
    """With a minus sign where there was a hyphen in front of a digit, but not in an exponent."""
    return re.sub(r"(?<![e\d])-(?=\d)", "−", text)


def as_number(value: float | None) -> str:
    """Three significant digits: 0.0213, −1.23, 12,346, 14.6 billion, 8e-6."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    rounded = float(f"{value:.3g}")
    if 1e9 <= abs(rounded) < 1e15:
        size, word = (1e12, "trillion") if abs(rounded) >= 1e12 else (1e9, "billion")
        text = f"{rounded / size:g} {word}"
    elif 1e3 <= abs(rounded) < 1e9:
        text = f"{value:,.0f}"
    elif 1e-4 <= abs(rounded) < 1e3:
        text = f"{rounded:g}"
    else:
        text = re.sub(r"e([+-])0*", lambda found: f"e{found[1].strip('+')}", f"{rounded:.3g}")
    return minus(text)


def _two(value: float) -> str:
    """Two digits, three of a whole number: 9.8, 98, 135."""
    return f"{value:.0f}" if abs(value) >= 99.5 else f"{float(f'{value:.2g}'):g}"


def as_amount(value: float, unit: str = "", *, base: int = 1000) -> str:
    """In thousands, millions and so on: 135 M, 9.8 EFLOP, 1.2 GiB."""
    names = ["", "k", "M", "G", "T", "P", "E", "Z"]
    if base == 1024:
        names = ["", *(f"{name.upper()}i" for name in names[1:])]
    name = names.pop(0)
    while abs(value) >= 999.5 and names:
        value, name = value / base, names.pop(0)
    return f"{_two(value)} {name}{unit}".rstrip()


def as_bytes(size: float) -> str:
    """Memory: 843 MiB, 1.2 GiB."""
    return as_amount(size, "B", base=1024)


def as_flops(amount: float) -> str:
    """Operations: 1.3 TFLOP, 9.8 EFLOP."""
    return as_amount(amount, "FLOP")


def as_percent(share: float | None) -> str:
    """A share as 93.1 %; what is no share stays a number."""
    if share is None or not 0 <= share <= 1:
        return as_number(share)
    return f"{100 * share:.1f} %"


def as_share(share: float) -> str:
    """As `as_percent`, but one that is not 0 does not look like 0."""
    return "under 0.1 %" if 0 < share < 0.0005 else as_percent(share)


def as_pair(first: float | None, second: float | None) -> tuple[str, str]:
    """Two numbers to be compared, with the decimals that tell them apart: 2.08 and 0.97."""
    if first is None or second is None or not math.isfinite(first - second):
        return as_number(first), as_number(second)
    big = max(abs(first), abs(second))
    if 1e-3 <= big < 1e4 and (first % 1 or second % 1):
        needed = max(0, 2 - math.floor(math.log10(big)))
        for decimals in range(needed, needed + 3):
            both = minus(f"{first:,.{decimals}f}"), minus(f"{second:,.{decimals}f}")
            if both[0] != both[1] or first == second:
                return both
    return as_number(first), as_number(second)


def as_change(before: float | None, after: float | None, *, share: bool) -> str:
    """What was gained, with its sign; shares in percentage points."""
    if before is None or after is None or not math.isfinite(after - before):
        return "–"
    change = after - before
    sign = "+" if change > 0 else "−" if change < 0 else "±"
    if share:
        return f"{sign}{100 * abs(change):.1f} pp"
    return sign + as_number(abs(change))


def signed(value: float, decimals: int = 1) -> str:
    """A difference with its sign; "not known" if it is not finite."""
    if not math.isfinite(value):
        return "not known"
    sign = "+" if value > 0 else "−" if value < 0 else "±"
    return f"{sign}{abs(value):.{decimals}f}"


def as_count(amount: float, noun: str) -> str:
    """1 pair, 2 pairs, 12,000 pairs."""
    plural = noun if amount == 1 else noun[:-1] + "ies" if noun.endswith("y") else f"{noun}s"
    return f"{amount:,.0f} {plural}"


def thousands(value: float, _: object = None) -> str:
    """A count, also at an axis: 12,000."""
    return f"{value:,.0f}"


def as_duration(seconds: float) -> str:
    """0.32 s, 37 s, 4 min 20 s, 3 h 5 min."""
    if seconds < 9.95:
        return f"{_two(seconds)} s"
    total = round(seconds)
    hours, minutes = total // 3600, total % 3600 // 60
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {total % 60} s" if minutes else f"{total} s"


# Words


def joined(parts: Iterable[object]) -> str:
    """One, two and three."""
    words = list(map(str, parts))
    return " and ".join([*([", ".join(words[:-1])] if words[1:] else []), *words[-1:]])


def sentence(text: str) -> str:
    """With a capital in front and one full stop behind; nothing stays nothing."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def lowered(title: str) -> str:
    """A title as it reads within a sentence; abbreviations keep their capitals."""
    return title[:1].lower() + title[1:] if title[1:2].islower() else title
