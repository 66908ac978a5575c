"""What a run folder holds when `orpo train` leaves it, its numbers drawn from a fixed seed."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orpo.runs.files import RECIPE, write_yaml

BuildRun = Callable[..., Path]
"""The fixture `build_run`."""
TOTALS = {"step": 200, "train_runtime": 260.4, "train_loss": 1.2, "epoch": 2.0}


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
    prefix = f"eval_{name}_" if name else "eval_"
    kept = ("loss", "nll_loss", "log_odds_chosen", "rewards/accuracies")
    return [
        {"step": line["step"]}
        | {f"{prefix}{key}": line[key] for key in (*kept, "logps/chosen", "logps/rejected")}
        for line in training_lines(steps, seed=1)[every - 1 :: every]
    ]


def _side(name: str) -> dict[str, Any]:
    """What was measured before training or after it."""
    place = ("before", "after").index(name)
    numbers = {
        "preference_accuracy": (0.615, 0.931),
        "log_odds_chosen": (0.08, 1.92),
        "logps/chosen": (-1.93, -1.02),
        "logps/rejected": (-1.97, -2.41),
        "loss": (2.51, 1.12),
        "nll_loss": (1.84, 0.97),
        "correct_answers": (0.34, 0.88),
        "mean_answer_length": (21.4, 9.8),
        "pairs": (400.0, 400.0),
        "prompts": (400.0, 400.0),
    }
    groups = {
        "by_task": {"sums": (0.2, 0.79, 100), "sorting": (0.41, 0.93, 150)}
        | {"形容词": (0.37, 0.89, 150)},
        "by_language": {"English": (0.36, 0.9, 200), "Chinese": (0.32, 0.86, 200)},
    }
    return {key: ends[place] for key, ends in numbers.items()} | {
        kind: {group: {"correct_answers": one[place], "n": one[2]} for group, one in found.items()}
        for kind, found in groups.items()
    }


EVALUATION_OF = {moment: _side(moment) for moment in ("before", "after")}


def sample_rows(count: int = 4) -> list[dict[str, Any]]:
    """English and Chinese, plain prompts and conversations, answers right and wrong."""
    system = {"role": "system", "content": "Answer in one sentence."}
    kinds: list[dict[str, Any]] = [
        {
            "prompt": [system, {"role": "user", "content": "What is 17 + 26?"}],
            "before": "Sure! Adding numbers is a fun thing to do.\nLet us see, 17 and 26 ...",
            "after": "17 + 26 is 43.",
            **{"correct_before": False, "correct_after": True},
            **{"reason_before": "rambling", "reason_after": "correct"},
            **{"language": "English", "task": "sums", "chosen": "It is 43."},
        },
        {
            "prompt": [{"role": "user", "content": "请把这些词按笔画排序：山、大、一。"}],
            **{"before": "对不起，我不能回答这个问题。", "after": "一、大、山。"},
            **{"correct_before": False, "correct_after": True, "reason_before": "refused"},
            **{"language": "Chinese", "task": "sorting"},
        },
        {
            "prompt": "Is 9 an odd number?",
            **{"before": "Yes, 9 is odd.", "after": "No, 9 is even."},
            **{"correct_before": True, "correct_after": False, "reason_after": "wrong result"},
            **{"language": "English", "task": "parity"},
        },
        {"prompt": "Say hello.", "before": "", "after": "Hello!"},
    ]
    return [kinds[i % len(kinds)] for i in range(count)]


def recipe_of(**changes: Any) -> dict[str, Any]:
    """The settings of the run, and what was found out while running."""
    too_long = {
        "where": "everyday.jsonl:7",
        "detail": "prompt 655, chosen 14, rejected 164 tokens",
    }
    train = {
        **{"name": "train_dataset", "format": "prompt", "rendering": "chat template"},
        **{"rows_in": 3210, "kept": 3200, "dropped": {"identical": 3, "prompt_too_long": 7}},
        "dropped_examples": {
            "prompt_too_long": [too_long],
            "identical": [{"where": "everyday.jsonl:90", "detail": ""}],
        },
        "cut": {"rejected": 12},
    }
    found = {
        "versions": {"python": "3.11.7", "orpo": "0.1.0", "torch": "2.13.0"},
        "engine": "padded",
        "notes": ["the tokenizer has no padding token: '</s>' is used, masked"],
        **{"parameters": 134515008, "trainable_parameters": 134515008},
        "data": {
            "train_dataset": train,
            "eval_dataset": {"rows_in": 400, "kept": 400, "dropped": {}},
        },
    }
    recipe = {
        **{"model": "HuggingFaceTB/SmolLM2-135M", "dataset": "/data/pairs/everyday.jsonl"},
        **{"output_dir": "runs/everyday", "run_name": None, "learning_rate": 3e-4},
        **{"max_steps": 200, "orpo_alpha": 0.5, "orpo_beta": 1.0, "hub_token": "<HUB_TOKEN>"},
        "accelerator_config": {"split_batches": False, "even_batches": True},
        "_run": found,
    }
    return recipe | changes


def write_run(folder: Path, recipe: dict[str, Any], **files: Any) -> Path:
    """A run folder of these files, by name without ending; those that are None are left out."""
    folder.mkdir(exist_ok=True)
    write_yaml(folder / RECIPE, recipe)
    for name, value in files.items():
        if value is not None:
            lines = name in ("metrics", "samples", "events")
            text = "".join(json.dumps(one) + "\n" for one in value) if lines else json.dumps(value)
            path = folder / f"{name}.{'jsonl' if lines else 'json'}"
            path.write_text(text, encoding="utf-8")
    return folder


def full_files() -> dict[str, Any]:
    """The files of a finished run, as `write_run` takes them."""
    return {
        "metrics": [*training_lines(), *held_out_lines(), TOTALS],
        "evaluation": EVALUATION_OF,
        "samples": sample_rows(),
        "events": [{"step": 120, "kind": "resumed", "message": "going on from checkpoint-120"}],
    }
