"""The checks of texts: what a pair may have by itself, and what shows across rows only.

Why a share of rows is worth a look, and what is said, stands in `checks.toml`.
"""

from array import array
from collections import Counter
from difflib import get_close_matches

import numpy as np

from orpo.audit.faults import PairView, empty_parts, low_margin, same_answers
from orpo.audit.findings import (
    EXAMPLES,
    Check,
    Example,
    Finding,
    Told,
    clip,
    grade,
    in_words,
)
from orpo.audit.texts import about_markup, markup_in, opening_of, refuses, script_of
from orpo.quantities import as_share

CATEGORY_COLUMNS = ("category", "topic", "subset", "source", "task", "domain", "language")
"""Columns that say where a row belongs, if they hold a limited number of names."""

_PARTS = ("prompt", "chosen", "rejected")
_REJECTED = ("rejected", "rejected_response", "rejected_messages")
_ASKING = ("user", "tool", "function", "ipython", "observation", "")
_MOST_NAMES = 200
_ENOUGH_ROWS = 100  # in fewer the same first words come together by chance
_OPENINGS = 100_000  # that are counted at a time


class NoRejected(Check):
    """Rows without a rejected answer, and the misspelt column that may be meant."""

    name = "no_rejected"

    def __init__(self) -> None:
        super().__init__()
        self._lacking, self._known = 0, set[str]()
        self._others = Counter[str]()

    def _look(self, pair: PairView) -> None:
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
        # The columns that may be meant: unknown to the other rows, or spelt nearly alike.
        unknown = [name for name in self._others if name not in self._known]
        if not self._known:
            unknown = get_close_matches("rejected", unknown, cutoff=0.7)
        instead = f" (but {', '.join(map(repr, unknown[:5]))})" if unknown else ""
        every = self.count == self.of
        more = self.rule["every"] if every else self.rule["some"] if self._lacking else ""
        more = in_words(more, {"instead": instead, "lacking": self._lacking})
        verdict = "stop" if every else "look" if self._lacking else "ok"
        do, figures = "do_every" if every else "do", {"without_column": self._lacking}
        if not self.count:
            return None
        return self.outcome(figures, {"further": more}, verdict=verdict, do=do)


class EmptyTexts(Check):
    """Prompts and answers without text."""

    name = "empty_texts"

    def _look(self, pair: PairView) -> None:
        if empty := empty_parts(pair):
            self.kinds.update(empty)
            texts = (f"{n}: {text}" for n, text in pair.texts.items() if text and n not in empty)
            self.found(pair.where, f"empty {' and '.join(empty)}; {'; '.join(texts)}")

    def _told(self) -> Told:
        parts = ", ".join(f"{self.kinds[name]:,} {name}" for name in _PARTS if self.kinds[name])
        return {f"empty_{name}": self.kinds[name] for name in _PARTS}, {"parts": parts}


class IdenticalAnswers(Check):
    """Pairs without a preference."""

    name = "identical_answers"

    def _look(self, pair: PairView) -> None:
        if how := same_answers(pair):
            self.kinds[how] += 1
            self.found(pair.where, pair.chosen)

    def _told(self) -> Told:
        figures = {name: self.kinds[name] for name in ("exact", "white_space_only")}
        spaced = f", in {self.kinds['white_space_only']:,} of them but for white space"
        return figures, {"spaced": spaced if self.kinds["white_space_only"] else ""}


class Template(Check):
    """Markup that the model would learn to write, and what its template does to rows."""

    name = "template"

    def _look(self, pair: PairView) -> None:
        """In conversations the template writes markup; in the data it is left over from another.

        In plain text the user writes it: there, answers are looked at, for markup that the prompt
        does not use.
        """
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

    def _told(self) -> Told:
        told = ", ".join(f"{kind} in {n:,}" for kind, n in self.kinds.most_common(4))
        return dict(self.kinds.most_common()), {"told": told}


class Refusals(Check):
    """Answers that refuse, or begin with what chat models say of themselves."""

    name = "refusals"

    def _look(self, pair: PairView) -> None:
        if pair.rejected is not None:
            self.kinds["pairs"] += 1
            self.kinds["rejected"] += refuses(pair.rejected)
        if refuses(pair.chosen):
            self.found(pair.where, pair.chosen)

    def _told(self) -> Told:
        rejected = self.kinds["rejected"]
        share = rejected / max(1, self.kinds["pairs"])
        words = {"rejected": rejected, "rejected_share": share}
        return {"chosen": self.share, "rejected": share}, words

    @property
    def something(self) -> bool:
        """Also where no chosen answer refuses."""
        return bool(self.count or self.kinds["rejected"])


class Openings(Check):
    """The first words of the chosen and of the rejected answers."""

    name = "openings"

    def __init__(self) -> None:
        super().__init__()
        self._counts = (Counter[str](), Counter[str]())
        self._first: dict[str, list[Example]] = {}

    def _look(self, pair: PairView) -> None:
        if pair.rejected is None:  # has nothing to give away
            return
        for counts, answer in zip(self._counts, (pair.chosen, pair.rejected), strict=True):
            opening = opening_of(answer)
            counts[opening] += 1
            if len(counts) > _OPENINGS:  # what is frequent has come twice by now
                for rare in [one for one, n in counts.items() if n == 1]:
                    del counts[rare]
            if counts[opening] == 1 and len(self._first) < _OPENINGS:
                example = Example(pair.where, clip(answer))
                self._first.setdefault(opening, []).append(example)

    def _told(self) -> Told:
        """The most frequent opening of a side that is half as frequent on the other side."""
        self.of, rows = max(1, self.of), self.of
        usual = [(n, s, o) for s in (0, 1) for o, n in self._counts[s].most_common(20)]
        for count, side, opening in sorted(usual, key=lambda one: -one[0]):
            others = self._counts[1 - side][opening]
            if opening and 2 * others <= count and rows >= _ENOUGH_ROWS:
                break
        else:
            return {}, {}
        if count / self.of < self.rule["look"]:
            return {}, {}
        self.count, other = count, others / self.of
        self.examples = self._first.get(opening, [])[:EXAMPLES]
        name, rest = ("chosen", "rejected") if side == 0 else ("rejected", "chosen")
        words = {"side": name, "opening": opening, "other": other, "rest": rest}
        return {name: self.share, rest: other}, words


class Languages(Check):
    """The scripts of prompts, and a chosen and a rejected answer in different ones."""

    name = "languages"

    def _look(self, pair: PairView) -> None:
        self.kinds[script_of(pair.prompt).name] += 1
        if pair.rejected is None:
            return
        chosen, rejected = script_of(pair.chosen), script_of(pair.rejected)
        if chosen.clear and rejected.clear and chosen.name != rejected.name:
            both = f"{chosen.name}: {pair.chosen[:100]} | {rejected.name}: {pair.rejected[:100]}"
            self.found(pair.where, both)

    def _told(self) -> Told:
        rows = max(1, self.kinds.total())
        told = ", ".join(f"{name} {as_share(n / rows)}" for name, n in self.kinds.most_common(3))
        return {f"prompts: {name}": n for name, n in self.kinds.most_common(8)}, {"told": told}


class Turns(Check):
    """How many turns of the user prompts have, and those that do not end with one."""

    name = "turns"

    def _look(self, pair: PairView) -> None:
        self.kinds[pair.turns] += 1
        if pair.last_role not in _ASKING:
            self.found(pair.where, f"ends with {pair.last_role!r}: {pair.prompt[-200:]}")

    def _told(self) -> Told:
        single, most = self.kinds[1] / max(1, self.of), max(self.kinds, default=0)
        return {"single_turn": single}, {"single": single, "most": most}


class Categories(Check):
    """Rows by what the first column such as `category` or `source` says."""

    name = "categories"

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, Counter[str]] = {}

    def _look(self, pair: PairView) -> None:
        for column in CATEGORY_COLUMNS:
            value = pair.row.values.get(column)
            if isinstance(value, str) and value:
                counts = self._counts.setdefault(column, Counter())
                if len(counts) <= _MOST_NAMES:  # beyond, the column names rows, not categories
                    counts[value[:80]] += 1

    def _told(self) -> Told | None:
        for column in CATEGORY_COLUMNS:
            counts = self._counts.get(column, Counter[str]())
            if 2 <= len(counts) <= _MOST_NAMES:
                largest, self.count = counts.most_common(1)[0]
                words = {"column": column, "values": str(len(counts)), "largest": largest}
                return dict(counts.most_common(20)), words
        return None


class Scores(Check):
    """Scores that prefer the rejected answer, or none."""

    name = "scores"

    def _look(self, pair: PairView) -> None:
        if pair.scores is None or pair.rejected is None:
            return
        chosen, rejected = pair.scores
        self.kinds["scored"] += 1
        self.kinds["tied"] += chosen == rejected
        if low_margin(pair):
            self.found(pair.where, f"chosen {chosen:g}, rejected {rejected:g}: {pair.chosen}")

    def finding(self) -> Finding | None:
        """What was found; None where no pair has scores."""
        self.of, ties = self.kinds["scored"], self.kinds["tied"]
        if not self.of:
            return None
        figures = {"tied": ties, "tied_share": ties / self.of}
        verdict = grade(self.share, 0.0, self.rule["stop"])
        if verdict == "ok" and ties / self.of >= self.rule["tied_look"]:
            verdict = "look"
        return self.outcome(figures, figures, verdict=verdict)


class Weights(Check):
    """How many pairs of equal weight the weighted pairs are worth: (sum w)^2 / sum w^2."""

    name = "weights"

    def __init__(self) -> None:
        super().__init__()
        self._weights = array("d")

    def _look(self, pair: PairView) -> None:
        self._weights.append(pair.weight)

    def finding(self) -> Finding | None:
        """What was found; None if all weights are 1."""
        weights = np.asarray(self._weights)
        if not len(weights) or bool((weights == 1).all()):
            return None
        self.count, total = int((weights == 0).sum()), float(weights.sum())
        effective = total**2 / float((weights**2).sum()) if total else 0.0
        low = effective / len(weights) < self.rule["worth_stop"]
        few = effective / len(weights) < self.rule["worth_look"]
        verdict = "stop" if low else "look" if few else "ok"
        words = {"least": weights.min(), "most": weights.max(), "effective": effective}
        figures = {"effective_pairs": effective, "zero": self.count}
        return self.outcome(figures, words, verdict=verdict)
