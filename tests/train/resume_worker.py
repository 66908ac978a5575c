"""One of several processes of torchrun: runs that are stopped, and in a second launch go on.

torchrun --standalone --nproc_per_node 2 -m tests.train.resume_worker MODE OUT
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from orpo.train.signals import StopOnSignal
from tests.train.small import Stream, text_rows
from tests.train.whole_runs import trainer_for

KINDS: dict[str, dict[str, Any]] = {
    "map": {"eval_strategy": "steps", "eval_steps": 2},
    "stream": {"train_dataset": Stream(text_rows(11))},
}
SETTINGS: dict[str, Any] = {
    "max_steps": 8,
    "save_steps": 3,
    "logging_steps": 3,
    "per_device_train_batch_size": 1,
}


class OneRankIsTold(TrainerCallback):
    """SIGTERM reaches the second process only, in the fifth step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == 5 and torch.distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def main(mode: str, out: Path) -> None:
    for kind, settings in KINDS.items():
        if mode == "begin":
            trainer = trainer_for(out / f"{kind}-whole", **SETTINGS, **settings)
            trainer.train()
            assert not trainer.stopped
            trainer.save_model()
            told = [StopOnSignal(), OneRankIsTold()]
            trainer = trainer_for(out / kind, callbacks=told, **SETTINGS, **settings)
            trainer.train()
            assert trainer.stopped
            assert trainer.committed_step == 5
        else:
            trainer = trainer_for(out / kind, **SETTINGS, **settings)
            trainer.train(resume_from_checkpoint=True)
            assert not trainer.stopped
            trainer.save_model()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
