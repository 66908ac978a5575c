"""What compare, tune and bench are asked for; every value is checked before anything is loaded."""

from __future__ import annotations

import math
import os
import sys
from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo.errors import ConfigError, refuse_first
from orpo.evaluate.settings import JudgeSettings
from orpo.experiments.results import BUDGETS, METHODS, STAGES, Space, Values
from orpo.options import option
from orpo.runs.typed import plain
from orpo.settings import training_settings
from orpo.train.job import TrainJob

if TYPE_CHECKING:
    from orpo.config import ORPOConfig
    from orpo.evaluate.questions import Grader

OURS = "orpo"
PEERS = ("trl", "trl-grouped", "orpo-padded")
PRECISIONS = ("bf16", "fp32", "bf16-pure")
CHECKPOINTING = ("off", "on", "trl-default")
ROWS = ("dataset", "hh-like", "ultrafeedback-like")

Wrong = tuple[object, str, str]
"""Whether something is wrong, where, and what."""
_JOIN = "Join them to one file first."
_HOLD_OUT = "Add --eval_dataset NAME, or --held_out SHARE."
_RANGE = "Give a lower and a higher end, both positive."
_SHARE = "Let several processes or machines share a study: --storage."
_DATASET = f"Add --dataset NAME, or use --rows {' or '.join(ROWS[1:])}."

_MINUTES = 10.0
_RATES = {"full": (1e-6, 1e-4), "adapter": (1e-5, 1e-3)}
_AROUND = 10.0
_ALPHAS = (0.01, 2.0)
_OF_ONE_RUN = ("output_dir", "learning_rate", "orpo_alpha", "beta", "hub_token")
_OF_THE_MACHINE = (
    *("seed", "use_cpu", "dataloader_num_workers", "per_device_eval_batch_size", "data_cache"),
    *("max_tokens_per_microbatch", "engine"),
)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip().lower() for part in text.split(",") if part.strip())


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ArgumentTypeError(f"expected whole numbers, found {text!r}") from error


def _unknown(choices: Sequence[str], flag: str, *names: str) -> list[Wrong]:
    known = ", ".join(choices)
    return [(one not in choices, f"--{flag}", f"{one!r} is none of {known}") for one in names]


def _repeated(flag: str, values: Sequence[object]) -> Wrong:
    repeated = not values or len(set(values)) < len(values)
    return repeated, f"--{flag}", "needs different values, at least one"


def _below(least: int, **counts: int | None) -> list[Wrong]:
    given = [(flag, n) for flag, n in counts.items() if n is not None]
    return [(n < least, f"--{flag}", f"must be at least {least}, is {n}") for flag, n in given]


def _not_positive(**values: float | None) -> list[Wrong]:
    given = [(flag, n) for flag, n in values.items() if n is not None]
    return [(not 0 < n < math.inf, f"--{flag}", f"must be positive, is {n}") for flag, n in given]


def _checker() -> Any:
    return option("", metavar="MODULE:FUNCTION", help="(row, answer) -> orpo.evaluate.Grade")


def load_checker(name: str) -> Grader:
    """The function that `module:function` names."""
    module, _, function = name.partition(":")
    where, fix, here = f"--checker {name}", "Give MODULE:FUNCTION", str(Path.cwd())
    if here not in sys.path:  # as `python -m` has it, and the `orpo` script has not
        sys.path.append(here)
    try:
        found: Grader = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        fix += ", importable from here; it takes a row and an answer."
        raise ConfigError(f"cannot be loaded ({error})", where=where, fix=fix) from error
    refuse_first((not callable(found), where, "is no function", f"{fix}."))
    return found


@dataclass(frozen=True)
class ComparePlan:
    """What is compared, beside the settings of the training."""

    methods: tuple[str, ...] = option(
        METHODS, parse=_names, help="orpo, sft, sft+dpo, by comma; default all"
    )
    budget: str = option(
        "both",
        choices=(*BUDGETS, "both"),
        help="as many optimizer steps, or as many FLOPs, as ORPO's run; default both",
    )
    seeds: int = option(3, help="runs of each method; default 3")
    sft_learning_rate: float | None = option(None, metavar="LR", help="default ORPO's")
    dpo_learning_rate: float | None = option(None, metavar="LR", help="default a tenth of ORPO's")
    no_sensitivity: bool = option(
        False, help="leave out the short runs at other learning rates and lambdas"
    )
    checker: str = _checker()
    at_once: int | None = option(None, help="runs at a time; default 1, on the demo 2")

    def __post_init__(self) -> None:
        sft, dpo = self.sft_learning_rate, self.dpo_learning_rate
        refuse_first(
            *_unknown(METHODS, "methods", *self.methods),
            _repeated("methods", self.methods),
            *_below(1, seeds=self.seeds, at_once=self.at_once),
            *_not_positive(sft_learning_rate=sft, dpo_learning_rate=dpo),
        )

    @property
    def budgets(self) -> tuple[str, ...]:
        """Those of `BUDGETS` that are asked for."""
        return tuple(BUDGETS) if self.budget == "both" else (self.budget,)

    @property
    def objectives(self) -> list[str]:
        """What is trained in some stage of some method."""
        return list(dict.fromkeys(name for method in self.methods for name in STAGES[method]))


@dataclass(frozen=True)
class CompareJob:
    """A comparison."""

    train: TrainJob  # the model, the data, what is held out, how many prompts are answered
    settings: Mapping[str, Any]  # of ORPOConfig, as given; learning rate and seed ORPO's first
    folder: Path
    plan: ComparePlan
    judge: JudgeSettings | None = None
    command: str = "orpo compare"

    def __post_init__(self) -> None:
        several = len(self.train.dataset or []) != 1 or self.train.mix
        held = self.train.eval_dataset or self.train.held_out
        refuse_first(
            (several, "--dataset", "a comparison takes one data set", _JOIN),
            (self.train.resume, "--resume", "a comparison goes on by itself", "Leave it out."),
            (not held, "--eval_dataset", "held-out pairs are needed", _HOLD_OUT),
        )
        if self.config("orpo").holds_secrets:
            raise ConfigError(
                "a comparison writes its settings down, and a token would stand among them",
                where="--hub_token or --model_init_kwargs",
                fix="Set HF_TOKEN in the environment instead.",
            )

    @property
    def dataset(self) -> str:
        """The one that it is trained on."""
        return (self.train.dataset or [""])[0]

    @property
    def all_seeds(self) -> list[int]:
        """Of the runs of each method."""
        first = int(self.settings.get("seed", training_settings()["seed"].default))
        return [first + n for n in range(self.plan.seeds)]

    @property
    def rates(self) -> dict[str, float]:
        """Objective -> learning rate."""
        default = training_settings()["learning_rate"].default
        rate = float(self.settings.get("learning_rate", default))
        sft, dpo = self.plan.sft_learning_rate, self.plan.dpo_learning_rate
        return {"orpo": rate, "sft": sft or rate, "dpo": dpo or rate / 10}

    def of_objective(self, objective: str) -> dict[str, Any]:
        """The settings that differ between the objectives."""
        return {"objective": objective, "learning_rate": self.rates[objective]}

    def config(self, objective: str) -> ORPOConfig:
        """The settings of an objective, checked."""
        from orpo.config import ORPOConfig  # noqa: PLC0415 - loads torch

        own = {**self.of_objective(objective), "output_dir": str(self.folder)}
        return ORPOConfig(**{**self.settings, **own})

    def identity(self) -> dict[str, Any]:
        """What may not change if new runs are to stand beside those that are there."""
        given = {k: v for k, v in self.settings.items() if k not in {"output_dir", "seed"}}
        return {
            "job": self.train.facts(),
            "training": given,
            "learning_rates": self.rates,
            "checker": self.plan.checker,
        }


@dataclass(frozen=True)
class TunePlan:
    """Where it is searched, and within which budget."""

    minutes: float | None = option(None, help=f"time for everything; default {_MINUTES:.0f}")
    trials: int | None = option(
        None, metavar="N", help="trials of the study; default as time allows"
    )
    steps: int | None = option(None, metavar="S", help="steps of a trial; default as time allows")
    learning_rates: tuple[float, float] | None = option(
        None, metavar="LOW HIGH", help="range of learning rates"
    )
    alphas: tuple[float, float] | None = option(None, metavar="LOW HIGH", help="range of lambdas")
    storage: str = option("", help="URL or file of a study that several machines share")
    study: str = option("orpo", metavar="NAME", help="its name there; default orpo")
    checker: str = _checker()

    def __post_init__(self) -> None:
        ranges = (("--learning_rates", self.learning_rates), ("--alphas", self.alphas))
        given = [(flag, ends) for flag, ends in ranges if ends is not None]
        refuse_first(
            *_not_positive(minutes=self.minutes),
            *_below(1, trials=self.trials, steps=self.steps),
            *(
                (not 0 < low < high < math.inf, flag, f"{low:g} {high:g} is no range", _RANGE)
                for flag, (low, high) in given
            ),
            (not self.study, "--study", "needs a name"),
        )

    @property
    def limit(self) -> float | None:
        """Minutes for everything; None for no limit, where the trials are counted instead."""
        return _MINUTES if self.minutes is None and self.trials is None else self.minutes


@dataclass(frozen=True)
class TuneJob:
    """A tuning."""

    train: TrainJob  # the model, the data; how many held-out prompts are answered to a checker
    settings: Mapping[str, Any]  # of ORPOConfig, as given; the search starts from two of them
    folder: Path
    plan: TunePlan = TunePlan()
    recipe: Mapping[str, Any] = field(default_factory=dict)  # as given, for the one recommended
    command: str = "orpo tune"

    def __post_init__(self) -> None:
        ranks, resume = int(os.environ.get("WORLD_SIZE") or 1), self.train.resume
        refuse_first(
            (ranks > 1, "orpo tune", "trials run in one process", _SHARE),
            (resume, "--resume", "tuning goes on by itself", "Leave it out."),
        )
        config, start = self.config, self.start
        what = f"is {config.objective!r}, which has no lambda"
        refuse_first((config.objective != "orpo", "objective", what, "Use orpo."))
        usable = start.learning_rate > 0 and start.orpo_alpha > 0
        what = f"is {start}: the search starts from it, on a logarithmic scale"
        where = "learning_rate and orpo_alpha"
        refuse_first((not usable, where, what, "Both must be positive."))

    @cached_property
    def config(self) -> ORPOConfig:
        """The settings, checked; made once, for another would reset accelerate under a trainer."""
        from orpo.config import ORPOConfig  # noqa: PLC0415 - loads torch

        return ORPOConfig(**{**self.settings, "output_dir": str(self.folder)})

    @property
    def start(self) -> Values:
        """The recipe's own values: the first trial."""
        return Values(float(self.config.learning_rate), float(self.config.orpo_alpha or 0.0))

    @property
    def space(self) -> Space:
        """What is searched: around a learning rate that was given, else what is usual."""
        around = _RATES["full" if self.train.lora_r is None else "adapter"]
        if "learning_rate" in self.settings:
            rate = self.start.learning_rate
            around = (float(f"{rate / _AROUND:.3g}"), float(f"{rate * _AROUND:.3g}"))
        return Space(list(self.plan.learning_rates or around), list(self.plan.alphas or _ALPHAS))

    def of_trials(self) -> dict[str, Any]:
        """The settings that all trials have in common, as given; no token among them."""
        return self._public(self.settings, "max_steps")

    def kept(self) -> dict[str, Any]:
        """What the user gave, without a token, the two settings and the folder."""
        given = {name: value for name, value in self.recipe.items() if value is not None}
        return self._public(given, "overwrite")

    def _public(self, settings: Mapping[str, Any], left_out: str) -> dict[str, Any]:
        kept = {k: v for k, v in settings.items() if k not in (*_OF_ONE_RUN, left_out)}
        if kept.get("model_init_kwargs"):
            kept["model_init_kwargs"] = self.config.without_secrets().model_init_kwargs
        return kept

    def identity(self, digests: Mapping[str, Any]) -> dict[str, Any]:
        """What may not differ between the trials of a study: settings, weights and data."""
        of_job = self.train.facts()
        names = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
        return {
            "start": plain(self.start),
            "space": plain(self.space),
            "seed": self.config.seed,
            "training": {k: v for k, v in self.of_trials().items() if k not in _OF_THE_MACHINE},
            **{name: of_job[name] for name in names},
            **digests,
            "asked_steps": self.plan.steps,
        }


@dataclass(frozen=True)
class BenchJob:
    """What is measured; without a model it is the embedded one."""

    model: str = option("", help="folder or Hub id; default the demo's base model")
    dataset: str | None = option(
        None, help="preference data; default, with no model given, the demo's pairs"
    )
    rows: str = option(
        "", help="dataset, hh-like or ultrafeedback-like (synthetic rows of such lengths)"
    )
    batch_sizes: tuple[int, ...] = option(
        (), flag="batch_size", parse=_sizes, help="pairs in a step, by comma; default 4, demo 16"
    )
    against: tuple[str, ...] = option(
        ("trl",), help="trl, trl-grouped, orpo-padded, by comma; default trl"
    )
    gradient_checkpointing: str = option(
        "off", choices=CHECKPOINTING, help="trl-default: ours off, TRL's on; default off"
    )
    lora: bool = option(False, help="an adapter of rank 16 instead of the whole model")
    precision: str = option(
        "bf16",
        choices=PRECISIONS,
        help="bf16: fp32 weights under autocast; bf16-pure: bf16 weights; default bf16",
    )
    max_length: int | None = option(None, help="default 1024; ultrafeedback-like 2048")
    steps: int = option(5, help="steps that count; default 5")
    warmup: int = option(1, help="steps before them; default 1")

    def __post_init__(self) -> None:
        needed = self.rows == "dataset" and self.model and self.dataset is None
        refuse_first(
            *_unknown(ROWS, "rows", self.rows or ROWS[0]),
            *_unknown(CHECKPOINTING, "gradient_checkpointing", self.gradient_checkpointing),
            *_unknown(PRECISIONS, "precision", self.precision),
            *_unknown(PEERS, "against", *self.against),
            _repeated("batch_size", self.batch_sizes or (1,)),
            _repeated("against", self.against),
            *_below(1, batch_size=min(self.batch_sizes, default=1), steps=self.steps),
            *_below(32, max_length=self.max_length),
            *_below(0, warmup=self.warmup),
            (needed, "--dataset", "is needed for --rows dataset", _DATASET),
        )

    @property
    def rounds(self) -> int:
        """Steps of each side in one cell."""
        return self.warmup + self.steps

    def checkpoints(self, side: str) -> bool:
        """Whether a side recomputes activations in the backward pass."""
        by_default = self.gradient_checkpointing == "trl-default" and side.startswith("trl")
        return self.gradient_checkpointing == "on" or by_default
