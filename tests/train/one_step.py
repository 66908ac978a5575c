"""Quiet trainers, and the gradient of one optimizer step, however its eight pairs are dealt out."""

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from orpo import ORPOConfig, ORPOTrainer
from tests.train.small import byte_tokenizer, text_rows, tiny_llama

_ARGUMENTS = inspect.signature(ORPOTrainer).parameters.keys()


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


def any_trainer(kind: type[ORPOTrainer] = ORPOTrainer, **kwargs: Any) -> ORPOTrainer:
    """A trainer that says nothing; what it does not take itself goes to its settings."""
    given = {key: value for key, value in kwargs.items() if key in _ARGUMENTS}
    settings = {key: value for key, value in kwargs.items() if key not in _ARGUMENTS}
    plain = {"use_cpu": True, "report_to": "none", "save_strategy": "no", "max_steps": 1}
    if given.get("model") is None and "model_init" not in given:
        given["model"] = tiny_llama()
    if "processing_class" not in given:
        given.setdefault("tokenizer", byte_tokenizer())
    if "args" not in given:
        given["args"] = ORPOConfig(**{**plain, **settings})
    trainer = kind(**given)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def quiet_trainer(kind: type[ORPOTrainer], output_dir: str, **kwargs: Any) -> ORPOTrainer:
    """One whose step is nothing but its gradient."""
    plain = {"max_grad_norm": 0.0, "train_sampling_strategy": "sequential", "orpo_alpha": 0.5}
    return any_trainer(kind, **{"output_dir": output_dir, **plain, **kwargs})


def step_gradients(
    output_dir: str, *, kind: type[ORPOTrainer] = ORPOTrainer, **kwargs: Any
) -> dict[str, Tensor]:
    """Gradients of the first optimizer step over `text_rows`."""
    capture = Capture()
    kwargs.setdefault("train_dataset", text_rows())
    quiet_trainer(kind, output_dir, callbacks=[capture], **kwargs).train()
    assert capture.gradients
    assert all(bool(torch.isfinite(g).all()) for g in capture.gradients.values())
    return capture.gradients
