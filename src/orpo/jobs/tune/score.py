"""What is maximised: one number for each held-out pair, whatever lambda it was trained with.

The training loss cannot be compared between trials: lambda is one of its factors. In its place
stands the loss with one lambda for all of them, that of ORPO's default, and with its sign turned:

    score = l(y_w) + 0.1 log sigmoid(z)

l(y_w) is the length-averaged log-probability of the chosen answer (eq. 3 of arXiv 2403.07691) and
falls where a run forgets how to answer; log sigmoid(z) (eq. 7, with the log odds ratio z of eq. 6)
falls where it prefers the rejected answer. How often the chosen answer is preferred, or how
clearly, is no measure by itself: it goes on rising where the answers have long become worse.
`benchmarks/tune_criterion.py` measures how well this and other criteria pick recipes.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from orpo.objective import log_odds

__all__ = ["WEIGHT", "Floats", "pair_scores"]

WEIGHT = 0.1
"""What a nat of preference is worth beside a nat of the chosen answer's log-probability."""

Floats: TypeAlias = NDArray[np.float64]


def pair_scores(chosen: Any, rejected: Any) -> Floats:
    """l(y_w) + 0.1 log sigmoid(z) of each pair, in nats; at most 0, higher is better.

    Args:
        chosen: Length-averaged log-probabilities of the chosen answers, shape (pairs,).
        rejected: Those of the rejected answers, shape (pairs,).
    """
    first, second = (np.asarray(one, dtype=np.float64) for one in (chosen, rejected))
    odds = [log_odds(torch.from_numpy(one)).numpy() for one in (first, second)]
    scores: Floats = first - WEIGHT * np.logaddexp(0.0, odds[1] - odds[0])
    return scores
