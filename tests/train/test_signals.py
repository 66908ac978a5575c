"""SIGTERM and SIGINT: one checkpoint, and the run can go on."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from orpo import ORPOTrainer
from orpo.train.signals import StopOnSignal
from tests.train.small import text_rows

Make = Callable[..., ORPOTrainer]


class Interrupt(TrainerCallback):
    """Sends a signal to this process while a step is being computed."""

    def __init__(self, number: signal.Signals, step: int) -> None:
        self.number, self.step = number, step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            signal.raise_signal(self.number)


@pytest.fixture(params=["heard", "ignored"])
def interrupts(request: pytest.FixtureRequest) -> Iterator[None]:
    """SIGINT as in a terminal, and as in a background job of a shell."""
    handler = signal.SIG_IGN if request.param == "ignored" else signal.default_int_handler
    before = signal.signal(signal.SIGINT, handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_saves_once_and_goes_on_where_it_stopped(
    make_trainer: Make, number: signal.Signals
) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    stop = StopOnSignal()
    settings = {
        "train_dataset": text_rows(),
        "max_steps": 6,
        "logging_steps": 2,
        "save_strategy": "steps",
        "save_steps": 100,
    }
    trainer = make_trainer(callbacks=[Interrupt(number, 3), stop], **settings)
    trainer.train()
    folder = Path(trainer.args.output_dir)
    assert stop.received == number
    assert trainer.state.global_step == 3
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-3"]
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers

    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6]


def test_a_run_that_is_left_alone_ends_as_usual(make_trainer: Make) -> None:
    stop = StopOnSignal()
    trainer = make_trainer(train_dataset=text_rows(), max_steps=2, callbacks=[stop])
    trainer.train()
    assert stop.received is None
    assert trainer.state.global_step == 2


def test_a_second_signal_stops_at_once(make_trainer: Make) -> None:
    twice = [Interrupt(signal.SIGINT, 1), Interrupt(signal.SIGINT, 1)]
    trainer = make_trainer(train_dataset=text_rows(), max_steps=2, callbacks=[StopOnSignal()])
    for callback in twice:
        trainer.add_callback(callback)
    # A shell starts background jobs with SIGINT ignored; the test is about a run in the foreground.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_it_does_not_listen(make_trainer: Make) -> None:
    trainer = make_trainer(train_dataset=text_rows(), callbacks=[StopOnSignal()])
    handler = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    assert trainer.state.global_step == 1
    assert signal.getsignal(signal.SIGTERM) is handler
