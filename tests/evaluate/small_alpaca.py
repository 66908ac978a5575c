"""A small evaluation set in the official format, with questions and answers of this project."""

import json
from pathlib import Path
from typing import Any

import numpy as np


def instructions(count: int) -> list[str]:
    """Texts that differ."""
    return [
        f"Explain why {n} is {'odd' if n % 2 else 'even'}, in a sentence." for n in range(count)
    ]


def answer(index: int, words: int) -> str:
    """An answer that belongs to its instruction, some words long."""
    filler = ("it", "follows", "from", "division", "by", "two", "with", "no", "rest", "left")
    said = [f"{filler[(index * 7 + k * 3) % 10]}{(index * k) % 97}" for k in range(words)]
    return f"Number {index}: {' '.join(said)}."


def write_set(folder: Path, count: int = 60, *, leave_out: tuple[str, ...] = ()) -> Path:
    """A folder with the four official files, or without some of them."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    hard = random.normal(size=count)
    baseline = [
        {
            "dataset": ("koala", "vicuna")[n % 2],
            "instruction": text,
            "output": answer(n, 12 + n % 9),
            "generator": "gpt4_1106_preview",
        }
        for n, text in enumerate(instructions(count))
    ]
    gamed = ["preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline,model"]
    for name, sign in (("short", 1), ("long", -1)):
        gamed += [
            f"{random.random():.6f},{n},{sign},{hard[n]:.6f},False,{name}" for n in range(count)
        ]
    leaders = [",win_rate,standard_error,avg_length,length_controlled_winrate"]
    leaders += [f"model-{n},{4 * n + 1},1.0,{900 + n},{4 * n + 2}.5" for n in range(24)]
    files = {
        "alpaca_eval_gpt4_baseline.json": json.dumps(baseline),
        # as on the Hub: the first column has no name
        "instruction_difficulty.csv": "\n".join(
            [",instruction_difficulty", *(f"{n},{value:.6f}" for n, value in enumerate(hard))]
        ),
        "df_gamed.csv": "\n".join(gamed),
        "leaderboard.csv": "\n".join(leaders),
    }
    for name, text in files.items():
        if name not in leave_out:
            (folder / name).write_text(text + "\n", encoding="utf-8")
    return folder


def write_outputs(path: Path, count: int = 60, words: int = 15, **changes: Any) -> Path:
    """Outputs of a model; `changes` replaces some of them: {"at_3": text}."""
    rows = [
        {
            "dataset": "koala",
            "instruction": text,
            "output": changes.get(f"at_{n}", answer(n, words + n % 7)),
            "generator": "mine",
        }
        for n, text in enumerate(instructions(count))
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path
