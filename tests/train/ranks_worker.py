"""One of several processes of torchrun: writes what the first rank sees.

python -m torch.distributed.run --standalone --nproc_per_node 2 -m tests.train.ranks_worker OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed
from safetensors.torch import save_file

from orpo import ORPOTrainer
from tests.train.one_step import MeanOfMeans, quiet_trainer, step_gradients
from tests.train.small import Stream, text_rows, tiny_llama

NOISE = {"neftune_noise_alpha": 5.0}
"""NEFTune's, which is that of each pair."""
DYNAMIC = {
    "max_position_embeddings": 40,
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
}
"""Positions of which longer sequences have their own: ranks differ in their number of passes."""


def main(out: Path) -> None:
    results = {
        "exact": step_gradients(str(out / "a"), per_device_train_batch_size=4),
        "accumulated": step_gradients(
            str(out / "b"), per_device_train_batch_size=1, gradient_accumulation_steps=4
        ),
        "split": step_gradients(
            str(out / "c"), per_device_train_batch_size=4, max_tokens_per_microbatch=100
        ),
        "noise": step_gradients(str(out / "e"), per_device_train_batch_size=4, **NOISE),
        "dynamic": step_gradients(
            str(out / "f"), model=tiny_llama(**DYNAMIC), per_device_train_batch_size=4
        ),
        "mean of means": step_gradients(
            str(out / "d"), kind=MeanOfMeans, per_device_train_batch_size=4
        ),
    }
    logged = quiet_trainer(
        ORPOTrainer,
        str(out / "run"),
        train_dataset=text_rows(),
        eval_dataset={"map": text_rows(7), "stream": Stream(text_rows(7))},
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        gradient_accumulation_steps=2,
        logging_steps=1,
    )
    logged.train()
    evaluation = logged.evaluate()
    if torch.distributed.get_rank() == 0:
        for name, gradients in results.items():
            save_file(gradients, out / f"{name}.safetensors")
        (out / "evaluation.json").write_text(json.dumps(evaluation))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
