"""Rows -> pairs -> token ids -> batches, with every row accounted for.

The names of docs/api are loaded when they are first used: some of them need torch.
"""

from typing import TYPE_CHECKING

from orpo.lazy import loader

if TYPE_CHECKING:
    from orpo.data.lengths import LengthPolicy as LengthPolicy
    from orpo.data.pack import PairCollator as PairCollator
    from orpo.data.reading import PairReader as PairReader
    from orpo.data.sources import Source as Source
    from orpo.data.sources import open_source as open_source
    from orpo.data.tokenize import PairTokenizer as PairTokenizer
    from orpo.data.types import Ledger as Ledger
    from orpo.data.types import PreferencePair as PreferencePair
    from orpo.data.types import TokenizedPair as TokenizedPair

_HOMES = {
    "lengths": ["LengthPolicy"],
    "pack": ["PairCollator"],
    "reading": ["PairReader"],
    "sources": ["Source", "open_source"],
    "tokenize": ["PairTokenizer"],
    "types": ["Ledger", "PreferencePair", "TokenizedPair"],
}

__getattr__ = loader(
    __name__, {name: f"orpo.data.{home}" for home, names in _HOMES.items() for name in names}
)
