"""What may not differ between the trials of one study, wherever they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orpo.errors import ConfigError
from orpo.jobs.tune.runs import Runs
from orpo.jobs.tune.spec import TuneJob
from orpo.jobs.tune.study import Study, public_storage

__all__ = ["identity_of", "require_same"]

_OF_THE_MACHINE = {
    "seed",
    "use_cpu",
    "dataloader_num_workers",
    "per_device_eval_batch_size",
    "max_tokens_per_microbatch",
    "engine",
    "data_cache",
}


def identity_of(job: TuneJob, runs: Runs) -> dict[str, Any]:
    """Settings, weights and data, the latter two by content."""
    facts = job.train.facts()
    names = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
    return {
        "start": job.start.as_dict(),
        "space": job.space.as_dict(),
        "seed": job.config.seed,
        "training": {k: v for k, v in job.of_trials().items() if k not in _OF_THE_MACHINE},
        **{name: facts[name] for name in names},
        **runs.facts,
        "asked_steps": job.steps,
    }


def require_same(study: Study, settings: Mapping[str, Any], job: TuneJob) -> None:
    """Refuse to put other trials beside those that the study holds.

    Raises:
        ConfigError: Something differs; names it.
    """
    before = study.details["settings"]
    flat = [_flat(before), _flat(settings)]
    other = [n for n in {**flat[0], **flat[1]} if flat[0].get(n) != flat[1].get(n)]
    if not other:
        return
    name = other[0]
    where = f"--storage {public_storage(job)}" if job.storage else str(job.folder)
    fix = "--study NAME" if job.storage else "--overwrite or another --output_dir"
    raise ConfigError(
        f"study {job.study!r} has {name} {flat[0].get(name)}, now it is {flat[1].get(name)}",
        where=where,
        fix=f"Use {fix} for other settings.",
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = list(value) if isinstance(value, tuple) else value
    return found
