"""From token ids to batches. Shapes: B pairs, L positions of the longest sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["PairCollator", "split_by_tokens"]

_SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class PairCollator:
    """Pads pairs on the right into one batch.

    Attributes:
        pad_token_id: What fills the padding; it is masked, so any id of the vocabulary does.

    The batch is a dict of tensors, all with pairs in dimension 0:
        {chosen,rejected}_input_ids       (B, L) int64, prompt then answer
        {chosen,rejected}_attention_mask  (B, L) int64, 1 on tokens
        {chosen,rejected}_answer_mask     (B, L) int64, 1 on the answer's tokens
        row                               (B,)   int64, index of the row in the data set
    """

    pad_token_id: int

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Batch rows with the columns `prompt_ids`, `chosen_ids`, `rejected_ids`, `row`."""
        length = max(
            len(f["prompt_ids"]) + max(len(f["chosen_ids"]), len(f["rejected_ids"]))
            for f in features
        )
        batch = {
            f"{side}_{name}": torch.zeros(len(features), length, dtype=torch.int64)
            for side in _SIDES
            for name in ("input_ids", "attention_mask", "answer_mask")
        }
        for i, feature in enumerate(features):
            prompt = torch.as_tensor(feature["prompt_ids"], dtype=torch.int64)
            for side in _SIDES:
                answer = torch.as_tensor(feature[f"{side}_ids"], dtype=torch.int64)
                start, end = len(prompt), len(prompt) + len(answer)
                ids = batch[f"{side}_input_ids"]
                ids[i, :start], ids[i, start:end], ids[i, end:] = prompt, answer, self.pad_token_id
                batch[f"{side}_attention_mask"][i, :end] = 1
                batch[f"{side}_answer_mask"][i, start:end] = 1
        batch["row"] = torch.tensor([int(f["row"]) for f in features], dtype=torch.int64)
        return batch


def split_by_tokens(batch: dict[str, Tensor], max_tokens: int | None) -> list[dict[str, Tensor]]:
    """Cut a batch into parts of at most `max_tokens` padded positions (at least one pair each).

    Pairs of similar length stand together, and each part loses the padding it does not need.
    Every pair is in exactly one part.
    """
    lengths = torch.maximum(
        batch["chosen_attention_mask"].sum(1), batch["rejected_attention_mask"].sum(1)
    )
    if max_tokens is None or 2 * len(lengths) * int(lengths.max()) <= max_tokens:
        return [batch]
    order = torch.argsort(lengths, descending=True, stable=True).tolist()
    parts: list[list[int]] = []
    for i in order:
        # Sorted by length, so the first pair of a part is its longest.
        if parts and 2 * (len(parts[-1]) + 1) * int(lengths[parts[-1][0]]) <= max_tokens:
            parts[-1].append(i)
        else:
            parts.append([i])
    return [_select(batch, part, int(lengths[part[0]])) for part in parts]


def _select(batch: dict[str, Tensor], pairs: list[int], length: int) -> dict[str, Tensor]:
    index = torch.tensor(pairs, device=batch["row"].device)
    return {
        key: value[index, :length] if value.dim() == 2 else value[index]
        for key, value in batch.items()
    }
