"""Writing into a folder that somebody else may have prepared: nothing is followed out of it.

The folder itself may be a link, which is its owner's choice. What stands in it under the name of a
file of ours and is a link, a pipe or a device is replaced: neither what it points to nor who reads
its other end has anything to do with this run.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from orpo.errors import ConfigError


def write_text(path: Path, text: str) -> None:
    """Write all of it or nothing, whenever the process is killed."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """The same for bytes."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        remove(fresh)
        with fresh.open("xb") as file:  # "x" follows no link
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a power failure leaves the name with half of the text
        fresh.replace(path)  # a link of this name is replaced
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_named(path: Path, text: str) -> None:
    """Write a file that the user has named: what a link points to, and a device, is meant."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def ensure_writable(path: Path, *, fix: str) -> None:
    """Know that a file can be written before the work begins whose result it takes.

    Nothing is left of the trial, folders that were not there included.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    with explained(path, fix), contextlib.ExitStack() as after:
        for folder in reversed(made):
            folder.mkdir()
            after.callback(folder.rmdir)
        if path.is_file() or not path.exists():
            fresh = not path.exists()
            path.open("ab").close()
            if fresh:
                path.unlink()
        elif path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))


@contextlib.contextmanager
def explained(path: Path, fix: str) -> Iterator[None]:
    """Within it, that a file cannot be written is one line."""
    try:
        yield
    except OSError as error:
        is_folder = isinstance(error, IsADirectoryError)
        reason = error.strerror or str(error)
        what = "is a folder, not a file" if is_folder else f"cannot be written ({reason})"
        raise ConfigError(what, where=str(error.filename or path), fix=fix) from error


def append_text(path: Path, text: str, *, size: int) -> None:
    """Add to a file of ours (see `make_way`), of which only so many bytes are kept."""
    if path.is_file() and path.stat().st_nlink > 1:  # a backup made of links has it too
        write_bytes(path, path.read_bytes())
    with path.open("ab", buffering=0) as file:
        file.truncate(size)
        left = text.encode()
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            with contextlib.suppress(OSError):  # no half line
                file.truncate(size)
            raise


def make_way(path: Path) -> None:
    """Take away a link, a pipe or a device that stands in the place of a file of ours."""
    with contextlib.suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            path.unlink()


def remove(path: Path) -> None:
    """Delete a file, a folder with all that is in it, or a link; nothing if nothing is there."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()


def subfolder(folder: Path, *parts: str) -> Path:
    """A folder within another one, made where it is not there; a link on the way is replaced."""
    for part in parts:
        folder = folder / part
        if folder.is_symlink():
            folder.unlink()
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Make sure that what is written under these names stays in a folder."""
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    patterns = list(names)
    for path in there:
        mode = path.lstat().st_mode
        ours = any(fnmatch(path.name, pattern) for pattern in patterns)
        if ours and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ConfigError(
                "is a link, or no file: what is written there would land elsewhere",
                where=str(path),
                fix="Delete it, or give another folder.",
            )
