"""The padded engine: both answers of every pair as padded rows, one forward pass.

It works with any decoder-only model, and with the naive head (`head=None`) is the reference that
everything faster is held to. What a sequence gets is defined by itself alone, but some models give
it something else beside others: those with borders (`orpo.engine.probing`) beside sequences on
another side, and a few beside any. `ApartEngine` shares passes among pairs with both sequences on
one side. Where a pair's own sequences must be parted, the log-probabilities of both are found
without gradient first, which gives dL/dl of each answer; then every sequence has its own pass with
that weight.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from orpo.data.pack import select_pairs
from orpo.engine.fused_head import FusedHead, output_layer
from orpo.engine.head import Objective, sum_pairs, token_logps
from orpo.engine.layout import Predictions, pad_pairs, pair_lengths
from orpo.engine.noise import Noise, noisy, padded_noise
from orpo.engine.passes import fused_pass
from orpo.engine.probing import Border, forget_lengths
from orpo.engine.types import Engine, EngineOutput
from orpo.objective.types import PairLogps


@dataclass(frozen=True)
class PaddedEngine:
    """Chosen rows beside rejected rows, right-padded, through the model at once."""

    nll_scope: str = "sequence"  # "sequence" or "completion", see `ORPOConfig`
    router_loss: bool = False  # ask a mixture-of-experts model for its auxiliary loss
    head: FusedHead | None = None  # the fused head; None for the naive one, which keeps all logits
    name: ClassVar[str] = "padded"
    pads: ClassVar[bool] = True

    def __call__(
        self, model: nn.Module, batch: Mapping[str, Tensor], objective: Objective
    ) -> EngineOutput:
        """Score a batch of `orpo.data.PairCollator` and apply the objective."""
        padded = pad_pairs(batch, self.nll_scope)
        with noisy(model, padded_noise(batch)):
            return self.score(
                model, padded.input_ids, padded.attention_mask, padded.predictions, objective
            )

    def score(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        predictions: Predictions,
        objective: Objective,
    ) -> EngineOutput:
        """Score what some rows, (rows, L), are asked for; no mask where nothing is padded."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
        inputs |= {"output_router_logits": True} if self.router_loss else {}
        layer = None if self.head is None else output_layer(model)
        if self.head is not None and layer is not None:
            return fused_pass(model, layer, inputs, predictions, objective, self.head)
        outputs: Any = model(**inputs)
        logps = sum_pairs(token_logps(outputs.logits, predictions), predictions)
        aux_loss = getattr(outputs, "aux_loss", None) if self.router_loss else None
        positions = input_ids.numel()
        return EngineOutput(objective(logps), logps.detached(), aux_loss, positions, positions)

    def release(self, model: nn.Module) -> None:
        """Nothing was changed."""

    def positions(self, prefix: int, chosen: int, rejected: int) -> int:
        """Positions that one pair takes up in the model at most, without padding to a longer pair.

        Lengths do not tell a row without rejected answer, which takes up half of them, from one
        whose rejected answer is the beginning of its chosen one.
        """
        return 2 * (prefix + max(chosen, rejected))


_SUMS = ("chosen_sum", "rejected_sum", "nll_sum")


@dataclass(frozen=True)
class ApartEngine:
    """Another engine, given only what may go through the model together."""

    inner: Engine  # the engine
    borders: tuple[Border, ...] = ()  # lengths on whose sides sequences stay apart
    alone: bool = False  # whether every sequence goes by itself

    @property
    def name(self) -> str:
        """The engine's name, as in `ORPOConfig.engine`."""
        return self.inner.name

    @property
    def nll_scope(self) -> str:
        """Which tokens the NLL counts, as in `ORPOConfig.nll_scope`."""
        return self.inner.nll_scope

    @property
    def head(self) -> FusedHead | None:
        """What takes the place of the output layer; None if logits are kept."""
        return self.inner.head

    @property
    def pads(self) -> bool:
        """Whether every pair of a micro-batch takes as much room as its longest."""
        return self.inner.pads

    @property
    def router_loss(self) -> bool:
        """Whether a mixture of experts is asked for its auxiliary loss."""
        return self.inner.router_loss

    def __call__(
        self, model: nn.Module, batch: Mapping[str, Tensor], objective: Objective
    ) -> EngineOutput:
        """Score a batch of `orpo.data.PairCollator` and apply the objective."""
        groups = self._groups(batch)
        outputs = []
        for key, pairs in groups.items():
            # In any order of their own, pairs of one micro-batch would round differently.
            part = select_pairs(dict(batch), pairs)
            if key is None:
                outputs.append(self._by_sequence(model, part, objective))
            else:
                self._forget(model)
                outputs.append(self.inner(model, part, objective))
        return _together(outputs, list(groups.values()))

    def release(self, model: nn.Module) -> None:
        """Leave the model as it was found; the next call may change it again."""
        self.inner.release(model)
        self._forget(model)

    def positions(self, prefix: int, chosen: int, rejected: int) -> int:
        """Positions that one pair takes up in the model, from its lengths in tokens."""
        if self._side(prefix, chosen, rejected) is None:
            return 2 * prefix + chosen + rejected
        return self.inner.positions(prefix, chosen, rejected)

    def _groups(self, batch: Mapping[str, Tensor]) -> dict[tuple[int, ...] | None, list[int]]:
        """Indices of pairs by the side that both of their sequences are on; None for two sides."""
        groups: dict[tuple[int, ...] | None, list[int]] = defaultdict(list)
        answered = batch["rejected_answer_mask"].any(1).tolist()
        for i, (prefix, chosen, rejected) in enumerate(pair_lengths(batch).tolist()):
            groups[self._side(prefix, chosen, rejected if answered[i] else chosen)].append(i)
        return groups

    def _side(self, prefix: int, chosen: int, rejected: int) -> tuple[int, ...] | None:
        one, other = (
            tuple(border.side(prefix + answer) for border in self.borders)
            for answer in (chosen, rejected)
        )
        return None if self.alone or one != other else one

    def _forget(self, model: nn.Module) -> None:
        if any(border.graded for border in self.borders):
            forget_lengths(model)

    def _by_sequence(
        self, model: nn.Module, batch: Mapping[str, Tensor], objective: Objective
    ) -> EngineOutput:
        """The pairs of a batch, every sequence by itself."""
        devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
        with torch.no_grad(), torch.random.fork_rng(sorted(devices, key=str)):
            output = self._passes(model, batch, torch.zeros(len(batch["row"]), len(_SUMS)))
        sums = [getattr(output.logps, name).detach().requires_grad_() for name in _SUMS]
        loss = objective(replace(output.logps, **dict(zip(_SUMS, sums, strict=True))))
        if not (torch.is_grad_enabled() and loss.requires_grad):
            return replace(output, loss=loss.detach())
        found = torch.autograd.grad(loss, sums, allow_unused=True, materialize_grads=True)
        again = self._passes(model, batch, torch.stack(found, dim=1))
        # The value is the objective's, the gradient that of the weighed sums.
        return replace(again, loss=again.loss + (loss - again.loss).detach(), logps=output.logps)

    def _passes(
        self, model: nn.Module, batch: Mapping[str, Tensor], weights: Tensor
    ) -> EngineOutput:
        """A pass for every sequence; its loss weighs the three sums of each pair, (B, 3)."""
        single = PaddedEngine(self.nll_scope, self.router_loss, self.head)
        padded, noise = pad_pairs(batch, self.nll_scope), padded_noise(batch)
        width, outputs = padded.input_ids.shape[1], []
        answered = batch["rejected_answer_mask"].any(1).tolist()
        pairs = [i for i, both in enumerate(answered) for _ in range(2 if both else 1)]  # of rows
        for row, (pair, length) in enumerate(
            zip(pairs, padded.attention_mask.sum(1).tolist(), strict=True)
        ):
            self._forget(model)
            own = _of_row(padded.predictions, row, width, pair)
            ids = padded.input_ids[row : row + 1, :length]
            with noisy(model, noise and _row_of(noise, row, length)):
                outputs.append(single.score(model, ids, None, own, _weighed(weights[pair])))
        return _summed(outputs, pairs, padded.predictions.given)


def _of_row(predictions: Predictions, row: int, width: int, pair: int) -> Predictions:
    """Those of one padded row, which is of this pair."""
    own = predictions.source // width == row
    source = predictions.source[own] - row * width
    given = {name: value[pair : pair + 1] for name, value in predictions.given.items()}
    return Predictions(
        source, predictions.target[own], predictions.member[own], (0, len(source)), given
    )


def _row_of(noise: Noise, row: int, length: int) -> Noise:
    return lambda width: noise(width)[row : row + 1, :length]


def _weighed(weights: Tensor) -> Objective:
    """The sums of a pair, each times its weight."""

    def objective(logps: PairLogps) -> Tensor:
        sums = torch.stack([getattr(logps, name) for name in _SUMS], dim=-1)
        return (sums * weights.to(sums)).sum()

    return objective


def _summed(
    outputs: Sequence[EngineOutput], pairs: Sequence[int], given: Mapping[str, Tensor]
) -> EngineOutput:
    """Passes over the sequences of some pairs as one."""
    names = (*_SUMS, "chosen_tokens", "rejected_tokens", "nll_tokens")
    index = torch.tensor(pairs, device=outputs[0].logps.chosen_sum.device)
    found = {n: torch.cat([getattr(o.logps, n) for o in outputs]) for n in names}
    sums = {n: x.new_zeros(pairs[-1] + 1).index_add(0, index, x) for n, x in found.items()}
    return _combined(outputs, PairLogps(**sums, **given), [1 / pairs.count(i) for i in pairs])


def _together(outputs: Sequence[EngineOutput], groups: Sequence[list[int]]) -> EngineOutput:
    """Passes over different pairs of a batch as one, the pairs in the batch's order."""
    order = torch.tensor([i for pairs in groups for i in pairs]).argsort()
    parts: dict[str, Tensor] = {}
    for name in (f.name for f in fields(PairLogps)):
        found = [getattr(o.logps, name) for o in outputs]
        if found[0] is not None:
            parts[name] = torch.cat(found)[order.to(found[0].device)]
    return _combined(outputs, PairLogps(**parts), [len(pairs) for pairs in groups])


def _combined(
    outputs: Sequence[EngineOutput], logps: PairLogps, pairs: Sequence[float]
) -> EngineOutput:
    """Some passes as one; `pairs` says how many pairs each stands for."""
    losses = [o.aux_loss * n for o, n in zip(outputs, pairs, strict=True) if o.aux_loss is not None]
    return EngineOutput(
        torch.stack([o.loss for o in outputs]).sum(),
        logps,
        torch.stack(losses).sum() / sum(pairs) if losses else None,
        sum(o.positions for o in outputs),
        sum(o.predictions for o in outputs),
    )
