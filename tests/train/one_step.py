"""The gradient of one optimizer step, however its eight pairs are dealt out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from orpo import ORPOConfig, ORPOTrainer
from tests.train.small import byte_tokenizer, text_rows, tiny_llama


class Capture(TrainerCallback):
    """Keeps the gradients that the optimizer is about to see."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, *args: Any, model: Any, **kwargs: Any) -> None:
        parameters = model.named_parameters()
        self.gradients = {n: p.grad.clone() for n, p in parameters if p.grad is not None}


class MeanOfMeans(ORPOTrainer):
    """The mistake: each micro-batch is averaged on its own, and then the averages are."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loss_is_scaled_for_ga = False  # divide by the number of micro-batches

    def get_batch_samples(self, *args: Any) -> Any:
        samples, _ = super().get_batch_samples(*args)
        return samples, None


def quiet_trainer(kind: type[ORPOTrainer], output_dir: str, **kwargs: Any) -> ORPOTrainer:
    own = {"model", "train_dataset", "eval_dataset", "callbacks", "peft_config", "tokenizer"}
    settings = {
        "output_dir": output_dir,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "max_steps": 1,
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "orpo_alpha": 0.5,
        **{key: value for key, value in kwargs.items() if key not in own},
    }
    given = {key: value for key, value in kwargs.items() if key in own}
    given = {"model": None, "tokenizer": byte_tokenizer(), **given}
    given["model"] = given["model"] if given["model"] is not None else tiny_llama()
    trainer = kind(args=ORPOConfig(**settings), **given)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def step_gradients(
    output_dir: str, *, kind: type[ORPOTrainer] = ORPOTrainer, **kwargs: Any
) -> dict[str, Tensor]:
    """Gradients of the first optimizer step over `text_rows`."""
    capture = Capture()
    kwargs.setdefault("train_dataset", text_rows())
    trainer = quiet_trainer(kind, output_dir, callbacks=[capture], **kwargs)
    trainer.train()
    assert capture.gradients
    assert all(bool(torch.isfinite(g).all()) for g in capture.gradients.values())
    return capture.gradients
