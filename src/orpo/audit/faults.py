"""One predicate for each fault of a pair: the audit counts what it finds, `orpo data fix` drops it.

Rows that repeat or contradict each other are told by `PairView.key` and `PairView.opposite`, those
that nearly do by `orpo.audit.repeats`, and what a template or a limit does by the tokenizer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from orpo.audit.findings import Finding, Rule, Tally, amount, grade, percent
from orpo.audit.texts import about_markup, markup_in, refuses, script_of
from orpo.audit.views import PairView
from orpo.data.types import Dropped, Ledger

CHECKS = (
    "malformed",
    "empty",
    "identical_answers",
    "contradictions",
    "low_margin",
    "template_error",
    "too_long",
)
"""Checks that drop rows, by the names that `--drop` takes."""

TIED_LOOK = 0.05
"""Equal scores are no preference: whoever made the pair drew lots."""

_ASKING = ("user", "tool", "function", "ipython", "observation", "")


def empty_parts(seen: PairView) -> list[str]:
    """Which of prompt, chosen and rejected answer hold no text."""
    return [name for name, text in seen.texts.items() if text is not None and not text.strip()]


def same_answers(seen: PairView) -> str:
    """How both answers are the same: "exact" or "white_space_only"; empty if they are not."""
    if seen.rejected is None:
        return ""
    if seen.chosen == seen.rejected:
        return "exact"
    return "white_space_only" if seen.chosen.split() == seen.rejected.split() else ""


def low_margin(seen: PairView, least: float = 0.0) -> bool:
    """Whether the chosen answer scores less than so much above the rejected one."""
    return seen.scores is not None and not seen.scores[0] - seen.scores[1] >= least


def faults(seen: PairView, min_margin: float | None) -> Iterator[tuple[str, str]]:
    """What is wrong with a pair by itself: reasons to drop it, with details."""
    for name in empty_parts(seen):
        yield f"empty_{name}", f"the {name} holds no text"
    if same_answers(seen):
        yield "identical_answers", "both answers are the same, but for white space at most"
    if seen.scores is not None and min_margin is not None and low_margin(seen, min_margin):
        chosen, rejected = seen.scores
        yield "low_margin", f"scores {chosen:g} and {rejected:g}"


def check_of(reason: str) -> str:
    """The check out of `CHECKS` that a reason belongs to."""
    if reason.endswith("_after_template"):
        return "template_error"
    if reason.startswith("empty_"):
        return "empty"
    return "too_long" if reason.endswith("too_long") else reason


def count_texts(ledger: Ledger, seen: PairView) -> None:
    """Enter a pair as a training would, by its texts alone: there is no tokenizer to say more."""
    empty = [name for name in empty_parts(seen) if name != "prompt"]
    if empty:
        ledger.count(Dropped(f"empty_{empty[0]}", seen.where, f"field '{empty[0]}' holds no text"))
    elif seen.weight == 0:
        ledger.count(Dropped("zero_weight", seen.where, "field 'weight' is 0"))
    elif same_answers(seen) == "exact":
        ledger.count(Dropped("identical_answers", seen.where, "both answers are the same"))
    else:
        ledger.rows_in += 1
        ledger.kept += 1
        ledger.nll_only += seen.rejected is None


def _paired(pair: PairView) -> bool:
    return pair.rejected is not None


@dataclass(frozen=True, kw_only=True)
class PairRule(Rule):
    """A check of single pairs.

    Attributes:
        seen: What is to be shown of a pair in which something is found, else None; what else is
            worth counting goes into the counter.
        counts: Whether a pair is one of those that are looked at.
        says: What was found, in words; empty if nothing was.
        figures: Further numbers.
        content: Whether it may be left to a sample of the rows.
        also: Whether it is worth a look for another reason.
        optional: Whether nothing is said where no pair was looked at.
    """

    seen: Callable[[PairView, Counter[Any]], str | None]
    says: Callable[[Tally], str]
    figures: Callable[[Tally], dict[str, float]]
    counts: Callable[[PairView], bool] = lambda _: True
    content: bool = True
    also: Callable[[Tally], bool] = lambda _: False
    optional: bool = False

    def add(self, pair: PairView, found: Tally) -> None:
        """Look at a pair."""
        found.of += self.counts(pair)
        text = self.seen(pair, found.kinds)
        if text is not None:
            found.add(pair.where, text)

    def outcome(self, found: Tally) -> Finding | None:
        """What was found; None where it is not worth a word."""
        if self.optional and not found.of:
            return None
        verdict = grade(found.share, self.look, self.stop)
        verdict = "look" if verdict == "ok" and self.also(found) else verdict
        return self.finding(found, self.says(found), self.figures(found), verdict=verdict)


def _empty(pair: PairView, kinds: Counter[Any]) -> str | None:
    empty = empty_parts(pair)
    kinds.update(empty)
    told = "; ".join(f"{n}: {text}" for n, text in pair.texts.items() if text and n not in empty)
    return f"empty {' and '.join(empty)}; {told}" if empty else None


def _says_empty(found: Tally) -> str:
    parts = ", ".join(
        f"{found.kinds[name]:,} {name}"
        for name in ("prompt", "chosen", "rejected")
        if found.kinds[name]
    )
    told = f"{amount(found.count, 'pair')} with an empty text ({parts})."
    return f"{told} Pairs with an empty answer are dropped." if found.count else ""


def _identical(pair: PairView, kinds: Counter[Any]) -> str | None:
    how = same_answers(pair)
    kinds[how] += 1
    return pair.chosen if how else None


def _says_identical(found: Tally) -> str:
    spaced = found.kinds["white_space_only"]
    told = f"Both answers are the same in {amount(found.count, 'pair')} ({percent(found.share)})"
    told += f", in {spaced:,} of them but for white space" * bool(spaced)
    return f"{told}: there is nothing to prefer." if found.count else ""


def _markup(pair: PairView, kinds: Counter[Any]) -> str | None:
    """Markup that the model would learn to write.

    In conversations the template writes it; in the data it is left over from another one. In plain
    text the user writes it: there, answers are looked at, for markup that the prompt does not use.
    """
    prompt = set(markup_in(pair.prompt))
    found = set() if pair.written_out else set(prompt)
    shown = f"prompt: {about_markup(pair.prompt)}" if found else ""
    for name, text in (("chosen", pair.chosen), ("rejected", pair.rejected or "")):
        new = set(markup_in(text)) - (prompt if pair.written_out else set())
        shown = shown or (f"{name}: {about_markup(text)}" if new else "")
        found |= new
    kinds.update(f"{kind} markup" for kind in sorted(found))
    return shown if found else None


def _says_markup(found: Tally) -> str:
    told = ", ".join(f"{kind} in {n:,}" for kind, n in found.kinds.most_common(4))
    rows = f"{amount(found.count, 'row')} ({percent(found.share)})"
    return f"{rows} are not rendered as meant: {told}." if found.count else ""


def _refusal(pair: PairView, kinds: Counter[Any]) -> str | None:
    if pair.rejected is not None:
        kinds["pairs"] += 1
        kinds["rejected"] += refuses(pair.rejected)
    return pair.chosen if refuses(pair.chosen) else None


def _rejected_refusals(found: Tally) -> float:
    return found.kinds["rejected"] / max(1, found.kinds["pairs"])


def _says_refusals(found: Tally) -> str:
    rejected = found.kinds["rejected"]
    told = (
        f"{amount(found.count, 'chosen answer')} ({percent(found.share)}) and "
        f"{amount(rejected, 'rejected answer')} ({percent(_rejected_refusals(found))}) refuse, or "
        "begin with what chat models say of themselves."
    )
    return told if found.count or rejected else ""


def _scripts(pair: PairView, kinds: Counter[Any]) -> str | None:
    kinds[script_of(pair.prompt).name] += 1
    if pair.rejected is None:
        return None
    chosen, rejected = script_of(pair.chosen), script_of(pair.rejected)
    if chosen.clear and rejected.clear and chosen.name != rejected.name:
        return f"{chosen.name}: {pair.chosen[:100]} | {rejected.name}: {pair.rejected[:100]}"
    return None


def _says_scripts(found: Tally) -> str:
    rows = max(1, found.kinds.total())
    told = ", ".join(f"{name} {percent(n / rows)}" for name, n in found.kinds.most_common(3))
    mixed = f" In {amount(found.count, 'pair')} ({percent(found.share)}) chosen and rejected "
    mixed += "answer are in different scripts."
    return f"Prompts by script: {told}.{mixed * bool(found.count)}"


def _turns(pair: PairView, kinds: Counter[Any]) -> str | None:
    kinds[pair.turns] += 1
    odd = pair.last_role not in _ASKING
    return f"ends with {pair.last_role!r}: {pair.prompt[-200:]}" if odd else None


def _says_turns(found: Tally) -> str:
    single, most = found.kinds[1] / max(1, found.of), max(found.kinds, default=0)
    told = f"{percent(single)} of the prompts have one turn of the user; the longest has "
    told += f"{amount(most, 'turn')}."
    odd = f" {amount(found.count, 'prompt')} do not end with the user's turn."
    return told + odd * bool(found.count)


def _scores(pair: PairView, kinds: Counter[Any]) -> str | None:
    if pair.scores is None or pair.rejected is None:
        return None
    chosen, rejected = pair.scores
    kinds["tied"] += chosen == rejected
    told = f"chosen {chosen:g}, rejected {rejected:g}: {pair.chosen}"
    return told if low_margin(pair) else None


def _tied(found: Tally) -> float:
    return found.kinds["tied"] / max(1, found.of)


def _says_scores(found: Tally) -> str:
    return (
        f"Of {amount(found.of, 'pair')} with scores, {found.count:,} score the rejected answer "
        f"higher ({percent(found.share)}) and {found.kinds['tied']:,} both the same "
        f"({percent(_tied(found))})."
    )


# A few empty texts are slips of the people or scripts that wrote them and are dropped; one in
# twenty says that a column was read or exported wrongly.
EMPTY = PairRule(
    check="empty_texts",
    title="Empty prompts and answers",
    look=0.0,
    stop=0.05,
    none="No text is empty.",
    do="Delete or complete these rows: orpo data fix drops them.",
    seen=_empty,
    says=_says_empty,
    figures=lambda found: {
        f"empty_{name}": float(found.kinds[name]) for name in ("prompt", "chosen", "rejected")
    },
    content=False,
)
# Identical answers are dropped or teach nothing; where a fifth of all pairs has no preference, the
# preferences were not collected as intended.
IDENTICAL = PairRule(
    check="identical_answers",
    title="Identical answers",
    look=0.0,
    stop=0.20,
    none="The two answers of every pair differ.",
    do="Remove these pairs: orpo data fix drops them.",
    seen=_identical,
    says=_says_identical,
    figures=lambda found: {
        name: float(found.kinds[name]) for name in ("exact", "white_space_only")
    },
    counts=_paired,
    content=False,
)
# A text about chat templates may show their markup; more than one row in a thousand is a fault. A
# model that sees foreign markup in every twentieth row learns to write it.
TEMPLATE = PairRule(
    check="template",
    title="Template problems",
    look=0.001,
    stop=0.05,
    none="No text holds markup of another chat template.",
    do="Give messages without markup; the model's template adds its own.",
    quiet=True,
    seen=_markup,
    says=_says_markup,
    figures=lambda found: {kind: float(n) for kind, n in found.kinds.most_common()},
)
# Data on safety refuse on purpose. Where one chosen answer in ten refuses or speaks of itself as a
# language model, the model will too: that should be meant. One that refuses every other request is
# of no use.
REFUSALS = PairRule(
    check="refusals",
    title="Refusals and boilerplate",
    look=0.10,
    stop=0.50,
    none="No answer is a refusal.",
    do="The model will learn to refuse like this: keep it only where it is meant.",
    quiet=True,
    seen=_refusal,
    says=_says_refusals,
    figures=lambda found: {"chosen": found.share, "rejected": _rejected_refusals(found)},
)
# A chosen and a rejected answer in different scripts: one is not in the language of the prompt, and
# the preference is about that. Some translations and quotations are meant; with a fifth of the
# pairs, the answers come from different data.
LANGUAGES = PairRule(
    check="languages",
    title="Languages",
    look=0.01,
    stop=0.20,
    do="Check that both answers are in the language of the prompt.",
    seen=_scripts,
    says=_says_scripts,
    figures=lambda found: {f"prompts: {name}": float(n) for name, n in found.kinds.most_common(8)},
    counts=_paired,
)
# Prompts that do not end with the user's turn ask nothing, and templates render them oddly. Half of
# the prompts: roles were read wrongly.
TURNS = PairRule(
    check="turns",
    title="Turns of the conversation",
    look=0.01,
    stop=0.50,
    do="End every prompt with what the user says.",
    seen=_turns,
    says=_says_turns,
    figures=lambda found: {"single_turn": found.kinds[1] / max(1, found.of)},
)
# A score against the preference is a mistake in one of them; at one in twenty, of the reading.
SCORES = PairRule(
    check="scores",
    title="Scores against the preference",
    look=0.0,
    stop=0.05,
    do="Leave these pairs out: orpo data fix --min_score_margin 0 drops those that score the "
    "rejected answer higher, a number above 0 equal scores, too. If nearly all are affected, lower "
    "scores mean better answers here and the columns are swapped.",
    quiet=True,
    seen=_scores,
    says=_says_scores,
    figures=lambda found: {"tied": float(found.kinds["tied"]), "tied_share": _tied(found)},
    counts=lambda pair: pair.scores is not None and pair.rejected is not None,
    content=False,
    also=lambda found: _tied(found) >= TIED_LOOK,
    optional=True,
)
RULES = (EMPTY, IDENTICAL, TEMPLATE, REFUSALS, LANGUAGES, TURNS, SCORES)
