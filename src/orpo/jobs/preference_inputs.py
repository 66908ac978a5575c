"""What an evaluation on held-out pairs is made of: data, settings, the model to compare with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo.config import ORPOConfig
from orpo.data import Row, Source, open_source
from orpo.errors import ConfigError, DataError, ModelError
from orpo.evaluate import is_adapter
from orpo.jobs.train_job import TrainJob
from orpo.runs import RECIPE, read_recipe
from orpo.train.adapters import base_of_adapter, found_from

__all__ = ["PreferenceJob", "baseline_of", "config_of", "rows_of"]

_OF_THE_RUN = (
    "max_length",
    "max_prompt_length",
    "truncation",
    "data_format",
    "pair_rule",
    "on_bad_row",
    "chat_template_kwargs",
)
_SPLIT = ("dataset", "mix", "held_out")


@dataclass(frozen=True)
class PreferenceJob:
    """What `orpo evaluate preference` needs.

    Attributes:
        model: A run folder, a model folder, an adapter folder or a Hub id.
        dataset: Held-out pairs: a file, a folder or a Hub id; those of the run if absent.
        baseline: The model to compare with; the one that the run started from if absent.
        no_baseline: Compare with nothing.
        output_dir: Where the results go.
        overwrite: Replace another evaluation that is there.
        batch_size: Pairs of a batch.
        dtype: Of the weights; if absent, that of the run's training, else as they are saved.
        settings: Fields of `ORPOConfig` that replace the run's, or the defaults.

    Raises:
        ConfigError: Arguments that contradict each other.
    """

    model: str
    dataset: str | None = None
    baseline: str | None = None
    no_baseline: bool = False
    output_dir: Path = Path("orpo-eval-preference")
    overwrite: bool = False
    batch_size: int = 16
    dtype: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        if self.baseline and self.no_baseline:
            raise ConfigError(
                "cannot be combined with --baseline", where="--no_baseline", fix="Use one of them."
            )
        if (self.output_dir / RECIPE).exists():
            raise ConfigError(
                "is the folder of a run", where="--output_dir", fix="Give a folder of its own."
            )

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe of the run that the model is; empty if it is no run."""
        folder = Path(self.model)
        return read_recipe(folder) if (folder / RECIPE).is_file() else {}


def config_of(job: PreferenceJob, folder: str) -> ORPOConfig:
    """The settings of reading and scoring: as given, else those of the run, else the defaults.

    Args:
        job: What is asked for.
        folder: A folder for what the trainer writes, to be thrown away.
    """
    recipe = job.recipe
    of_the_run = {name: recipe[name] for name in _OF_THE_RUN if recipe.get(name) is not None}
    return ORPOConfig(
        **{
            "output_dir": folder,
            "report_to": "none",
            "disable_tqdm": True,
            "model_dtype": job.dtype or recipe.get("model_dtype") or "auto",
            "per_device_eval_batch_size": job.batch_size,
            **of_the_run,
            **job.settings,
        }
    )


def rows_of(job: PreferenceJob, config: ORPOConfig) -> tuple[Iterable[Row], str]:
    """The held-out rows, to be gone through more than once, and what they are called.

    Raises:
        ConfigError: None are named, neither here nor in the run's recipe.
        DataError: There is no such file, or nothing in it.
    """
    recipe = job.recipe
    if job.dataset or recipe.get("eval_dataset"):
        return _there(str(job.dataset or recipe["eval_dataset"]), by_run=not job.dataset)
    if not recipe.get("held_out"):
        what = "is needed: the run held nothing out" if recipe else "is needed"
        raise ConfigError(
            what, where="--dataset", fix="Name held-out pairs: a file, a folder or a Hub id."
        )
    named = {name: recipe[name] for name in _SPLIT if recipe.get(name)}
    split = TrainJob(model=job.model, **named)
    for one in split.dataset or []:
        _there(one, by_run=True)
    as_then = ORPOConfig(
        output_dir=config.output_dir,
        seed=int(recipe.get("seed") or config.seed or 0),
        data_format=config.data_format,
        pair_rule=config.pair_rule,
    )
    _, held_out = split.split(as_then)
    assert held_out is not None
    return held_out, f"{100 * float(named['held_out']):g} % of {split.name}"


def _there(name: str, *, by_run: bool) -> tuple[Source, str]:
    """A data set that can be opened: better known before a model is loaded."""
    try:
        open_source(name)
    except DataError as error:
        if not by_run:
            raise
        raise DataError(
            error.what, where=error.where, fix="The run names it; --dataset names another."
        ) from error
    return Source(name), name


def baseline_of(job: PreferenceJob) -> str | None:
    """The model to compare with, by name; None for none."""
    if job.no_baseline:
        return None
    if job.baseline:
        return job.baseline
    if job.recipe.get("model"):
        return found_from(job.model, str(job.recipe["model"]))
    if not is_adapter(job.model):
        return None
    try:
        return base_of_adapter(job.model)
    except ModelError:
        return None  # who loads it has more to say about it
