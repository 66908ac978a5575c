"""Benchmarks through lm-evaluation-harness: what is asked of it, and what it found."""

from __future__ import annotations

import difflib
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import GenerationConfig

from orpo.data.asked import template_of
from orpo.data.rendering import RenderingError, has_chat_template
from orpo.errors import ConfigError, DataError
from orpo.evaluate.generation import stop_ids
from orpo.evaluate.intervals import paired_interval
from orpo.evaluate.loading import Answerer
from orpo.terminal import progress_stream

__all__ = ["HarnessPlan", "changes", "find_tasks", "run_task"]

_Z95 = 1.959963984540054  # a normal variable lies within so many standard errors in 95 of 100 cases
_SEED = 1234  # of the examples that are drawn; the harness's own
_REMOTE = ("Connection", "Offline", "offline", "HTTP", "Hub", "MaxRetry")
_SHORT = 300  # characters of a complaint
_LONGEST = 4000  # characters of a prompt or an answer that are kept
_OUR_DOING = ("`pretrained` model kwarg is not", "Passed an already-initialized model")


@dataclass(frozen=True)
class HarnessPlan:
    """What is asked of the harness.

    Attributes:
        tasks: Names of tasks, groups or tags, such as "ifeval".
        num_fewshot: Examples before each question; the task's own number if absent.
        limit: Questions of each task, or a share of them below 1; all if absent.
        include_path: A folder with tasks of the user's own, as YAML.
        apply_chat_template: Put questions into the model's chat template.
        batch_size: Requests at once.
        run_unsafe_code: Allow tasks that run code which the model wrote.

    Raises:
        ConfigError: A value that cannot be meant.
    """

    tasks: tuple[str, ...]
    num_fewshot: int | None = None
    limit: float | None = None
    include_path: str | None = None
    apply_chat_template: bool = False
    batch_size: int = 8
    run_unsafe_code: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without the harness."""
        if not self.tasks or not all(self.tasks):
            raise ConfigError("names no task", where="--tasks", fix="Such as --tasks ifeval.")
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise ConfigError("must not be negative", where="--num_fewshot")
        if self.limit is not None and self.limit <= 0:
            raise ConfigError("must be above 0", where="--limit", fix="Leave it out for all.")
        if self.limit is not None and self.limit > 1 and self.limit != int(self.limit):
            raise ConfigError("is no number of questions", where=f"--limit {self.limit}")
        if self.include_path is not None and not Path(self.include_path).is_dir():
            raise ConfigError("no such folder", where=f"--include_path {self.include_path}")


def find_tasks(plan: HarnessPlan) -> Any:
    """The harness's index, in which every task of the plan is.

    Raises:
        ConfigError: The harness is not installed, or knows no such task; names near ones.
    """
    try:
        from lm_eval.tasks import TaskManager  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            "needs lm-evaluation-harness", where="harness", fix="pip install 'orpo[harness]'"
        ) from error
    if plan.include_path is not None:  # reading the thousands of tasks that it brings takes long
        manager: Any = TaskManager(include_path=plan.include_path, include_defaults=False)
        if set(plan.tasks) <= set(manager.all_tasks):
            return manager
    manager = TaskManager(include_path=plan.include_path)
    for name in plan.tasks:
        if name not in manager.task_index:
            raise _no_such_task(name, manager.all_tasks)
    return manager


def _no_such_task(name: str, known: Sequence[str]) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    near += [one for one in known if name.lower() in one.lower() and one not in near][
        : 4 - len(near)
    ]
    fix = f"Near it: {', '.join(near)}." if near else "`lm-eval ls tasks` lists them."
    return ConfigError(f"the harness has no task {name!r}", where="--tasks", fix=fix)


def run_task(manager: Any, plan: HarnessPlan, name: str, answerer: Answerer) -> dict[str, Any]:
    """One task, group or tag, by one model.

    Args:
        manager: From `find_tasks`.
        plan: What is asked.
        name: One of the plan's tasks.
        answerer: Model and tokenizer.

    Returns:
        scores: {task, metric, filter, value, stderr, low, high, n, of, shots, higher_is_better}
            for each metric; documents: what was asked, answered and counted; notes: what the
            harness warned of.

    Raises:
        DataError: The task's data or code cannot be loaded, or its YAML is wrong.
        ConfigError: It runs code that the model wrote, and nobody allowed it.
    """
    from lm_eval.evaluator import simple_evaluate  # noqa: PLC0415
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415

    bars = redirect_stderr(progress_stream())
    with _warnings() as notes, _plain_settings(answerer), bars:
        items = _load(manager, name)
        if any(getattr(task, "UNSAFE_CODE", False) for task in _leaves(items)):
            _require_allowed(plan, name)
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
    return {"scores": _scores(found), "documents": list(_documents(found)), "notes": notes}


def _asked_as_trained(kind: Any) -> Any:
    """The harness's model, with questions put as all our commands put them."""

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


def _load(manager: Any, name: str) -> list[Any]:
    """The group or the tasks behind a name, with their data."""
    try:
        loaded = manager.load([name])
    except Exception as error:  # whatever a task's YAML, code or data bring about
        raise _broken("cannot be loaded", name, error) from error
    group = loaded.get("groups", {}).get(name)
    return [group] if group is not None else list(loaded["tasks"].values())


def _broken(what: str, name: str, error: Exception) -> DataError:
    lines = str(error).strip().splitlines() or [""]
    kind = type(error).__name__
    remote = any(word in f"{kind} {error}" for word in _REMOTE)
    return DataError(
        f"{what} ({kind}: {lines[0][:_SHORT]})",
        where=f"task {name!r}",
        fix="Its data come from the Hub: is there a network?" if remote else "See its YAML.",
    )


def _leaves(items: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for item in items:
        found += item.get_all_tasks() if hasattr(item, "get_all_tasks") else [item]
    return found


def _require_allowed(plan: HarnessPlan, name: str) -> None:
    if not plan.run_unsafe_code:
        raise ConfigError(
            "runs code that the model wrote, on this machine",
            where=f"task {name!r}",
            fix="Allow it with --run_unsafe_code, in a container.",
        )


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What the harness warns of, once each; otherwise it is silent."""
    notes: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line = " ".join(record.getMessage().split())
            if line not in notes and not line.startswith(_OUR_DOING):
                notes.append(line)

    logger, handler = logging.getLogger("lm_eval"), Keep(logging.WARNING)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield notes
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


@contextmanager
def _plain_settings(answerer: Answerer) -> Iterator[None]:
    """Take a model's own settings for generating away for the time being.

    A `max_new_tokens` among them would be taken instead of what a task asks for, and a
    temperature or a penalty would change what it measures.
    """
    model: Any = answerer.model
    models = [model, getattr(getattr(model, "base_model", None), "model", None)]
    held = [(one, one.generation_config) for one in models if hasattr(one, "generation_config")]
    tokenizer = answerer.tokenizer
    plain = GenerationConfig(
        eos_token_id=stop_ids(tokenizer, model),
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    try:
        for one, _ in held:
            one.generation_config = plain
        yield
    finally:
        for one, own in held:
            one.generation_config = own


def _scores(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each metric of each task and group."""
    rows = []
    for task, metrics in found["results"].items():
        counted, of = _sizes(found, task)
        for key, value in metrics.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = metrics.get(f"{metric}_stderr,{filtered}")
            error = float(error) if isinstance(error, int | float) else None
            rows.append(
                {
                    "task": task,
                    "metric": metric,
                    "filter": filtered,
                    "value": float(value),
                    "stderr": error,
                    "low": None if error is None else float(value) - _Z95 * error,
                    "high": None if error is None else float(value) + _Z95 * error,
                    "n": counted,
                    "of": of,
                    "shots": found.get("n-shot", {}).get(task),
                    "higher_is_better": found.get("higher_is_better", {}).get(task, {}).get(metric),
                }
            )
    return rows


def _sizes(found: Mapping[str, Any], task: str) -> tuple[int, int]:
    """(questions asked, questions that there are) of a task, or of all below a group."""
    sizes = found["n-samples"]
    if task in sizes:
        return int(sizes[task]["effective"]), int(sizes[task]["original"])
    below = [_sizes(found, one) for one in found.get("group_subtasks", {}).get(task, [])]
    return sum(size[0] for size in below), sum(size[1] for size in below)


def _documents(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for task, samples in found.get("samples", {}).items():
        for sample in samples:
            metrics = {name: _plain(sample[name]) for name in sample["metrics"] if name in sample}
            yield {
                "task": task,
                "document": sample["doc_id"],
                "filter": sample["filter"],
                "prompt": str(sample["arguments"][0][0])[:_LONGEST],
                "target": str(sample["target"])[:_LONGEST],
                "answer": str(sample["filtered_resps"])[:_LONGEST],
                "metrics": {name: value for name, value in metrics.items() if value is not None},
            }


def _plain(value: Any) -> float | list[float] | None:
    """A number, or numbers, as a metric counts them; None for what is neither."""
    if isinstance(value, list | tuple):
        numbers = [_plain(one) for one in value]
        return None if any(not isinstance(one, float) for one in numbers) else numbers  # type: ignore[return-value]
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def changes(
    before: Mapping[str, list[dict[str, Any]]], after: Mapping[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """After less before, for each metric; with an interval where it is a mean over documents.

    Both models answered the same documents, so the differences are taken document by document.

    Args:
        before: "scores" and "documents" of the one model, see `run_task`.
        after: Those of the other.

    Returns:
        {task, metric, filter, before, after, value, low, high, verdict} for each; without an
        interval, `low` and `high` are None and nothing is decided.
    """
    olds = {_name(row): row for row in before["scores"]}
    values = [_by_document(one["documents"]) for one in (before, after)]
    rows = []
    for row in after["scores"]:
        name = _name(row)
        if name not in olds:
            continue
        old = olds[name]["value"]
        ends = _ends(*(one.get(name, {}) for one in values), means=(old, row["value"]))
        change = {"before": old, "after": row["value"], "value": row["value"] - old}
        low, high = ends or (None, None)
        verdict = _verdict(low, high, row["higher_is_better"])
        key = dict(zip(("task", "metric", "filter"), name, strict=True))
        rows.append({**key, **change, "low": low, "high": high, "verdict": verdict})
    return rows


def _name(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["task"], row["metric"], row["filter"]


_Values = dict[int, list[float]]


def _by_document(documents: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], _Values]:
    found: dict[tuple[str, str, str], _Values] = defaultdict(dict)
    for one in documents:
        for metric, value in one["metrics"].items():
            numbers = value if isinstance(value, list) else [value]
            found[one["task"], metric, one["filter"]][one["document"]] = numbers
    return found


def _ends(before: _Values, after: _Values, *, means: tuple[float, float]) -> Any:
    """The interval of the mean difference; None where the metric is no mean over documents."""
    pairs = [
        (d, b, a) for d in before if d in after for b, a in zip(before[d], after[d], strict=False)
    ]
    if len(pairs) < 2 or before.keys() != after.keys():
        return None
    olds, news = [b for _, b, _ in pairs], [a for _, _, a in pairs]
    for mean, values in zip(means, (olds, news), strict=True):
        if abs(sum(values) / len(values) - mean) > 1e-9:
            return None
    interval = paired_interval(olds, news, [d for d, _, _ in pairs])
    return interval.low, interval.high


def _verdict(low: float | None, high: float | None, higher_is_better: bool | None) -> str:
    if low is None or high is None or higher_is_better is None:
        return "undecided"
    if low <= 0 <= high:
        return "no difference seen"
    return "better" if (low > 0) == higher_is_better else "worse"
