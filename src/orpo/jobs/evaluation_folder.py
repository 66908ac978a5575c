"""The folder of an evaluation: whose it is, and what an earlier one left in it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from orpo.errors import ConfigError, DataError
from orpo.runs import EVALUATION, RECIPE, REPORT, read_object, refuse_links, remove

__all__ = ["ANSWERS", "JUDGMENTS", "claim_folder"]

ANSWERS, JUDGMENTS = "answers.jsonl", "judgments.jsonl"


def claim_folder(
    folder: Path,
    settings: Mapping[str, Any],
    answers: Sequence[str],
    *,
    overwrite: bool,
    among: Collection[str] | None = None,
) -> None:
    """Make sure that a folder is ours to write into, and holds nothing of other settings.

    Args:
        folder: Made if it is not there.
        settings: What the result depends on.
        answers: Names of the files with answers that an earlier evaluation may have left.
        overwrite: Replace what other settings have left; answers stay if only the judge is
            another one.
        among: The settings that must be the same; all of them if absent.

    Raises:
        ConfigError: It is a file or a run folder, cannot be made, or holds an evaluation with
            other settings.
    """
    where = f"--output_dir {folder}"
    if folder.exists() and not folder.is_dir():
        raise ConfigError("is no folder", where=where, fix="Name another one.")
    if (folder / RECIPE).exists():
        raise ConfigError("is the folder of a run", where=where, fix="Name another one.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot be made ({error.strerror})"
        raise ConfigError(reason, where=where, fix="Name another one.") from error
    written = (*answers, JUDGMENTS, EVALUATION, REPORT, "figures", "judge-cache.jsonl")
    refuse_links(folder, written)
    kept, now = _kept(folder / EVALUATION), json.loads(json.dumps(settings))
    names = among or dict.fromkeys((*kept, *now))
    other = [name for name in names if kept.get(name) != now.get(name)]
    if overwrite:
        judge_only = all(name.startswith("judge") for name in other)
        for name in (*(() if judge_only else answers), JUDGMENTS, EVALUATION, REPORT, "figures"):
            remove(folder / name)
    elif other and (folder / EVALUATION).exists():
        before, after = kept.get(other[0]), now.get(other[0])
        raise ConfigError(
            f"holds an evaluation with {other[0]} {before!r}, now it is {after!r}",
            where=where,
            fix="Name another folder, or give --overwrite.",
        )


def _kept(path: Path) -> dict[str, Any]:
    try:
        found = read_object(path)["settings"]
    except (DataError, KeyError):
        return {}
    return found if isinstance(found, dict) else {}
