"""An audit of preference data, with what a model says about their lengths and costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from orpo.audit import Audit, AuditPlan, audit_rows
from orpo.config import ORPOConfig
from orpo.data.lengths import LengthPolicy
from orpo.data.sample import Sample
from orpo.data.sources import open_source
from orpo.data.tokenize import PairTokenizer
from orpo.errors import ConfigError
from orpo.jobs.audit_measure import measure_training
from orpo.jobs.tokenizing import named_tokenizer

__all__ = ["AuditJob", "run_audit"]

Say = Callable[[str], None]

_MEASURED = 24


@dataclass(frozen=True)
class AuditJob:
    """What is audited, and with which model in mind.

    Attributes:
        dataset: Preference data: a file, a folder or a Hub id.
        eval_dataset: Evaluation data that no training prompt may be in.
        model: Its tokenizer counts tokens; its speed is measured if asked for.
        tokenizer: The tokenizer, if not the model's.
        config: The settings of the training that decide about formats, lengths and templates.
        near: Look for near duplicates too.
        measure: Take a few training steps, to know the time of an epoch and the memory.

    Raises:
        ConfigError: A value that cannot be meant.
    """

    dataset: str
    eval_dataset: str | None = None
    model: str | None = None
    tokenizer: str | None = None
    config: ORPOConfig = field(default_factory=ORPOConfig)
    near: bool = True
    measure: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        if not self.dataset:
            raise ConfigError("is needed", where="DATASET", fix="Name a file, folder or Hub id.")
        if self.measure and not self.model:
            raise ConfigError("needs a model to measure", where="--measure", fix="Add --model.")


def run_audit(job: AuditJob, *, say: Say) -> Audit:
    """Audit a data set.

    Args:
        job: What is audited.
        say: Told, line by line, what happens.

    Raises:
        UserError: Data or model cannot be read.
    """
    config = job.config
    lengths = LengthPolicy(config.max_length, config.max_prompt_length, config.truncation)
    plan = AuditPlan(
        name=job.dataset,
        lengths=lengths,
        tokenize=_tokenizer(job),
        model=job.model or job.tokenizer or "",
        eval_name=job.eval_dataset or "",
        near=job.near,
        data_format="" if config.data_format == "auto" else config.data_format,
        pair_rule=config.pair_rule,
    )
    sample = Sample(_MEASURED, config.seed)
    rows = sample.passing(open_source(job.dataset))
    held = open_source(job.eval_dataset) if job.eval_dataset else None
    audit = audit_rows(plan, rows, held, say)
    if not job.measure or not audit.budget.get("pairs"):
        return audit
    assert job.model is not None
    measured, note = measure_training(job.model, job.tokenizer, config, sample.rows, audit.budget)
    return replace(audit, budget={**audit.budget, **measured}, notes=(*audit.notes, note))


def _tokenizer(job: AuditJob) -> PairTokenizer | None:
    name, config = job.tokenizer or job.model, job.config
    if name is None:
        return None
    variables = config.chat_template_kwargs
    assert isinstance(variables, dict)
    return PairTokenizer(named_tokenizer(name, config), LengthPolicy(None), variables)
