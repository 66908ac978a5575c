"""`orpo` and `python` for tests of documents: real commands, without the seconds of importing.

A server imports everything once. For each command it forks a process that has the caller's
folder, environment, input and output, and is otherwise what a new process would be: it leaves by
`sys.exit`, and its exit code is the command's.

This file is the server (`serve SOCKET`), and the command that asks it (`run SOCKET orpo ...`); the
latter imports the standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

_STANDARD = (0, 1, 2)
_ROOT = Path(__file__).parent.parent


def ask(address: str, arguments: list[str]) -> int:
    """Have a command run, and wait for it; its exit code, or 128 + the signal that ended it."""
    request = json.dumps(
        {"arguments": arguments, "folder": str(Path.cwd()), "environment": dict(os.environ)}
    ).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [len(request).to_bytes(8)], list(_STANDARD))
        connection.sendall(request)
        with connection.makefile() as answers:
            child = int(answers.readline())
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda number, _frame: os.kill(child, number))
            return int(answers.readline() or 1)


def serve(address: str) -> None:
    """Fork a process for every command, until stdin ends."""
    _import_everything()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        threading.Thread(target=_end_with_stdin, daemon=True).start()
        while True:
            connection, _ = listener.accept()
            given, streams = _receive(connection)
            child = os.fork()
            if child == 0:
                listener.close()
                connection.close()
                _become(given, streams)  # does not come back
            for stream in streams:
                os.close(stream)
            threading.Thread(target=_report, args=(connection, child), daemon=True).start()


def _import_everything() -> None:
    from orpo.cli.main import _quiet

    _quiet()
    for module in (_ROOT / "src" / "orpo" / "cli").glob("*.py"):
        if not module.stem.startswith("__"):
            __import__(f"orpo.cli.{module.stem}")
    import datasets
    import matplotlib.pyplot
    import peft

    import orpo.report.page
    import orpo.report.run_figures
    import orpo.train.trainer

    assert datasets
    assert matplotlib
    assert peft
    assert orpo


def _end_with_stdin() -> None:
    while os.read(0, 1):  # sys.stdin would be locked in every fork
        pass
    os._exit(0)


def _receive(connection: socket.socket) -> tuple[dict[str, object], list[int]]:
    head, streams, _, _ = socket.recv_fds(connection, 8, len(_STANDARD))
    wanted, text = int.from_bytes(head), b""
    while len(text) < wanted:
        text += connection.recv(wanted - len(text))
    return json.loads(text), streams


def _become(given: dict[str, object], streams: list[int]) -> None:
    """Be the command, in a process group of its own, and end."""
    for stream, number in zip(streams, _STANDARD, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    os.setpgid(0, 0)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as at a program's start
    os.chdir(str(given["folder"]))
    environment = given["environment"]
    arguments = given["arguments"]
    assert isinstance(environment, dict)
    assert isinstance(arguments, list)
    os.environ.clear()
    os.environ.update(environment)
    for handled in (signal.SIGINT, signal.SIGTERM):
        signal.signal(handled, signal.default_int_handler if handled == 2 else signal.SIG_DFL)
    sys.argv = arguments
    if arguments[0] == "orpo":
        from orpo.cli.main import run

        run()
    sys.path.insert(0, "")
    main = sys.modules["__main__"]
    script = sys.stdin.read() if len(arguments) == 1 else Path(arguments[1]).read_text("utf-8")
    sys.argv = arguments[1:] or ["-"]
    space = {"__name__": "__main__", "__builtins__": __builtins__}
    main.__dict__.update(space)
    exec(compile(script, sys.argv[0], "exec"), main.__dict__)
    sys.exit(0)


def _report(connection: socket.socket, child: int) -> None:
    with connection, contextlib.suppress(BrokenPipeError):
        connection.sendall(f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        connection.sendall(f"{code if code >= 0 else 128 - code}\n".encode())


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(ask(sys.argv[2], sys.argv[3:]))
