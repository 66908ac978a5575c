"""Rows -> pairs -> token ids -> batches, with every row accounted for.

The names of docs/api are loaded when they are first used: some of them need torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orpo.data.lengths import LengthPolicy
    from orpo.data.pack import PairCollator
    from orpo.data.reading import PairReader
    from orpo.data.sources import Source, open_source
    from orpo.data.tokenize import PairTokenizer
    from orpo.data.types import Ledger, PreferencePair, TokenizedPair

_HOMES = {
    "Ledger": "types",
    "LengthPolicy": "lengths",
    "PairCollator": "pack",
    "PairReader": "reading",
    "PairTokenizer": "tokenize",
    "PreferencePair": "types",
    "Source": "sources",
    "TokenizedPair": "types",
    "open_source": "sources",
}

__all__ = [
    "Ledger",
    "LengthPolicy",
    "PairCollator",
    "PairReader",
    "PairTokenizer",
    "PreferencePair",
    "Source",
    "TokenizedPair",
    "open_source",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"orpo.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'orpo.data' has no attribute {name!r}")
