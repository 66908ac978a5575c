"""One of several processes of torchrun: trains by an objective and writes what came of it.

python -m torch.distributed.run --standalone --nproc_per_node 2 -m tests.train.objectives_worker OUT

Run alone, it is the run to compare with.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch.distributed
from safetensors.torch import save_file

from orpo import ORPOTrainer
from tests.train.one_step import quiet_trainer
from tests.train.small import text_rows

PAIRS = 7  # an odd one: a rank's share of the reference is filled up


def run(out: Path, objective: str, ranks: int) -> dict[str, Any]:
    """Two steps over eight rows; an evaluation over seven."""
    trainer = quiet_trainer(
        ORPOTrainer,
        str(out / objective),
        objective=objective,
        orpo_alpha=None,
        train_dataset=text_rows(8),
        eval_dataset=text_rows(PAIRS),
        per_device_train_batch_size=8 // ranks,
        per_device_eval_batch_size=2,
        num_train_epochs=2,
        max_steps=2,
        learning_rate=1e-3,
        warmup_steps=0,
        logging_steps=1,
    )
    trainer.train()
    sums = trainer.reference.sums
    return {
        "log": [line for line in trainer.state.log_history if "loss" in line],
        "evaluation": trainer.evaluate(),
        "work": trainer.work.as_dict(),
        "reference": {key: found.tolist() for key, found in sums.items()},
        "weights": {n: p.detach().clone() for n, p in trainer.model.named_parameters()},
    }


def main(out: Path) -> None:
    torch.distributed.init_process_group("gloo")
    ranks, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    for objective in ("sft", "dpo"):
        found = run(out, objective, ranks)
        if rank == 0:
            save_file(found.pop("weights"), out / f"{objective}.safetensors")
            (out / f"{objective}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
