"""What a run leaves on disk: the files of its folder, committed checkpoints, the lock."""

from orpo.run_folder.checkpoints import (
    Found,
    checkpoint_name,
    checkpoints,
    newest_checkpoint,
    rotate,
    set_aside,
    verify_resumable,
)
from orpo.run_folder.commit import commit, commit_files, stage, staging, sweep, unfinished
from orpo.run_folder.files import (
    EVALUATION,
    EVENTS,
    METRICS,
    RECIPE,
    REPORT,
    SAMPLES,
    Run,
    read_recipe,
    read_run,
    write_json,
    write_jsonl,
    write_text,
    write_yaml,
)
from orpo.run_folder.lock import lock_holder, run_lock
from orpo.run_folder.manifest import MANIFEST, Manifest, read_manifest, verify
from orpo.run_folder.trust import ensure_as_committed

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
    "ensure_as_committed",
    "lock_holder",
    "newest_checkpoint",
    "read_manifest",
    "read_recipe",
    "read_run",
    "rotate",
    "run_lock",
    "set_aside",
    "stage",
    "staging",
    "sweep",
    "unfinished",
    "verify",
    "verify_resumable",
    "write_json",
    "write_jsonl",
    "write_text",
    "write_yaml",
]
