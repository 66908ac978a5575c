"""The settings of another trainer become a recipe that `orpo train` takes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from orpo.config import ORPOConfig
from orpo.errors import ConfigError, SaveError
from orpo.jobs.evidence import Say
from orpo.migrate import Conversion, convert, recipe_text
from orpo.runs import write_text
from orpo.train.job import TrainJob

__all__ = ["ConvertJob", "Converted", "run_convert"]

_OF_THE_DEVICE = (
    *("tf32", "bf16", "fp16", "bf16_full_eval", "fp16_full_eval", "use_cpu", "ddp_backend"),
)
"""What depends on the machine that trains, which need not be this one."""


@dataclass(frozen=True)
class ConvertJob:
    """What `orpo convert-config` is asked for.

    Attributes:
        files: Files with the settings of one run.
        asked: The trainer they are for, where it cannot be seen.
        output: Where the recipe is written; None to write none.
        overwrite: Whether a file that is there may be replaced.
    """

    files: tuple[str, ...]
    asked: str | None = None
    output: str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Converted:
    """A recipe, and what became of every key.

    Attributes:
        conversion: The account.
        recipe: The recipe as text.
        path: Where it was written, if it was.
    """

    conversion: Conversion
    recipe: str
    path: Path | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.conversion.as_dict(),
            "recipe": None if self.path is None else str(self.path),
        }


def run_convert(job: ConvertJob, *, say: Say) -> Converted:
    """Convert, check what came of it, and write it.

    Args:
        job: What is asked for.
        say: Told, line by line, what became of the keys.

    Raises:
        ConfigError: A file cannot be read or converted, a value cannot be meant, or the output is
            there already.
        SaveError: The recipe could not be written.
    """
    path = None if job.output is None else Path(job.output)
    if path is not None and path.exists() and not job.overwrite:
        raise ConfigError("is there already", where=str(path), fix="Add --overwrite.")
    conversion = convert(job.files, job.asked)
    _check(conversion)
    text = recipe_text(conversion)
    if path is not None:
        try:
            write_text(path, text)
        except OSError as error:
            raise SaveError(f"{path} could not be written: {error.strerror}") from error
    _tell(conversion, say)
    return Converted(conversion, text, path)


def _check(conversion: Conversion) -> None:
    """Build what `orpo train` would build, as far as the recipe says it and any machine can."""
    left_out = {*conversion.blanks, *_OF_THE_DEVICE}
    known = {name: value for name, value in conversion.values.items() if name not in left_out}
    if not (known.get("eval_dataset") or known.get("held_out")):
        known = {n: v for n, v in known.items() if n not in {"eval_strategy", "eval_steps"}}
    of_job = {f.name for f in fields(TrainJob)}
    needed = {"model": "MODEL", "dataset": "DATASET"}
    try:
        TrainJob(**{**needed, **{n: v for n, v in known.items() if n in of_job}})
        ORPOConfig(**{n: v for n, v in known.items() if n not in of_job}, use_cpu=True)
    except ConfigError as error:
        setting = next((s for s in conversion.settings if s.name == error.where.strip("-")), None)
        place = error.where if setting is None else setting.source.partition(";")[0]
        raise ConfigError(error.what, where=place, fix=error.fix) from error


def _tell(conversion: Conversion, say: Say) -> None:
    outcomes = conversion.outcomes
    lost, needless = (conversion.of_kind(k) for k in ("not supported", "not needed"))
    kept = len(outcomes) - len(lost) - len(needless)
    say(f"{', '.join(conversion.files)}: settings of {conversion.trainer}")
    say(
        f"{len(outcomes)} keys = {kept} converted + {len(needless)} not needed + "
        f"{len(lost)} not supported"
    )
    for title, found in (("not needed", needless), ("not supported", lost)):
        for outcome in found:
            say(f"  {title}: {outcome.key.name} ({outcome.key.where}): {outcome.said}")
    for name in conversion.missing:
        say(f"  the files do not say the {name}: give it as --{name}")
    if conversion.blanks:
        say(f"  fill in: {', '.join(conversion.blanks)}")
