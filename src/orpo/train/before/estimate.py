"""What a run takes: steps, positions, operations, hours, money; and memory, if it fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from orpo.config import ORPOConfig
from orpo.engine.footprint import Counted, Footprint, ModelShape, Wrapper, footprint
from orpo.engine.memory import most_positions
from orpo.train.before.fleet import Fleet
from orpo.train.optimizers import steps_in_all, steps_per_epoch
from orpo.train.work import ModelCost, Work

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
    """Count what a run will do."""
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


_SHARE = 0.9
"""Part of a device that the formula may fill: it does not know fragmentation and buffers."""
_LOGITS = {"cuda": 1 << 30, "cpu": 256 << 20}
_GIB = 1 << 30


@dataclass(frozen=True)
class Setup:
    """All that the memory of a step depends on."""

    shape: ModelShape
    counted: Counted
    wrapper: Wrapper
    ranks: int
    kind: str
    memory: int
    longest: int
    most: int
    asked: int | None
    checkpointing: bool
    autocast: bool

    @property
    def room(self) -> int:
        """Bytes that may be used."""
        return int(_SHARE * self.memory)

    @property
    def tokens(self) -> int:
        """Positions of a micro-batch, as the trainer plans them; never less than a pair has."""
        planned = self.asked or most_positions(self.kind)
        if self.asked is None and self.wrapper in ("one", "ddp"):  # planned from the memory
            fixed, slope = self.at(0).total, self.at(1).total - self.at(0).total
            planned = min(planned, (self.room - fixed) // max(1, slope))
        return max(self.longest, min(planned, self.most))

    def at(self, tokens: int) -> Footprint:
        """The footprint with micro-batches of so many positions."""
        return footprint(
            self.shape,
            weights=self.counted,
            wrapper=self.wrapper,
            ranks=self.ranks,
            tokens=tokens,
            checkpointing=self.checkpointing,
            autocast=self.autocast,
            logits=_LOGITS[self.kind],
        )

    @property
    def footprint(self) -> Footprint:
        """Of a step of the run."""
        return self.at(self.tokens)

    @property
    def fits(self) -> bool:
        """Whether it does, with a margin."""
        return self.footprint.total <= self.room


@dataclass(frozen=True)
class MemoryNeed:
    """What a device holds, and what that means."""

    parts: Footprint
    tokens: int
    available: int
    fits: bool
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        parts = {**asdict(self.parts), "total": self.parts.total}
        rest = ("tokens", "available", "fits", "verdict")
        return {"parts": parts, **{name: getattr(self, name) for name in rest}}


def setup_of(
    shape: ModelShape, counted: Counted, config: ORPOConfig, fleet: Fleet, pair: tuple[int, float]
) -> Setup:
    """The setup of a run."""
    longest, mean = pair
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
    return Setup(
        shape=shape,
        counted=counted,
        wrapper=fleet.wrapper,
        ranks=fleet.ranks,
        kind=fleet.device.kind,
        memory=fleet.device.memory,
        longest=longest,
        most=max(longest, int(batch * mean)),
        asked=config.max_tokens_per_microbatch,
        checkpointing=bool(config.gradient_checkpointing),
        autocast=bool(config.bf16 or config.fp16),
    )


def need_of(setup: Setup) -> MemoryNeed:
    """What a device needs, and whether it has it."""
    parts, fits = setup.footprint, setup.fits
    share = parts.total / setup.memory
    numbers = f"{_gib(parts.total)} of {_gib(setup.memory)} GiB ({share:.0%})"
    if fits:
        verdict = f"fits: {numbers}"
    else:
        ways = list(_remedies(setup))
        advice = "; or ".join(ways[:2]) if ways else "a smaller model or a larger device"
        verdict = f"does not fit: {numbers}; what would: {advice}"
    return MemoryNeed(parts, setup.tokens, setup.memory, fits, verdict)


def _remedies(setup: Setup) -> Iterator[str]:
    """Changes of the recipe after which it fits, the smallest first."""
    shape = setup.shape
    tight = replace(setup, asked=setup.longest)
    checkpointed = replace(setup, checkpointing=True)
    both = replace(tight, checkpointing=True)
    lora, qlora = (
        replace(both, counted=Counted.by_shape(shape, kind, autocast=setup.autocast))
        for kind in ("lora", "qlora")
    )
    full, on_gpu = setup.counted.full, setup.kind == "cuda"
    tokens = f"max_tokens_per_microbatch: {setup.longest}"
    often = "" if setup.checkpointing else ", gradient_checkpointing: true"
    small = often if setup.tokens == setup.longest else f"{often}, {tokens}"
    in_four_bits = on_gpu and full and setup.wrapper in ("one", "ddp")
    ways = [
        (not setup.checkpointing, checkpointed, "gradient_checkpointing: true"),
        (setup.tokens > setup.longest, tight, tokens),
        (not setup.checkpointing, both, small.removeprefix(", ")),
        (full, lora, f"lora_r: 16, model_dtype: bfloat16{small}"),
        (in_four_bits, qlora, f"lora_r: 16, quantize: 4bit, model_dtype: bfloat16{small}"),
    ]
    for possible, changed, words in ways:
        if possible and changed.fits:
            yield words
    for ranks in (2, 4, 8, 16, 32, 64) if on_gpu else ():
        spread = replace(both, wrapper="fsdp2", ranks=ranks)
        if ranks > setup.ranks and spread.fits:
            yield f"{ranks} devices with FSDP2{small}"
            return


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f}"
