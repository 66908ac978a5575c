"""What is seen while something runs: bars with the time left, lines, and the report as it grows."""

import contextlib
import os
import re
import signal
import sys
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pexpect
import pytest
from rich.cells import cell_len
from rich.console import Console

from orpo.commands import bars, console, progress
from orpo.commands.bars import Bar
from orpo.commands.progress import LiveReport, TrainingProgress
from orpo.runs.files import read_run
from orpo.terminal import showing, under_way
from tests.cli.conftest import QUIET
from tests.jobs import small_run

REFRESH = 'http-equiv="refresh"'


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for module in (bars, progress):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture(params=[None, 80, 60])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """Of the terminal; None where there is none."""
    screen = console.Screen(
        stderr=True,
        force_terminal=request.param is not None,
        width=request.param,
        highlight=False,
        emoji=False,
        color_system=None,
        _environ={},
    )
    for module in (console, bars):
        monkeypatch.setattr(module, "console", screen)
    return request.param  # type: ignore[no-any-return]


def training(clock: Clock, *, steps: int, evaluations: int = 0) -> Iterator[tuple[Any, ...]]:
    """(the progress, the bar, seconds that are really left) after each of a training's steps.

    Steps take 2 s, the first one 60 and one in the middle 100 s more; evaluations 30 s.
    """
    every = steps // evaluations if evaluations else 0
    state = SimpleNamespace(
        is_world_process_zero=True,
        max_steps=steps,
        global_step=0,
        eval_steps=every,
        save_steps=0,
        epoch=0,
    )
    how = {"eval_on_start": False, "save_strategy": SimpleNamespace(value="no")}
    args = SimpleNamespace(eval_strategy=SimpleNamespace(value="steps"), **how)
    shown, control = TrainingProgress(), None
    shown.on_train_begin(args, state, control)
    bar = shown._bar
    assert bar is not None
    for step in range(1, steps + 1):
        clock.passes(2 + 60 * (step == 1) + 100 * (step == steps // 2))
        state.global_step = step
        shown.on_step_end(args, state, control)
        logs = {"loss": 0.7263, "rewards/accuracies": 0.8251, "log_odds_chosen": 0.4587}
        shown.on_log(args, state, control, {**logs, "tokens_per_second": 12345.6})
        if every and step % every == 0:
            clock.passes(30)
            own = {"eval_b_loss": 0.71, "eval_b_runtime": 30.0, "eval_b_logps/chosen": -0.2789}
            shown.on_evaluate(args, state, control, {**own, "eval_b_rewards/accuracies": 0.75})
        rest = evaluations - (step // every if every else 0)
        yield shown, bar, 2 * (steps - step) + 30 * rest + 100 * (step < steps // 2)
    shown.on_train_end(args, state, control)


@pytest.mark.parametrize("evaluations", [0, 4])
def test_the_time_left_of_a_training_is_true(clock: Clock, evaluations: int) -> None:
    for step, (_, bar, left) in enumerate(training(clock, steps=100, evaluations=evaluations), 1):
        if step == 1:
            assert bar.left == "", "the first step compiles, and tells nothing"
        elif step >= (25 if evaluations else 2):  # once an evaluation has been seen
            assert bar.ahead == pytest.approx(left - 100 * (step < 50), abs=1)
    assert bars.BARS._open == []


def test_an_evaluation_before_training_tells_what_those_within_will_take(clock: Clock) -> None:
    shown = TrainingProgress(told=False)
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, max_steps=0)
    shown.on_evaluate(None, state, None, {"eval_loss": 1.0, "eval_runtime": 50.0})
    assert shown._look == 50.0


def test_the_time_left_of_other_work_leaves_out_what_came_first(clock: Clock) -> None:
    bar = Bar("scoring", 1000)
    clock.passes(60)
    bar.advance(100)
    assert bar.left == ""
    for _ in range(4):
        clock.passes(5)
        bar.advance(100)
    assert bar.left == "0:25 left"
    clock.passes(10)
    assert bar.left == "0:15 left", "it goes on between two batches"


def test_loss_accuracy_log_odds_speed_and_time_left_are_shown(
    clock: Clock, width: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []
    for _, bar, _ in training(clock, steps=20000, evaluations=2):
        if width and bar.done in {3, 19999}:
            plain = Console(width=width, color_system=None)
            seen += plain.render_lines(bar, pad=False)
    numbers = ("loss 0.7263", "acc 83 %", "log-odds 0.46", "12,346 tok/s", " left")
    if width is None:
        said = capsys.readouterr().err.splitlines()
        assert len(said) < 60 + 20000 * 2 / 10, "now and then"
        assert said[2] == (
            "step 3/20000: loss 0.7263 · accuracy 82.5 % · log-odds 0.46 · 12,346 tokens/s · "
            "11:06:34 left"
        )
        held_out = "held out (b): loss 0.71 · accuracy 75.0 % · answer NLL 0.279"
        assert [line for line in said if "held" in line] == [
            f"step {step}/20000, {held_out}" for step in (10000, 20000)
        ]
    else:
        seen = ["".join(one.text for one in line).rstrip() for line in seen]
        assert max(map(cell_len, seen)) <= width
        assert len(seen) == {80: 2, 60: 4}[width]
        assert all(" ".join(seen).count(word) == 2 for word in numbers)


def test_bars_of_what_is_under_way_are_lines_where_there_is_no_terminal(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with showing(bars.BARS.around), under_way("scoring", 1000) as advance:
        for _ in range(10):
            clock.passes(25)
            advance(100)
    assert capsys.readouterr().err.splitlines() == [
        f"scoring {done}/1000 · {left} left"
        for done, left in (("300", "2:55"), ("600", "1:40"), ("900", "0:25"))
    ]
    with under_way("scoring", 10) as advance:  # a library call shows nothing
        clock.passes(100)
        advance(5)
    assert capsys.readouterr().err == ""


PATH = "/tmp/a-folder/of-somebody/who-likes/very-long-names/run-0001/report.html"


@pytest.mark.parametrize(
    ("line", "whole"),
    [
        ("plain words " * 12, ["plain", "words"]),
        (f"stopped by SIGTERM; the checkpoint is {PATH}. Go on with --resume.", [f"{PATH}."]),
        ("模型在一百二十个保留的偏好对上更喜欢被选中的回答，而且没有变差。" * 3, ["，", "。"]),
        ("  orpo train --model MODEL --dataset YOUR_PAIRS.jsonl --held_out 0.05", ["MODEL"]),
        ("[bold]not markup[/bold] \x1b[31m", ["[bold]not", "\\x1b[31m"]),
    ],
)
def test_prose_breaks_between_words(
    width: int | None, capsys: pytest.CaptureFixture[str], line: str, whole: list[str]
) -> None:
    console.say(line)
    rows = capsys.readouterr().err.rstrip("\n").split("\n")
    if width is None:
        assert len(rows) == 1
        return
    assert all(cell_len(row) <= width or row.strip() == whole[0] for row in rows)
    assert all(any(word in row for row in rows) for word in whole)
    assert not any(row.lstrip().startswith(("，", "。")) for row in rows)
    words = [word for row in rows for word in row.split()]
    joined = "".join(words)
    assert joined == "".join(line.replace("\x1b", "\\x1b").split())


def test_the_report_grows_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[str] = []
    opened: list[str] = []
    page = tmp_path / "run" / "report.html"
    browser = SimpleNamespace(open=lambda address: bool(opened.append(address) or True))
    monkeypatch.setattr(webbrowser, "get", lambda: browser)

    class Looking(LiveReport):
        def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            self._next = 0.0  # at every log
            super().on_log(args, state, control, **more)
            pages.append(page.read_text(encoding="utf-8") if page.exists() else "")

    said: list[str] = []
    looks = {"eval_strategy": "steps", "eval_steps": 2}
    small_run.train(tmp_path, callbacks=[Looking(page.parent, said.append, shown=True)], **looks)
    first, fourth = pages[1], pages[-2]  # the evaluation before training has no page
    assert (pages[0], said) == ("", [f"report, from the first log on: {page}"])
    assert all(REFRESH in one for one in pages[1:])
    assert "The run is going on, at step 1 of 4" in first
    assert "The run is going on, at step 4 of 4" in fourth
    assert "not come to its end" not in first
    assert "before training; there is no evaluation after training yet" in first
    assert re.search(r"At step 4 the model preferred .* held-out pairs \(before training: ", fourth)
    assert opened == [page.as_uri()]
    last = page.read_text(encoding="utf-8")
    assert REFRESH not in last
    assert "going on" not in last


def test_a_page_that_cannot_be_drawn_is_told_of_once_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Path:
        raise RuntimeError("no colours left")

    said: list[str] = []
    plain = small_run.train(tmp_path)
    monkeypatch.setattr(progress, "write_report", broken)
    live = LiveReport(tmp_path / "other", said.append)
    small_run.run(tmp_path, tmp_path / "other", callbacks=[live])
    assert said[1:] == [
        "the report cannot be drawn while the run goes on: RuntimeError('no colours left')"
    ]
    losses = [
        [line["loss"] for line in read_run(folder).metrics if "loss" in line]
        for folder in (plain, tmp_path / "other")
    ]
    assert losses[0] == losses[1]


def test_drawing_takes_a_twentieth_of_the_time(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[float] = []

    def draw(folder: Path, live: int = 0) -> Path:
        drawn.append(clock.now)
        clock.passes(1)
        return folder

    monkeypatch.setattr(progress, "write_report", draw)
    report = LiveReport(tmp_path, print)
    state = SimpleNamespace(is_world_process_zero=True, global_step=1, max_steps=9)
    for _ in range(100):
        report.on_log(None, state, None)
        clock.passes(1)
    assert len(drawn) == 5
    state.is_world_process_zero = False
    clock.passes(100)
    report.on_log(None, state, None)
    assert len(drawn) == 5, "the other ranks draw nothing"


def test_where_no_browser_is_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def none() -> None:
        raise webbrowser.Error("could not locate runnable browser")

    for get in (none, lambda: webbrowser.GenericBrowser("lynx")):  # which would take the terminal
        monkeypatch.setattr(webbrowser, "get", get)
        console.open_page(tmp_path / "report.html")
        said = capsys.readouterr().err
        assert said == f"no browser can be opened here; the page is {tmp_path / 'report.html'}\n"


@pytest.mark.slow
def test_a_signal_in_the_middle_of_a_bar_leaves_the_terminal_sane(
    tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    words = ("train", "--model", tiny, "--dataset", pairs, "--held_out", 0.3, "--samples", 0)
    words += ("--max_steps", 100000, "--eval_strategy", "steps", "--eval_steps", 200)
    words += ("--logging_steps", 1, "--max_length", 64, *QUIET, "--output_dir", tmp_path / "run")
    with contextlib.closing(
        pexpect.spawn(
            sys.executable,
            ["-m", "orpo", *map(str, words)],
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
            dimensions=(24, 80),
            encoding="utf-8",
            timeout=120,
        )
    ) as terminal:
        log: list[str] = []
        terminal.logfile_read = SimpleNamespace(write=log.append, flush=lambda: None)
        terminal.expect(r"\d:\d\d left")
        terminal.kill(signal.SIGTERM)
        terminal.expect(pexpect.EOF)
    text = "".join(log)
    assert "\x1b[?25l" not in text, "the cursor is never hidden"
    assert text.endswith("\n")
    assert terminal.exitstatus == 143
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).splitlines()
    assert "stopped by SIGTERM" in "".join(plain[-4:])
    assert "held out: loss" in "".join(plain)
    assert REFRESH not in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
