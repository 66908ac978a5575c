"""Forked commands are what new processes would be: their input, output, end, and signals."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests import forked

WAITING = """
import os, signal, time
{before}
print(os.getpid(), flush=True)
while True:
    time.sleep(1)
"""


def run(*words: str, text: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [forked.python(), *words]
    return subprocess.run(command, cwd=cwd, input=text, capture_output=True, text=True, check=False)


def waiting(before: str = "") -> tuple[subprocess.Popen[str], psutil.Process]:
    """A command that waits to be ended, and the process that it is."""
    words = [forked.python(), "-c", WAITING.format(before=textwrap.dedent(before))]
    client = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    return client, psutil.Process(int(client.stdout.readline()))


def ended(client: subprocess.Popen[str], process: psutil.Process) -> int:
    """How the command ended; its process is gone then."""
    client.communicate(timeout=60)
    process.wait(60)
    return client.returncode


TELL = """\
import os, sys
print(os.getcwd(), os.environ["GIVEN"], "PYTHONPATH" in os.environ, sys.argv, sys.stdin.read())
print("aside", file=sys.stderr)
sys.exit(7)
"""


@pytest.mark.parametrize("python", [forked.python, lambda: sys.executable], ids=["forked", "new"])
def test_everything_arrives(tmp_path: Path, python: Callable[[], str]) -> None:
    environment = {"GIVEN": "a \u00e9\n b", "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [python(), "-c", TELL, "one two", "'", "--three"],
        cwd=tmp_path,
        env=environment,
        input="from stdin",
        capture_output=True,
        text=True,
        check=False,
    )
    words = ["-c", "one two", "'", "--three"]
    assert done.stdout == f"{tmp_path} a \u00e9\n b False {words} from stdin\n"
    assert done.stderr == "aside\n"
    assert done.returncode == 7


def test_every_way_to_start_a_program(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("NAME = 'neighbour'\n")
    tell = "import sys, neighbour\nprint(__name__, neighbour.NAME, sys.argv[1:])\n"
    (tmp_path / "script.py").write_text(tell)
    said = "__main__ neighbour ['a', 'b']\n"
    assert run(str(tmp_path / "script.py"), "a", "b", cwd=Path("/")).stdout == said
    assert run("-m", "script", "a", "b", cwd=tmp_path).stdout == said
    assert run("-u", "-m", "script", "a", "b", cwd=tmp_path).stdout == said
    assert run("-c", tell, "a", "b", cwd=tmp_path).stdout == said
    assert run("-", "a", "b", cwd=tmp_path, text=tell).stdout == said
    assert run(cwd=tmp_path, text="print(__name__)").stdout == "__main__\n"
    assert run("-m", "orpo", "--version").stdout.startswith("orpo ")
    assert run("-X", "dev", "-c", "").returncode == 1


INNER = "import sys; print('orpo.train.trainer' in sys.modules)"  # forked too, and so warm


@pytest.mark.parametrize(
    ("program", "code", "out", "err"),
    [
        ("pass", 0, "", ""),
        ("raise SystemExit('why')", 1, "", "why\n"),
        ("import os; 1 / 0", 1, "", "ZeroDivisionError: division by zero\n"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, "", ""),
        ("import atexit; atexit.register(print, 'b'); print('a', end=' ')", 0, "a b\n", ""),
        ("import threading; threading.Timer(0.1, print, 'a').start()", 0, "a\n", ""),
        (
            f"import subprocess, sys; subprocess.run([sys.executable, '-c', {INNER!r}])",
            0,
            "True\n",
            "",
        ),
    ],
)
def test_ends_are_those_of_the_process(program: str, code: int, out: str, err: str) -> None:
    done = run("-c", program)
    assert (done.returncode, done.stdout) == (code, out)
    assert done.stderr.endswith(err)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_reaches_the_process(number: signal.Signals) -> None:
    told = waiting()
    told[0].send_signal(number)
    assert ended(*told) == -number
    handled = f"signal.signal({int(number)}, lambda *_: os._exit(9))"
    told = waiting(handled)
    told[0].send_signal(number)
    assert ended(*told) == 9


def test_a_signal_that_the_caller_ignores_is_ignored() -> None:
    script = f"trap '' INT; exec {forked.python()} -c '{WAITING.format(before='')}'"
    client = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    process = psutil.Process(int(client.stdout.readline()))
    client.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    client.send_signal(signal.SIGTERM)
    assert ended(client, process) == -signal.SIGTERM


def test_who_kills_the_command_kills_the_process() -> None:
    told = waiting("signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    told[0].kill()
    assert ended(*told) == -signal.SIGKILL


def test_processes_do_not_hold_each_others_pipes() -> None:
    """An end of stdin is heard although another command was started since."""
    reading = "import sys; print('ready', flush=True); print(len(sys.stdin.read()))"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([forked.python(), "-c", reading], **pipes) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "ready\n"
        other, process = waiting()
        assert first.communicate("four", timeout=60)[0] == "4\n"
        other.kill()
        ended(other, process)


def test_the_server_takes_its_processes_along() -> None:
    mine = forked.Forks()
    words = [str(mine.folder / "python"), "-c", WAITING.format(before="")]
    client = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    process = psutil.Process(int(client.stdout.readline()))
    with mine.server:
        pass
    assert ended(client, process) == -signal.SIGKILL
