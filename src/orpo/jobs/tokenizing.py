"""How a command about data reads rows, and the tokenizer that it was given by name."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from orpo.config import ORPOConfig
from orpo.data.reading import PairReader
from orpo.train.tokenizer import load_tokenizer, prepare_tokenizer

__all__ = ["named_tokenizer", "pair_reader"]


def pair_reader(config: ORPOConfig) -> PairReader:
    """Reads rows as a training would, and gives those that it cannot read as dropped."""
    return PairReader(config.format_name, "drop", config.pair_rule)


def named_tokenizer(name: str, config: ORPOConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, or of a folder that holds a tokenizer and no model.

    Raises:
        ModelError: There is none.
    """
    tokenizer = load_tokenizer(name, config)
    prepare_tokenizer(tokenizer, config)
    return tokenizer
