"""An audit as the page gets it: written by hand after the schema, with something of everything."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from tests.report.pages import poisoned

EDGES = [0, *(step for i in range(9) for step in (8 << i, 12 << i))]


def finding(check: str, title: str, verdict: str, count: int, of: int = 10112) -> dict[str, Any]:
    """A finding without words."""
    return {
        "check": check,
        "title": title,
        "verdict": verdict,
        "count": count,
        "of": of,
        "share": count / of if of else 0.0,
        "says": "",
        "do": "",
        "examples": [],
        "figures": {},
    }


def example(where: str, text: str, other: str = "") -> dict[str, str]:
    """A row that a finding is about."""
    return {"where": where, "text": text, "other": other}


def audit_of() -> dict[str, Any]:
    """An audit with a model, with findings of each verdict, in English and Chinese."""
    return {
        "verdict": "stop",
        "dataset": "helpful-pairs/train.jsonl",
        "eval_dataset": "helpful-pairs/test.jsonl",
        "model": "Qwen/Qwen2.5-0.5B-Instruct",
        "unit": "tokens",
        "max_length": 1024,
        "rows": rows_of(),
        "findings": findings_of(),
        "lengths": {
            "prompt": histogram(64, 0.9),
            "chosen": histogram(212, 0.7),
            "rejected": histogram(126, 0.75),
        },
        "length_bias": bias_of(),
        "truncation": [
            {"max_length": 256, "cut": 7420, "dropped": 912},
            {"max_length": 512, "cut": 3240, "dropped": 228},
            {"max_length": 1024, "cut": 702, "dropped": 41},
            {"max_length": 2048, "cut": 61, "dropped": 3},
            {"max_length": 4096, "cut": 0, "dropped": 0},
        ],
        "languages": {"English": 3310, "Chinese": 552, "Spanish": 78, "Cyrillic": 41, "other": 19},
        "turns": {"1": 7208, "2": 611, "3": 1394, "5": 702, "7": 161, "9": 36},
        "budget": {
            "pairs": 10071,
            "prompt_tokens": 903_394,
            "chosen_tokens": 2_011_050,
            "rejected_tokens": 1_203_496,
            "nll_tokens": 2_904_373,
            "padded_positions_per_epoch": 9_120_480,
            "tokens_per_epoch": 5_021_334,
            "positions_per_epoch": 4_017_940,
            "tokens_per_second": 1830.5,
            "seconds_per_epoch": 2195.0,
            "peak_bytes": 5.5 * 2**30,
        },
        "notes": [
            "Languages were told apart on a sample of 4,000 rows.",
            "Near duplicates below a Jaccard similarity of 0.8 were not looked for.",
            "形容词 rows have no held-out counterpart, so leakage could not be checked for them.",
        ],
    }


def rows_of() -> dict[str, Any]:
    """The account of the rows."""
    return {
        "name": "helpful-pairs/train.jsonl",
        "format": "prompt",
        "rendering": "chat template",
        "rows_in": 10240,
        "kept": 10112,
        "nll_only": 12,
        "dropped": {"empty_answer": 23, "prompt_too_long": 97, "invalid_row": 8},
        "dropped_examples": {
            "empty_answer": [{"where": "train.jsonl:204", "detail": "field 'rejected' is empty"}],
            "prompt_too_long": [
                {"where": "train.jsonl:17", "detail": "prompt 1,655, chosen 14, rejected 164"},
                {"where": "train.jsonl:90", "detail": "prompt 1,020, chosen 25, rejected 31"},
            ],
            "invalid_row": [{"where": "train.jsonl:5003", "detail": "not valid JSON"}],
        },
        "cut": {"chosen": 689, "rejected": 402},
    }


def findings_of() -> list[dict[str, Any]]:
    """Eleven checks, in the order in which checks are listed."""
    return [
        finding("empty_answers", "Empty answers", "ok", 0)
        | {"says": "Every pair has two answers with something in them."},
        finding("identical_answers", "Identical answers", "look", 86)
        | {
            "says": "In 86 pairs both answers are the same but for white space: nothing can be "
            "preferred there, and half of the computation is spent for nothing.",
            "do": "`orpo data fix helpful-pairs/train.jsonl --drop identical`",
            "examples": [example("train.jsonl:88", "Sure! Here is the list you asked for …")],
        },
        finding("exact_duplicates", "Exact duplicates", "look", 304)
        | {
            "says": "304 pairs are there more than once, word for word.",
            "do": "`orpo data fix helpful-pairs/train.jsonl --deduplicate exact`",
            "examples": [
                example("train.jsonl:12", "What is the capital of Peru?", "train.jsonl:7719"),
                example("train.jsonl:31", "请用一句话介绍一下长城。", "train.jsonl:802"),
            ],
        },
        finding("near_duplicates", "Near duplicates", "look", 298)
        | {
            "says": "298 prompts are reworded copies of another one.",
            "do": "Look at a few of them, then `orpo data fix … --deduplicate near`.",
            "examples": [
                example(
                    "train.jsonl:455",
                    "How do I make a sourdough starter from scratch?\n"
                    "How can I make a sourdough starter from scratch at home?",
                    "train.jsonl:9120",
                )
            ],
            "figures": {"jaccard": 0.8, "clusters": 121},
        },
        leakage(),
        length_bias(),
        finding("refusals", "Refusals and boilerplate", "look", 1204)
        | {
            "says": "1,204 chosen answers open with the same words: “I'm sorry, but as an AI …”.",
            "do": "Decide whether the model is meant to refuse this often.",
            "examples": [
                example("train.jsonl:301", "I'm sorry, but as an AI language model I can't …"),
                example("train.jsonl:2210", "对不起，我不能回答这个问题。"),
            ],
        },
        finding("languages", "Language of prompt and answer", "ok", 11, 4000)
        | {"says": "Nearly every answer is in the language of its prompt."},
        finding("template", "Chat template", "ok", 0)
        | {"says": "The template renders every conversation and ends each answer once."},
        finding("truncation", "Truncation at max_length", "look", 743)
        | {
            "says": "743 pairs don't fit into 1,024 tokens.",
            "do": "`--max_length 2048` keeps all but 64 of them whole.",
        },
        finding("special_tokens", "Special tokens in texts", "ok", 2)
        | {
            "says": "Two texts spell special tokens; they stay text.",
            "examples": [example("train.jsonl:610", "<|im_end|> means that a turn is over.")],
        },
    ]


def leakage() -> dict[str, Any]:
    """Prompts that are in the evaluation data too."""
    return finding("prompt_leakage", "Prompt leakage", "stop", 203) | {
        "says": "203 prompts are also in helpful-pairs/test.jsonl: whatever is measured there "
        "says how well the model remembers, not how well it answers.",
        "do": "`orpo data fix helpful-pairs/train.jsonl --without helpful-pairs/test.jsonl "
        "--output clean.jsonl`",
        "examples": [
            example("train.jsonl:5", "Write a haiku about autumn rain.", "test.jsonl:71"),
            example("train.jsonl:640", "如果明天下雨，我们还去爬山吗？", "test.jsonl:3"),
        ],
    }


def length_bias() -> dict[str, Any]:
    """Answers that are preferred for their length."""
    return finding("length_bias", "Length bias", "stop", 8143, 10021) | {
        "says": "The longer answer is chosen in 81.3 % of the pairs: the model would learn to "
        "write more, whatever it writes.",
        "do": "Balance by length with `orpo data fix … --balance length`, or collect pairs in "
        "which the short answer wins.",
        "figures": {"longer_chosen": 0.8126, "auc": 0.77},
    }


def histogram(median: float, spread: float) -> dict[str, list[int]]:
    """10,112 lengths that are spread around a median on a logarithmic scale."""

    def below(edge: float) -> float:
        if edge <= 0:
            return 0.0
        return 0.5 * (1 + math.erf(math.log(edge / median) / spread / math.sqrt(2)))

    shares = [below(high) - below(low) for low, high in pairwise(EDGES)]
    counts = [round(10112 * share) for share in shares]
    counts[-1] += 10112 - sum(counts)
    return {"edges": list(EDGES), "counts": counts}


def bias_of() -> list[dict[str, Any]]:
    """The longer, the more often chosen."""
    ratios = [1, 1.1, 1.25, 1.5, 2, 3, 5, None]
    pairs = [1204, 1490, 1822, 2390, 1911, 880, 324]
    shares = [0.54, 0.66, 0.79, 0.88, 0.92, 0.95, 0.96]
    return [
        {"low": ratios[i], "high": ratios[i + 1], "pairs": pairs[i], "longer_chosen": shares[i]}
        for i in range(len(pairs))
    ]


def planted(audit: dict[str, Any], text: str) -> dict[str, Any]:
    """The same audit with a text in every place that data or a user can name."""
    wild: dict[str, Any] = poisoned(audit, text)
    names = ("verdict", "unit")
    wild |= {name: audit[name] for name in names}
    for found, tame in zip(wild["findings"], audit["findings"], strict=True):
        found["verdict"] = tame["verdict"]
        found["check"] = f"{tame['check']} {text}"
        found["do"] = f"`{text}` {text} orpo data fix --drop {text}"
        found["figures"] = {text: 0.5}
    wild["languages"] = {text: 3, f"{text} 2": 1}
    wild["turns"] = {text: 3, f"{text} 2": 1}
    wild["budget"] = {**audit["budget"], text: 3.0}
    wild["rows"]["dropped"] = {text: 128}
    wild["rows"]["dropped_examples"] = {text: [{"where": text, "detail": text}]}
    wild["rows"]["cut"] = {text: 3}
    return wild
