"""Which tokens end an answer."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from orpo.data.lengths import LengthPolicy
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import PreferencePair, Row, TokenizedPair

__all__ = ["answer_endings"]


def answer_endings(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """EOS, if there is one, and the end of turn that the chat template writes.

    Of many base models they are two tokens: a text ends with `<|endoftext|>`, an answer with
    `<|im_end|>`.
    """
    eos = tokenizer.eos_token_id
    ids = set() if eos is None else {int(eos)}
    if tokenizer.chat_template:
        pair = PreferencePair(
            Row({}, "probe", 0),
            prompt=[{"role": "user", "content": "a"}],
            chosen={"role": "assistant", "content": "a"},
            rejected={"role": "assistant", "content": "b"},
        )
        tokens = PairTokenizer(tokenizer, LengthPolicy(None))(pair)
        if isinstance(tokens, TokenizedPair):
            ids.add(tokens.chosen_ids[-1])
    return ids
