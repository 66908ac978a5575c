"""Benchmarks through lm-evaluation-harness: what is asked of it, and what it found.

The harness's own table is text, of one model and without intervals; so scores and their standard
errors are taken from its results, and two models are compared question by question.
"""

from __future__ import annotations

import difflib
import gc
import hashlib
import logging
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from orpo.errors import ConfigError, DataError, require_package
from orpo.evaluate.intervals import Interval, paired_interval
from orpo.evaluate.results import HarnessChange, HarnessResults, HarnessScore
from orpo.evaluate.settings import HarnessPlan
from orpo.runs.files import write_json
from orpo.runs.reading import read_object
from orpo.runs.typed import plain, typed
from orpo.terminal import Say, progress_stream

if TYPE_CHECKING:
    from orpo.evaluate.loading import Answerer

PARTS = "parts"
"""The folder of finished tasks in that of an evaluation."""

_Z95 = 1.959963984540054  # a normal variable lies within so many standard errors in 95 of 100 cases
_SEED = 1234  # of the examples that are drawn; the harness's own
_REMOTE = ("Connection", "Offline", "offline", "HTTP", "Hub", "MaxRetry")
_SHORT = 300  # characters of a complaint
_LONGEST = 4000  # characters of a prompt or an answer that are kept
_OUR_DOING = ("`pretrained` model kwarg is not", "Passed an already-initialized model")


@dataclass(frozen=True)
class Document:
    """A question: what was asked, answered and counted."""

    task: str
    document: int
    filter: str
    prompt: str
    target: str
    answer: str
    metrics: dict[str, float | list[float]]


@dataclass(frozen=True)
class TaskResult:
    """What a model did on a task, group or tag, or on several; what the harness warned of."""

    scores: tuple[HarnessScore, ...] = ()
    documents: tuple[Document, ...] = ()
    notes: tuple[str, ...] = ()

    def __add__(self, other: TaskResult) -> TaskResult:
        """Both together."""
        return TaskResult(
            self.scores + other.scores,
            self.documents + other.documents,
            self.notes + other.notes,
        )


def find_tasks(plan: HarnessPlan) -> Any:
    """The harness's index, in which every task of the plan is; a ConfigError names near ones."""
    require_package("lm_eval", where="harness")
    from lm_eval.tasks import TaskManager  # noqa: PLC0415 - an extra

    if plan.include_path is not None:  # reading the thousands of tasks that it brings takes long
        manager: Any = TaskManager(include_path=plan.include_path, include_defaults=False)
        if set(plan.tasks) <= set(manager.all_tasks):
            return manager
    manager = TaskManager(include_path=plan.include_path)
    for name in plan.tasks:
        if name not in manager.task_index:
            near = difflib.get_close_matches(name, manager.all_tasks, n=4, cutoff=0.5)
            near += [one for one in manager.all_tasks if name.lower() in one.lower()]
            shown = ", ".join([*dict.fromkeys(near)][:4])
            fix = f"Near it: {shown}." if near else "`lm-eval ls tasks` lists them."
            raise ConfigError(f"the harness has no task {name!r}", where="--tasks", fix=fix)
    return manager


def measure(
    manager: Any,
    plan: HarnessPlan,
    name: str,
    parts: tuple[Path, str],
    how: Mapping[str, Any],
    say: Say,
) -> TaskResult:
    """All tasks by one model; a task that it has finished is kept, and not run again.

    `parts` are a folder for finished tasks and what their files begin with; `how` it is loaded.
    """
    from orpo.evaluate.loading import load_answerer  # noqa: PLC0415 - loads torch

    found = TaskResult()
    answerer: Answerer | None = None
    folder, prefix = parts
    folder.mkdir(exist_ok=True)
    for task in plan.tasks:
        path = folder / f"{prefix}-{hashlib.sha256(task.encode()).hexdigest()[:12]}.json"
        if path.is_file():
            say(f"{task} by {name}: finished already")
            try:
                part = typed(TaskResult, read_object(path), where=str(path))
            except DataError as error:
                raise DataError(error.what, where=str(path), fix="Delete it.") from error
        else:
            answerer = answerer or load_answerer(name, **how)
            say(f"{task} by {name}")
            part = run_task(manager, plan, task, answerer)
            write_json(path, plain(part))
        found += part
    del answerer
    gc.collect()  # the next model needs the room
    return found


def run_task(manager: Any, plan: HarnessPlan, name: str, answerer: Answerer) -> TaskResult:
    """One task, group or tag of the plan, by one model.

    A DataError is of its data, code or YAML; a ConfigError of the model's code, not allowed to run.
    """
    from lm_eval.evaluator import simple_evaluate  # noqa: PLC0415
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415

    bars = redirect_stderr(progress_stream())
    with _warnings() as notes, _plain_settings(answerer), bars:
        try:
            loaded = manager.load([name])
        except Exception as error:  # whatever a task's YAML, code or data bring about
            raise _broken("cannot be loaded", name, error) from error
        group = loaded.get("groups", {}).get(name)
        items = [group] if group is not None else list(loaded["tasks"].values())
        tasks = [
            task
            for item in items
            for task in (item.get_all_tasks() if hasattr(item, "get_all_tasks") else [item])
        ]
        if not plan.run_unsafe_code and any(getattr(task, "UNSAFE_CODE", False) for task in tasks):
            raise ConfigError(
                "runs code that the model wrote, on this machine",
                where=f"task {name!r}",
                fix="Allow it with --run_unsafe_code, in a container.",
            )
        model = _asked_as_trained(HFLM)(
            pretrained=answerer.model, tokenizer=answerer.tokenizer, batch_size=plan.batch_size
        )
        try:
            found: Any = simple_evaluate(
                model=model,
                tasks=items,
                task_manager=manager,
                num_fewshot=plan.num_fewshot,
                limit=plan.limit if plan.limit is None or plan.limit < 1 else int(plan.limit),
                apply_chat_template=plan.apply_chat_template,
                confirm_run_unsafe_code=plan.run_unsafe_code,
                fewshot_random_seed=_SEED,
            )
        except (TemplateError, ValueError, AssertionError) as error:  # of the task's YAML
            raise _broken("cannot be run", name, error) from error
    return TaskResult(tuple(_scores(found)), tuple(_documents(found)), tuple(notes))


def _asked_as_trained(kind: Any) -> Any:
    """The harness's model, with questions put as all our commands put them."""
    from orpo.data.asked import template_of  # noqa: PLC0415 - loads transformers
    from orpo.data.rendering import RenderingError, has_chat_template  # noqa: PLC0415

    class AsTrained(kind):
        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            if add_generation_prompt and has_chat_template(self.tokenizer):
                with suppress(RenderingError):  # the harness tries again without a system prompt
                    return template_of(self.tokenizer).render_prompt(chat_history)
            text: str = super().apply_chat_template(chat_history, add_generation_prompt)
            return text

    return AsTrained


def _broken(what: str, name: str, error: Exception) -> DataError:
    lines = str(error).strip().splitlines() or [""]
    kind = type(error).__name__
    remote = any(word in f"{kind} {error}" for word in _REMOTE)
    return DataError(
        f"{what} ({kind}: {lines[0][:_SHORT]})",
        where=f"task {name!r}",
        fix="Its data come from the Hub: is there a network?" if remote else "See its YAML.",
    )


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What the harness has warned of in the end, once each; otherwise it is silent."""
    notes: list[str] = []
    logger, handler = logging.getLogger("lm_eval"), BufferingHandler(sys.maxsize)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield notes
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
        lines = (" ".join(record.getMessage().split()) for record in handler.buffer)
        notes += dict.fromkeys(line for line in lines if not line.startswith(_OUR_DOING))


def _plain_settings(answerer: Answerer) -> AbstractContextManager[None]:
    """Take a model's own settings for generating away for the time being.

    A `max_new_tokens` among them would be taken instead of what a task asks for, and a
    temperature or a penalty would change what it measures.
    """
    from transformers import GenerationConfig  # noqa: PLC0415 - loads torch

    from orpo.evaluate.generation import as_asked, stop_ids  # noqa: PLC0415

    model, tokenizer = answerer.model, answerer.tokenizer
    bos, pad = tokenizer.bos_token_id, tokenizer.pad_token_id
    ends = stop_ids(tokenizer, model)
    return as_asked(model, GenerationConfig(eos_token_id=ends, bos_token_id=bos, pad_token_id=pad))


def _scores(found: Mapping[str, Any]) -> Iterator[HarnessScore]:
    """One for each metric of each task and group."""
    for task, metrics in found["results"].items():
        counted, of = _sizes(found, task)
        for key, value in metrics.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = metrics.get(f"{metric}_stderr,{filtered}")
            reach = _Z95 * error if isinstance(error, int | float) else None
            yield HarnessScore(
                task=task,
                metric=metric,
                filter=filtered,
                value=float(value),
                stderr=None if reach is None else float(error),
                low=None if reach is None else float(value) - reach,
                high=None if reach is None else float(value) + reach,
                n=counted,
                of=of,
                shots=found.get("n-shot", {}).get(task),
                higher_is_better=found.get("higher_is_better", {}).get(task, {}).get(metric),
            )


def _sizes(found: Mapping[str, Any], task: str) -> tuple[int, int]:
    """(questions asked, questions that there are) of a task, or of all below a group."""
    sizes = found["n-samples"]
    if task in sizes:
        return int(sizes[task]["effective"]), int(sizes[task]["original"])
    below = [_sizes(found, one) for one in found.get("group_subtasks", {}).get(task, [])]
    return sum(size[0] for size in below), sum(size[1] for size in below)


def _documents(found: Mapping[str, Any]) -> Iterator[Document]:
    for task, samples in found.get("samples", {}).items():
        for sample in samples:
            metrics = {name: _number(sample[name]) for name in sample["metrics"] if name in sample}
            yield Document(
                task=task,
                document=sample["doc_id"],
                filter=sample["filter"],
                prompt=str(sample["arguments"][0][0])[:_LONGEST],
                target=str(sample["target"])[:_LONGEST],
                answer=str(sample["filtered_resps"])[:_LONGEST],
                metrics={name: value for name, value in metrics.items() if value is not None},
            )


def _number(value: Any) -> float | list[float] | None:
    """A number, or numbers, as a metric counts them; None for what is neither."""
    if isinstance(value, list | tuple):
        numbers = [_number(one) for one in value]
        return None if any(not isinstance(one, float) for one in numbers) else numbers  # type: ignore[return-value]
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def compared(before: TaskResult | None, after: TaskResult) -> HarnessResults:
    """The scores, and after less before for each metric.

    Both models answered the same documents, so the differences are taken document by document, with
    an interval where the metric is a mean over documents.
    """
    if before is None:
        return HarnessResults(after.scores)
    olds = {(row.task, row.metric, row.filter): row.value for row in before.scores}
    first, second = (_by_document(one.documents) for one in (before, after))
    changes = []
    for row in after.scores:
        name = row.task, row.metric, row.filter
        if name in olds:
            means = olds[name], row.value
            told = _change(first.get(name, {}), second.get(name, {}), means)
            low, high = (told.low, told.high) if told else (None, None)
            words = ("better", "worse") if row.higher_is_better else ("worse", "better")
            verdict = "undecided"
            if told and row.higher_is_better is not None:
                verdict = told.told(*words, "no difference seen")
            changes.append(HarnessChange(*name, *means, means[1] - means[0], low, high, verdict))
    return HarnessResults(after.scores, before.scores, tuple(changes))


_Values = dict[int, list[float]]  # document -> what a metric counts of it


def _by_document(documents: Sequence[Document]) -> dict[tuple[str, str, str], _Values]:
    found: dict[tuple[str, str, str], _Values] = defaultdict(dict)
    for one in documents:
        for metric, value in one.metrics.items():
            numbers = value if isinstance(value, list) else [value]
            found[one.task, metric, one.filter][one.document] = numbers
    return found


def _change(before: _Values, after: _Values, means: tuple[float, float]) -> Interval | None:
    """The mean difference; None where the metric is no mean over documents."""
    pairs = [
        (d, b, a) for d in before if d in after for b, a in zip(before[d], after[d], strict=False)
    ]
    if len(pairs) < 2 or before.keys() != after.keys():
        return None
    documents, olds, news = ([*one] for one in zip(*pairs, strict=True))
    for mean, values in zip(means, (olds, news), strict=True):
        if abs(sum(values) / len(values) - mean) > 1e-9:
            return None
    return paired_interval(olds, news, documents)
