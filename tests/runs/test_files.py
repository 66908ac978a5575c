"""Reading run folders, whole and damaged."""

import resource
import signal
from pathlib import Path

import pytest

from orpo.errors import DataError
from orpo.runs.files import METRICS, RECIPE, SAMPLES, read_run, write_jsonl, write_yaml
from orpo.runs.writing import append_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_yaml(tmp_path / RECIPE, {"model": "m", "_run": {"engine": "padded"}})
    return tmp_path


def test_answers_with_unicode_line_separators_survive(folder: Path) -> None:
    rows = [{"prompt": "a\u2028b", "after": "c\u0085d\nе 你好"}, {"prompt": "x"}]
    write_jsonl(folder / SAMPLES, rows)
    run = read_run(folder)
    assert run.samples == rows
    assert run.facts == {"engine": "padded"}


def test_a_line_cut_by_a_kill_is_left_out(folder: Path) -> None:
    (folder / METRICS).write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo', encoding="utf-8")
    assert read_run(folder).training == [{"step": 1, "loss": 2.0}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": \n{"b": 1}\n', f"{METRICS}:1"),
        (b'{"a": 1}\n[1]\n', f"{METRICS}:2"),
        (b'{"a": "\xff"}\n', "UTF-8"),
    ],
)
def test_damage_is_named(folder: Path, content: bytes, said: str) -> None:
    (folder / METRICS).write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_run(folder)


def test_not_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="recipe"):
        read_run(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read_run(tmp_path / "none")


def test_a_line_that_does_not_fit_is_not_left_in_half(tmp_path: Path) -> None:
    """The limit on a file's size ends a write in the middle, as a full disk does."""
    path, line = tmp_path / "events.jsonl", 29 * "a" + "\n"
    limits, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        for count in range(3):
            append_text(path, line, size=30 * count)
        with pytest.raises(OSError, match="File too large"):
            append_text(path, line, size=90)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_text() == 3 * line
