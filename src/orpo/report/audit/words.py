"""What an audit's numbers say, in plain words."""

from __future__ import annotations

from orpo.report.audit.reading import Bias, Finding, Limit, Spread
from orpo.report.values import as_count, as_duration, as_number, as_percent, joined, sentence

__all__ = [
    "balance_seen",
    "bias_seen",
    "budget_rows",
    "budget_seen",
    "headline",
    "lengths_seen",
    "limits_seen",
    "remainder",
    "repeats_seen",
    "turns_seen",
]

_BUDGET = {
    "pairs": ("Pairs", "those that the limit leaves"),
    "prompt_tokens": ("Tokens of prompts", ""),
    "chosen_tokens": ("Tokens of chosen answers", ""),
    "rejected_tokens": ("Tokens of rejected answers", ""),
    "nll_tokens": ("Tokens in the NLL term", ""),
    "tokens_per_epoch": ("Tokens per epoch", "both sequences of a pair, each with its prompt"),
    "positions_per_epoch": (
        "Positions per epoch",
        "what the engine computes: a shared beginning only once",
    ),
    "padded_positions_per_epoch": ("Positions if padded", "in batches of four, without sharing"),
    "tokens_per_second": ("Tokens per second", "the rate that the engine was measured at"),
    "seconds_per_epoch": ("Time per epoch", "estimated from that rate"),
    "peak_bytes": ("Peak memory", "estimated"),
}


def headline(found: list[Finding]) -> str:
    """The whole audit in a sentence."""
    stop, look = ([one for one in found if one.verdict == name] for name in ("stop", "look"))
    if stop:
        return f"Not ready to train on: {_named(stop)} {'say' if stop[1:] else 'says'} stop."
    if look:
        are = "are" if look[1:] else "is"
        return f"Nothing speaks against training; {_named(look)} {are} worth a look."
    if found:
        return f"Nothing stands out: {as_count(len(found), 'check')} found nothing to worry about."
    return "No check was made."


def remainder(found: list[Finding]) -> str:
    """What the sentence leaves out."""
    counts = {name: sum(one.verdict == name for one in found) for name in ("stop", "look", "ok")}
    if not counts["stop"]:
        return ""
    look, clear = as_count(counts["look"], "further check"), as_count(counts["ok"], "check")
    parts = [f"{look} {'is' if counts['look'] == 1 else 'are'} worth a look"] * bool(counts["look"])
    parts += [f"{clear} found nothing to worry about"] * bool(counts["ok"])
    return sentence(joined(parts)) if parts else ""


def lengths_seen(spreads: list[Spread], unit: str) -> str:
    """Medians, and how the answers compare."""
    told = [f"about {_about(one.quantile(0.5))} in {_many(one.part)}" for one in spreads]
    parts = [f"The median length in {unit} is {joined(told)}."]
    middles = {one.part: one.quantile(0.5) for one in spreads}
    chosen, rejected = middles.get("chosen", 0.0), middles.get("rejected", 0.0)
    if chosen > 0 and rejected > 0:
        longer, shorter = max(chosen, rejected), min(chosen, rejected)
        name, other = ("chosen", "rejected")[:: 1 if chosen == longer else -1]
        if longer / shorter >= 1.05:
            parts.append(
                f"A typical {name} answer is {longer / shorter:.2g} times as long as a typical "
                f"{other} one."
            )
        else:
            parts.append("Chosen and rejected answers are about equally long.")
    return " ".join(parts)


def bias_seen(biases: list[Bias], auc: float | None) -> str:
    """How often the longer answer is chosen, overall and where the difference is large."""
    told = [(one, one.share) for one in biases if one.share is not None]
    pairs = sum(one.pairs for one, _ in told)
    overall = sum(one.pairs * share for one, share in told) / pairs
    parts = [f"The longer answer is chosen in {as_percent(overall)} of {as_count(pairs, 'pair')}"]
    last, share = told[-1]
    if len(told) > 1:
        parts.append(
            f", and in {as_percent(share)} of the {last.pairs:,} in which it is at least "
            f"{last.low:.3g} times as long"
        )
    text = "".join(parts) + "."
    if auc is not None and 0 <= auc <= 1:
        text += f" Length alone tells the chosen answer with an AUC of {auc:.2f}; 0.5 is chance."
    return text


def limits_seen(limits: list[Limit], total: int, max_length: int | None) -> str:
    """What the chosen limit does, and which one would leave nearly everything whole."""
    parts = []
    here = next((one for one in limits if one.max_length == max_length), None)
    if here is not None:
        parts.append(f"At a max_length of {here.max_length:,}, {_loss(here, total)}.")
    whole = next((one for one in limits if (one.cut + one.dropped) < 0.01 * total), None)
    if whole is None:
        parts.append(f"Even at {limits[-1].max_length:,}, {_loss(limits[-1], total)}.")
    elif whole is not here:
        parts.append(
            f"From {whole.max_length:,} on, less than 1\u00a0% of the pairs lose anything."
        )
    return " ".join(parts)


def repeats_seen(found: list[Finding]) -> str:
    """Which kinds of repetition there are."""
    there = [one for one in found if one.count]
    if not there:
        return "None was found."
    most = max(there, key=lambda one: one.share)
    text = f"Most frequent: {_inner(most.title)}, {most.count:,} of {most.of:,}."
    absent = [_inner(one.title) for one in found if not one.count]
    return f"{text} Not found: {joined(absent)}." if absent else text


def balance_seen(counts: dict[str, int]) -> str:
    """How much the largest group has."""
    total, largest = sum(counts.values()), max(counts, key=lambda name: counts[name])
    if len(counts) == 1:
        return f"All {total:,} rows that were looked at are {largest}."
    second = sorted(counts, key=lambda name: -counts[name])[1]
    return (
        f"{largest} makes up {_part(counts[largest] / total)} of the {total:,} rows that were "
        f"looked at, {second} {_part(counts[second] / total)}."
    )


def turns_seen(counts: dict[str, int]) -> str:
    """How many prompts are single questions, how long the longest conversation is."""
    single = counts.get("1", 0) / sum(counts.values())
    text = f"{_part(single)} of the prompts are" if single else "no prompt is"
    longest = max((int(name) for name in counts if _is_count(name)), default=0)
    last = f"; the longest has {longest:,} turns" if longest > 1 else ""
    return sentence(f"{text} a single turn{last}")


def budget_rows(budget: dict[str, float]) -> list[tuple[str, str, str]]:
    """Label, value, meaning of what is known about the cost of an epoch; all of it finite."""
    names = sorted(budget, key=lambda name: [*_BUDGET, name].index(name))
    told = {name: _BUDGET.get(name, (name.replace("_", " "), "")) for name in names}
    return [(told[name][0], _cost(name, budget[name]), told[name][1]) for name in names]


def budget_seen(budget: dict[str, float]) -> str:
    """The cost of an epoch in a sentence; empty if nothing is to be said."""
    parts = []
    seconds = budget.get("seconds_per_epoch", 0)
    if seconds > 0:
        parts.append(f"One epoch takes about {_unbroken(as_duration(seconds))}.")
    tokens, positions = budget.get("tokens_per_epoch", 0), budget.get("positions_per_epoch", 0)
    if 0 < positions < tokens:
        saved = as_percent(1 - positions / tokens)
        parts.append(f"Computing what both answers share only once saves {saved} of the tokens.")
    return " ".join(parts)


def _unbroken(text: str) -> str:
    return text.replace(" ", "\u00a0")


def _named(found: list[Finding]) -> str:
    names = [_inner(one.title) for one in found[:3]]
    more = len(found) - len(names)
    return joined([*names, *([f"{more} more"] if more else [])])


def _inner(title: str) -> str:
    """A title as it reads within a sentence; abbreviations keep their capitals."""
    return title[:1].lower() + title[1:] if title[1:2].islower() else title


def _many(part: str) -> str:
    return "prompts" if part == "prompt" else f"{part} answers"


def _about(length: float) -> str:
    return f"{length:,.0f}" if length >= 10 else as_number(round(length, 1))


def _loss(limit: Limit, total: int) -> str:
    cut, dropped = min(1.0, limit.cut / total), min(1.0, limit.dropped / total)
    if not limit.cut and not limit.dropped:
        return "no pair is cut or dropped"
    return f"{_part(cut)} of the pairs are cut and {_part(dropped)} dropped"


def _part(share: float) -> str:
    """A share that is not 0 does not look like 0."""
    return "less than 0.1\u00a0%" if 0 < share < 0.0005 else as_percent(share)


def _is_count(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) < 9


def _cost(name: str, value: float) -> str:
    if name == "seconds_per_epoch":
        return _unbroken(as_duration(value))
    if name == "peak_bytes":
        return f"{value / 2**30:.1f}\u00a0GiB"
    return f"{value:,.0f}" if name in _BUDGET else as_number(value)
