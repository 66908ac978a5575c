"""Ranks that are small programs: who is heard, what their end means, which signals they get."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from orpo.errors import ConfigError
from orpo.runs.processes import LOST, Outcome, launch, lost_a_rank

HEAD = """
import os, pathlib, signal, sys, time
rank = int(os.environ["RANK"])
"""


def program(body: str) -> list[str]:
    return [sys.executable, "-c", HEAD + textwrap.dedent(body)]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def run(body: str, ranks: int = 2) -> Outcome:
    return launch(program(body), ranks, patience=1.0)


def test_every_rank_knows_who_it_is_and_the_first_one_is_heard(
    capfd: pytest.CaptureFixture[str],
) -> None:
    outcome = run(
        """
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
        print(*(os.environ[name] for name in names), flush=True)
        print("said by", rank, file=sys.stderr, flush=True)
        int(os.environ["MASTER_PORT"])
        """,
        ranks=3,
    )
    said = capfd.readouterr()
    assert outcome == Outcome(0)
    assert said.out == "0 0 3 3 127.0.0.1\n"
    assert said.err == "said by 0\n"


@pytest.mark.parametrize(
    "reaction", ["time.sleep(600)", f"sys.exit({LOST})", "os.abort()", "sys.exit(1)"]
)
def test_a_killed_rank_ends_the_others_and_is_named(reaction: str, tmp_path: Path) -> None:
    """What follows, perhaps before anybody has looked at it, is not taken for the cause."""
    outcome = run(
        f"""
        gone = pathlib.Path({str(tmp_path / "gone")!r})
        if rank == 1:
            gone.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        while not gone.exists():
            time.sleep(0.001)
        {reaction}
        """
    )
    assert outcome.code == 1
    assert "rank 1 was killed by SIGKILL" in outcome.message
    assert "\n" not in outcome.message


@pytest.mark.parametrize(("code", "whole"), [(2, 2), (3, 1)])
def test_the_words_of_a_rank_that_fails_alone_are_handed_on(code: int, whole: int) -> None:
    outcome = run(
        f"""
        if rank == 1:
            print("error: no such file", file=sys.stderr)
            sys.exit({code})
        time.sleep(600)
        """
    )
    assert outcome.code == whole
    assert outcome.said == ("error: no such file",)
    assert f"rank 1 failed with exit code {code}" in outcome.message


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("sys.exit(2) if rank == 0 else time.sleep(600)", 2, ""),  # it has said why itself
        (f"sys.exit({LOST})", 1, "lost each other"),
        # A signal to one rank hides no failure of another.
        ("sys.exit(143 if rank == 1 else 2)", 2, ""),
        ("sys.exit(143 if rank == 1 else 1)", 1, ""),
    ],
)
def test_what_the_ends_of_ranks_mean(body: str, code: int, said: str) -> None:
    outcome = run(body)
    assert outcome.code == code
    assert said in outcome.message


@pytest.mark.parametrize(
    ("number", "one", "other"),
    [
        (15, "sys.exit(128 + {n})", "sys.exit(128 + {n})"),  # they agreed on it
        (2, "sys.exit(128 + {n})", "time.sleep(600)"),  # it had not begun: nobody told the other
        (15, "os.kill(os.getpid(), {n})", "time.sleep(600)"),
        (2, "os.kill(os.getpid(), {n})", "time.sleep(600)"),
        (15, "sys.exit(128 + {n})", f"sys.exit({LOST})"),
    ],
)
def test_a_signal_to_one_rank_only_stops_the_whole(number: int, one: str, other: str) -> None:
    parts = [
        "signal.signal(signal.SIGINT, signal.SIG_DFL)",
        f"{one} if rank == 1 else {other}",
    ]
    assert run("\n".join(parts).format(n=number)).code == 128 + number


LAUNCHER = """
import sys
from orpo.runs.processes import launch
outcome = launch([sys.executable, "-c", sys.argv[1]], 2, patience=60.0)
print(outcome.code, outcome.message)
"""
COUNTING = """
seen = []
def count(number, frame):
    seen.append(number)
signal.signal(signal.SIGTERM, count)
signal.signal(signal.SIGINT, count)
folder = pathlib.Path({folder!r})
(folder / f"ready-{{rank}}").touch()
while not seen:
    time.sleep(0.01)
if rank == 1:  # as if writing took a while
    while not (folder / "seen-0").exists():
        time.sleep(0.01)
time.sleep(0.1)  # a second signal would have come by now
(folder / f"seen-{{rank}}").write_text(" ".join(map(str, seen)))
sys.exit(128 + seen[0])
"""


def wait_for(*paths: Path) -> None:
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, [path.name for path in paths if not path.exists()]
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_rank_once_as_from_a_terminal(
    tmp_path: Path, number: signal.Signals
) -> None:
    body = HEAD + COUNTING.format(folder=str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, body],
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as launcher:
        wait_for(tmp_path / "ready-0", tmp_path / "ready-1")
        os.killpg(launcher.pid, number)  # Ctrl-C goes to the whole group
        out, _ = launcher.communicate(timeout=60)
    assert out.split()[0] == str(128 + number)
    assert [(tmp_path / f"seen-{rank}").read_text() for rank in (0, 1)] == [str(int(number))] * 2


def test_ranks_stop_when_the_launcher_is_killed(tmp_path: Path) -> None:
    following = "from orpo.runs.processes import follow_launcher\nfollow_launcher()\n"
    body = HEAD + following + COUNTING.format(folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", LAUNCHER, body]) as launcher:
        wait_for(tmp_path / "ready-0", tmp_path / "ready-1")
        launcher.kill()
        wait_for(tmp_path / "seen-0", tmp_path / "seen-1")
    assert (tmp_path / "seen-1").read_text() == str(int(signal.SIGTERM))


def test_there_is_one_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        run("", ranks=0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="another launcher"):
        run("")


def test_only_ranks_can_lose_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection closed by peer [127.0.0.1]")
    assert not lost_a_rank(error)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert lost_a_rank(error)
    assert not lost_a_rank(RuntimeError("shape mismatch"))
    assert not lost_a_rank(ConnectionResetError("connection reset by peer"))
