"""All or nothing: a folder is written aside, described, and moved to its place in one step.

    stage -> write -> fsync -> manifest -> fsync -> rename -> fsync of the folder above

A process may be killed between any two of these: what stands under the final name is what stood
there before, or all of the new.
"""

import contextlib
import os
import re
import shutil
from pathlib import Path

from orpo.errors import CheckpointError
from orpo.runs.files import AUDIT, EVALUATION, EVENTS, METRICS, RECIPE, REPORT, SAMPLES, SCORES
from orpo.runs.manifest import MANIFEST, Manifest, describe, read_manifest
from orpo.runs.writing import remove, subfolder

_STAGING, _REPLACED, _DOOMED = ".staging-", ".replaced-", ".deleting-"
_CARD = "README.md"  # not promised: it is written anew once a run's numbers are known
_MODEL = "model"
_OTHERS = {RECIPE, METRICS, EVENTS, AUDIT, EVALUATION, SAMPLES, SCORES, REPORT}
_NO_PART_OF_A_MODEL = re.compile(r"\.|(abandoned-)?checkpoint-\d")


def staging(folder: Path, name: str) -> Path:
    """Where what is to be called `name` is written first."""
    return folder / f"{_STAGING}{name}"


def stage(folder: Path, name: str) -> Path:
    """An empty folder beside the final one, which no reader takes for it."""
    staged = staging(folder, name)
    remove(staged)
    staged.mkdir(parents=True)
    return staged


def commit(staged: Path, final: Path, *, run: str, step: int, resumable: bool) -> Manifest:
    """Give a staged checkpoint its name, once every byte of it is on the disk."""
    manifest = _describe_all(staged, "checkpoint", run, step, resumable=resumable)
    replaced = final.with_name(f"{_REPLACED}{final.name}")
    if os.path.lexists(final):
        remove(replaced)
        final.rename(replaced)
    try:
        staged.rename(final)
    except OSError:
        if os.path.lexists(replaced):
            replaced.rename(final)
        raise
    _sync(final.parent)
    _try_to_remove(replaced)
    return manifest


def commit_files(staged: Path, folder: Path, *, run: str, step: int) -> Manifest:
    """Move the files of a staged model into a folder that holds others too, manifest last."""
    manifest = _describe_all(staged, _MODEL, run, step, resumable=False)
    (folder / MANIFEST).unlink(missing_ok=True)
    _move(staged, folder, manifest)
    return manifest


def _move(staged: Path, folder: Path, manifest: Manifest) -> None:
    """Move what has not been moved yet; the manifest goes last, and then all of it is there."""
    for name in [*manifest.files, _CARD, MANIFEST]:
        if (staged / name).is_file():
            subfolder(folder, *Path(name).parts[:-1])
            (staged / name).replace(folder / name)
    for path in {folder, *((folder / name).parent for name in manifest.files)}:
        _sync(path)
    shutil.rmtree(staged)


def delete(path: Path) -> None:
    """Delete a folder that nobody ever sees in part; `sweep` finishes what a kill left.

    Of a link, the link is deleted.
    """
    doomed = path.with_name(f"{_DOOMED}{path.name}")
    remove(doomed)
    path.rename(doomed)
    remove(doomed)


def sweep(folder: Path) -> list[str]:
    """Clear away what a killed process left half done; what it had replaced comes back.

    A model whose files were being moved to their places is moved to the end, if all of it is there
    as it was committed.
    """
    for doomed in folder.glob(f"{_DOOMED}*"):
        _try_to_remove(doomed)
    for replaced in folder.glob(f"{_REPLACED}*"):
        final = folder / replaced.name.removeprefix(_REPLACED)
        if os.path.lexists(final):
            _try_to_remove(replaced)
        else:
            replaced.rename(final)
    names = unfinished(folder)
    for name in names:
        staged = staging(folder, name)
        manifest = _all_there(staged, folder) if name == _MODEL else None
        if manifest is None:
            _try_to_remove(staged)
        else:
            (folder / MANIFEST).unlink(missing_ok=True)
            _move(staged, folder, manifest)
    return names


def _all_there(staged: Path, folder: Path) -> Manifest | None:
    """The manifest of a staged model, each file of which lies aside or in its place already.

    Nothing has moved yet: a manifest that anyone may have written is believed when every byte is
    what it says, in files that lie in these two folders and not behind a link.
    """
    try:
        manifest = read_manifest(staged)
        if staged.is_symlink() or manifest.kind != _MODEL:
            return None
        for name, facts in manifest.files.items():
            place = staged if os.path.lexists(staged / name) else folder
            foreign = name in _OTHERS or _NO_PART_OF_A_MODEL.match(name)
            if foreign or _through_a_link(place, name) or not (place / name).is_file():
                return None
            if describe(place / name) != facts:
                return None
    except (CheckpointError, OSError):
        return None
    return manifest


def _through_a_link(folder: Path, name: str) -> bool:
    parts = Path(name).parts
    return any(folder.joinpath(*parts[: n + 1]).is_symlink() for n in range(len(parts)))


def _try_to_remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # what cannot be deleted is in nobody's way
        remove(path)


def unfinished(folder: Path) -> list[str]:
    """Names of the saves that are being written, or were when their process was killed."""
    return sorted(path.name.removeprefix(_STAGING) for path in folder.glob(f"{_STAGING}*"))


def _describe_all(staged: Path, kind: str, run: str, step: int, *, resumable: bool) -> Manifest:
    paths = sorted(path for path in staged.rglob("*") if path.is_file())
    names = [path.relative_to(staged).as_posix() for path in paths]
    files = {name: describe(staged / name) for name in names if name != _CARD}
    for path in paths:
        _sync(path, forget=True)
    manifest = Manifest(kind, run, step, resumable, files)
    (staged / MANIFEST).write_text(manifest.text(), encoding="utf-8")
    for path in [staged / MANIFEST, *(p for p in staged.rglob("*") if p.is_dir()), staged]:
        _sync(path)
    return manifest


def _sync(path: Path, *, forget: bool = False) -> None:
    """Wait until the disk has it; `forget` lets the next reader ask the disk, not the memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if forget and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
