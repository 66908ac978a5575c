"""Batches: every token of every pair in its place, and nothing but padding beside it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from orpo.data.pack import PairCollator, merge_batches, select_pairs

Batch = dict[str, Tensor]


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
    return PairCollator(0)([pair._asdict() for pair in pairs])


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


def fault(batch: Batch, wanted: list[Pair]) -> str:
    """What is wrong with a batch of these pairs; empty if nothing."""
    longest = max(len(p.prompt_ids) + max(len(p.chosen_ids), len(p.rejected_ids)) for p in wanted)
    for key, value in batch.items():
        if value.dtype != (torch.float32 if key == "weight" else torch.int64):
            return f"{key} is {value.dtype}"
        flat = key in {"row", "weight"}
        if value.shape != ((len(wanted),) if flat else (len(wanted), longest)):
            return f"{key} has shape {tuple(value.shape)}"
    for side in ("chosen", "rejected"):
        there, answer = batch[f"{side}_attention_mask"], batch[f"{side}_answer_mask"]
        if ((there == 0) & (batch[f"{side}_input_ids"] != 0)).any():
            return "something other than padding is masked"
        if (there.diff(dim=1) > 0).any() or (answer > there).any():
            return "the padding is not on the right"
    return "" if unpack(batch) == wanted else "these are other pairs"


@given(st.lists(lists, min_size=1, max_size=4), st.data())
def test_batches_merge_and_part_again(parts: list[list[Pair]], data: st.DataObject) -> None:
    batches, pairs = [collate(part) for part in parts], [pair for part in parts for pair in part]
    assert [fault(*one) for one in zip(batches, parts, strict=True)] == [""] * len(parts)
    merged = merge_batches(batches)
    assert fault(merged, pairs) == ""
    assert (merged is batches[0]) == (len(parts) == 1)
    chosen = data.draw(st.lists(st.integers(0, len(pairs) - 1), min_size=1, unique=True))
    assert fault(select_pairs(merged, chosen), [pairs[i] for i in chosen]) == ""


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_the_padding_token_is_the_one_given(kind: Callable[[list[int]], object]) -> None:
    pairs: list[dict[str, object]] = [
        {"prompt_ids": kind([5]), "chosen_ids": kind([6]), "rejected_ids": kind([7, 8]), "row": 0},
        {"prompt_ids": [5, 5], "chosen_ids": [6, 6], "rejected_ids": [7], "row": 1},
    ]
    batch = PairCollator(99)(pairs)
    assert batch["chosen_input_ids"].tolist() == [[5, 6, 99, 99], [5, 5, 6, 6]]
    assert batch["rejected_input_ids"].tolist() == [[5, 7, 8, 99], [5, 5, 7, 99]]
    assert batch["chosen_answer_mask"].tolist() == [[0, 1, 0, 0], [0, 0, 1, 1]]
    assert batch["rejected_answer_mask"].tolist() == [[0, 1, 1, 0], [0, 0, 1, 0]]
    assert batch["rejected_attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 0]]
    assert batch["weight"].tolist() == [1.0, 1.0]


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
