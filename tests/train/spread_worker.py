"""One of two ranks: whole runs under DDP and under FSDP2, each as its scenario says.

python -m torch.distributed.run --standalone --nproc_per_node 2 -m tests.train.spread_worker OUT

Accelerate takes FSDP for granted on accelerators only and falls back to DDP on processors. So that
it is itself here, this file (and nothing else) calls the processors an accelerator while the
Accelerator is made: `_as_on_an_accelerator`. All that follows is what a user of GPUs runs.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback

from orpo import ORPOTrainer
from tests.train.accelerate_configs import environment
from tests.train.one_step import quiet_trainer
from tests.train.small import text_rows, tiny_llama

STEPS = 50
SCENARIOS = {
    f"{wrapper}, {engine}, {what}": {
        "wrapper": wrapper,
        "engine": engine,
        "lora": what == "lora",
        "tied": (wrapper == "ddp") == (engine == "shared"),
    }
    for wrapper in ("ddp", "fsdp2")
    for engine in ("shared", "padded")
    for what in ("full", "lora")
}


class FirstGradients(TrainerCallback):
    """The gradients that the optimizer saw first, whole."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, *args: Any, model: Any, **kwargs: Any) -> None:
        if not self.found:
            named = model.named_parameters()
            self.found = {n: whole(p.grad) for n, p in named if p.grad is not None}


def whole(tensor: Tensor) -> Tensor:
    full = getattr(tensor, "full_tensor", None)
    return (tensor if full is None else full()).detach().clone()


def trainer_of(
    folder: Path, *, engine: str, lora: bool, tied: bool, ranks: int, **settings: Any
) -> ORPOTrainer:
    """A run over four pairs per optimizer step, whatever the number of ranks."""
    given: dict[str, Any] = {"model": tiny_llama(tie_word_embeddings=tied)}
    if lora:
        from peft import LoraConfig

        given["peft_config"] = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    return quiet_trainer(
        ORPOTrainer,
        str(folder),
        **given,
        **{
            "train_dataset": text_rows(8),
            "engine": engine,
            "per_device_train_batch_size": 2 // ranks,
            "gradient_accumulation_steps": 2,
            "max_tokens_per_microbatch": 250,
            "max_steps": STEPS,
            "learning_rate": 1e-3,
            "warmup_steps": 5,
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
            "logging_steps": 1,
            **settings,
        },
    )


def weights_of(trainer: ORPOTrainer) -> dict[str, Tensor]:
    """Of the parameters that were trained; every rank must ask."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {n: whole(p) for n, p in model.named_parameters() if p.requires_grad}


@contextmanager
def wrapped(wrapper: str) -> Iterator[None]:
    """As `accelerate launch` with the shipped config would have it."""
    if wrapper != "fsdp2":
        yield
        return
    given = environment("fsdp2", "--mixed_precision", "no")
    given = {k: v for k, v in given.items() if k.startswith(("FSDP_", "ACCELERATE_"))}
    with patch.dict(os.environ, given), _as_on_an_accelerator():
        yield


@contextmanager
def _as_on_an_accelerator() -> Iterator[None]:
    made = AcceleratorState.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if PartialState._shared_state.get("distributed_type") is DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU
        made(self, *args, **kwargs)

    with patch.object(AcceleratorState, "__init__", init):
        yield


def run(out: Path, name: str, scenario: dict[str, Any]) -> dict[str, Any]:
    """First loss and gradients, and what is left after all steps."""
    settings, capture = {k: v for k, v in scenario.items() if k != "wrapper"}, FirstGradients()
    with wrapped(scenario["wrapper"]):
        trainer = trainer_of(out / name, ranks=2, eval_dataset=text_rows(3), **settings)
        trainer.add_callback(capture)
        trainer.evaluate()  # which must not change how the model is wrapped
        trainer.train()
    kind = {"ddp": DistributedDataParallel, "fsdp2": FSDPModule}[scenario["wrapper"]]
    assert isinstance(trainer.model_wrapped, kind), type(trainer.model_wrapped)
    assert trainer.engine.name == scenario["engine"]
    weights = weights_of(trainer)
    if trainer.is_world_process_zero():
        save_file(capture.found, out / f"{name}.gradients")
        save_file(weights, out / f"{name}.weights")
    return {"losses": [line["loss"] for line in trainer.state.log_history if "loss" in line]}


_load = pickle.load


def _from_memory_only(file: Any, **settings: Any) -> Any:
    """Ranks send each other objects; a file is never unpickled."""
    assert isinstance(file, io.BytesIO), f"a pickle was loaded: {file}"
    return _load(file, **settings)


def resumed(out: Path, kept: str) -> dict[str, Any]:
    """A run under FSDP2 that goes on from its checkpoint, beside one that was never stopped.

    It is scored ahead of training, and its model is written at the end.
    """
    shape: dict[str, Any] = {"engine": "shared", "lora": False, "tied": False, "ranks": 2}
    shape |= {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    found = {}
    with wrapped("fsdp2"), patch.dict(os.environ, {"FSDP_STATE_DICT_TYPE": kept}):
        trainer = trainer_of(out / kept, eval_dataset=text_rows(7), **shape)
        found["before"] = trainer.evaluate()["eval_loss"]
        trainer.train()
        found["after"] = trainer.evaluate()["eval_loss"]
        straight = weights_of(trainer)
        trainer.save_model()
        again = trainer_of(out / kept, **shape)
        with patch.object(pickle, "load", _from_memory_only):
            again.train(resume_from_checkpoint=str(out / kept / "checkpoint-2"))
        equal = all(torch.equal(w, straight[n]) for n, w in weights_of(again).items())
    if dist.get_rank() == 0:
        save_file(straight, out / f"{kept}.weights")
    return {**found, "resumed": equal, "steps": again.state.global_step}


def main(out: Path) -> None:
    found = {name: run(out, name, scenario) for name, scenario in SCENARIOS.items()}
    found |= {kept: resumed(out, kept) for kept in ("SHARDED_STATE_DICT", "FULL_STATE_DICT")}
    if dist.get_rank() == 0:
        (out / "found.json").write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
