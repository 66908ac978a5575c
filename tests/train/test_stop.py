"""SIGTERM and SIGINT in each phase of `orpo train`: exit code, one checkpoint, and the way on.

The commands are real ones in processes of their own, with their real signal handlers.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import TrainerCallback

from orpo.runs.checkpoints import checkpoints
from orpo.train.continuity import StopOnSignal
from tests.train.jobs import started
from tests.train.small import saved_llama, text_rows, write_rows
from tests.train.whole_runs import differences, names, trainer_for

SETTINGS = {
    "max_steps": 8,
    "save_steps": 3,
    "logging_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 4,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-2,
    "warmup_steps": 0,
    "samples": 1,
    "sample_tokens": 4,
    "use_cpu": "true",
    "report_to": "none",
    "data_cache": "off",
}
TERM, INT = signal.SIGTERM, signal.SIGINT
PHASES = {
    "step 5": ["checkpoint-3", "checkpoint-5"],
    "evaluation at step 4": ["checkpoint-3", "checkpoint-4"],
    "checkpoint-3/progress.json": ["checkpoint-3"],  # while that is being saved
    "loading after step 3": ["checkpoint-3"],  # an epoch's end
    "loading after step 5": ["checkpoint-3", "checkpoint-5"],
    "step 8": ["checkpoint-3", "checkpoint-6", "checkpoint-8"],
}


def orpo_train(_out: Path, moment: str, numbers: str, *argv: str) -> None:
    """`orpo train`, which sends itself signals the first time that a moment comes."""
    import orpo.commands.progress
    import orpo.train.trainer
    from orpo.commands.main import main
    from orpo.data.pack import PairCollator

    signals, wanted, step = json.loads(numbers), [moment], [0]

    def now(what: str) -> None:
        if [what] == wanted:
            wanted.clear()
            for number in signals:
                os.kill(os.getpid(), number)

    class Collator(PairCollator):
        def __call__(self, features: list[Any]) -> Any:
            now(f"loading after step {step[0]}")
            return super().__call__(features)

    class Progress(orpo.commands.progress.TrainingProgress):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_step_begin(args, state, control, **kwargs)
            now(f"step {state.global_step + 1}")

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_step_end(args, state, control, **kwargs)
            step[0] = state.global_step

        def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_prediction_step(args, state, control, **kwargs)
            now(f"evaluation at step {state.global_step}")

    def heard(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str | Path):
            now("/".join(Path(args[0]).parts[-2:]))

    orpo.train.trainer.PairCollator = Collator
    orpo.commands.progress.TrainingProgress = Progress
    sys.addaudithook(heard)
    sys.exit(main(["train", *argv]))


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """`orpo train` on a tiny model."""
    folder = tmp_path_factory.mktemp("stop")
    argv = ["--model", saved_llama(folder / "model")]
    argv += ["--dataset", write_rows(folder / "train.jsonl", text_rows(11))]
    argv += ["--eval_dataset", write_rows(folder / "test.jsonl", text_rows(5))]
    argv += [word for name, value in SETTINGS.items() for word in (f"--{name}", value)]

    def run(out: Path, *more: str, moment: str = "", signals: tuple[int, ...] = ()) -> Any:
        words = (moment, json.dumps([*map(int, signals)]), *argv, "--output_dir", out, *more)
        done = started(orpo_train, out, *words, COLUMNS="200")
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def whole(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = command(folder)
    assert done.returncode == 0, done.stderr
    return folder


def goes_on(command: Command, run: Path, whole: Path, *how: str) -> None:
    resumed = command(run, "--resume", *how)
    assert resumed.returncode == 0, resumed.stderr
    assert not differences(run, whole)
    for name in ("evaluation.json", "samples.jsonl"):
        assert (run / name).read_text() == (whole / name).read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "number"), [*zip(PHASES, (TERM, INT) * 3, strict=True)])
def test_one_checkpoint_and_the_way_on(
    command: Command, whole: Path, tmp_path: Path, moment: str, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    stopped = command(run, moment=moment, signals=(number,))
    assert stopped.returncode == 128 + number, stopped.stderr
    assert names(run) == PHASES[moment]
    last = stopped.stderr.splitlines()[-1]
    step = PHASES[moment][-1].removeprefix("checkpoint-")
    assert last.startswith(f"stopped by {number.name} at step {step}; ")
    assert str(run / PHASES[moment][-1]) in last
    assert "--resume" in last
    assert not [path.name for path in run.iterdir() if path.name.startswith(".")]
    goes_on(command, run, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "said"),
    [
        ("evaluation at step 8", "--resume"),  # after training
        (".staging-model/config.json", "--resume"),  # while saving the model
        ("evaluation at step 0", "before training began"),
        ("{data}/train.jsonl", "before training began"),
    ],
)
def test_before_the_first_and_after_the_last_step(
    command: Command, whole: Path, tmp_path: Path, moment: str, said: str
) -> None:
    run = tmp_path / "run"
    stopped = command(run, moment=moment.format(data="stop0"), signals=(TERM,))
    assert stopped.returncode == 143, stopped.stderr
    assert said in stopped.stderr.splitlines()[-1]
    assert bool(checkpoints(run)) == (said == "--resume")
    goes_on(command, run, whole, "auto")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "codes"), [(TERM, {-TERM}), (INT, {130, -INT})])
def test_a_second_signal_ends_at_once(
    command: Command, tmp_path: Path, number: int, codes: set[int]
) -> None:
    """In the middle of a step: there is no checkpoint of it."""
    assert command(tmp_path, moment="step 5", signals=(number, number)).returncode in codes
    assert names(tmp_path) == ["checkpoint-3"]


# The callback


class Send(TrainerCallback):
    """Sends a signal to this process and its loader's workers, in a step."""

    def __init__(self, number: signal.Signals, step: int, *, workers_first: bool = False) -> None:
        self.number, self.step, self.workers_first = number, step, workers_first
        self.gone: list[psutil.Process] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            workers = multiprocessing.active_children()  # and not the server of tests.forked
            alive = [worker.pid for worker in workers if worker.is_alive()]
            children = [psutil.Process(pid) for pid in alive if psutil.pid_exists(pid or 0)]
            pids = [str(child.pid) for child in children]
            own = [] if self.workers_first else [str(os.getpid())]
            # From outside: torch's worker processes take a signal of their parent otherwise.
            subprocess.run(["kill", f"-{self.number.value}", *own, *pids], check=True)
            self.gone, _ = psutil.wait_procs(children, timeout=30)
            if self.workers_first:  # as batch systems do, one process after the other
                os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("workers_first", [False, True])
def test_a_signal_that_ends_the_loader_too_is_still_a_stop(
    tmp_path: Path, workers_first: bool
) -> None:
    send = Send(TERM, 3, workers_first=workers_first)
    workers = {"dataloader_num_workers": 2, "train_dataset": text_rows(60)}
    trainer = trainer_for(tmp_path, max_steps=9, callbacks=[StopOnSignal(), send], **workers)
    trainer.train()
    assert len(send.gone) == 2
    assert (trainer.stopped, trainer.committed_step) == (True, 3)


@pytest.fixture
def interrupts() -> Iterator[Callable[[Any], None]]:
    """Sets what SIGINT does: as in a terminal, or as in a background job of a shell."""
    before = signal.getsignal(INT)
    yield lambda handler: signal.signal(INT, handler)
    signal.signal(INT, before)


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("number", [TERM, INT])
def test_saves_once_and_gives_the_handlers_back(
    tmp_path: Path, interrupts: Callable[[Any], None], number: signal.Signals, ignored: bool
) -> None:
    interrupts(signal.SIG_IGN if ignored else signal.default_int_handler)
    handlers = [signal.getsignal(n) for n in (TERM, INT)]
    stop = StopOnSignal()
    trainer = trainer_for(tmp_path, max_steps=4, callbacks=[Send(number, 2), stop])
    trainer.train()
    assert (stop.received, trainer.state.global_step) == (number, 2)
    assert names(tmp_path) == ["checkpoint-2"]
    assert [signal.getsignal(n) for n in (TERM, INT)] == handlers


def test_a_second_signal_in_a_step_is_what_it_always_was(
    tmp_path: Path, interrupts: Callable[[Any], None]
) -> None:
    interrupts(signal.default_int_handler)
    twice = [Send(INT, 1), Send(INT, 1)]
    with pytest.raises(KeyboardInterrupt):
        trainer_for(tmp_path, max_steps=2, callbacks=[StopOnSignal(), *twice]).train()


def test_in_another_thread_it_does_not_listen(tmp_path: Path) -> None:
    stop = StopOnSignal()
    trainer = trainer_for(tmp_path, max_steps=1, callbacks=[stop])
    handler = signal.getsignal(TERM)
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    assert (trainer.state.global_step, stop.received) == (1, None)
    assert signal.getsignal(TERM) is handler
