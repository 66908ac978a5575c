"""Rows -> pairs -> token ids -> batches, with every row accounted for."""

from orpo.data.lengths import TRUNCATIONS, LengthPolicy
from orpo.data.pack import PairCollator, merge_batches, select_pairs
from orpo.data.prepare import COLUMNS, Preparation, StreamedPairs, is_prepared
from orpo.data.sources import iterate_dataset, open_source
from orpo.data.template import PLAIN_TEMPLATE, Template, has_chat_template
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import (
    Dropped,
    Ledger,
    Message,
    Messages,
    PreferencePair,
    Row,
    TextPair,
    TokenizedPair,
)

__all__ = [
    "COLUMNS",
    "PLAIN_TEMPLATE",
    "TRUNCATIONS",
    "Dropped",
    "Ledger",
    "LengthPolicy",
    "Message",
    "Messages",
    "PairCollator",
    "PairTokenizer",
    "PreferencePair",
    "Preparation",
    "Row",
    "StreamedPairs",
    "Template",
    "TextPair",
    "TokenizedPair",
    "has_chat_template",
    "is_prepared",
    "iterate_dataset",
    "merge_batches",
    "open_source",
    "select_pairs",
]
