"""Rows that hold token ids already: our columns and TRL's, and what is wrong with others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from orpo.data.lengths import LengthPolicy
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Dropped, Row, TokenizedPair
from orpo.errors import DataError

Values = dict[str, Any]
Tokenizer = PreTrainedTokenizerBase

OURS: Values = {"prompt_ids": [5, 6], "chosen_ids": [7, 2], "rejected_ids": [8, 9, 2]}
OURS_READ = TokenizedPair([5, 6], [7, 2], [8, 9, 2], row=6)


class TestTokenised:
    """Rows that hold token ids already, in our names and in TRL's."""

    def read(self, tokenizer: Tokenizer, values: Values) -> TokenizedPair | Dropped:
        return PairTokenizer(tokenizer, LengthPolicy(None)).from_tokens(
            Row(values, "ids.jsonl:7", 6)
        )

    @pytest.mark.parametrize(
        "values",
        [
            OURS,
            {**OURS, "prompt": "text", "chosen": "text", "rejected": "text"},
            {
                "prompt_input_ids": [5, 6],
                "chosen_input_ids": [7, 2],
                "rejected_input_ids": [8, 9, 2],
            },
            {
                "prompt_input_ids": [5, 6],
                "chosen_input_ids": [5, 6, 7, 2],
                "rejected_input_ids": [5, 6, 8, 9, 2],
            },
            {
                "prompt_input_ids": [5, 6],
                "prompt_attention_mask": [1, 1],
                "chosen_input_ids": [5, 6, 7, 2],
                "chosen_attention_mask": [1, 1, 1, 1],
                "chosen_labels": [-100, -100, 7, 2],
                "rejected_input_ids": [5, 6, 8, 9, 2],
                "rejected_attention_mask": [1, 1, 1, 1, 1],
                "rejected_labels": [-100, -100, 8, 9, 2],
            },
        ],
        ids=["ours", "ours with texts", "TRL's answers", "TRL's sequences", "TRL's with labels"],
    )
    def test_known_columns(self, values: Values, small_tokenizer: Tokenizer) -> None:
        assert self.read(small_tokenizer, values) == OURS_READ

    def test_arrays(self, small_tokenizer: Tokenizer) -> None:
        arrays = {name: np.array(ids) for name, ids in OURS.items()}
        tensors = {name: torch.tensor(ids) for name, ids in OURS.items()}
        assert self.read(small_tokenizer, arrays) == OURS_READ
        assert self.read(small_tokenizer, tensors) == OURS_READ

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
        ],
    )
    def test_what_is_no_token_id(
        self, field: str, value: Any, said: str, small_tokenizer: Tokenizer
    ) -> None:
        with pytest.raises(DataError) as caught:
            self.read(small_tokenizer, {**OURS, field: value})
        assert str(caught.value).startswith(f"ids.jsonl:7, field '{field}': ")
        assert said in str(caught.value)

    def test_a_missing_column(self, small_tokenizer: Tokenizer) -> None:
        with pytest.raises(DataError, match=r"ids\.jsonl:7, field 'rejected_ids'"):
            self.read(small_tokenizer, {"prompt_ids": [1], "chosen_ids": [2]})

    @pytest.mark.parametrize("labels", ["text", [-100], [-100] * 9])
    def test_labels_that_do_not_fit(self, labels: Any, small_tokenizer: Tokenizer) -> None:
        values = {
            "prompt_input_ids": [5, 6],
            "chosen_input_ids": [5, 6, 7],
            "rejected_input_ids": [5, 6, 8],
            "chosen_labels": labels,
        }
        with pytest.raises(DataError, match="expected a list of 3 labels"):
            self.read(small_tokenizer, values)

    def test_sequences_with_different_prompts(self, small_tokenizer: Tokenizer) -> None:
        values = {
            "prompt_input_ids": [5, 6],
            "chosen_input_ids": [5, 6, 7],
            "rejected_input_ids": [5, 4, 8],
            "chosen_labels": [-100, -100, 7],
            "rejected_labels": [-100, -100, 8],
        }
        with pytest.raises(DataError, match="does not begin with the prompt's tokens"):
            self.read(small_tokenizer, values)

    def test_an_empty_rejected_answer_is_none(self, small_tokenizer: Tokenizer) -> None:
        found = self.read(small_tokenizer, {**OURS, "rejected_ids": [], "weight": 0.5})
        assert isinstance(found, TokenizedPair)
        assert (found.rejected_ids, found.weight) == ([], 0.5)

    def test_a_rejected_sequence_that_is_the_prompt_is_dropped(
        self, small_tokenizer: Tokenizer
    ) -> None:
        whole = {"prompt_input_ids": [5, 6], "chosen_input_ids": [5, 6, 7]}
        found = self.read(small_tokenizer, {**whole, "rejected_input_ids": [5, 6]})
        assert isinstance(found, Dropped)
        assert found.reason == "empty_rejected"

    @pytest.mark.parametrize("name", ["prompt", "chosen"])
    def test_empty_parts_are_dropped(self, name: str, small_tokenizer: Tokenizer) -> None:
        found = self.read(small_tokenizer, {**OURS, f"{name}_ids": []})
        assert isinstance(found, Dropped)
        assert found.reason == f"empty_{name}"

    def test_identical_answers_are_dropped(self, small_tokenizer: Tokenizer) -> None:
        found = self.read(small_tokenizer, {**OURS, "rejected_ids": [7, 2]})
        assert isinstance(found, Dropped)
        assert found.reason == "identical_answers"
