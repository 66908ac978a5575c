"""The checks of texts: what a pair may have by itself, and what shows across rows only.

A check is given pairs one by one (`add`), and in the end says what it found (`finding`).
"""

from __future__ import annotations

from array import array
from collections import Counter
from difflib import get_close_matches

import numpy as np

from orpo.audit.faults import empty_parts, low_margin, same_answers
from orpo.audit.findings import Check, Finding, amount, grade, percent
from orpo.audit.texts import about_markup, markup_in, opening_of, refuses, script_of
from orpo.audit.views import PairView

CATEGORY_COLUMNS = ("category", "topic", "subset", "source", "task", "domain", "language")
"""Columns that say where a row belongs, if they hold a limited number of names."""

EFFECTIVE_LOOK, EFFECTIVE_STOP = 0.50, 0.05
"""Weights so unequal that the data count like half as many pairs of equal weight; or like one in
twenty, so that the loss hardly sees the others."""

TIED_LOOK = 0.05
"""Equal scores are no preference: whoever made the pair drew lots."""

_PARTS = ("prompt", "chosen", "rejected")
_REJECTED = ("rejected", "rejected_response", "rejected_messages")
_ASKING = ("user", "tool", "function", "ipython", "observation", "")
_MOST_NAMES = 200
_ENOUGH_ROWS = 100  # in fewer the same first words come together by chance
_OPENINGS = 100_000  # that are counted at a time


class NoRejected(Check):
    """Rows that are learnt from by their NLL alone, and the misspelt column that may be meant."""

    name, title, quiet = "no_rejected", "Rows without rejected answer", True

    def __init__(self) -> None:
        super().__init__()
        self._lacking, self._known = 0, set[str]()
        self._others = Counter[str]()

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        self.of += 1
        columns = pair.row.values.keys()
        if pair.rejected is not None:
            self._known.update(columns)
            return
        lacking = columns.isdisjoint(_REJECTED)
        self._lacking += lacking
        if lacking and len(self._others) <= 50:
            self._others.update(columns)
        self.found(pair.where, f"columns: {', '.join(columns)}" if lacking else pair.chosen)

    def finding(self) -> Finding | None:
        """What was found; None if every row has a rejected answer."""
        if not self.count:
            return None
        # The columns that may be meant: unknown to the other rows, or spelt nearly alike.
        unknown = [name for name in self._others if name not in self._known]
        if not self._known:
            unknown = get_close_matches("rejected", unknown, cutoff=0.7)
        instead = f" (but {', '.join(map(repr, unknown[:5]))})" if unknown else ""
        have = "has" if self.count == 1 else "have"
        says = f"{amount(self.count, 'row')} ({percent(self.share)}) {have} no rejected answer: "
        says += "the chosen one is learnt, nothing is preferred."
        do, verdict = "Name the column 'rejected' in every row, or give null.", "ok"
        if self.count == self.of:
            says += f" No row has one{instead}: orpo train refuses such data."
            do, verdict = "Give rows a rejected answer, in the column 'rejected'.", "stop"
        elif self._lacking:
            says += f" {amount(self._lacking, 'row')} without the column 'rejected' that others"
            says, verdict = f"{says} have{instead}.", "look"
        figures = {"without_column": float(self._lacking)}
        return self.outcome(says, figures, verdict=verdict, do=do)


class EmptyTexts(Check):
    """A few are slips of who wrote them; one in twenty says that a column was read wrongly."""

    name, title, stop = "empty_texts", "Empty prompts and answers", 0.05
    none, do = "No text is empty.", "Delete or complete these rows: orpo data fix drops them."

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        self.of += 1
        if empty := empty_parts(pair):
            self.kinds.update(empty)
            texts = (f"{n}: {text}" for n, text in pair.texts.items() if text and n not in empty)
            self.found(pair.where, f"empty {' and '.join(empty)}; {'; '.join(texts)}")

    def finding(self) -> Finding:
        """What was found."""
        parts = ", ".join(f"{self.kinds[name]:,} {name}" for name in _PARTS if self.kinds[name])
        return self.outcome(
            f"{amount(self.count, 'pair')} with an empty text ({parts}). Pairs with an empty "
            "answer are dropped.",
            {f"empty_{name}": float(self.kinds[name]) for name in _PARTS},
        )


class IdenticalAnswers(Check):
    """They teach nothing; with a fifth, preferences were not collected as intended."""

    name, title, stop = "identical_answers", "Identical answers", 0.20
    none = "The two answers of every pair differ."
    do = "Remove these pairs: orpo data fix drops them."

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        self.of += pair.rejected is not None
        if how := same_answers(pair):
            self.kinds[how] += 1
            self.found(pair.where, pair.chosen)

    def finding(self) -> Finding:
        """What was found."""
        spaced = self.kinds["white_space_only"]
        return self.outcome(
            f"Both answers are the same in {amount(self.count, 'pair')} ({percent(self.share)})"
            + f", in {spaced:,} of them but for white space" * bool(spaced)
            + ": there is nothing to prefer.",
            {name: float(self.kinds[name]) for name in ("exact", "white_space_only")},
        )


class Template(Check):
    """Markup that the model would learn to write, and what its template does to rows.

    A text about chat templates may show markup; more than one row in a thousand is a fault. A model
    that sees foreign markup in every twentieth row learns to write it.
    """

    name, title, look, stop = "template", "Template problems", 0.001, 0.05
    none = "No text holds markup of another chat template."
    do, quiet = "Give messages without markup; the model's template adds its own.", True
    content = True

    def add(self, pair: PairView) -> None:
        """Look at a pair.

        In conversations the template writes markup; in the data it is left over from another one.
        In plain text the user writes it: there, answers are looked at, for markup that the prompt
        does not use.
        """
        self.of += 1
        prompt = set(markup_in(pair.prompt))
        kinds = set() if pair.written_out else set(prompt)
        shown = f"prompt: {about_markup(pair.prompt)}" if kinds else ""
        for name, text in (("chosen", pair.chosen), ("rejected", pair.rejected or "")):
            new = set(markup_in(text)) - (prompt if pair.written_out else set())
            shown = shown or (f"{name}: {about_markup(text)}" if new else "")
            kinds |= new
        if kinds:
            self.kinds.update(f"{kind} markup" for kind in sorted(kinds))
            self.found(pair.where, shown)

    def fault(self, where: str, why: str, kind: str) -> None:
        """Count a row that the tokenizer's template refuses, changes or begins twice."""
        self.kinds[kind] += 1
        self.found(where, why)

    def finding(self) -> Finding:
        """What was found."""
        told = ", ".join(f"{kind} in {n:,}" for kind, n in self.kinds.most_common(4))
        rows = f"{amount(self.count, 'row')} ({percent(self.share)})"
        figures = {kind: float(n) for kind, n in self.kinds.most_common()}
        return self.outcome(f"{rows} are not rendered as meant: {told}.", figures)


class Refusals(Check):
    """Data on safety refuse on purpose; a model that refuses every other request is of no use.

    Where one chosen answer in ten refuses or speaks of itself as a language model, the model will
    too: that should be meant.
    """

    name, title, look, stop = "refusals", "Refusals and boilerplate", 0.10, 0.50
    do = "The model will learn to refuse like this: keep it only where it is meant."
    quiet = content = True

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        self.of += 1
        if pair.rejected is not None:
            self.kinds["pairs"] += 1
            self.kinds["rejected"] += refuses(pair.rejected)
        if refuses(pair.chosen):
            self.found(pair.where, pair.chosen)

    def finding(self) -> Finding:
        """What was found."""
        rejected = self.kinds["rejected"]
        share = rejected / max(1, self.kinds["pairs"])
        says = (
            f"{amount(self.count, 'chosen answer')} ({percent(self.share)}) and "
            f"{amount(rejected, 'rejected answer')} ({percent(share)}) refuse, or begin with what "
            "chat models say of themselves."
        )
        said = says if self.count or rejected else "No answer is a refusal."
        return self.outcome(said, {"chosen": self.share, "rejected": share})


class Openings(Check):
    """The first words of the chosen and of the rejected answers.

    One answer in five with the same first words, and half as many on the other side, is a habit
    that the model can go by instead of the content; with every other one, they decide it.
    """

    name, title, look, stop = "openings", "Answers that begin alike", 0.20, 0.50
    none = "No first words tell chosen from rejected answers."
    do = "Let answers of both sides begin in the same ways, or cut what they begin with."
    content = True

    def __init__(self) -> None:
        super().__init__()
        self._counts = (Counter[str](), Counter[str]())
        self._first: dict[str, Check] = {}

    def add(self, pair: PairView) -> None:
        """Look at a pair; a row without rejected answer has nothing to give away."""
        if pair.rejected is None:
            return
        self.of += 1
        for counts, answer in zip(self._counts, (pair.chosen, pair.rejected), strict=True):
            opening = opening_of(answer)
            counts[opening] += 1
            if len(counts) > _OPENINGS:  # what is frequent has come twice by now
                for rare in [one for one, n in counts.items() if n == 1]:
                    del counts[rare]
            if counts[opening] == 1 and len(self._first) < _OPENINGS:
                self._first.setdefault(opening, Check()).found(pair.where, answer)

    def finding(self) -> Finding:
        """The opening that gives most away."""
        self.of = max(1, self.of)
        side, opening, count = self._giveaway()
        share, other = count / self.of, self._counts[1 - side][opening] / self.of
        if share < self.look:
            return self.outcome("")
        self.count = count
        self.examples = self._first[opening].examples if opening in self._first else []
        name, rest = ("chosen", "rejected") if side == 0 else ("rejected", "chosen")
        return self.outcome(
            f"{percent(share)} of the {name} answers begin with the words “{opening}”, and "
            f"{percent(other)} of the {rest} ones: the model can go by them.",
            {name: share, rest: other},
        )

    def _giveaway(self) -> tuple[int, str, int]:
        """The most frequent opening of a side that is half as frequent on the other side."""
        usual = [(n, s, o) for s in (0, 1) for o, n in self._counts[s].most_common(20)]
        for count, side, opening in sorted(usual, key=lambda one: -one[0]):
            if opening and 2 * self._counts[1 - side][opening] <= count and self.of >= _ENOUGH_ROWS:
                return side, opening, count
        return 0, "", 0


class Languages(Check):
    """A chosen and a rejected answer in different scripts: the preference is about that.

    Some translations and quotations are meant; with a fifth of the pairs, the answers come from
    different data.
    """

    name, title, look, stop = "languages", "Languages", 0.01, 0.20
    do = "Check that both answers are in the language of the prompt."
    content = True

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        self.kinds[script_of(pair.prompt).name] += 1
        if pair.rejected is None:
            return
        self.of += 1
        chosen, rejected = script_of(pair.chosen), script_of(pair.rejected)
        if chosen.clear and rejected.clear and chosen.name != rejected.name:
            both = f"{chosen.name}: {pair.chosen[:100]} | {rejected.name}: {pair.rejected[:100]}"
            self.found(pair.where, both)

    def finding(self) -> Finding:
        """What was found."""
        rows = max(1, self.kinds.total())
        told = ", ".join(f"{name} {percent(n / rows)}" for name, n in self.kinds.most_common(3))
        mixed = f" In {amount(self.count, 'pair')} ({percent(self.share)}) chosen and rejected "
        mixed += "answer are in different scripts."
        figures = {f"prompts: {name}": float(n) for name, n in self.kinds.most_common(8)}
        return self.outcome(f"Prompts by script: {told}.{mixed * bool(self.count)}", figures)


class Turns(Check):
    """Prompts that do not end with the user's turn ask nothing, and templates render them oddly.

    Half of the prompts: roles were read wrongly.
    """

    name, title, look, stop = "turns", "Turns of the conversation", 0.01, 0.50
    do = "End every prompt with what the user says."
    content = True

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        self.of += 1
        self.kinds[pair.turns] += 1
        if pair.last_role not in _ASKING:
            self.found(pair.where, f"ends with {pair.last_role!r}: {pair.prompt[-200:]}")

    def finding(self) -> Finding:
        """What was found."""
        single, most = self.kinds[1] / max(1, self.of), max(self.kinds, default=0)
        told = f"{percent(single)} of the prompts have one turn of the user; the longest has "
        told += f"{amount(most, 'turn')}."
        odd = f" {amount(self.count, 'prompt')} do not end with the user's turn."
        return self.outcome(told + odd * bool(self.count), {"single_turn": single})


class Categories(Check):
    """Rows by what a column such as `category` or `source` says.

    One category that makes up four fifths decides what is learnt; the others hardly count.
    """

    name, look, stop, quiet = "categories", 0.80, 2.0, True
    do = "Collect more of the others, or draw fewer of this one."
    content = True

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, Counter[str]] = {}

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        self.of += 1
        for column in CATEGORY_COLUMNS:
            value = pair.row.values.get(column)
            if isinstance(value, str) and value:
                counts = self._counts.setdefault(column, Counter())
                if len(counts) <= _MOST_NAMES:  # beyond, the column names rows, not categories
                    counts[value[:80]] += 1

    def finding(self) -> Finding | None:
        """The first column that holds categories; None if there is none."""
        for column in CATEGORY_COLUMNS:
            counts = self._counts.get(column, Counter[str]())
            if 2 <= len(counts) <= _MOST_NAMES:
                largest, self.count = counts.most_common(1)[0]
                self.title = f"Balance over the column {column!r}"
                return self.outcome(
                    f"{len(counts)} values; {largest!r} is the most frequent with "
                    f"{percent(self.share)} of the rows.",
                    {name: float(n) for name, n in counts.most_common(20)},
                )
        return None


class Scores(Check):
    """A score against the preference is a mistake in one of them; at one in twenty, of the reading.

    Equal scores are worth a look where there are many.
    """

    name, title, stop, quiet = "scores", "Scores against the preference", 0.05, True
    do = (
        "Leave these pairs out: orpo data fix --min_score_margin 0 drops those that score the "
        "rejected answer higher, a number above 0 equal scores, too. If nearly all are affected, "
        "lower scores mean better answers here and the columns are swapped."
    )

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        if pair.scores is None or pair.rejected is None:
            return
        self.of += 1
        chosen, rejected = pair.scores
        self.kinds["tied"] += chosen == rejected
        if low_margin(pair):
            self.found(pair.where, f"chosen {chosen:g}, rejected {rejected:g}: {pair.chosen}")

    def finding(self) -> Finding | None:
        """What was found; None where no pair has scores."""
        if not self.of:
            return None
        ties = self.kinds["tied"]
        verdict = grade(self.share, self.look, self.stop)
        return self.outcome(
            f"Of {amount(self.of, 'pair')} with scores, {self.count:,} score the rejected answer "
            f"higher ({percent(self.share)}) and {ties:,} both the same "
            f"({percent(ties / self.of)}).",
            {"tied": float(ties), "tied_share": ties / self.of},
            verdict="look" if verdict == "ok" and ties / self.of >= TIED_LOOK else verdict,
        )


class Weights(Check):
    """How many pairs of equal weight the weighted pairs are worth: (sum w)^2 / sum w^2."""

    name, title, quiet = "weights", "Weights", True
    do = "Check the column 'weight': most pairs hardly count."

    def __init__(self) -> None:
        super().__init__()
        self._weights = array("d")

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        self._weights.append(pair.weight)

    def finding(self) -> Finding | None:
        """What was found; None if all weights are 1."""
        weights = np.asarray(self._weights)
        if not len(weights) or bool((weights == 1).all()):
            return None
        self.of, self.count, total = len(weights), int((weights == 0).sum()), float(weights.sum())
        effective = total**2 / float((weights**2).sum()) if total else 0.0
        share = effective / len(weights)
        verdict = "stop" if share < EFFECTIVE_STOP else "look" if share < EFFECTIVE_LOOK else "ok"
        return self.outcome(
            f"Weights run from {weights.min():g} to {weights.max():g}; {self.count:,} are 0. The "
            f"pairs count like {effective:,.0f} of equal weight.",
            {"effective_pairs": effective, "zero": float(self.count)},
            verdict=verdict,
        )
