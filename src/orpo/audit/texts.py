"""What single texts look like: markup of chat templates, refusals, first words, scripts."""

from __future__ import annotations

import re
from typing import NamedTuple

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
_MARKUP = {name: re.compile(pattern) for name, pattern in _FAMILIES.items()}
# Cheap to look for: most texts hold none of them.
_MARKUP_SIGNS = (
    *("<|", "INST", "<<", "_of_", "<｜", "###", "gMASK", "<reserved"),
    *("uman:", "uman :", "ssistant", "USER", "UMAN"),
)
_SPECIAL = re.compile(r"<\|[A-Za-z][A-Za-z0-9_]{1,30}\|>")

_READ = 240  # characters of an answer that are looked at for a refusal
_CANNOT = r"\b(?:can'?t|cannot|can not|won'?t|(?:'m|am) (?:unable|not able|not allowed))\b"
_HELP = "assist|help|provide|answer|discuss|fulfil|comply|do that|create|engage|support|generate"
_REFUSAL = re.compile(
    "|".join(
        (
            # of themselves
            r"\bas an? (?:large |helpful |responsible )?"
            r"(?:ai\b|artificial intelligence|language model)",
            r"\bi(?:'| a)m (?:just |only )?an? (?:large )?(?:ai\b|language model|artificial)",
            r"作为(?:一个|一名|一款|一种)?(?:人工智能|ai|大型?语言模型|语言模型|智能助手)",
            # refusals
            r"\b(?:i'?m|i am) (?:very |so |really |truly )?(?:sorry|afraid)\b[^.!?]{0,40}?"
            + _CANNOT,
            rf"^\W*(?:sorry|apologies|i apologi[sz]e)\b[^.!?]{{0,40}}?{_CANNOT}",
            rf"^\W*i (?:can'?t|cannot|can not|won'?t|will not) (?:{_HELP})",
            r"^\W*i(?:'m| am) (?:unable|not able) to\b",
            r"^\W*(?:很抱歉|非常抱歉|对不起|抱歉|不好意思)[^。！？]{0,20}?"
            r"(?:无法|不能|没有办法|没办法|不可以)",
            r"^\W*我(?:无法|不能|没有办法|没办法)(?:提供|协助|帮助|帮你|满足|回答|完成|为您|为你)",
        )
    )
)
# One of these stands in every refusal; to look for them is much cheaper.
_REFUSAL_SIGNS = (
    *("sorry", "afraid", "apolog", " ai", "language model", "artificial", "'t ", "not ", "unable"),
    *("cant ", "wont ", "作为", "抱歉", "对不起", "不好意思", "我无法", "我不能", "我没"),
)

_SCRIPTS = {
    "Latin (English and others)": r"A-Za-z\u00c0-\u024f\u1e00-\u1eff",
    "Chinese": r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff",
    "Japanese": r"\u3040-\u30ff",
    "Korean": r"\u1100-\u11ff\u3130-\u318f\uac00-\ud7af",
    "Cyrillic (Russian and others)": r"\u0400-\u052f",
    "Arabic": r"\u0600-\u06ff\u0750-\u077f",
    "Greek": r"\u0370-\u03ff",
    "Hebrew": r"\u0590-\u05ff",
    "Devanagari (Hindi and others)": r"\u0900-\u097f",
    "Bengali": r"\u0980-\u09ff",
    "Tamil": r"\u0b80-\u0bff",
    "Thai": r"\u0e00-\u0e7f",
}
_LETTERS = {name: re.compile(f"[{span}]+") for name, span in _SCRIPTS.items()}
_OTHER = re.compile(f"[{''.join(list(_SCRIPTS.values())[1:])}]")
_LATIN, _CHINESE, _JAPANESE = list(_SCRIPTS)[:3]
_WORD_OF = {_LATIN: 5, _CHINESE: 2}
"""Letters of a word: a Chinese word takes two characters where an English one takes five."""

# Code, links and formulas are in Latin letters whatever the language.
_NOT_PROSE = re.compile(r"```.*?(?:```|\Z)|https?://\S+|\\[a-zA-Z]+|\$[^$\n]*\$", re.DOTALL)
_NOT_PROSE_SIGNS = ("```", "://", "\\", "$")
_PROSE, _ENOUGH, _CLEAR, _QUOTED = 500, 20, 0.8, 5


def markup_in(text: str) -> list[str]:
    """The families of templates whose markup a text holds."""
    found = []
    if any(sign in text for sign in _MARKUP_SIGNS):
        found = [name for name, pattern in _MARKUP.items() if pattern.search(text)]
        if not found and _SPECIAL.search(text):
            found = ["special tokens"]
    if _has_sentence_tags(text):
        found.append("sentence tags")
    return found


def about_markup(text: str) -> str:
    """The text about its first markup."""
    places = [m.start() for pattern in _MARKUP.values() if (m := pattern.search(text))]
    start = max(0, min(places, default=len(text) - 120) - 60)
    return text[start : start + 200]


def _has_sentence_tags(text: str) -> bool:
    """Whether a text ends with "</s>" or begins with "<s>"; struck-through HTML has both within."""
    bare = text.strip()
    closes = bare.endswith("</s>") and bare.count("<s>") == bare.startswith("<s>")
    opens = bare.startswith("<s>") and bare.count("</s>") == bare.endswith("</s>")
    return closes or opens


def refuses(answer: str) -> bool:
    """Whether an answer begins as a refusal, or with what chat models say of themselves."""
    opening = answer[:_READ].replace("’", "'").lower()
    return any(sign in opening for sign in _REFUSAL_SIGNS) and bool(_REFUSAL.search(opening))


def opening_of(answer: str) -> str:
    """The first three words of an answer, or four characters where words have no spaces."""
    parts = answer[:120].casefold().split()[:3]
    if parts and not parts[0].isascii() and len(parts[0]) > 8:
        return parts[0][:4]
    return " ".join(parts)


class Script(NamedTuple):
    """The script of a text.

    Attributes:
        name: In words; "none" if there are no letters.
        clear: Whether it is long enough and in one script, so that another one is another language.
    """

    name: str
    clear: bool


def script_of(text: str) -> Script:
    """The script that most words of a text's beginning are in.

    Enough to tell Chinese from English, at no cost; English and French are not told apart.
    """
    prose = text[:_PROSE]
    if any(sign in prose for sign in _NOT_PROSE_SIGNS):
        prose = _NOT_PROSE.sub(" ", prose)
    if prose.isascii() or not _OTHER.search(prose):
        latin = _LETTERS[_LATIN]
        letters = _count(latin, prose[:100])
        letters = letters if letters >= _ENOUGH else _count(latin, prose)
        return Script(_LATIN if letters else "none", letters >= _ENOUGH)
    counts = {name: _count(found, prose) for name, found in _LETTERS.items()}
    letters = sum(counts.values())
    if not letters:
        return Script("none", False)
    if counts[_JAPANESE] >= 0.1 * (counts[_JAPANESE] + counts[_CHINESE]):
        counts[_JAPANESE] += counts.pop(_CHINESE)
    sizes = {name: n / _WORD_OF.get(name, 3) for name, n in counts.items()}
    name = max(sizes, key=lambda one: sizes[one])
    clear = letters >= _ENOUGH and sizes[name] >= _CLEAR * sum(sizes.values())
    if name == _LATIN:  # a few words of another language about code, names and formulas
        clear = clear and letters - counts[name] < _QUOTED
    return Script(name, clear)


def _count(letters: re.Pattern[str], text: str) -> int:
    return sum(map(len, letters.findall(text)))
