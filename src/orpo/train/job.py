"""A training by names: model, data and evidence, as a recipe and the flags of `orpo train` say."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from orpo.errors import DataError, ModelError, refuse_first
from orpo.runs.claim import claim_run
from orpo.runs.files import ADAPTER_FILE
from orpo.setting_types import as_declared
from orpo.settings import setting

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback

    from orpo.audit.findings import Audit
    from orpo.config import ORPOConfig
    from orpo.data.types import Ledger, Row
    from orpo.train.trainer import ORPOTrainer

_ALL = "all-linear"
_POSITIVE = "shares must be positive"
_MIX = "Give two or more data sets and one share for each."


@dataclass
class TrainJob:
    """What `orpo train` needs beside an `ORPOConfig`: names of model and data, and the evidence.

    Raises:
        ConfigError: A value that cannot be meant.
    """

    model: str | None = setting("Folder of the model to start from, or its Hub id.")
    dataset: list[str] | None = setting("Preference data: files, folders or Hub ids.")
    mix: list[float] | None = setting(
        "Shares of several data sets, e.g. 3 1; all rows if not given."
    )
    eval_dataset: str | None = setting("Held-out preference data for before and after.")
    held_out: float = setting("Share of `dataset`, by prompt, to hold out as eval_dataset.", 0.0)
    tokenizer: str | None = setting("Folder or Hub id of the tokenizer, if not the model's.")
    lora_r: int | None = setting("Train a LoRA adapter of this rank instead of the whole model.")
    lora_alpha: int | None = setting("LoRA's scale; twice the rank if not given.")
    lora_dropout: float = setting("Dropout of the adapter's input.", 0.0)
    lora_target_modules: str = setting("Modules to adapt: all-linear, or names by comma.", _ALL)
    strict: bool = setting("Refuse to train where the audit of the data says stop.", False)
    samples: int = setting("Held-out prompts to answer before and after: for the verdict.", 16)
    sample_tokens: int = setting("Longest sample answer in tokens.", 128)
    resume: str | None = setting(
        "Go on from the newest checkpoint of output_dir that verifies; auto: if there is one; "
        "or a checkpoint's path."
    )
    overwrite: bool = setting("Replace a run that output_dir already holds.", False)

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        for name, hint in get_type_hints(type(self)).items():
            declared = hint | bool if name == "resume" else hint
            setattr(self, name, as_declared(getattr(self, name), declared, name))
        self.resume = resume_meant(self.resume)
        again, one = self.overwrite and self.resume not in {None, "auto"}, "Use one of them."
        held, mix, count, rank = self.held_out, self.mix, len(self.dataset or []), self.lora_r
        given = {"lora_alpha": self.lora_alpha, "lora_dropout": self.lora_dropout or None}
        given["lora_target_modules"] = {_ALL: None}.get(self.lora_target_modules, True)
        idle = [name for name, value in given.items() if value is not None and rank is None]
        whole = "does nothing without lora_r: the whole model would be trained"
        shares = f"{len(mix or ())} shares for {count} data sets"
        refuse_first(
            (again, "--overwrite", "cannot be combined with --resume", one),
            (not self.model, "--model", "is needed", "Add --model NAME."),
            (not self.dataset, "--dataset", "is needed", "Add --dataset NAME."),
            (not 0 <= held < 1, "held_out", f"must be at least 0 and below 1, is {held}"),
            (held and self.eval_dataset, "held_out", "cannot be combined with eval_dataset", one),
            (mix is not None and not 1 < count == len(mix), "mix", shares, _MIX),
            (not all(0 < s < math.inf for s in mix or ()), "mix", f"{_POSITIVE}, are {mix}"),
            (rank is not None and rank < 1, "lora_r", f"must be at least 1, is {rank}"),
            (idle, "".join(idle[:1]), whole, "Add --lora_r 16, or leave it out."),
            (self.samples < 0, "samples", f"must be 0 or more, is {self.samples}"),
        )

    @property
    def name(self) -> str:
        """What the training data are called in messages."""
        return " + ".join(self.dataset or [])

    def split(self, config: ORPOConfig) -> tuple[Iterable[Row], Iterable[Row] | None]:
        """The training data and what is held out, if anything; read as they are gone through."""
        from orpo.data.reading import ReadOnce  # noqa: PLC0415 - loads torch
        from orpo.data.sources import Mixture, Source  # noqa: PLC0415
        from orpo.data.split import hold_out  # noqa: PLC0415

        sources = [Source(spec, config.column_names) for spec in self.dataset or []]
        how = config.format_name, config.pair_rule
        rows = ReadOnce(Mixture(sources, self.mix) if len(sources) > 1 else sources[0], *how)
        if self.held_out:
            named = {"data_format": config.format_name, "pair_rule": config.pair_rule}
            return hold_out(rows, self.held_out, config.seed, self.name, **named)
        held = self.eval_dataset and ReadOnce(Source(self.eval_dataset, config.column_names), *how)
        return rows, held or None

    def facts(self) -> dict[str, Any]:
        """The settings, for recipe.yaml."""
        once = {"resume", "overwrite", "strict"}
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in once}
        alone = len(self.dataset or []) == 1
        return {**found, "dataset": self.dataset[0] if alone and self.dataset else self.dataset}


def claim(folder: Path, job: TrainJob) -> str | bool:
    """What to go on from; what is read must not lie in the folder that is written."""
    from orpo.train.adapters import base_of_adapter  # noqa: PLC0415 - loads torch

    named = [("--model", job.model), ("--tokenizer", job.tokenizer)]
    if (Path(str(job.model)) / ADAPTER_FILE).is_file():
        with contextlib.suppress(ModelError):  # the loader has more to say about it
            named.append(("the adapter's base model", base_of_adapter(str(job.model))))
    sources = [(flag, name) for flag, name in named if name]
    return claim_run(folder, resume=job.resume, overwrite=job.overwrite, sources=sources)


def resume_meant(resume: str | bool | None) -> str | None:
    """A recipe may say `resume: true`; flags are text."""
    word = str(resume or "").lower()
    return None if word in {"", "false"} else "newest" if word == "true" else str(resume)


def audited(
    config: ORPOConfig, rows: Iterable[Row], held_out: Iterable[Row] | None, account: Ledger | None
) -> Audit:
    """The quick audit that a training begins with."""
    from orpo.audit.run import quick_audit  # noqa: PLC0415 - loads torch

    how = {"data_format": config.format_name, "pair_rule": config.pair_rule}
    return quick_audit("train_dataset", rows, held_out, account=account, **how)


def refuse_if_strict(job: TrainJob, audit: Audit) -> None:
    """With --strict, what the audit says stop to stops the run."""
    from orpo.audit.run import headlines  # noqa: PLC0415 - loads torch

    if job.strict and audit.verdict == "stop":
        what = f"the audit says {headlines(audit)[0].rstrip('.')}"
        raise DataError(what, where="--strict", fix="See `orpo data audit`.")


def build_trainer(
    job: TrainJob,
    config: ORPOConfig,
    rows: Iterable[Row],
    held_out: Iterable[Row] | None,
    callbacks: list[TrainerCallback] | None = None,
    *,
    model: PreTrainedModel | None = None,
    tokenizer: Any = None,
) -> ORPOTrainer:
    """The trainer of a job with its data read.

    A model that is given is the job's, loaded already, and trained in place; so its tokenizer.
    """
    from transformers import PrinterCallback  # noqa: PLC0415 - loads torch

    from orpo.train.trainer import ORPOTrainer  # noqa: PLC0415 - loads torch

    assert job.model is not None
    trainer = ORPOTrainer(
        model=job.model if model is None else model,
        args=config,
        train_dataset=rows,
        eval_dataset=held_out,
        tokenizer=tokenizer_of(job, config) if tokenizer is None else tokenizer,
        peft_config=adapter_of(job),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # stdout belongs to --json
    trainer.run_facts = job.facts()
    return trainer


def tokenizer_of(job: TrainJob, config: ORPOConfig) -> Any:
    """The tokenizer that a job names, or None: then it is the model's."""
    if not job.tokenizer:
        return None
    from orpo.train.models import load_tokenizer  # noqa: PLC0415 - loads torch

    return load_tokenizer(job.tokenizer, config, of_model=job.tokenizer == job.model)


def adapter_of(job: TrainJob) -> Any:
    """The peft config of the adapter that a job trains, or None."""
    if job.lora_r is None:
        return None
    from peft import LoraConfig  # noqa: PLC0415 - slow

    names = [name.strip() for name in job.lora_target_modules.split(",") if name.strip()]
    return LoraConfig(
        r=job.lora_r,
        lora_alpha=job.lora_alpha or 2 * job.lora_r,
        lora_dropout=job.lora_dropout,
        target_modules=names[0] if names == [_ALL] else names,
        task_type="CAUSAL_LM",
    )
