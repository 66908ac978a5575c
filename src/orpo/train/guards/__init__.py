"""What stops a run before it is spoilt, and what says in words that it goes wrong."""

from orpo.train.guards.curves import CurveGuard, MarginCollapse, Spike, loss_spike, margin_collapse
from orpo.train.guards.nonfinite import NonFiniteGuard
from orpo.train.guards.watchdog import Watchdog

__all__ = [
    "CurveGuard",
    "MarginCollapse",
    "NonFiniteGuard",
    "Spike",
    "Watchdog",
    "loss_spike",
    "margin_collapse",
]
