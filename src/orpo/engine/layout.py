"""How pairs lie in a batch: which token stands where, attends to what, and is predicted from where.

A packed row holds every pair once, without padding:

    P C R | P C R | ...        P: the longest common prefix of both sequences of a pair, in tokens
                               C: what the chosen sequence adds to it, R: the rejected one

C and R both continue P: their position ids start at |P|, C attends to P and C, R to P and R, and
the hidden state of P's last token predicts the first token of both. Tokens that both answers begin
with lie in P; they are computed once and counted for both.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

Batch = Mapping[str, Tensor]
Built = TypeVar("Built")
_GIVEN = ("weight", "reference_chosen", "reference_rejected")


class PairSpan(NamedTuple):
    """Where one pair lies in a packed row: `start`, then the lengths of P, C and R in tokens."""

    start: int
    prefix: int
    chosen: int
    rejected: int

    @property
    def fork(self) -> int:
        """Index at which P ends and C begins."""
        return self.start + self.prefix

    @property
    def turn(self) -> int:
        """Index at which C ends and R begins."""
        return self.fork + self.chosen

    @property
    def end(self) -> int:
        """Index after the last token of the pair."""
        return self.turn + self.rejected


@dataclass(frozen=True)
class PairLayout:
    """What attends to what in a packed row; handed to every layer's attention."""

    spans: tuple[PairSpan, ...]  # the pairs, in order
    positions: Tensor  # (S,) int64, the position id of each token
    backend: str | None = None  # name of the attention back end; None for the fastest one
    avoid: frozenset[str] = frozenset()  # names of back ends that are not used if there is another
    _built: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        lengths: Iterable[tuple[int, int, int]],
        device: torch.device | None = None,
        backend: str | None = None,
        avoid: frozenset[str] = frozenset(),
    ) -> PairLayout:
        """The layout of pairs, from their numbers of tokens in P, C and R."""
        spans: list[PairSpan] = []
        positions = []
        for prefix, chosen, rejected in lengths:
            spans.append(PairSpan(spans[-1].end if spans else 0, prefix, chosen, rejected))
            positions += [torch.arange(prefix + chosen), torch.arange(prefix, prefix + rejected)]
        return cls(tuple(spans), torch.cat(positions).to(device), backend, avoid)

    @property
    def tokens(self) -> int:
        """S, the length of the packed row."""
        return self.spans[-1].end

    def once(self, key: Hashable, build: Callable[[], Built]) -> Built:
        """What `build` gives, computed once per batch rather than in every layer."""
        if key not in self._built:
            self._built[key] = build()
        built: Built = self._built[key]
        return built

    def pair_masks(self, window: int | None = None) -> list[tuple[slice, Tensor]]:
        """Of each pair its place in the row and its own mask, (n, n) bool; once per batch."""

        def build() -> list[tuple[slice, Tensor]]:
            sees, index = self.sees(window), torch.arange(self.tokens, device=self.positions.device)
            owns = [slice(span.start, span.end) for span in self.spans]
            return [(own, sees(index[own, None], index[None, own])) for own in owns]

        return self.once(("pair masks", window), build)

    def mask(self, window: int | None = None) -> Tensor:
        """(S, S) bool, True where a query (row) attends to a key (column): by definition.

        A window attends to this many positions only, the query's own included.
        """
        index = torch.arange(self.tokens, device=self.positions.device)
        return self.sees(window)(index[:, None], index[None, :])

    def sees(self, window: int | None = None) -> Callable[[Tensor, Tensor], Tensor]:
        """Whether queries attend to keys, both given by their indices in the row."""
        position, device = self.positions, self.positions.device
        pair = torch.empty(self.tokens, dtype=torch.int32)
        part = torch.zeros(self.tokens, dtype=torch.int32)
        for i, span in enumerate(self.spans):
            pair[span.start : span.end] = i
            part[span.fork : span.turn] = 1
            part[span.turn : span.end] = 2
        pair, part = pair.to(device), part.to(device)

        def seen(query: Tensor, key: Tensor) -> Tensor:
            distance = position[query] - position[key]
            visible = (pair[query] == pair[key]) & ((part[key] == 0) | (part[query] == part[key]))
            visible = visible & (distance >= 0)
            return visible & (distance < window) if window else visible

        return seen


@dataclass(frozen=True)
class Predictions:
    """The tokens whose log-probabilities a batch asks for. U predictions, B pairs."""

    source: Tensor  # (U,) int64, flat index of the hidden state that predicts; pair by pair
    target: Tensor  # (U,) int64, id of the token that is predicted
    member: Tensor  # (U, 3) bool: counted for the chosen answer, the rejected answer, the NLL
    bounds: tuple[int, ...]  # B + 1 offsets: those of pair i are bounds[i] : bounds[i + 1]
    given: Mapping[str, Tensor] = field(default_factory=dict)
    """What the batch says about each pair and the model does not: name out of `PairLogps` (weight,
    reference_chosen, reference_rejected) -> (B,)."""

    @property
    def pairs(self) -> int:
        """B."""
        return len(self.bounds) - 1

    def of(self, first: int, last: int) -> Predictions:
        """Those of the pairs first .. last - 1."""
        start, stop = self.bounds[first], self.bounds[last]
        return Predictions(
            self.source[start:stop],
            self.target[start:stop],
            self.member[start:stop],
            tuple(bound - start for bound in self.bounds[first : last + 1]),
            {name: value[first:last] for name, value in self.given.items()},
        )

    def pair_index(self) -> Tensor:
        """(U,) int64, the pair of each prediction."""
        counts = torch.tensor([b - a for a, b in zip(self.bounds, self.bounds[1:], strict=False)])
        index = torch.repeat_interleave(torch.arange(self.pairs), counts)
        return index.to(self.source.device)


@dataclass(frozen=True)
class PackedPairs:
    """A batch as one packed row."""

    input_ids: Tensor  # (1, S) int64
    position_ids: Tensor  # (1, S) int64
    layout: PairLayout  # what attends to what
    predictions: Predictions  # what is asked for


@dataclass(frozen=True)
class PaddedPairs:
    """A batch as padded rows: chosen and rejected of pair 0, of pair 1, ...

    Where there is no rejected answer there is no row for it.
    """

    input_ids: Tensor  # (up to 2B, L) int64
    attention_mask: Tensor  # (up to 2B, L) int64
    predictions: Predictions  # what is asked for


def pair_lengths(batch: Batch) -> Tensor:
    """(B, 3) int64: lengths of P, C and R of the pairs of a batch of `PairCollator`."""
    chosen, rejected = (batch[f"{side}_attention_mask"].bool() for side in ("chosen", "rejected"))
    same = (batch["chosen_input_ids"] == batch["rejected_input_ids"]) & chosen & rejected
    prefix = same.long().cumprod(1).sum(1)
    return torch.stack([prefix, chosen.sum(1) - prefix, rejected.sum(1) - prefix], dim=1)


def pack_pairs(
    batch: Batch,
    nll_scope: str,
    backend: str | None = None,
    avoid: frozenset[str] = frozenset(),
) -> PackedPairs:
    """One packed row from a batch of `orpo.data.PairCollator`, padded on the right.

    `nll_scope` as in `ORPOConfig`; `backend` and `avoid` as in `PairLayout`.
    """
    device, width = batch["chosen_input_ids"].device, batch["chosen_input_ids"].shape[1]
    layout = PairLayout.of(pair_lengths(batch).tolist(), device, backend, avoid)
    spans, position = layout.spans, layout.positions
    row = torch.arange(len(spans))  # of the flattened batch; the rejected rows come second
    sizes = [(span.prefix + span.chosen, span.rejected) for span in spans]
    begins = torch.stack([row, len(spans) + row], dim=1).flatten() * width
    cell = begins.repeat_interleave(torch.tensor(sizes).flatten()).to(device) + position
    input_ids = _flat(batch, "input_ids")[cell]
    member = _members(batch, spans, nll_scope, cell)
    source = torch.arange(len(cell)) - 1
    for span in spans:
        if span.rejected:
            source[span.turn] = span.fork - 1
    asked = (position > 0) & member.any(1)
    counts = _counts(asked, [span.end for span in spans])
    return PackedPairs(
        input_ids[None],
        position[None],
        layout,
        Predictions(
            source.to(device)[asked], input_ids[asked], member[asked], counts, _given(batch)
        ),
    )


def pad_pairs(batch: Batch, nll_scope: str) -> PaddedPairs:
    """Padded rows, chosen above rejected, from a batch of `orpo.data.PairCollator`."""
    answered = batch["rejected_answer_mask"].any(1)
    kept = torch.stack([torch.ones_like(answered), answered], dim=1).flatten()
    input_ids, attention_mask, answer_mask = (
        torch.stack([batch[f"chosen_{name}"], batch[f"rejected_{name}"]], dim=1).flatten(0, 1)[kept]
        for name in ("input_ids", "attention_mask", "answer_mask")
    )
    rows, width = input_ids.shape
    counted = attention_mask if nll_scope == "sequence" else answer_mask
    rejected = torch.arange(len(kept), device=kept.device)[kept] % 2 == 1
    chosen = ~rejected[:, None]
    answer = answer_mask.bool()
    member = torch.stack([answer & chosen, answer & ~chosen, counted.bool() & chosen], dim=2)
    member[:, 0] = False  # nothing stands before the first token
    member = member.flatten(0, 1)
    asked = member.any(1)
    ends = (width * (1 + answered.long()).cumsum(0)).tolist()
    source = torch.arange(-1, rows * width - 1, device=input_ids.device)
    predictions = Predictions(
        source[asked],
        input_ids.flatten()[asked],
        member[asked],
        _counts(asked, ends),
        _given(batch),
    )
    return PaddedPairs(input_ids, attention_mask, predictions)


def _given(batch: Batch) -> dict[str, Tensor]:
    return {name: batch[name] for name in _GIVEN if name in batch}


def _flat(batch: Batch, name: str) -> Tensor:
    return torch.cat([batch[f"chosen_{name}"].flatten(), batch[f"rejected_{name}"].flatten()])


def _members(batch: Batch, spans: Sequence[PairSpan], nll_scope: str, cell: Tensor) -> Tensor:
    """(S, 3) bool: what each token of the packed row is counted for."""
    answer = _flat(batch, "answer_mask")[cell].bool()
    tail = torch.zeros(len(cell), dtype=torch.bool)
    rejected = torch.zeros(len(cell), dtype=torch.bool)
    for span in spans:
        tail[span.turn : span.end] = True
        rejected[span.start : span.fork] = True
        rejected[span.turn : span.end] = True
    tail, rejected = tail.to(cell.device), rejected.to(cell.device)
    # Up to the fork both sequences are the same, and so is what their answers cover there.
    nll = ~tail if nll_scope == "sequence" else answer & ~tail
    return torch.stack([answer & ~tail, answer & rejected, nll], dim=1)


def _counts(asked: Tensor, ends: list[int]) -> tuple[int, ...]:
    """Offsets of the pairs among the asked positions, from where each pair ends."""
    before = torch.nn.functional.pad(asked.long().cumsum(0), (1, 0))
    return (0, *before[torch.tensor(ends, device=asked.device)].tolist())
