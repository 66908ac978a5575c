"""Markup of chat templates where there should be none, and conversations a template refuses.

In conversations the template writes the markup; in the data it is left over from another template,
and the model learns to write it. In plain text the user writes the markup: there, answers are
looked at, and only for markup that their own prompt does not use.
"""

from __future__ import annotations

import re
from collections import Counter

from orpo.audit.findings import Finding, Tally, amount, grade, percent
from orpo.audit.views import PairView

__all__ = ["BY_TEMPLATE", "TEMPLATE_LOOK", "TEMPLATE_STOP", "TemplateProblems", "markup_in"]

TEMPLATE_LOOK = 0.001
"""A text about chat templates may show their markup; more than one row in a thousand is a fault."""

TEMPLATE_STOP = 0.05
"""A model that sees foreign markup in every twentieth row learns to write it."""

REFUSED = "refused by the template"
BY_TEMPLATE = {
    "template_error": REFUSED,
    "empty_after_template": "an answer that the template leaves nothing of",
    "identical_after_template": "answers whose difference the template leaves out",
}
"""Reason for which a row is dropped -> what the template does to it."""

_FAMILIES = {
    "ChatML": r"<\|im_(?:start|end|sep)\|>",
    "Llama 3": r"<\|(?:eot_id|eom_id|start_header_id|end_header_id|begin_of_text|end_of_text)\|>",
    "Zephyr, Phi, GPT": r"<\|(?:user|assistant|system|end|endoftext|end_of_turn|return)\|>",
    "Llama 2, Mistral": r"\[/?INST\]|<</?SYS>>",
    "Gemma": r"<(?:start|end)_of_turn>",
    "DeepSeek": r"<｜[^｜>\n]{1,40}｜>",
    "Alpaca": r"(?m:^)\#\#\#[ ](?:Instruction|Response|Human|Assistant|User)[ ]?:",
    "Human: and Assistant:": (
        r"(?:\A|\n)[ \t]{0,9}(?:Human|Assistant|HUMAN|ASSISTANT|USER)[ ]?:(?!\S)|\bASSISTANT: "
    ),
    "ChatGLM, Baichuan": r"\[gMASK\]|<reserved_10[0-9]>",
    "cut off": r"(?:<\|[a-z_]{0,20}|\[/?INST|<(?:start|end)_of_[a-z]*)\s*\Z",
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in _FAMILIES.items()}
# Cheap to look for: most texts hold none of them.
_SIGNS = (
    "<|",
    "INST",
    "<<",
    "_of_",
    "<｜",
    "###",
    "gMASK",
    "<reserved",
    "uman:",
    "uman :",
    "ssistant",
    "USER",
    "UMAN",
)
_SENTENCE = "sentence tags"
_OTHER, _SPECIAL = "special tokens", re.compile(r"<\|[A-Za-z][A-Za-z0-9_]{1,30}\|>")


def markup_in(text: str) -> list[str]:
    """The families of templates whose markup a text holds."""
    found = []
    if any(sign in text for sign in _SIGNS):
        found = [name for name, pattern in _PATTERNS.items() if pattern.search(text)]
        if not found and _SPECIAL.search(text):
            found = [_OTHER]
    if _has_sentence_tags(text):
        found.append(_SENTENCE)
    return found


def _has_sentence_tags(text: str) -> bool:
    """Whether a text ends with "</s>" or begins with "<s>"; struck-through HTML has both within."""
    bare = text.strip()
    closes = bare.endswith("</s>") and bare.count("<s>") == bare.startswith("<s>")
    opens = bare.startswith("<s>") and bare.count("</s>") == bare.endswith("</s>")
    return closes or opens


class TemplateProblems:
    """Rows that hold foreign markup, that the template refuses, or that begin twice."""

    def __init__(self) -> None:
        self._found, self._rows = Tally(), 0
        self._kinds: Counter[str] = Counter()

    def add(self, pair: PairView) -> None:
        """Look at a pair's texts."""
        self._rows += 1
        prompt = markup_in(pair.prompt)
        kinds = set() if pair.written_out else set(prompt)
        seen = "" if not kinds else f"prompt: {_around(pair.prompt)}"
        for name, text in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            new = set(markup_in(text or "")) - (set(prompt) if pair.written_out else set())
            kinds |= new
            seen = seen or (f"{name}: {_around(text or '')}" if new else "")
        if kinds:
            self._kinds.update(f"{kind} markup" for kind in kinds)
            self._found.add(pair.where, seen)

    def add_fault(self, where: str, why: str, kind: str = REFUSED, count: int = 1) -> None:
        """Count rows that the tokenizer's template refuses or changes."""
        self._kinds[kind] += count
        self._found.add(where, why)
        self._found.count += count - 1

    def add_double_start(self, where: str, text: str) -> None:
        """Count a row whose tokens begin with two beginning-of-sequence tokens."""
        self._kinds["two beginning-of-sequence tokens"] += 1
        self._found.add(where, text)

    def finding(self) -> Finding:
        """What was found."""
        found, share = self._found, self._found.count / max(1, self._rows)
        told = ", ".join(f"{kind} in {n:,}" for kind, n in self._kinds.most_common(4))
        verdict = grade(share, TEMPLATE_LOOK, TEMPLATE_STOP)
        return Finding(
            "template",
            "Template problems",
            verdict,
            found.count,
            self._rows,
            f"{amount(found.count, 'row')} ({percent(share)}) are not rendered as meant: {told}."
            if found.count
            else "No text holds markup of another chat template.",
            ""
            if verdict == "ok"
            else "Give messages without markup; the model's template adds its own.",
            found.shown,
            {kind: float(n) for kind, n in self._kinds.most_common()},
        )


def _around(text: str) -> str:
    """The text about its first markup."""
    places = [m.start() for pattern in _PATTERNS.values() if (m := pattern.search(text))]
    start = max(0, min(places, default=len(text) - 120) - 60)
    return text[start : start + 200]
