"""Trying an engine out before it is trusted: its numbers against one sequence at a time.

The pairs are random tokens, longer than any sliding window that the model's positions allow for.
Compared are the log-probabilities and the gradient of a few of the model's own parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from orpo.data import PairCollator
from orpo.engine.head import sum_pairs, token_logps
from orpo.engine.layout import pad_pairs
from orpo.engine.trial import on_trial
from orpo.engine.types import Engine
from orpo.objective import PairLogps

__all__ = ["self_test"]

_LONGEST = 4608
"""Tokens of the longest sequence that is tried."""
_SMALL = 1 << 16
"""Parameters of at most this many numbers have their gradients compared."""


def self_test(model: nn.Module, engine: Engine) -> str | None:
    """Compare an engine with the model's stock path, one sequence at a time, naive head.

    Returns:
        None if they agree, else one line that says by how much they do not.
    """
    batch = _random_batch(model)
    watched = _watched(model)
    with on_trial(model):
        expected, expected_grads = _one_at_a_time(model, batch, engine.nll_scope, watched)
        try:
            output = engine(model, batch, _objective)
            grads = _gradients(output.loss, watched)
        except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            return f"self-test: {first}"
    return _difference(output.logps, expected, model) or _apart(grads, expected_grads, model)


def _objective(logps: PairLogps) -> Tensor:
    """Something that weighs all three sums, a sum over pairs."""
    chosen, rejected = logps.chosen_logps, logps.rejected_logps
    return (logps.nll_sum / logps.nll_tokens + chosen - 0.5 * rejected).sum()


def _one_at_a_time(
    model: nn.Module, batch: Mapping[str, Tensor], nll_scope: str, watched: list[nn.Parameter]
) -> tuple[PairLogps, list[Tensor]]:
    padded = pad_pairs(batch, nll_scope)
    lengths = padded.attention_mask.sum(1).tolist()
    logits = []
    for ids, length in zip(padded.input_ids, lengths, strict=True):
        found = model(input_ids=ids[None, :length], use_cache=False).logits
        logits.append(nn.functional.pad(found, (0, 0, 0, padded.input_ids.shape[1] - length)))
    logps = sum_pairs(token_logps(torch.cat(logits), padded.predictions), padded.predictions)
    return logps.detached(), _gradients(_objective(logps), watched)


def _gradients(loss: Tensor, watched: list[nn.Parameter]) -> list[Tensor]:
    if not watched:
        return []
    return list(torch.autograd.grad(loss, watched, allow_unused=True, materialize_grads=True))


def _difference(found: PairLogps, expected: PairLogps, model: nn.Module) -> str | None:
    tolerance = 1e-4 if _exact(model) else 5e-2
    for name in ("chosen_logps", "rejected_logps"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        apart = float((ours - theirs).abs().max())
        if not apart <= tolerance * (1 + float(theirs.abs().max())):
            return f"self-test: {name} {apart:.2g} apart from one sequence at a time"
    return None


def _apart(found: list[Tensor], expected: list[Tensor], model: nn.Module) -> str | None:
    tolerance = 1e-2 if _exact(model) else 0.25
    difference = sum(
        float((a.double() - b.double()).square().sum())
        for a, b in zip(found, expected, strict=True)
    )
    size = sum(float(b.double().square().sum()) for b in expected)
    if not difference <= tolerance**2 * size:
        share = (difference / size) ** 0.5 if size else float("inf")
        return f"self-test: gradients {share:.2g} apart from one sequence at a time"
    return None


def _exact(model: nn.Module) -> bool:
    return all(p.dtype in (torch.float32, torch.float64) for p in model.parameters())


def _watched(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad and p.numel() <= _SMALL][:64]


def _random_batch(model: nn.Module) -> dict[str, Tensor]:
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    positions = int(getattr(text, "max_position_embeddings", None) or _LONGEST)
    window = int(getattr(text, "sliding_window", None) or 0)
    room = min(positions, _LONGEST) - 12
    prompt = max(1, min(window + 3 if window + 3 <= room else 12, room))
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(getattr(text, "vocab_size", 2))

    def ids(count: int) -> list[int]:
        return torch.randint(0, vocabulary, (count,), generator=generator).tolist()

    rows = [
        {"prompt_ids": ids(p), "chosen_ids": ids(c), "rejected_ids": ids(r), "row": i}
        for i, (p, c, r) in enumerate([(prompt, 9, 7), (5, 4, 8)])
    ]
    device = next(model.parameters()).device
    return {key: value.to(device) for key, value in PairCollator(0)(rows).items()}
