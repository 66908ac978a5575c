"""One of two ranks under DeepSpeed on processors: scored, trained, scored again, written.

python -m torch.distributed.run --standalone --nproc_per_node 2 -m tests.train.zero_worker OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist

from tests.train.small import text_rows
from tests.train.spread_worker import trainer_of


def main(out: Path, engine: str, lora: bool) -> None:
    trainer = trainer_of(
        out / "run",
        ranks=2,
        engine=engine,
        lora=lora,
        tied=False,
        eval_dataset=text_rows(7),
        max_steps=6,
        use_cpu=False,  # accelerate looks for DeepSpeed elsewhere only
        ddp_backend="gloo",
    )
    found = {"before": trainer.evaluate()["eval_loss"]}
    trainer.train()
    found["after"] = trainer.evaluate()["eval_loss"]
    found["losses"] = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    trainer.save_model()
    if dist.get_rank() == 0:
        (out / "found.json").write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "lora")
