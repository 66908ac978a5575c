"""Two runs never write to one folder: a lock that the system lets go of when its process ends."""

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from orpo.errors import ConfigError
from orpo.runs.reading import parse_json
from orpo.runs.writing import make_way

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps two runs apart
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_THIS_FILE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # no link, no pipe
_TAKEN = {errno.EACCES, errno.EAGAIN}  # any other error: this disk keeps no locks


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[str | None]:
    """Hold the folder for this process; the lock of one process may be taken several times."""
    path = folder / LOCK
    # However it is called: to open and close a locked file once more is to let go of the lock.
    place = _place(folder)
    if place in _HELD or fcntl is None:
        yield _HELD.get(place)
        return
    fresh = not folder.exists()
    descriptor, note = _take(path)
    _HELD[place] = note
    try:
        yield note
    finally:
        del _HELD[place]
        with contextlib.suppress(OSError):  # left behind where nothing can be deleted, but free
            path.unlink()
        os.close(descriptor)
        if fresh:  # a run that was refused leaves nothing behind
            with contextlib.suppress(OSError):
                folder.rmdir()


_HELD: dict[Path, str | None] = {}


def lock_holder(folder: Path) -> str | None:
    """Which process writes to a folder now, in words; None if none does."""
    path = folder / LOCK
    if _place(folder) in _HELD:  # closing another descriptor of it would let go of the lock
        return f"process {os.getpid()} on {socket.gethostname()}"
    try:
        descriptor = os.open(path, os.O_RDONLY | _THIS_FILE)
    except OSError:
        return None
    try:
        if fcntl is not None:
            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None  # left behind by a process that was killed
    except OSError as error:
        return _holder(descriptor) if error.errno in _TAKEN else None
    finally:
        os.close(descriptor)


def _place(folder: Path) -> Path:
    return Path(os.path.realpath(folder)) / LOCK


def _take(path: Path) -> tuple[int, str | None]:
    while True:
        note = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            make_way(path)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _THIS_FILE, 0o644)
        except OSError as error:
            is_file = path.parent.is_file()
            raise ConfigError(
                "is a file, not a folder"
                if is_file
                else f"cannot be written to ({error.strerror})",
                where=str(path.parent),
                fix="Give another --output_dir.",
            ) from error
        try:
            # Not flock: worker processes would inherit it and keep it after a kill -9.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                holder = _holder(descriptor)
                os.close(descriptor)
                raise ConfigError(
                    f"another run is writing here ({holder})",
                    where=str(path.parent),
                    fix="Wait for it, stop it, or give another --output_dir.",
                ) from None
            note = f"nothing keeps another run out of {path.parent} ({error.strerror})"
        if os.fstat(descriptor).st_nlink > 1:  # what the other name stands for is not ours to write
            path.unlink()
        if _same(descriptor, path):
            who = {"pid": os.getpid(), "host": socket.gethostname()}
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(who).encode())
            return descriptor, note
        os.close(descriptor)  # it was deleted meanwhile


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    try:
        who = parse_json(os.read(descriptor, 1000))
        return f"process {who['pid']} on {who['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "its process is not known"
