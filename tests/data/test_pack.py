"""Batches: every token of every pair in its place, and nothing but padding beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from orpo.data.pack import PairCollator, merge_batches, select_pairs

Batch = dict[str, Tensor]

PAD = 0


class Pair(NamedTuple):
    """The columns of a prepared data set."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    row: int
    weight: float = 1.0


ids = st.lists(st.integers(0, 50_000), min_size=1, max_size=12)
# A row without rejected answer has no tokens there.
weights = st.sampled_from([1.0, 0.5, 3.0])
pairs_of_ids = st.builds(Pair, ids, ids, ids | st.just([]), st.integers(0, 10**9), weights)
lists = st.lists(pairs_of_ids, min_size=1, max_size=7)


def collate(pairs: list[Pair]) -> Batch:
    return PairCollator(PAD)([pair._asdict() for pair in pairs])


def unpack(batch: Batch) -> list[Pair]:
    """The pairs of a batch, read off its masks."""
    found = []
    for i, row in enumerate(batch["row"].tolist()):
        prompts, answers = [], []
        for side in ("chosen", "rejected"):
            tokens = batch[f"{side}_input_ids"][i]
            there = batch[f"{side}_attention_mask"][i].bool()
            answer = batch[f"{side}_answer_mask"][i].bool()
            answers.append(tokens[answer].tolist())
            prompts.append(tokens[there & ~answer].tolist())
        assert prompts[0] == prompts[1]
        found.append(Pair(prompts[0], *answers, row, float(batch["weight"][i])))
    return found


def longest(pairs: list[Pair]) -> int:
    return max(len(p.prompt_ids) + max(len(p.chosen_ids), len(p.rejected_ids)) for p in pairs)


def fault(batch: Batch, wanted: list[Pair]) -> str:
    """What is wrong with a batch of these pairs; empty if nothing."""
    for key, value in batch.items():
        if value.dtype != (torch.float32 if key == "weight" else torch.int64):
            return f"{key} is {value.dtype}"
        flat = key in {"row", "weight"}
        shape = (len(wanted),) if flat else (len(wanted), longest(wanted))
        if value.shape != shape:
            return f"{key} has shape {tuple(value.shape)} instead of {shape}"
    for side in ("chosen", "rejected"):
        there, answer = batch[f"{side}_attention_mask"], batch[f"{side}_answer_mask"]
        if ((there == 0) & (batch[f"{side}_input_ids"] != PAD)).any():
            return "something other than padding is masked"
        if (there.diff(dim=1) > 0).any() or (answer > there).any():
            return "the padding is not on the right"
    return "" if unpack(batch) == wanted else "these are other pairs"


@given(lists)
def test_a_batch_holds_its_pairs_and_nothing_else(pairs: list[Pair]) -> None:
    assert fault(collate(pairs), pairs) == ""


def test_the_padding_token_is_the_one_given() -> None:
    pairs = [
        {"prompt_ids": [5], "chosen_ids": [6], "rejected_ids": [7, 8], "row": 0},
        {"prompt_ids": [5, 5], "chosen_ids": [6, 6], "rejected_ids": [7], "row": 1},
    ]
    batch = PairCollator(99)(pairs)
    assert batch["chosen_input_ids"].tolist() == [[5, 6, 99, 99], [5, 5, 6, 6]]
    assert batch["rejected_input_ids"].tolist() == [[5, 7, 8, 99], [5, 5, 7, 99]]
    assert batch["chosen_answer_mask"].tolist() == [[0, 1, 0, 0], [0, 0, 1, 1]]
    assert batch["rejected_answer_mask"].tolist() == [[0, 1, 1, 0], [0, 0, 1, 0]]
    assert batch["rejected_attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 0]]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_ids_may_be_lists_arrays_or_tensors(kind: Callable[[list[int]], Any]) -> None:
    pair = {"prompt_ids": kind([5, 6]), "chosen_ids": kind([7]), "rejected_ids": kind([8, 9])}
    assert unpack(PairCollator(PAD)([{**pair, "row": 3}])) == [Pair([5, 6], [7], [8, 9], 3)]


@given(st.lists(lists, min_size=1, max_size=4))
def test_batches_merge_into_one(parts: list[list[Pair]]) -> None:
    pairs = [pair for part in parts for pair in part]
    assert fault(merge_batches([collate(part) for part in parts]), pairs) == ""


def test_one_batch_is_merged_already() -> None:
    batch = collate([Pair([1], [2], [3], 0)])
    assert merge_batches([batch]) is batch


@given(lists, st.data())
def test_selected_pairs_are_as_wide_as_they_need(pairs: list[Pair], data: st.DataObject) -> None:
    index = st.integers(0, len(pairs) - 1)
    chosen = data.draw(st.lists(index, min_size=1, unique=True))
    found = select_pairs(collate(pairs), chosen)
    assert fault(found, [pairs[i] for i in chosen]) == ""


def test_the_checks_reject_planted_mistakes() -> None:
    pairs = [Pair([5], [6], [7, 8], 0), Pair([5, 9], [6, 6], [7], 1)]
    batch = collate(pairs)

    def everywhere(change: Callable[[Tensor], Tensor]) -> Batch:
        return {key: change(value) for key, value in batch.items()}

    planted = {
        "left padding": everywhere(lambda x: x.flip(-1) if x.dim() == 2 else x),
        "more padding than needed": everywhere(lambda x: F.pad(x, (0, x.dim() - 1))),
        "one pair twice": everywhere(lambda x: x[[0, 0]]),
        "rows as int32": {**batch, "row": batch["row"].int()},
        "supervised padding": {**batch, "chosen_answer_mask": 1 - batch["chosen_attention_mask"]},
    }
    assert fault(batch, pairs) == ""
    for name, wrong in planted.items():
        assert fault(wrong, pairs) != "", name
    with pytest.raises(AssertionError):  # a prompt that is supervised is a prompt no more
        unpack({**batch, "chosen_answer_mask": batch["chosen_attention_mask"]})
