"""A cleaned copy of a data set, and a ledger of every change."""

from __future__ import annotations

from pathlib import Path

from orpo.audit.repair import Inspector, kind_of, require_minhash
from orpo.config import ORPOConfig
from orpo.data.lengths import LengthPolicy
from orpo.data.tokenize import PairTokenizer
from orpo.errors import ConfigError, DataError
from orpo.jobs.fix_passes import Passes
from orpo.jobs.fix_types import DEDUPLICATIONS, FixJob, FixResult
from orpo.jobs.tokenizing import named_tokenizer, pair_reader

__all__ = ["DEDUPLICATIONS", "FixJob", "FixResult", "fix_dataset"]


def fix_dataset(job: FixJob, config: ORPOConfig | None = None) -> FixResult:
    """Write a cleaned copy, and a ledger of every change.

    Args:
        job: What is to be done.
        config: How rows are read, and, where the job names a tokenizer, length limits and template
            settings; by default those of a training, without a length limit.

    Raises:
        UserError: The data set cannot be read, or what was asked for cannot be done or written.
    """
    _check_targets(job)
    if job.deduplicate == "near":
        require_minhash()
    config = ORPOConfig(max_length=None) if config is None else config
    passes = Passes(job, _inspector(job, config))
    passes.decide()
    try:
        return passes.copy()
    except OSError as error:  # a full disk, say
        raise DataError(
            f"the copy cannot be written ({error.strerror or error})", where=str(job.output)
        ) from error


def _inspector(job: FixJob, config: ORPOConfig) -> Inspector:
    category = job.balance if job.balance != "length" else ""
    inspect = Inspector(
        frozenset(job.drop),
        min_margin=job.min_score_margin,
        category=category,
        reader=pair_reader(config),
    )
    if job.tokenizer is not None:
        tokenizer = named_tokenizer(job.tokenizer, config)
        variables = config.chat_template_kwargs
        assert isinstance(variables, dict)
        inspect.tokenize = PairTokenizer(tokenizer, LengthPolicy(None), variables)
        inspect.lengths = LengthPolicy(config.max_length, config.max_prompt_length, "drop")
    return inspect


def _check_targets(job: FixJob) -> None:
    """Refuse to write over the data set, over each other, or over what is there unasked."""
    source, taken = Path(job.dataset).expanduser(), dict[Path, str]()
    for name, path in job.targets.items():
        flag = f"--{name}" if name != "output" else str(path)
        if name != "ledger":
            kind_of(path)
        if _is_same(path, source) or source.resolve() in path.resolve().parents:
            raise ConfigError(
                f"would overwrite the data set {job.dataset} or become a part of it",
                where=str(path),
                fix="Give another name; data are never changed in place.",
            )
        if path.resolve() in taken:
            raise ConfigError(
                f"is {taken[path.resolve()]} already", where=flag, fix="Give each its own file."
            )
        taken[path.resolve()] = f"the file of --{name}" if name != "output" else "the copy's file"
        if path.is_dir():
            raise ConfigError("is a folder", where=str(path), fix="Give the name of a file.")
        if path.exists() and not job.overwrite:
            raise ConfigError(
                "is there already", where=str(path), fix="Give another name, or --overwrite."
            )


def _is_same(path: Path, source: Path) -> bool:
    """Whether both are one file, also by links."""
    return path.resolve() == source.resolve() or (
        path.exists() and source.exists() and path.samefile(source)
    )
