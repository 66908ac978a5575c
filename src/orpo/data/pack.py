"""From token ids to batches. Shapes: B pairs, L positions of the longest sequence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

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
        weight                            (B,)   float32, factor of the pair's part of the loss

    A row without a rejected answer has the prompt alone on that side, and no answer mask there.
    """

    pad_token_id: int

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Batch rows with the columns `orpo.data.COLUMNS`; a weight that is absent is 1."""
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
        weights = [float(f.get("weight", 1.0)) for f in features]
        batch["weight"] = torch.tensor(weights, dtype=torch.float32)
        return batch


def merge_batches(batches: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The pairs of several batches as one, as wide as the widest."""
    if len(batches) == 1:
        return batches[0]
    width = max(batch["chosen_input_ids"].shape[1] for batch in batches)

    def wide(part: Tensor) -> Tensor:
        # Zeros: what is added is masked, and any id of the vocabulary does there.
        return F.pad(part, (0, width - part.shape[1])) if part.dim() == 2 else part

    return {key: torch.cat([wide(batch[key]) for batch in batches]) for key in batches[0]}


def select_pairs(batch: dict[str, Tensor], pairs: Sequence[int]) -> dict[str, Tensor]:
    """Some pairs of a batch, as wide as they need."""
    index = torch.tensor(pairs, device=batch["row"].device)
    masks = [batch[f"{side}_attention_mask"][index] for side in _SIDES]
    width = int(torch.stack([mask.sum(1).max() for mask in masks]).max())
    return {
        key: value[index, :width] if value.dim() == 2 else value[index]
        for key, value in batch.items()
    }
