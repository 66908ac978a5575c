"""Rows -> pairs -> token ids -> batches, with every row accounted for."""

from orpo.data.asked import (
    Asking,
    Decision,
    asked_otherwise,
    decide,
    forget_asked,
    keep_asked,
    template_of,
)
from orpo.data.endings import answer_endings
from orpo.data.lengths import TRUNCATIONS, LengthPolicy
from orpo.data.pack import PairCollator, merge_batches, select_pairs
from orpo.data.prepare import Preparation, StreamedPairs, is_prepared
from orpo.data.reading import PairReader
from orpo.data.sources import Mixture, Source, iterate_dataset, open_source
from orpo.data.split import Selection
from orpo.data.store import COLUMNS, default_cache
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
    "Asking",
    "Decision",
    "Dropped",
    "Ledger",
    "LengthPolicy",
    "Message",
    "Messages",
    "Mixture",
    "PairCollator",
    "PairReader",
    "PairTokenizer",
    "PreferencePair",
    "Preparation",
    "Row",
    "Selection",
    "Source",
    "StreamedPairs",
    "Template",
    "TextPair",
    "TokenizedPair",
    "answer_endings",
    "asked_otherwise",
    "decide",
    "default_cache",
    "forget_asked",
    "has_chat_template",
    "is_prepared",
    "iterate_dataset",
    "keep_asked",
    "merge_batches",
    "open_source",
    "select_pairs",
    "template_of",
]
