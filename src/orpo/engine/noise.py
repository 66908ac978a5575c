"""NEFTune (arXiv 2310.05914): noise on the embeddings that depends on the pair and the step alone.

The noise of a pair is u * alpha / sqrt(L d), with u uniform in [-1, 1], L the tokens of the pair's
longer sequence and d the embedding's width: what transformers adds to a batch of that pair alone.
Every token that the pair holds has its own u, drawn from the pair's seed; a prompt has the same
noise before both answers, which the same network thus scores. So it makes no difference beside
which other pairs, by which engine or on which rank a pair is computed.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from orpo.engine.attention import transformer
from orpo.engine.layout import PairLayout, PairSpan, pair_lengths
from orpo.errors import ConfigError

Noise: TypeAlias = Callable[[int], Tensor]
"""From the embedding's width d to what is added to its output, (..., d)."""

_SEED, _ALPHA = "noise_seed", "noise_alpha"


def noise_columns(alpha: float, seed: int, step: int, rows: Tensor) -> dict[str, Tensor]:
    """The columns of a batch that ask for noise of strength `alpha`, one entry for each pair.

    From the seed of the run, the optimizer step, and (B,) int64 the pairs' rows in the data set.
    """
    drawn = [np.random.SeedSequence((seed, step, row)) for row in rows.tolist()]
    seeds = [int(one.generate_state(1, np.uint64)[0] >> 1) for one in drawn]
    return {
        _SEED: torch.tensor(seeds, dtype=torch.int64, device=rows.device),
        _ALPHA: torch.full(rows.shape, alpha, device=rows.device),
    }


def packed_noise(batch: Mapping[str, Tensor], layout: PairLayout) -> Noise | None:
    """The noise of a packed row, (1, S, d); None if the batch asks for none."""
    if _SEED not in batch:
        return None
    drawn = _drawn(batch, layout.spans)
    return lambda width: torch.cat(drawn(width))[None]


def padded_noise(batch: Mapping[str, Tensor]) -> Noise | None:
    """The noise of the rows of `pad_pairs`, (rows, L, d); None if the batch asks for none."""
    if _SEED not in batch:
        return None
    spans = PairLayout.of(pair_lengths(batch).tolist()).spans
    drawn, length = _drawn(batch, spans), batch["chosen_input_ids"].shape[1]
    answered = batch["rejected_answer_mask"].any(1).tolist()

    def rows(width: int) -> Tensor:
        found = []
        for span, noise, both in zip(spans, drawn(width), answered, strict=True):
            turn = span.prefix + span.chosen
            found.append(noise[:turn])
            if both:
                found.append(torch.cat([noise[: span.prefix], noise[turn:]]))
        return torch.stack([F.pad(one, (0, 0, 0, length - len(one))) for one in found])

    return rows


@contextlib.contextmanager
def noisy(model: nn.Module, noise: Noise | None) -> Iterator[None]:
    """Within it a forward pass has noise on its embeddings.

    A ConfigError if the model does not look every token up once.
    """
    if noise is None:
        yield
        return
    bare = transformer(model)
    table = (model if bare is None else bare).get_input_embeddings()  # type: ignore[operator]

    def add(_table: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        added = noise(output.shape[-1])
        if added.shape != output.shape:
            raise ConfigError(
                "the model does not look every token up once, so that noise has no place in it",
                where="neftune_noise_alpha",
                fix="Leave it out.",
            )
        return output + added.to(output)

    handle = table.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def _drawn(batch: Mapping[str, Tensor], spans: Sequence[PairSpan]) -> Callable[[int], list[Tensor]]:
    """From the width to the noise of each pair's P, C and R."""
    device = batch["row"].device
    seeds, alphas = batch[_SEED].tolist(), batch[_ALPHA].tolist()

    def draw(width: int) -> list[Tensor]:
        found = []
        for span, seed, alpha in zip(spans, seeds, alphas, strict=True):
            tokens = span.prefix + span.chosen + span.rejected
            longer = span.prefix + max(span.chosen, span.rejected)
            generator = torch.Generator(device).manual_seed(seed)
            u = torch.rand(tokens, width, generator=generator, device=device) * 2 - 1
            found.append(u * (alpha / (longer * width) ** 0.5))
        return found

    return draw
