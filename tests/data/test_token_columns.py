"""Rows that hold token ids already: our columns and TRL's, and what is wrong with others."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.data.build import Values, as_row
from transformers import PreTrainedTokenizerBase as Tokenizer

from orpo.data.lengths import LengthPolicy
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Dropped, TokenizedPair
from orpo.errors import DataError

OURS: Values = {"prompt_ids": [5, 6], "chosen_ids": [7, 2], "rejected_ids": [8, 9, 2]}
WHOLE: Values = {
    "prompt_input_ids": [5, 6],
    "chosen_input_ids": [5, 6, 7, 2],
    "rejected_input_ids": [5, 6, 8, 9, 2],
}
LABELS = {"chosen_labels": [-100, -100, 7, 2], "rejected_labels": [-100, -100, 8, 9, 2]}


def read(tokenizer: Tokenizer, values: Values) -> TokenizedPair | Dropped:
    return PairTokenizer(tokenizer, LengthPolicy(None)).from_tokens(as_row(values))


@pytest.mark.parametrize(
    "values",
    [
        OURS,
        {**OURS, "prompt": "text", "chosen": "text", "rejected": "text"},
        {name: np.array(ids) for name, ids in OURS.items()},
        {name: torch.tensor(ids) for name, ids in OURS.items()},
        {f"{name.removesuffix('ids')}input_ids": ids for name, ids in OURS.items()},
        WHOLE,
        {**WHOLE, **LABELS, "prompt_attention_mask": [1, 1]},
        {**WHOLE, **LABELS, "chosen_labels": np.array(LABELS["chosen_labels"])},
    ],
)
def test_known_columns(values: Values, small_tokenizer: Tokenizer) -> None:
    expected = TokenizedPair([5, 6], [7, 2], [8, 9, 2], row=6)
    assert read(small_tokenizer, values) == expected


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("chosen_ids", None, "expected a list of token ids, found NoneType"),
        ("chosen_ids", "text", "expected a list of token ids, found str"),
        ("chosen_ids", [1, "2"], "found a list with str"),
        ("chosen_ids", [1, None], "found a list with NoneType"),
        ("chosen_ids", [1.0], "found a list with float"),
        ("chosen_ids", [True], "found a list with bool"),
        ("chosen_ids", [[1]], "found a list with list"),
        ("rejected_ids", [-1], "token id -1 is outside of the tokenizer's 0 to 412"),
        ("prompt_ids", [1, 413], "token id 413 is outside"),
        ("prompt_ids", [2**70], f"token id {2**70} is outside"),
        *(
            ("chosen_labels", labels, "expected a list of 2 labels")
            for labels in ("text", [-100], [-100] * 9)
        ),
    ],
)
def test_what_is_no_token_id(field: str, value: Any, said: str, small_tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError) as caught:
        read(small_tokenizer, {**OURS, field: value})
    assert str(caught.value).startswith(f"pairs.jsonl:7, field '{field}': ")
    assert said in str(caught.value)


def test_sequences_that_do_not_fit(small_tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"pairs\.jsonl:7, field 'rejected_ids'"):
        read(small_tokenizer, {"prompt_ids": [1], "chosen_ids": [2]})
    other = {**WHOLE, **LABELS, "rejected_input_ids": [5, 4, 8]}
    with pytest.raises(DataError, match="does not begin with the prompt's tokens"):
        read(small_tokenizer, other)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({**WHOLE, "rejected_input_ids": [5, 6]}, "empty_rejected"),  # it is the prompt
        ({**OURS, "prompt_ids": []}, "empty_prompt"),
        ({**OURS, "chosen_ids": []}, "empty_chosen"),
        ({**OURS, "rejected_ids": [7, 2]}, "identical_answers"),
        ({**OURS, "weight": 0}, "zero_weight"),
    ],
)
def test_dropped(values: Values, reason: str, small_tokenizer: Tokenizer) -> None:
    found = read(small_tokenizer, values)
    assert isinstance(found, Dropped)
    assert found.reason == reason


def test_an_empty_rejected_answer_is_none(small_tokenizer: Tokenizer) -> None:
    found = read(small_tokenizer, {**OURS, "rejected_ids": [], "weight": 0.5})
    assert isinstance(found, TokenizedPair)
    assert (found.rejected_ids, found.weight) == ([], 0.5)
