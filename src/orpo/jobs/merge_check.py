"""Whether a merged model says what its adapter said: logits before and after, on a few rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from orpo.errors import ModelError

__all__ = ["ensure_same", "logits_of", "untie"]

_ROWS, _TOKENS = 4, 24
_ROUNDING = {torch.bfloat16: 0.1, torch.float16: 0.02}
_ROUNDING_OF_FULL = 1e-3
"""Root mean square of the difference that rounding can make, in those of the logits."""


def logits_of(model: Any) -> Tensor:
    """What a model predicts for a few fixed rows of tokens, (rows, tokens, vocabulary) fp32."""
    size = int(model.get_input_embeddings().weight.shape[0])
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(0, size, (_ROWS, _TOKENS), generator=draws)
    ids[0] = torch.linspace(0, size - 1, _TOKENS).long()  # the last ones may have been added
    device = model.get_input_embeddings().weight.device
    model.eval()
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids.to(device), use_cache=False).logits
    return logits.float().cpu()


def untie(adapted: Any) -> None:
    """Give the output layer weights of its own, where an adapter changed one of two that were one.

    Merged into the matrix that both share, a change of the output layer would also be one of the
    embedding, and the other way round.
    """
    base = adapted.get_base_model()
    table, head = base.get_input_embeddings(), base.get_output_embeddings()
    if table is None or head is None or not (_is_adapted(table) or _is_adapted(head)):
        return
    inner = getattr(head, "base_layer", head)
    if getattr(table, "base_layer", table).weight is not getattr(inner, "weight", None):
        return
    inner.weight = nn.Parameter(inner.weight.detach().clone(), requires_grad=False)
    for config in (base.config, base.config.get_text_config()):
        config.tie_word_embeddings = False


def _is_adapted(module: nn.Module) -> bool:
    return hasattr(module, "base_layer")


def ensure_same(before: Tensor, after: Tensor, dtype: torch.dtype, where: str) -> None:
    """Refuse a merged model whose logits differ by more than rounding.

    Args:
        before: `logits_of` the model with its adapter.
        after: `logits_of` the merged model, as it was saved.
        dtype: Of the merged weights.
        where: What is merged.

    Raises:
        ModelError: They differ; says by how much.
    """
    if before.shape == after.shape:
        allowed = _ROUNDING.get(dtype, _ROUNDING_OF_FULL) * float(before.std())
        off = float((after - before).square().mean().sqrt())
        if off <= allowed:
            return
        said = f"its logits differ by {off:.2g}, and rounding explains {allowed:.2g}"
    else:
        said = f"its logits have the shape {tuple(after.shape)}, not {tuple(before.shape)}"
    raise ModelError(
        f"merged, the model would be another one ({said})",
        where=where,
        fix="Use the adapter as it is, or merge it in float32 (--dtype float32).",
    )
