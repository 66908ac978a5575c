"""Rows -> pairs -> token ids -> batches, with every row accounted for.

The names of docs/api are loaded when they are first used: some of them need torch.
"""

from typing import TYPE_CHECKING

from orpo.lazy import loader

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

__getattr__ = loader(__name__, {name: f"orpo.data.{home}" for name, home in _HOMES.items()})
