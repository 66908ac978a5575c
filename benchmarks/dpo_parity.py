"""DPO beside TRL's DPOTrainer: losses step by step and the weights at the end, on the same rows.

    python benchmarks/dpo_parity.py MODEL PAIRS [--rows 32] [--steps 20] [--accumulate 2]

MODEL is a model folder or Hub id; PAIRS any data set that `orpo train` reads, with the columns
`prompt`, `chosen` and `rejected`. TRL comes with `pip install orpo[bench]`. Both sides train all
weights in fp32 with AdamW, ask their reference ahead of the first step, and see the same token ids
in the same order. Prints one JSON object: both sides' losses and rewards, the largest relative
difference of a loss, and that of the weights: the distance between the two sides over the distance
that training covered.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, ProgressCallback

from orpo import ORPOConfig, ORPOTrainer
from orpo.data.sources import open_source

FIGURES = ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
Ids = list[tuple[list[int], list[int], list[int]]]


@dataclass
class Setting:
    """What both sides are given.

    Attributes:
        model: Folder or Hub id; its tokenizer lies with it.
        rows: Prompt, chosen, rejected.
        steps: Optimizer steps.
        pairs: Pairs of a batch.
        accumulate: Batches of a step.
        beta: Strength of the KL constraint.
        learning_rate: Of AdamW, constant.
    """

    model: str
    rows: list[dict[str, Any]]
    steps: int = 20
    pairs: int = 4
    accumulate: int = 1
    beta: float = 0.1
    learning_rate: float = 1e-4

    def common(self, folder: str) -> dict[str, Any]:
        """Settings that both know by the same name."""
        return {
            "output_dir": folder,
            "max_steps": self.steps,
            "per_device_train_batch_size": self.pairs,
            "gradient_accumulation_steps": self.accumulate,
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "max_grad_norm": 1.0,
            "weight_decay": 0.01,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "max_length": 512,
            "bf16": False,
            "use_cpu": True,
            "train_sampling_strategy": "sequential",
            "seed": 0,
        }


@dataclass
class Run:
    """What one side did: the figures of each step, its token ids, its weights."""

    steps: list[dict[str, float]]
    ids: Ids
    weights: dict[str, Tensor]


def parts(name: str) -> tuple[nn.Module, Any]:
    """A fresh model in fp32 and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32), tokenizer


def finish(trainer: Any) -> Run:
    """Train, and take down what happened."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    ids = [(r["prompt_ids"], r["chosen_ids"], r["rejected_ids"]) for r in trainer.train_dataset]
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    steps = [{name: line[name] for name in FIGURES} for line in lines]
    weights = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    return Run(steps, ids, weights)


def orpo_side(setting: Setting, **own: Any) -> Run:
    """This library's."""
    model, tokenizer = parts(setting.model)
    with tempfile.TemporaryDirectory() as folder:
        common = {**setting.common(folder), "disable_tqdm": True, "data_cache": "off"}
        args = ORPOConfig(objective="dpo", dpo_beta=setting.beta, **common, **own)
        data = datasets.Dataset.from_list(setting.rows)
        return finish(ORPOTrainer(model=model, args=args, train_dataset=data, tokenizer=tokenizer))


def trl_side(setting: Setting) -> Run:
    """TRL's."""
    os.environ["TQDM_DISABLE"] = "1"
    from trl import DPOConfig, DPOTrainer

    model, tokenizer = parts(setting.model)
    with tempfile.TemporaryDirectory() as folder:
        args = DPOConfig(
            **setting.common(folder),
            beta=setting.beta,
            precompute_ref_log_probs=True,
            gradient_checkpointing=False,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        data = datasets.Dataset.from_list(setting.rows)
        return finish(
            DPOTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer)
        )


def differences(ours: Run, theirs: Run, start: nn.Module) -> dict[str, Any]:
    """How far two runs are apart."""
    steps = list(zip(ours.steps, theirs.steps, strict=True))
    moved = {n: w - dict(start.named_parameters())[n].detach() for n, w in theirs.weights.items()}
    apart = {n: ours.weights[n] - w for n, w in theirs.weights.items()}
    return {
        "same_token_ids": ours.ids == theirs.ids,
        "loss": max(abs(a["loss"] - b["loss"]) / abs(b["loss"]) for a, b in steps),
        "margins": max(abs(a["rewards/margins"] - b["rewards/margins"]) for a, b in steps),
        "weights": norm(apart) / norm(moved),
    }


def norm(tensors: dict[str, Tensor]) -> float:
    """The Euclidean norm of all of them together."""
    return float(sum(t.double().square().sum() for t in tensors.values())) ** 0.5


def read_rows(path: str, count: int) -> list[dict[str, Any]]:
    """The first rows of a data set."""
    names = ("prompt", "chosen", "rejected")
    rows = itertools.islice(open_source(path), count)
    return [{name: row.values[name] for name in names} for row in rows]


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("pairs")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--accumulate", type=int, default=2)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    given = parser.parse_args()
    rows = read_rows(given.pairs, given.rows)
    setting = Setting(given.model, rows, given.steps, 4, given.accumulate, 0.1, given.learning_rate)
    theirs = trl_side(setting)
    ours = {engine: orpo_side(setting, engine=engine) for engine in ("shared", "padded")}
    start, _ = parts(given.model)
    found = {name: differences(run, theirs, start) for name, run in ours.items()}
    figures = {"trl": theirs.steps, "orpo": ours["shared"].steps, "differences": found}
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
