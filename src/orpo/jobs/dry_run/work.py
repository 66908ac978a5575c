"""How much there is to do: optimizer steps, positions, floating-point operations, hours, money."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from orpo.config import ORPOConfig
from orpo.jobs.dry_run.assumptions import Fleet
from orpo.train.optimizers import steps_in_all, steps_per_epoch
from orpo.train.work import ModelCost, Work

__all__ = ["PairSize", "Plan", "never_reached", "plan_of"]

_HOUR = 3600.0


@dataclass(frozen=True)
class PairSize:
    """Mean tokens of a pair.

    Attributes:
        prompt: P.
        chosen: C.
        rejected: R; 0 under SFT.
        longest: Positions of the longest pair.
        common: Tokens that both answers begin with; the shared engine has them once.
    """

    prompt: float
    chosen: float
    rejected: float
    longest: int
    common: float = 0.0

    def positions(self, config: ORPOConfig) -> float:
        """That a pair takes up in the model: its prompt once, or under the padded engine twice."""
        if config.engine == "padded" and self.rejected:
            return 2 * (self.prompt + max(self.chosen, self.rejected))
        return self.prompt + self.chosen + self.rejected - self.common

    def predictions(self, config: ORPOConfig) -> float:
        """Positions whose logits are computed: P - 1 + C + R, of the answers alone C + R."""
        prompt = 0.0 if config.nll_scope == "completion" else max(0.0, self.prompt - 1)
        common = 0.0 if config.engine == "padded" else self.common
        return prompt + self.chosen + self.rejected - common


@dataclass(frozen=True)
class Plan:
    """What the run will take.

    Attributes:
        pairs_per_step: Pairs of an optimizer step, on all devices together.
        steps: Optimizer steps.
        epochs: How often the data are gone through.
        pairs: Pairs trained on, each as often as it is.
        positions: Positions that go through the model with gradient.
        flops: Operations of the training.
        evaluation_flops: Of the held-out pairs before, after and, if asked for, in between.
        hours: All of it; None if the device's rate is not known.
        device_hours: Hours of all devices.
        cost: Of them; None if no price was given.
    """

    pairs_per_step: int
    steps: int
    epochs: float
    pairs: int
    positions: float
    flops: float
    evaluation_flops: float
    hours: float | None
    device_hours: float | None
    cost: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def plan_of(
    config: ORPOConfig,
    fleet: Fleet,
    cost: ModelCost,
    train: tuple[int, PairSize],
    held_out: tuple[int, PairSize] | None,
) -> Plan:
    """Count what a run will do.

    Args:
        config: The settings.
        fleet: The devices.
        cost: Of the model.
        train: Number and size of the pairs.
        held_out: The same of the held-out ones, if there are any.
    """
    count, size = train
    per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps * fleet.ranks
    an_epoch = steps_per_epoch(config, count, fleet.ranks)
    steps = steps_in_all(config, count, fleet.ranks)
    epochs = steps / an_epoch
    whole, rest = divmod(steps, an_epoch)
    pairs = whole * count + min(count, rest * per_step)
    work = _trained(pairs, size, config)
    scored = _scored(count, size, config) if config.objective == "dpo" else Work()
    flops = cost.flops(work + scored)
    looks = 0.0
    if held_out is not None:
        looks = _looks(config, steps, epochs) * cost.flops(_scored(*held_out, config))
    rate = fleet.flops_per_second
    hours = None if rate is None else (flops + looks) / rate / _HOUR
    together = None if hours is None else hours * fleet.ranks
    price = None if together is None or fleet.price is None else together * fleet.price
    positions = pairs * size.positions(config)
    return Plan(per_step, steps, epochs, pairs, positions, flops, looks, hours, together, price)


def never_reached(config: ORPOConfig, steps: int) -> list[str]:
    """Settings that lie beyond the end of so many optimizer steps, one line each."""
    lines = []
    if config.warmup_steps >= steps > 1:
        lines.append(
            f"warmup_steps is {config.warmup_steps:g} of {steps} steps: the learning rate never "
            "reaches its maximum, or only at the end"
        )
    means = {"eval": "nothing is evaluated in between", "save": "no checkpoint before the end"}
    for name, meaning in means.items():
        strategy, every = (getattr(config, f"{name}_{what}") for what in ("strategy", "steps"))
        if strategy == "steps" and every and every > steps:
            lines.append(f"{name}_steps is {every:g} of {steps} steps: {meaning}")
    return lines


def _looks(config: ORPOConfig, steps: int, epochs: float) -> int:
    """How often the held-out pairs are scored: before, after, and as eval_strategy says."""
    if config.eval_strategy == "steps":
        every = float(config.eval_steps or config.logging_steps)
        every = every * steps if every < 1 else every
        return 2 + int(steps / every)
    return 2 + (int(epochs) if config.eval_strategy == "epoch" else 0)


def _trained(pairs: int, size: PairSize, config: ORPOConfig) -> Work:
    return Work(
        pairs=pairs,
        positions_trained=round(pairs * size.positions(config)),
        predictions_trained=round(pairs * size.predictions(config)),
    )


def _scored(pairs: int, size: PairSize, config: ORPOConfig) -> Work:
    return Work(
        positions_scored=round(pairs * size.positions(config)),
        predictions_scored=round(pairs * size.predictions(config)),
    )
