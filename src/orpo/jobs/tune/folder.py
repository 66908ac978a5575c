"""The folder of a tuning: whose it is, and what an earlier call left in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orpo.errors import DataError
from orpo.jobs.tune.spec import TuneJob
from orpo.jobs.tune.study import JOURNAL
from orpo.runs import EVALUATION, RECIPE, REPORT, read_object, remove
from orpo.runs.claim import claim_folder

__all__ = ["KIND", "claim_tuning", "kept_comparison", "leave_nothing"]

KIND = "tuning"
_OURS = (JOURNAL, f"{JOURNAL}.lock", EVALUATION, RECIPE, REPORT)


def claim_tuning(job: TuneJob, *, overwrite: bool) -> bool:
    """Make the folder this tuning's, or go on with it; whether it held none before.

    Args:
        job: Its output folder.
        overwrite: Delete what an earlier tuning left in it; a storage elsewhere stays as it is.

    Raises:
        ConfigError: It holds something else.
    """
    written = (*_OURS, "figures")
    return claim_folder(job.folder, KIND, written, overwrite=overwrite, mark={"finished": False})


def leave_nothing(folder: Path) -> None:
    """Delete the files of a tuning; right after `claim_tuning`, what it wrote."""
    for name in _OURS:
        remove(folder / name)


def kept_comparison(folder: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The comparison that an earlier call made of the same two recipes."""
    kept = _read(folder).get("comparison")
    if isinstance(kept, dict) and kept.get("key") == json.loads(json.dumps(key)):
        return kept
    return None


def _read(folder: Path) -> dict[str, Any]:
    try:
        return read_object(folder / EVALUATION)
    except DataError:
        return {}
