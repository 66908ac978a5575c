"""Rows -> pairs -> token ids -> batches, with every row accounted for.

The names of docs/api are loaded when they are first used.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Asking": "asked",
    "COLUMNS": "types",
    "Decision": "asked",
    "Dropped": "types",
    "Ledger": "types",
    "LengthPolicy": "lengths",
    "Message": "types",
    "Messages": "types",
    "Mixture": "sources",
    "PLAIN_TEMPLATE": "rendering",
    "PairCollator": "pack",
    "PairReader": "reading",
    "PairTokenizer": "tokenize",
    "PreferencePair": "types",
    "Preparation": "prepare",
    "Row": "types",
    "Selection": "split",
    "Source": "sources",
    "StreamedPairs": "prepare",
    "TRUNCATIONS": "lengths",
    "Template": "template",
    "TextPair": "types",
    "TokenizedPair": "types",
    "answer_endings": "tokenize",
    "asked_otherwise": "asked",
    "decide": "asked",
    "default_cache": "sources",
    "forget_asked": "asked",
    "has_chat_template": "rendering",
    "is_prepared": "prepare",
    "iterate_dataset": "sources",
    "keep_asked": "asked",
    "merge_batches": "pack",
    "open_source": "sources",
    "select_pairs": "pack",
    "template_of": "asked",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"orpo.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'orpo.data' has no attribute {name!r}")
