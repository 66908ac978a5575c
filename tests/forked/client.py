"""The program that stands for a forked process: client.py SOCKET NAME [ARGUMENT...].

It imports little of the standard library, and nothing else.
"""

import contextlib
import json
import os
import signal
import socket
import sys

PASSED_ON = [getattr(signal, f"SIG{n}") for n in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2")]
STREAMS = (0, 1, 2)


def run(address: str, words: list[str]) -> int:
    """Have a command run, and wait for it: its exit code, or minus the signal that ended it."""
    ignored = [n for n in PASSED_ON if signal.getsignal(n) is signal.SIG_IGN]
    facts = {
        "words": words,
        "folder": os.getcwd(),  # noqa: PTH109 - pathlib takes as long as all the rest
        "environment": dict(os.environ),
        "ignored": ignored,
    }
    request = json.dumps(facts).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [len(request).to_bytes(8)], STREAMS)
        connection.sendall(request)
        with connection.makefile() as answers:
            process = int(answers.readline())

            def pass_on(number: int, _frame: object) -> None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)

            for number in PASSED_ON:
                if number not in ignored:
                    signal.signal(number, pass_on)
            return int(answers.readline() or -signal.SIGKILL)


def end(status: int) -> None:
    """End as the process did."""
    if status < 0:
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    end(run(sys.argv[1], sys.argv[2:]))
