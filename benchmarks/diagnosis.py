"""Real runs with a known disease, and what the report says of them.

    python benchmarks/diagnosis.py [--only NAME ...] [--steps 60] [--folder DIR] [--seed 1]

The embedded base model is trained on the embedded pairs with settings that are wrong in one known
way, and once with good ones; then the diagnosis of each run folder is printed beside what was
planted. About half a minute for each run on one core.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo.demo.story import ASSETS
from orpo.report.diagnosis import Finding, diagnose
from orpo.report.series import curves_of, observed
from orpo.runs.files import read_run

Row = dict[str, Any]
_PADDING = {
    "en": " I hope that this helps you. Let me know if there is more.",
    "zh": "希望能帮到您。",
}


@dataclass(frozen=True)
class Case:
    """A run and what is wrong with it.

    Attributes:
        planted: Rules of which one at least shall apply; empty for a healthy run.
        settings: Flags of `orpo train` beside the good ones.
        rows: Makes the training rows; all embedded ones if absent.
        held_out: Makes the held-out rows.
    """

    planted: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    rows: Callable[[list[Row]], list[Row]] = list
    held_out: Callable[[list[Row]], list[Row]] = list


def _wordy(rows: list[Row]) -> list[Row]:
    """Chosen answers that end in courtesies."""
    for row in rows:
        answer = row["chosen"][-1]
        answer["content"] += 2 * _PADDING[row["language"]]
    return rows


CASES = {
    "normal": Case(()),
    "rate_far_too_low": Case(("learning_rate_too_low",), {"learning_rate": 1e-8}),
    "rate_too_high": Case(("learning_rate_too_high",), {"learning_rate": 0.03}),
    "rate_far_too_high": Case(("learning_rate_too_high",), {"learning_rate": 1.0}),
    "alpha_very_large": Case(("orpo_alpha_too_high", "chosen_falls"), {"orpo_alpha": 100}),
    "alpha_tiny": Case(("orpo_alpha_too_low",), {"orpo_alpha": 1e-4}),
    "few_pairs": Case(
        ("overfitting",), {"eval_steps": 5, "eval_strategy": "steps"}, lambda rows: rows[:64]
    ),
    "wordy": Case(("length_creep",), {}, _wordy, _wordy),
}


def main() -> int:
    """Train, diagnose, print; 1 if a diagnosis is wrong."""
    given = _parse()
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        for name in given.only or CASES:
            run = folder / name
            if not (run / "evaluation.json").is_file():
                _train(CASES[name], run, given.steps, given.seed)
            found = _diagnosed(run)
            applied = {one.name for one in found if one.verdict == "look"}
            planted = set(CASES[name].planted)
            right = bool(planted & applied) if planted else not applied
            wrong += not right
            print(f"\n{name}: {'right' if right else 'WRONG'}, {', '.join(applied) or 'healthy'}")
            for one in found:
                print(f"  {one.verdict:7} {one.name}: {one.evidence} {one.advice}".rstrip())
    return min(wrong, 1)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="*", choices=CASES, help="some of the runs")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep the runs there, and reuse those there")
    return parser.parse_args()


def _train(case: Case, folder: Path, steps: int, seed: int) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    pairs, held_out = (folder.parent / f"{folder.name}-{part}.jsonl" for part in ("train", "held"))
    _write(case.rows(_rows("train")), pairs)
    _write(case.held_out(_rows("heldout")), held_out)
    settings = {
        "model": ASSETS / "base",
        "dataset": pairs,
        "eval_dataset": held_out,
        "output_dir": folder,
        "learning_rate": 4e-4,
        "orpo_alpha": 0.5,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 64,
        "max_length": 256,
        "max_steps": steps,
        "logging_steps": 1,
        "samples": 64,
        "sample_tokens": 96,
        "save_strategy": "no",
        "seed": seed,
    } | case.settings
    flags = [f"--{name}={value}" for name, value in settings.items()]
    subprocess.run([sys.executable, "-m", "orpo", "train", *flags, "--use_cpu"], check=True)


def _rows(split: str) -> list[Row]:
    with gzip.open(ASSETS / "pairs" / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _write(rows: list[Row], path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _diagnosed(folder: Path) -> list[Finding]:
    run = read_run(folder)
    return diagnose(observed(run, curves_of(run)))


if __name__ == "__main__":
    sys.exit(main())
