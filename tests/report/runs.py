"""What a run folder holds when `orpo train` leaves it, its numbers drawn from a fixed seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

BuildRun = Callable[..., Path]
"""The fixture `build_run`."""


def training_lines(steps: int = 200, seed: int = 0) -> list[dict[str, Any]]:
    """A healthy run: both answers first gain, then the rejected one falls behind."""
    draw = random.Random(seed)
    lines = []
    for step in range(1, steps + 1):
        done = step / steps
        chosen = -1.9 + 0.9 * (1 - math.exp(-6 * done)) + draw.gauss(0, 0.05)
        rejected = -1.95 - 0.9 * done + 0.35 * math.sin(3 * done) + draw.gauss(0, 0.07)
        z = 1.4 * (chosen - rejected)
        nll = -0.95 * chosen + draw.gauss(0, 0.03)
        ratio = -math.log1p(math.exp(-z))
        lines.append(
            {
                "step": step,
                "loss": nll - ratio,
                "grad_norm": 1.2 + 3 * math.exp(-12 * done) + abs(draw.gauss(0, 0.25)),
                "learning_rate": 3e-4 * min(1, done / 0.1) * 0.5 * (1 + math.cos(math.pi * done)),
                "nll_loss": nll,
                "log_odds_ratio": ratio,
                "log_odds_chosen": z,
                "rewards/chosen": chosen,
                "rewards/rejected": rejected,
                "rewards/margins": chosen - rejected,
                "rewards/accuracies": min(1.0, max(0.0, 0.6 + 0.36 * done + draw.gauss(0, 0.05))),
                "logps/chosen": chosen,
                "logps/rejected": rejected,
                "tokens_per_second": 5000.0,
                "epoch": 2 * done,
            }
        )
    return lines


def held_out_lines(steps: int = 200, every: int = 40, name: str = "") -> list[dict[str, Any]]:
    """Evaluations during the same run."""
    lines = training_lines(steps, seed=1)
    prefix = f"eval_{name}_" if name else "eval_"
    kept = ("loss", "nll_loss", "log_odds_chosen", "rewards/accuracies")
    return [
        {"step": line["step"]}
        | {f"{prefix}{key}": line[key] for key in (*kept, "logps/chosen", "logps/rejected")}
        for line in lines[every - 1 :: every]
    ]


TOTALS = {"step": 200, "train_runtime": 260.4, "train_loss": 1.2, "epoch": 2.0}

EVALUATION_OF = {
    "before": {
        "preference_accuracy": 0.615,
        "log_odds_chosen": 0.08,
        "logps/chosen": -1.93,
        "logps/rejected": -1.97,
        "loss": 2.51,
        "nll_loss": 1.84,
        "correct_answers": 0.34,
        "mean_answer_length": 21.4,
        "pairs": 400.0,
        "prompts": 400.0,
        "by_task": {
            "sums": {"correct_answers": 0.2, "n": 100},
            "sorting": {"correct_answers": 0.41, "n": 150},
            "形容词": {"correct_answers": 0.37, "n": 150},
        },
        "by_language": {
            "English": {"correct_answers": 0.36, "n": 200},
            "Chinese": {"correct_answers": 0.32, "n": 200},
        },
    },
    "after": {
        "preference_accuracy": 0.931,
        "log_odds_chosen": 1.92,
        "logps/chosen": -1.02,
        "logps/rejected": -2.41,
        "loss": 1.12,
        "nll_loss": 0.97,
        "correct_answers": 0.88,
        "mean_answer_length": 9.8,
        "pairs": 400.0,
        "prompts": 400.0,
        "by_task": {
            "sums": {"correct_answers": 0.79, "n": 100},
            "sorting": {"correct_answers": 0.93, "n": 150},
            "形容词": {"correct_answers": 0.89, "n": 150},
        },
        "by_language": {
            "English": {"correct_answers": 0.9, "n": 200},
            "Chinese": {"correct_answers": 0.86, "n": 200},
        },
    },
}


def sample_rows(count: int = 4) -> list[dict[str, Any]]:
    """English and Chinese, plain prompts and conversations, answers right and wrong."""
    kinds: list[dict[str, Any]] = [
        {
            "prompt": [
                {"role": "system", "content": "Answer in one sentence."},
                {"role": "user", "content": "What is 17 + 26?"},
            ],
            "before": "Sure! Adding numbers is a fun thing to do.\nLet us see, 17 and 26 ...",
            "after": "17 + 26 is 43.",
            "correct_before": False,
            "correct_after": True,
            "reason_before": "rambling",
            "reason_after": "correct",
            "language": "English",
            "task": "sums",
            "chosen": "It is 43.",
        },
        {
            "prompt": [{"role": "user", "content": "请把这些词按笔画排序：山、大、一。"}],
            "before": "对不起，我不能回答这个问题。",
            "after": "一、大、山。",
            "correct_before": False,
            "correct_after": True,
            "reason_before": "refused",
            "language": "Chinese",
            "task": "sorting",
        },
        {
            "prompt": "Is 9 an odd number?",
            "before": "Yes, 9 is odd.",
            "after": "No, 9 is even.",
            "correct_before": True,
            "correct_after": False,
            "reason_after": "wrong result",
            "language": "English",
            "task": "parity",
        },
        {"prompt": "Say hello.", "before": "", "after": "Hello!"},
    ]
    return [kinds[i % len(kinds)] for i in range(count)]


def recipe_of(**changes: Any) -> dict[str, Any]:
    """The settings of the run, and what was found out while running."""
    recipe = {
        "model": "HuggingFaceTB/SmolLM2-135M",
        "dataset": "/data/pairs/everyday.jsonl",
        "output_dir": "runs/everyday",
        "run_name": None,
        "learning_rate": 3e-4,
        "max_steps": 200,
        "orpo_alpha": 0.5,
        "orpo_beta": 1.0,
        "hub_token": "<HUB_TOKEN>",
        "accelerator_config": {"split_batches": False, "even_batches": True},
        "_run": {
            "versions": {"python": "3.11.7", "orpo": "0.1.0", "torch": "2.13.0"},
            "engine": "padded",
            "notes": ["the tokenizer has no padding token: '</s>' is used, masked"],
            "parameters": 134515008,
            "trainable_parameters": 134515008,
            "data": {
                "train_dataset": {
                    "name": "train_dataset",
                    "format": "prompt",
                    "rendering": "chat template",
                    "rows_in": 3210,
                    "kept": 3200,
                    "dropped": {"identical": 3, "prompt_too_long": 7},
                    "dropped_examples": {
                        "prompt_too_long": [
                            {
                                "where": "everyday.jsonl:7",
                                "detail": "prompt 655, chosen 14, rejected 164 tokens",
                            }
                        ],
                        "identical": [{"where": "everyday.jsonl:90", "detail": ""}],
                    },
                    "cut": {"rejected": 12},
                },
                "eval_dataset": {"rows_in": 400, "kept": 400, "dropped": {}},
            },
        },
    }
    return recipe | changes
