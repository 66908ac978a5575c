"""One of two ranks under DeepSpeed on processors: scored, trained, scored again, written, resumed.

python -m torch.distributed.run --standalone --nproc_per_node 2 -m tests.train.zero_worker OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist

from orpo import ORPOTrainer
from tests.train.small import text_rows
from tests.train.spread_worker import trainer_of


def run_of(out: Path, engine: str, lora: bool) -> ORPOTrainer:
    return trainer_of(
        out / "run",
        ranks=2,
        engine=engine,
        lora=lora,
        tied=False,
        eval_dataset=text_rows(7),
        max_steps=6,
        use_cpu=False,  # accelerate looks for DeepSpeed elsewhere only
        ddp_backend="gloo",
        save_strategy="steps",
        save_steps=3,
    )


def main(out: Path, engine: str, lora: bool) -> None:
    trainer = run_of(out, engine, lora)
    found = {"before": trainer.evaluate()["eval_loss"]}
    trainer.train()
    found["after"] = trainer.evaluate()["eval_loss"]
    found["losses"] = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    trainer.save_model()
    again = run_of(out, engine, lora)
    again.train(resume_from_checkpoint=str(out / "run" / "checkpoint-3"))
    found["losses again"] = [line["loss"] for line in again.state.log_history if "loss" in line]
    again.save_model(str(out / "again"))
    if dist.get_rank() == 0:
        (out / "found.json").write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "lora")
