"""A run, alone or one of several processes of torchrun, in which something hangs or is slow.

python -m tests.train.stall_worker MODE OUT TIMEOUT
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from orpo import ORPOTrainer
from tests.train.one_step import quiet_trainer
from tests.train.small import text_rows

RANK = int(os.environ.get("RANK", "0"))


def block_forever() -> None:
    threading.Event().wait()


class BlockingStream(torch.utils.data.IterableDataset):
    """Rows, and then nothing, without an end."""

    def __iter__(self) -> Iterator[Any]:
        yield from text_rows()
        block_forever()


class NeverArrives(TrainerCallback):
    """The second rank does not begin the third step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if RANK == 1 and state.global_step == 2:
            block_forever()


class Slow(TrainerCallback):
    """Every step and every batch of an evaluation takes a while."""

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        threading.Event().wait(0.25)

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        threading.Event().wait(0.25)


def main(mode: str, out: Path, timeout: float) -> None:
    data: Any = BlockingStream() if mode in ("loader", "worker") else text_rows()
    callback = {"rank": NeverArrives, "slow": Slow}.get(mode, TrainerCallback)()
    trainer = quiet_trainer(
        ORPOTrainer,
        str(out / "run"),
        train_dataset=data,
        eval_dataset=text_rows(16) if mode == "slow" else None,
        callbacks=[callback],
        per_device_train_batch_size=2,
        per_device_eval_batch_size=1,
        eval_strategy="steps" if mode == "slow" else "no",
        eval_steps=20,
        dataloader_num_workers=1 if mode == "worker" else 0,
        max_steps=20,
        stall_timeout=timeout,
    )
    trainer.train()
    print(f"done at step {trainer.state.global_step}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
