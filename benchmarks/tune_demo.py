"""Does `orpo tune` find a recipe at least as good as the one chosen by hand, within its budget?

    python benchmarks/tune_demo.py [--minutes 8] [--seeds 1 2] [--output_dir tune-demo]

Runs `orpo tune` on the embedded model and data, once for each seed. It does not know the recipe
that was chosen by hand (that of `orpo demo`): it starts from a quarter of its learning rate and a
fifth of its lambda, and searches three decades. Then both recipes are trained for the demo's whole
epoch, with a seed that no trial had, and compared on pairs that no trial has seen: the score that
was tuned, preference accuracy, and greedy answers checked for being right. What a folder holds
already is not run again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from orpo.commands.main import main as orpo
from orpo.commands.tune import Options, job_of
from orpo.demo.story import grade
from orpo.experiments.choice import final_test
from orpo.experiments.results import Values
from orpo.experiments.trials import Runs
from orpo.runs.files import write_json
from orpo.runs.typed import plain

_MEASURES = {"score": 1, "preference_accuracy": 100, "correct_answers": 100}
_FRESH_SEED = 1000
_IGNORANT = ["--learning_rate", "1e-4", "--orpo_alpha", "0.1", "--learning_rates", "1e-5", "1e-2"]


def main() -> None:
    """Tune, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--output_dir", type=Path, default=Path("tune-demo"))
    given = parser.parse_args()
    for seed in given.seeds:
        folder = given.output_dir / f"seed{seed}"
        found = _tuned(folder, seed, given.minutes)
        values = found["recommended"]["values"]
        print(
            f"seed {seed}: {found['account']} trials of {found['steps']} steps in "
            f"{found['seconds']:.0f} s of {60 * given.minutes:.0f}: {Values(**values)}"
        )
        if found["comparison"] is not None:
            _print(f"  start -> found, {found['steps']} steps", found["comparison"]["measures"])
        whole = _at_full_length(folder, Values(**values), seed)
        _print(f"  by hand -> found, {whole['steps']} steps", whole["measures"])


def _tuned(folder: Path, seed: int, minutes: float) -> dict[str, Any]:
    evaluation = folder / "evaluation.json"
    if not (evaluation.is_file() and json.loads(evaluation.read_text("utf-8")).get("finished")):
        words = ["--minutes", str(minutes), "--seed", str(seed), "--output_dir", str(folder)]
        if orpo(["tune", *words, *_IGNORANT]):
            raise SystemExit(1)
    found: dict[str, Any] = json.loads(evaluation.read_text("utf-8"))
    return found


def _at_full_length(folder: Path, values: Values, seed: int) -> dict[str, Any]:
    path = folder / "full-length.json"
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return kept
    job = job_of(Options(settings={"output_dir": str(folder)}))
    runs = Runs(job, grade=grade)
    seeds = [_FRESH_SEED + seed]
    sides = ([runs.test(one, runs.full_steps, n) for n in seeds] for one in (job.start, values))
    found = {
        "steps": runs.full_steps,
        "measures": plain(final_test({}, seeds, *sides).measures),
    }
    write_json(path, found)
    return found


def _print(head: str, measures: dict[str, Any]) -> None:
    for name, scale in _MEASURES.items():
        start, best, change = (measures[name][one] for one in ("start", "best", "change"))
        low, high = scale * change["low"], scale * change["high"]
        print(
            f"{head}: {name} {scale * start['value']:.3f} -> {scale * best['value']:.3f}, "
            f"{scale * change['value']:+.3f} ({low:+.3f} to {high:+.3f}): {change['verdict']}"
        )


if __name__ == "__main__":
    main()
