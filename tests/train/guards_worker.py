"""One of several processes of torchrun: a step that is not finite on one of the ranks.

torchrun --standalone --nproc_per_node 2 -m tests.train.guards_worker MODE OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from orpo import NonFiniteError, ORPOTrainer
from tests.train.one_step import quiet_trainer
from tests.train.small import text_rows
from tests.train.test_guards import rows_with_marker, spoil_marked_rows


class LocalTrainer(ORPOTrainer):
    """Its second rank spoils a gradient of the second step, just before the guard looks."""

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        look = self._guard.look

        def spoil_and_look(model: Any) -> None:
            if torch.distributed.get_rank() == 1 and self.state.global_step == 1:
                parameters = dict(self.model.named_parameters())
                parameters["model.norm.weight"].grad[0] = float("nan")
            look(model)

        self._guard.look = spoil_and_look  # type: ignore[method-assign]
        try:
            return super().training_step(*args, **kwargs)
        finally:
            self._guard.look = look  # type: ignore[method-assign]


def main(mode: str, out: Path) -> None:
    trainer = quiet_trainer(
        LocalTrainer if mode == "local" else ORPOTrainer,
        str(out / "run"),
        train_dataset=text_rows() if mode == "local" else rows_with_marker(5),
        per_device_train_batch_size=2,
        max_steps=3,
        logging_steps=1,
        on_nonfinite="skip" if mode == "skip" else "stop",
    )
    error = ""
    with spoil_marked_rows(trainer.model, float("nan")):
        try:
            trainer.train()
        except NonFiniteError as raised:
            error = str(raised)
    weights = list(trainer.model.parameters())
    logged = [line for line in trainer.state.log_history if "loss" in line]
    found = {
        "error": error,
        "finite": all(bool(weight.isfinite().all()) for weight in weights),
        "weights": [weight.double().sum().item() for weight in weights],
        "skipped_steps": logged[-1].get("skipped_steps"),
    }
    rank = torch.distributed.get_rank()
    (out / f"rank{rank}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
