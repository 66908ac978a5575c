"""The tokenizer: whose it is, and what it lacks for training and for chatting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from orpo.config import ORPOConfig
from orpo.data.asked import forget_asked
from orpo.data.lengths import LengthPolicy
from orpo.data.rendering import PLAIN_TEMPLATE
from orpo.data.tokenize import PairTokenizer
from orpo.errors import ConfigError, ModelError
from orpo.runs.files import located
from orpo.train.models import fetching, unloadable


def load_tokenizer(
    name: str, args: ORPOConfig, *, of_model: bool = True
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or Hub id."""
    name = located(name, "tokenizer_config.json")
    where = {k: v for k, v in fetching(args).items() if of_model or k != "revision"}
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            name, trust_remote_code=args.trust_remote_code, **where
        )
    except Exception as error:  # what tokenizers raises is no more than that
        raise unloadable("tokenizer", name, error) from error
    return tokenizer


def named_tokenizer(name: str, config: ORPOConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, or of a folder that holds a tokenizer and no model."""
    tokenizer = load_tokenizer(name, config)
    prepare_tokenizer(tokenizer, config)
    return tokenizer


def pair_tokenizer(name: str, config: ORPOConfig) -> PairTokenizer:
    """What turns pairs into the tokens of a named tokenizer, of any length."""
    variables = config.chat_template_kwargs
    assert isinstance(variables, dict)
    return PairTokenizer(named_tokenizer(name, config), LengthPolicy(None), variables)


def resolve_tokenizer(
    processing_class: PreTrainedTokenizerBase | None,
    tokenizer: PreTrainedTokenizerBase | None,
    name: str,
    args: ORPOConfig,
) -> PreTrainedTokenizerBase:
    """The tokenizer by whichever of its two names it was given, or else the model's own."""
    if processing_class is not None and tokenizer is not None and tokenizer is not processing_class:
        what = "processing_class and tokenizer are two names of one argument"
        raise ConfigError(what, where="tokenizer", fix="Pass one of them.")
    given: Any = processing_class if processing_class is not None else tokenizer
    if isinstance(given, PreTrainedTokenizerBase):
        return given
    if given is not None:
        inner = isinstance(getattr(given, "tokenizer", None), PreTrainedTokenizerBase)
        own = "Pass processor.tokenizer."
        what = f"expected a tokenizer, got {type(given).__name__}; orpo trains on text"
        fix = own if inner else "Pass AutoTokenizer.from_pretrained(...)."
        raise ConfigError(what, where="tokenizer", fix=fix)
    if not name:
        what = "no tokenizer was given, and the model does not know where it came from"
        raise ModelError(what, where="tokenizer", fix="Pass tokenizer=...")
    return load_tokenizer(name, args)


def padding_id(tokenizer: PreTrainedTokenizerBase, vocabulary: int | None) -> int:
    """A token id to fill padding with: masked, so any that the model has an embedding for."""
    pad = tokenizer.pad_token_id
    known = pad is not None and (vocabulary is None or pad < vocabulary)
    return int(pad) if known else 0


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, args: ORPOConfig) -> list[str]:
    """Give a tokenizer what training and chatting need; one line for each thing that was missing.

    A padding token (the end-of-sequence token: padding is masked and never trained on) and the
    chat template of `args.chat_template`.
    """
    said = []
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
        said.append(f"the tokenizer has no padding token: {tokenizer.eos_token!r} is used, masked")
    if args.chat_template is not None:
        tokenizer.chat_template = Path(args.chat_template).read_text(encoding="utf-8")
        forget_asked(tokenizer)
        said.append(f"chat template taken from {args.chat_template}")
    return said


def give_plain_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Give a tokenizer without chat template that of plain transcripts; says so in one line."""
    tokenizer.chat_template = PLAIN_TEMPLATE
    return (
        "the tokenizer has no chat template: messages are written as "
        "'Human: ... Assistant: ...' transcripts, and this template is saved with the model"
    )
