"""ORPO from its equations, one sequence at a time, in float64: what the trainer is held to.

No batch, no padding, no library code: each sequence goes through the model alone, its
log-probabilities come from a log-softmax in float64, and the loss is eqs. 3-7 as written.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Pair = tuple[list[int], list[int], list[int]]
"""Token ids of prompt, chosen and rejected answer."""


def in_fp64(model: nn.Module) -> nn.Module:
    """A copy of a model in float64."""
    return copy.deepcopy(model).double().eval()


def sequence_logps(model: nn.Module, ids: Sequence[int]) -> Tensor:
    """log p(ids[t] | ids[:t]) for t = 1, 2, ..., shape (len(ids) - 1,), float64."""
    logits = model(input_ids=torch.tensor([list(ids)])).logits[0, :-1].double()
    return logits.log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]


@dataclass
class Oracle:
    """The numbers of a set of pairs; tensors keep their graph."""

    loss: Tensor
    nll_loss: Tensor
    log_odds_ratio: Tensor
    log_odds_chosen: Tensor
    log_odds_size: Tensor
    chosen_logps: Tensor
    rejected_logps: Tensor
    accuracy: Tensor


def orpo(
    model: nn.Module,
    pairs: Sequence[Pair],
    *,
    alpha: float = 0.1,
    beta: float = 1.0,
    nll_scope: str = "sequence",
    weights: Sequence[float] | None = None,
) -> Oracle:
    """Every number of the method for some pairs, as one batch.

    A weight multiplies both losses of its pair; one without rejected answer has no preference.
    """
    nlls, chosen, rejected, compared = [], [], [], []
    for weight, (prompt, good, bad) in zip(weights or [1.0] * len(pairs), pairs, strict=True):
        with_good = sequence_logps(model, prompt + good)
        answer = with_good[len(prompt) - 1 :]
        nlls.append(-weight * (with_good if nll_scope == "sequence" else answer))
        if bad:
            compared.append(weight)
            chosen.append(answer.mean())
            rejected.append(sequence_logps(model, prompt + bad)[len(prompt) - 1 :].mean())
    l_w, l_l = torch.stack(chosen), torch.stack(rejected)
    log_odds = torch.log(l_w.exp() / (1 - l_w.exp())) - torch.log(l_l.exp() / (1 - l_l.exp()))
    log_sigmoid = torch.log(1 / (1 + torch.exp(-beta * log_odds))) * torch.tensor(compared)
    nll = torch.cat(nlls).mean()
    return Oracle(
        loss=nll - alpha * log_sigmoid.mean(),
        nll_loss=nll,
        log_odds_ratio=log_sigmoid.mean(),
        log_odds_chosen=log_odds.mean(),
        log_odds_size=log_odds.abs().mean(),
        chosen_logps=l_w,
        rejected_logps=l_l,
        accuracy=(l_w > l_l).double().mean(),
    )


def gradients(model: nn.Module, pairs: Sequence[Pair], **settings: object) -> dict[str, Tensor]:
    """d loss / d parameter of a float64 copy of the model, by parameter name."""
    exact = in_fp64(model)
    orpo(exact, pairs, **settings).loss.backward()
    return {n: p.grad for n, p in exact.named_parameters() if p.grad is not None}


def relative_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """||ours - theirs|| / ||theirs|| over all parameters together."""
    assert ours.keys() == theirs.keys()
    difference = sum(float((ours[n].double() - theirs[n].double()).square().sum()) for n in ours)
    size = sum(float(theirs[n].double().square().sum()) for n in ours)
    return (difference / size) ** 0.5


def pairs_of(dataset: object) -> list[Pair]:
    """The pairs of a prepared data set."""
    return [(r["prompt_ids"], r["chosen_ids"], r["rejected_ids"]) for r in dataset]
