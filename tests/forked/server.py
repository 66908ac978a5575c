"""Forks a process for every command that a client asks for.

    python -m tests.forked.server FOLDER [warm]

It has one thread, because only the thread that forks goes on in the process that is forked. It
ends, and ends all that it has forked, when its stdin does.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tests.forked.client import PASSED_ON, STREAMS

_IMPORTED = (
    "accelerate.commands.launch",
    "datasets",
    "matplotlib.pyplot",
    "orpo.experiments.bench_worker",
    "orpo.commands.compare_worker",
    "orpo.report.run",
    "orpo.train.trainer",
    "peft",
    "torch.distributed.run",
    "transformers.models.llama.modeling_llama",
)


class Server:
    """Answers clients, whose programs and socket lie in a folder, one event after the other."""

    def __init__(self, folder: Path) -> None:
        self.python = folder / "python"
        self.waiting: dict[int, socket.socket] = {}  # process -> the client that stands for it
        self.events = selectors.DefaultSelector()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / "socket"))
        self.listener.listen(64)
        self.ended, self.wake = socket.socketpair()
        self.wake.setblocking(False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asked
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake.fileno())
        for file, heard in (
            (0, self._close),
            (self.listener, self._accept),
            (self.ended, self._reap),
        ):
            self.events.register(file, selectors.EVENT_READ, heard)

    def serve(self) -> None:
        """Until stdin ends; in a process that is forked, until its command does."""
        print("ready", flush=True)
        while True:
            for key, _ in self.events.select():
                key.data()

    def _close(self) -> None:
        for process in self.waiting:
            os.kill(process, signal.SIGKILL)
        os._exit(0)

    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        head, streams, _, _ = socket.recv_fds(connection, 8, len(STREAMS))
        with connection.makefile("rb") as file:
            request = file.read(int.from_bytes(head))
        if head and len(request) == int.from_bytes(head):
            process = os.fork()
            if process == 0:
                self._leave(connection)
                become(json.loads(request), streams, self.python)
            self.waiting[process] = connection
            # It says no more.
            self.events.register(connection, selectors.EVENT_READ, lambda: self._lost(process))
            _tell(connection, process)
        for stream in streams:
            os.close(stream)

    def _lost(self, process: int) -> None:
        """A client was killed: so is its process."""
        if process in self.waiting:
            self.events.unregister(self.waiting[process])
            os.kill(process, signal.SIGKILL)

    def _leave(self, *more: socket.socket) -> None:
        """What is the server's is not the new process's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.events.close()
        for file in (self.listener, self.ended, self.wake, *self.waiting.values(), *more):
            file.close()

    def _reap(self) -> None:
        self.ended.recv(64)
        while self.waiting:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                break
            connection = self.waiting.pop(process)
            with contextlib.suppress(KeyError):  # the client was killed
                self.events.unregister(connection)
            _tell(connection, os.waitstatus_to_exitcode(status))
            connection.close()


def _tell(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # the client was killed
        connection.sendall(f"{number}\n".encode())


def become(given: dict[str, Any], streams: list[int], python: Path) -> None:
    """Be the command, in a process group of its own, and end as a program does."""
    os.setpgid(0, 0)
    for stream, number in zip(streams, STREAMS, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as at a program's start
    os.chdir(given["folder"])
    os.environ.clear()
    os.environ.update(given["environment"])
    sys.executable = str(python)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for signal_number in PASSED_ON[1:]:
        signal.signal(signal_number, signal.SIG_DFL)
    for signal_number in given["ignored"]:
        signal.signal(signal_number, signal.SIG_IGN)
    name, *words = given["words"]
    if name == "orpo":
        words = ["-m", "orpo", *words]
    end(run_python, words)


def end(run: Callable[[list[str]], None], words: list[str]) -> NoReturn:
    """Run, and end as a program does, without the half second of taking every module apart."""
    code: Any = None
    try:
        run(words)
    except SystemExit as exit_:
        code = exit_.code
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # what the interpreter does, in this order
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code or 0)


def run_python(words: list[str]) -> None:
    """What `python WORDS...` does: a module, a text, a script, or what stdin says."""
    if words[:1] == ["-u"]:
        words = words[1:]
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    how, *rest = words or ["-"]
    if how == "-m":
        sys.path[0], sys.argv = str(Path.cwd()), rest
        if not hasattr(sys.modules.get(rest[0]), "__path__"):
            sys.modules.pop(rest[0], None)  # runpy warns of what is there already
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif how in {"-c", "-"}:
        text = rest[0] if how == "-c" else sys.stdin.read()
        sys.path[0], sys.argv = "", [how, *(rest[1:] if how == "-c" else rest)]
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(compile(text, "<string>" if how == "-c" else "<stdin>", "exec"), main.__dict__)
    elif how.startswith("-"):
        sys.exit(f"the python of tests.forked knows no {how}")
    else:
        sys.path[0], sys.argv = str(Path(how).resolve().parent), words
        runpy.run_path(how, run_name="__main__")


def import_everything() -> None:
    """What commands and the tests' workers import, so that it is there in every process."""
    import orpo.commands.main

    orpo.commands.main._quiet()
    modules = {module.name for module in pkgutil.iter_modules(orpo.commands.__path__)} - {
        "__main__"
    }
    for name in (*(f"orpo.commands.{module}" for module in modules), *_IMPORTED):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection would go through all of it, in every process


if __name__ == "__main__":
    if "warm" in sys.argv:
        import_everything()
    Server(Path(sys.argv[1])).serve()
