"""What a run leaves on disk: the files of its folder, committed checkpoints, the lock."""

from orpo.run_folder.checkpoints import (
    Found,
    checkpoint_name,
    checkpoints,
    newest_checkpoint,
    rotate,
)
from orpo.run_folder.commit import commit, commit_files, stage, sweep
from orpo.run_folder.files import (
    EVALUATION,
    EVENTS,
    METRICS,
    RECIPE,
    REPORT,
    SAMPLES,
    Run,
    read_run,
    write_json,
    write_jsonl,
    write_yaml,
)
from orpo.run_folder.lock import run_lock
from orpo.run_folder.manifest import MANIFEST, Manifest, read_manifest, verify

__all__ = [
    "EVALUATION",
    "EVENTS",
    "MANIFEST",
    "METRICS",
    "RECIPE",
    "REPORT",
    "SAMPLES",
    "Found",
    "Manifest",
    "Run",
    "checkpoint_name",
    "checkpoints",
    "commit",
    "commit_files",
    "newest_checkpoint",
    "read_manifest",
    "read_run",
    "rotate",
    "run_lock",
    "stage",
    "sweep",
    "verify",
    "write_json",
    "write_jsonl",
    "write_yaml",
]
