"""Benchmarks of a model, and of the one that it is compared with."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orpo.errors import DataError
from orpo.evaluate import Answerer, load_answerer
from orpo.evaluate.harness import HarnessPlan, changes, find_tasks, run_task
from orpo.evaluate.local import weights_digest
from orpo.jobs.evaluation_folder import ANSWERS, claim_folder
from orpo.runs import EVALUATION, read_object, typed, write_json, write_jsonl
from orpo.train.recorder import versions

__all__ = ["HarnessJob", "run_harness"]

Say = Callable[[str], None]

_PARTS = "parts"


@dataclass(frozen=True)
class HarnessJob:
    """What is measured, and where the results go.

    Attributes:
        model: A run folder, a model folder, an adapter folder or a Hub id.
        plan: What is asked of the harness.
        baseline: A model to compare with.
        output_dir: Holds evaluation.json, answers.jsonl and the page.
        overwrite: Replace an evaluation with other settings.
        dtype: Of the weights.
        trust_remote_code: Allow the models' own code to run.
    """

    model: str
    plan: HarnessPlan
    baseline: str | None = None
    output_dir: Path = Path("orpo-eval-harness")
    overwrite: bool = False
    dtype: str = "auto"
    trust_remote_code: bool = False


def run_harness(job: HarnessJob, *, say: Say) -> dict[str, Any]:
    """Run the tasks, write the folder of the evaluation, and give what evaluation.json holds.

    A task that one of the models has finished is kept; the same command goes on with the others.

    Args:
        job: What is measured.
        say: Told, line by line, what happens.

    Raises:
        UserError: A task, its data or a model that cannot be loaded, or a folder that holds
            something else.
    """
    manager = find_tasks(job.plan)
    settings = _settings(job)
    folder = job.output_dir
    claim_folder(folder, settings, (ANSWERS, _PARTS), overwrite=job.overwrite)
    evaluation: dict[str, Any] = {"kind": "harness", "settings": settings}
    write_json(folder / EVALUATION, evaluation)
    work = _Work(job, manager, say)
    found = {"after": work.measure("after", job.model)}
    if job.baseline is not None:
        found = {"before": work.measure("before", job.baseline), **found}
    evaluation |= {
        "models": {"after": job.model, **({"before": job.baseline} if job.baseline else {})},
        "versions": versions("lm_eval"),
        "account": _account(found["after"]["scores"]),
        "notes": [note for one in found.values() for note in one["notes"]],
        "results": {
            **{moment: one["scores"] for moment, one in found.items()},
            "changes": changes(found["before"], found["after"]) if "before" in found else [],
        },
    }
    write_jsonl(
        folder / ANSWERS,
        [{"moment": moment, **row} for moment, one in found.items() for row in one["documents"]],
    )
    write_json(folder / EVALUATION, evaluation)
    from orpo.report.write import write_report  # noqa: PLC0415 - matplotlib loads in seconds

    write_report(folder)
    return evaluation


class _Work:
    """The tasks by one model after the other, so that only one is in memory."""

    def __init__(self, job: HarnessJob, manager: Any, say: Say) -> None:
        self.job, self.manager, self.say = job, manager, say
        self.parts = job.output_dir / _PARTS
        self.parts.mkdir(exist_ok=True)

    def measure(self, moment: str, name: str) -> dict[str, list[Any]]:
        """Scores, documents and notes of all tasks."""
        whole: dict[str, list[Any]] = {"scores": [], "documents": [], "notes": []}
        answerer: Answerer | None = None
        for task in self.job.plan.tasks:
            path = self.parts / f"{moment}-{_digest(task)}.json"
            if path.is_file():
                self.say(f"{task} by {name}: finished already")
                part = _read(path)
            else:
                answerer = answerer or self._load(name)
                self.say(f"{task} by {name}")
                part = run_task(self.manager, self.job.plan, task, answerer)
                write_json(path, part)
            for kind in whole:
                whole[kind] += part[kind]
        del answerer
        gc.collect()  # the next model needs the room
        return whole

    def _load(self, name: str) -> Answerer:
        return load_answerer(
            name, dtype=self.job.dtype, trust_remote_code=self.job.trust_remote_code
        )


def _settings(job: HarnessJob) -> dict[str, Any]:
    plan = asdict(job.plan)
    del plan["batch_size"]
    return {
        "model": job.model,
        "baseline": job.baseline,
        **plan,
        "tasks": list(job.plan.tasks),
        "dtype": job.dtype,
        "weights": [weights_digest(name) for name in (job.model, job.baseline) if name],
    }


def _account(scores: list[dict[str, Any]]) -> dict[str, Any]:
    """Questions that there are, asked, and left out by --limit, for each task."""
    return {
        row["task"]: {
            "questions": row["of"],
            "asked": row["n"],
            "left_out": {"limit": row["of"] - row["n"]},
        }
        for row in scores
    }


def _read(path: Path) -> dict[str, list[Any]]:
    try:
        return asdict(typed(_Part, read_object(path), where=str(path)))
    except DataError as error:
        raise DataError(error.what, where=str(path), fix="Delete it.") from error


@dataclass(frozen=True)
class _Part:
    scores: list[dict[str, Any]]
    documents: list[dict[str, Any]]
    notes: list[Any]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
