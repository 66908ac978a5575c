"""What a run takes: steps, positions, operations, hours, money; and memory, if it fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from orpo.config import MOST_STEPS_OF_A_LOG, ORPOConfig
from orpo.engine.footprint import Counted, Footprint, ModelShape, Wrapper, footprint
from orpo.engine.memory import most_positions
from orpo.train.fleet import Fleet
from orpo.train.work import ModelCost, Work, steps_in_all, steps_per_epoch

_SHARE = 0.9
"""Part of a device that the formula may fill: it does not know fragmentation and buffers."""
_LOGITS = {"cuda": 1 << 30, "cpu": 256 << 20}


@dataclass(frozen=True)
class PairSize:
    """Mean tokens of a pair."""

    prompt: float
    chosen: float
    rejected: float  # 0 under SFT
    longest: int  # positions of the longest pair
    common: float = 0.0  # tokens that both answers begin with; the shared engine has them once

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

    def work(self, pairs: int, config: ORPOConfig, *, trained: bool) -> Work:
        """Of so many pairs that are trained on, or only scored."""
        positions = round(pairs * self.positions(config))
        predictions = round(pairs * self.predictions(config))
        if trained:
            return Work(pairs=pairs, positions_trained=positions, predictions_trained=predictions)
        return Work(positions_scored=positions, predictions_scored=predictions)


@dataclass(frozen=True)
class Plan:
    """What the run will take."""

    pairs_per_step: int  # on all devices together
    steps: int
    epochs: float
    pairs: int  # trained on, each as often as it is
    positions: float  # that go through the model with gradient
    flops: float
    evaluation_flops: float  # of the held-out pairs before, after and, if asked for, in between
    hours: float | None  # all of it; None if the device's rate is not known
    device_hours: float | None
    cost: float | None  # None if no price was given


def plan_of(
    config: ORPOConfig,
    fleet: Fleet,
    cost: ModelCost,
    train: tuple[int, PairSize],
    held_out: tuple[int, PairSize] | None = None,
) -> Plan:
    """Count what a run will do with so many pairs of such a size."""
    count, size = train
    per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps * fleet.ranks
    an_epoch = steps_per_epoch(config, count, fleet.ranks)
    steps = steps_in_all(config, count, fleet.ranks)
    epochs = steps / an_epoch
    whole, rest = divmod(steps, an_epoch)
    pairs = whole * count + min(count, rest * per_step)
    work = size.work(pairs, config, trained=True)
    if config.objective == "dpo":
        work += size.work(count, config, trained=False)
    flops, looks = cost.flops(work), 0.0
    if held_out is not None:  # before, after, and as eval_strategy says
        often = 2.0 + (int(epochs) if config.eval_strategy == "epoch" else 0)
        if config.eval_strategy == "steps":
            every = float(config.eval_steps or MOST_STEPS_OF_A_LOG)
            often += int(steps / (every * steps if every < 1 else every))
        looks = often * cost.flops(held_out[1].work(held_out[0], config, trained=False))
    rate = fleet.flops_per_second
    hours = None if rate is None else (flops + looks) / rate / 3600
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


@dataclass(frozen=True)
class MemoryNeed:
    """All that the memory of a step depends on, and what a device will hold."""

    shape: ModelShape
    counted: Counted
    wrapper: Wrapper
    ranks: int
    kind: str
    available: int
    longest: int  # positions of the longest pair
    most: int  # positions of an optimizer step
    asked: int | None  # max_tokens_per_microbatch
    checkpointing: bool
    autocast: bool

    @classmethod
    def of(
        cls, shape: ModelShape, counted: Counted, config: ORPOConfig, fleet: Fleet, pair: PairSize
    ) -> MemoryNeed:
        """Of a step of a run."""
        batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
        return cls(
            shape=shape,
            counted=counted,
            wrapper=fleet.wrapper,
            ranks=fleet.ranks,
            kind=fleet.device.kind,
            available=fleet.device.memory,
            longest=pair.longest,
            most=max(pair.longest, int(batch * pair.positions(config))),
            asked=config.max_tokens_per_microbatch,
            checkpointing=bool(config.gradient_checkpointing),
            autocast=bool(config.bf16 or config.fp16),
        )

    @property
    def room(self) -> int:
        """Bytes that may be used."""
        return int(_SHARE * self.available)

    @property
    def tokens(self) -> int:
        """Positions of a micro-batch, as the trainer plans them; never less than a pair has."""
        planned = self.asked or most_positions(self.kind)
        if self.asked is None and self.wrapper in ("one", "ddp"):  # planned from the memory
            fixed, slope = self.at(0).total, self.at(1).total - self.at(0).total
            planned = min(planned, (self.room - fixed) // max(1, slope))
        return max(self.longest, min(planned, self.most))

    def at(self, tokens: int) -> Footprint:
        """What is held with micro-batches of so many positions."""
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
    def parts(self) -> Footprint:
        """What is held at the peak of a step."""
        return self.at(self.tokens)

    @property
    def fits(self) -> bool:
        """Whether it does, with a margin."""
        return self.parts.total <= self.room

    @property
    def verdict(self) -> str:
        """Whether it fits, and what would."""
        total, gib = self.parts.total, 1 << 30
        share = (
            f"{total / gib:.1f} of {self.available / gib:.1f} GiB ({total / self.available:.0%})"
        )
        if self.fits:
            return f"fits: {share}"
        ways = list(self._remedies())[:2] or ["a smaller model or a larger device"]
        return f"does not fit: {share}; what would: {'; or '.join(ways)}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rest = ("tokens", "available", "fits", "verdict")
        parts = {**asdict(self.parts), "total": self.parts.total}
        return {"parts": parts, **{name: getattr(self, name) for name in rest}}

    def _remedies(self) -> Iterator[str]:
        """Changes of the recipe after which it fits, the smallest first."""
        tight = replace(self, asked=self.longest)
        checkpointed = replace(self, checkpointing=True)
        both = replace(tight, checkpointing=True)
        lora, qlora = (
            replace(both, counted=Counted.by_shape(self.shape, kind, autocast=self.autocast))
            for kind in ("lora", "qlora")
        )
        full, on_gpu = self.counted.full, self.kind == "cuda"
        tokens = f"max_tokens_per_microbatch: {self.longest}"
        often = "" if self.checkpointing else ", gradient_checkpointing: true"
        small = often if self.tokens == self.longest else f"{often}, {tokens}"
        in_four_bits = on_gpu and full and self.wrapper in ("one", "ddp")
        ways = [
            (not self.checkpointing, checkpointed, "gradient_checkpointing: true"),
            (self.tokens > self.longest, tight, tokens),
            (not self.checkpointing, both, small.removeprefix(", ")),
            (full, lora, f"lora_r: 16, model_dtype: bfloat16{small}"),
            (in_four_bits, qlora, f"lora_r: 16, quantize: 4bit, model_dtype: bfloat16{small}"),
        ]
        yield from (words for possible, changed, words in ways if possible and changed.fits)
        for ranks in (2, 4, 8, 16, 32, 64) if on_gpu else ():
            if ranks > self.ranks and replace(both, wrapper="fsdp2", ranks=ranks).fits:
                yield f"{ranks} devices with FSDP2{small}"
                return
