"""What a committed folder holds, to the bit: manifest.json, written last.

    {"kind": "checkpoint", "run": "...", "step": 200, "resumable": true,
     "files": {"model.safetensors": {"size": 538090408, "sha256": "..."}, ...},
     "sha256": of all that stands before it}

A folder without it was never committed. Files that it does not name are nobody's promise.
"""

import errno
import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orpo.errors import CheckpointError, DataError
from orpo.runs.reading import parse_json, read_text
from orpo.runs.typed import typed

MANIFEST = "manifest.json"
_SPECIAL = re.compile(r"[\x00-\x1f\x7f\\:\ud800-\udfff]")  # such as drives, and other slashes
_TRAINING_STATE = (".pt", ".pth", ".distcp")


@dataclass(frozen=True)
class FileFacts:
    """A file as it was committed: its size in bytes and the SHA-256 of its content."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A committed folder."""

    kind: str  # "checkpoint" or "model"
    run: str  # which run wrote it; a resumed run keeps its name
    step: int  # optimizer steps taken
    resumable: bool  # whether it holds the optimizer as well as the weights
    files: dict[str, FileFacts]  # path within the folder, with slashes -> what was written

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(facts.size for facts in self.files.values())

    def text(self) -> str:
        """The content of manifest.json."""
        body = asdict(self)
        return json.dumps({**body, "sha256": _of_body(body)}, indent=1) + "\n"


def describe(path: Path) -> FileFacts:
    """Size and SHA-256 of a file as it can be read back."""
    if path.exists() and not path.is_file():  # whoever opens a pipe waits
        raise OSError(errno.EINVAL, "Is no file", str(path))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileFacts(os.fstat(file.fileno()).st_size, digest)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder; its files are not looked at."""
    path = folder / MANIFEST
    if not os.path.lexists(path):
        raise CheckpointError(f"has no {MANIFEST}: it was never committed", where=str(folder))
    try:
        text = read_text(path)
    except DataError as error:
        torn = isinstance(error.__cause__, UnicodeDecodeError)
        what = "was changed or cut off" if torn else error.what
        raise CheckpointError(f"{MANIFEST} {what}", where=str(folder)) from error
    try:
        body = parse_json(text)
        if body.pop("sha256") != _of_body(body) or not text.endswith("\n"):
            raise ValueError(path)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{MANIFEST} was changed or cut off", where=str(folder)) from None
    try:
        manifest = typed(Manifest, body, where=MANIFEST)
    except DataError as error:
        raise CheckpointError(str(error), where=str(folder)) from error
    for name in manifest.files:
        if not _is_plain(name):
            raise CheckpointError(f"{MANIFEST} names {name!r}, no file of its", where=str(folder))
    return manifest


def verify(folder: Path, *, training_state: bool = True) -> Manifest:
    """Read every file of a committed folder and compare it with the manifest."""
    manifest = read_manifest(folder)
    for name, facts in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{name} is missing", where=str(folder))
        size = path.stat().st_size
        if size != facts.size:
            raise CheckpointError(
                f"{name} has {size} bytes where {facts.size} were committed", where=str(folder)
            )
    for name, facts in manifest.files.items():  # sizes first: they cost nothing
        if not training_state and name.endswith(_TRAINING_STATE):
            continue
        try:
            found = describe(folder / name)
        except OSError as error:
            raise CheckpointError(f"{name} cannot be read ({error})", where=str(folder)) from error
        if found != facts:
            raise CheckpointError(f"{name} is not what was committed", where=str(folder))
    return manifest


def _is_plain(name: str) -> bool:
    """Whether a name is that of a file below a folder, however and wherever it is read."""
    parts = name.split("/")
    steps = any(part in {"", ".", ".."} for part in parts)
    return not steps and not _SPECIAL.search(name) and name.lower() not in {MANIFEST, ".lock"}


def _of_body(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
