"""A card: its header, which the Hub reads, and its text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from orpo.errors import DataError
from orpo.runs import (
    AUDIT,
    Run,
    base_model_id,
    hub_datasets,
    hub_id,
    read_object,
    read_run,
    read_text,
    short_name,
    write_text,
)


@dataclass(frozen=True)
class About:
    """What a card says that the run does not know.

    Attributes:
        name: The model's name; that of the run folder if empty.
        base_model: Hub id of the model that the run started from; as the run says if empty.
        licence: `license`, and `license_name` and `license_link` where the licence is "other".
        language: Language codes.
        tags: Beside those of the method and the data.
        datasets: Hub ids beside those of the run.
        pipeline_tag: What the model is for.
        merged: The weights are whole, though the run trained an adapter.
        repo: Where the model is loaded from, in the card's example; none without.
        pictures: Title -> path, shown at the end.
    """

    name: str = ""
    base_model: str = ""
    licence: Mapping[str, str] = field(default_factory=dict)
    language: str | list[str] | None = None
    tags: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    pipeline_tag: str = "text-generation"
    merged: bool = False
    repo: str = ""
    pictures: Mapping[str, str] = field(default_factory=dict)


def model_card(run: Run, about: About) -> str:
    """The card of a run."""
    name = about.name or run.path.resolve().name
    header = card_header(run, about, name)
    return f"---\n{header.to_yaml()}\n---\n\n{card_body(run, about, name)}"


def write_model_card(folder: Path, **about: Any) -> None:
    """Write README.md of a run folder from its recipe and its measured numbers."""
    licence = about.get("license")
    known = About(
        name=about.get("model_name") or "",
        base_model=about.get("finetuned_from") or "",
        licence={"license": licence} if licence else {},
        language=about.get("language"),
        tags=_listed(about.get("tags")),
        datasets=_listed(about.get("dataset_tags")),
        pipeline_tag=about.get("tasks") or "text-generation",
    )
    write_text(folder / "README.md", model_card(read_run(folder), known))


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def card_header(run: Run, about: About, name: str) -> ModelCardData:
    """The metadata of a run's model, in the Hub's own terms."""
    names = dataset_names(run)
    base = about.base_model or base_model_id(run)
    adapter = bool(run.facts.get("adapter")) and not about.merged
    results = _results(run)
    words = [objective_of(run), "preference-optimization", *about.tags, *map(_as_tag, names)]
    return ModelCardData(
        library_name="peft" if adapter else "transformers",
        pipeline_tag=about.pipeline_tag,
        base_model=base,
        base_model_relation=("adapter" if adapter else "finetune") if base else None,
        language=about.language,
        datasets=[*about.datasets, *hub_datasets(names)] or None,
        tags=[word for word in words if word],
        model_name=name if results else None,
        eval_results=results or None,
        license=about.licence.get("license"),
        license_name=about.licence.get("license_name"),
        license_link=about.licence.get("license_link"),
    )


def objective_of(run: Run) -> str:
    """Which objective was trained: "orpo", "sft" or "dpo"."""
    return str(run.recipe.get("objective") or "orpo")


def dataset_names(run: Run) -> list[Any]:
    """The training data as the recipe names them."""
    named = run.recipe.get("dataset") or []
    return named if isinstance(named, list) else [named]


def _results(run: Run) -> list[EvalResult]:
    """The share of held-out pairs whose chosen answer is preferred, if it was measured."""
    share = run.evaluation.get("after", {}).get("preference_accuracy")
    if not isinstance(share, int | float):
        return []
    named = run.recipe.get("eval_dataset") or dataset_names(run)
    ids = hub_datasets(named if isinstance(named, list) else [named])
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=ids[0] if ids else "preference-pairs",
            dataset_name=f"{short_name(named) or 'preference pairs'}, held out",
            metric_type="accuracy",
            metric_name="Preference accuracy on held-out pairs",
            metric_value=round(float(share), 4),
        )
    ]


def _as_tag(name: object) -> str:
    """The last part of a name, in the letters that a tag may have."""
    last = (hub_id(name) or short_name(name)).rsplit("/", 1)[-1]
    plain = re.sub(r"(\.(jsonl?|csv|parquet|gz))+$", "", last)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-.").lower()[:64]


_SETTINGS = (
    "objective",
    "orpo_alpha",
    "orpo_beta",
    "dpo_beta",
    "learning_rate",
    "lr_scheduler_type",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "nll_scope",
    "seed",
)
_OWN = {"orpo_alpha": "orpo", "orpo_beta": "orpo", "dpo_beta": "dpo"}
_ALIGNED = {
    "orpo": "aligned with [ORPO](https://arxiv.org/abs/2403.07691): one stage of training on "
    "preference pairs, without a reference model.",
    "sft": "fine-tuned on the chosen answers of preference pairs (SFT).",
    "dpo": "aligned with [DPO](https://arxiv.org/abs/2305.18290) on preference pairs; its "
    "reference is the model that training began with.",
}


def card_body(run: Run, about: About, name: str) -> str:
    """Everything after the header."""
    base = about.base_model or base_model_id(run) or short_name(run.recipe.get("model"))
    lines = [
        f"# {_plain(name)}",
        "",
        f"{_code(base) if base else 'A language model'} {_ALIGNED[objective_of(run)]}",
        "",
        *_result_lines(run),
        *_use_lines(run, about),
        *_prompt_lines(run),
        *_data_lines(run),
        *_licence_lines(about, base),
        *_setting_lines(run),
        *_picture_lines(about),
        "## Versions",
        "",
        ", ".join(f"{k} {v}" for k, v in run.facts.get("versions", {}).items()),
        "",
    ]
    return "\n".join(lines)


def _use_lines(run: Run, about: About) -> list[str]:
    if not about.repo:
        return []
    adapter = bool(run.facts.get("adapter")) and not about.merged
    package, kind = ("peft", "AutoPeftModelForCausalLM") if adapter else _loader(run.path)
    imports = f"from {package} import {kind}\nfrom transformers import AutoTokenizer"
    return [
        "## Use",
        "",
        "```python",
        imports if adapter else f"from {package} import {kind}, AutoTokenizer",
        "",
        f'model = {kind}.from_pretrained("{about.repo}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{about.repo}")',
        _IN_TURNS if _has_template(run.path) else _AS_TEXT,
        "answer = model.generate(**inputs, max_new_tokens=256)",
        'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], '
        "skip_special_tokens=True))",
        "```",
        "",
    ]


def _prompt_lines(run: Run) -> list[str]:
    """What answers were trained after, where the template by itself says something else."""
    asked = run.facts.get("asked")
    if not isinstance(asked, dict) or (asked.get("agrees") and not asked.get("others")):
        return []
    after, opened = (_code(repr(asked.get(n))) for n in ("trained_after", "opens_with"))
    lines = [f"Answers were trained after {after} ({asked.get('pairs')} pairs)."]
    if asked.get("others"):
        lines.append(f"{asked['others']} pairs were trained after another opening.")
    if not asked.get("agrees"):
        lines.append(
            f"The chat template opens the assistant's turn with {opened}: add the rest to the "
            "prompt where the model is not asked by `orpo`."
        )
    return ["## Prompt", "", *lines, ""]


def _loader(folder: Path) -> tuple[str, str]:
    """Package and name of the class that loads the model; its own where it does more than read."""
    try:
        config = read_object(folder / "config.json")
    except DataError:
        config = {}
    own = config.get("architectures") if "text_config" in config else None
    kind = own[0] if isinstance(own, list) and own else "AutoModelForCausalLM"
    return "transformers", str(kind)


_AS_TEXT = 'inputs = tokenizer("...", return_tensors="pt")'
_IN_TURNS = """\
messages = [{"role": "user", "content": "..."}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)"""


def _has_template(folder: Path) -> bool:
    settings = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").is_file() or (
        settings.is_file() and '"chat_template"' in read_text(settings)
    )


def _data_lines(run: Run) -> list[str]:
    lines = ["## Data", ""]
    named = [short_name(name) for name in dataset_names(run)]
    if named:
        lines += [", ".join(map(_code, named)), ""]
    for name, account in run.facts.get("data", {}).items():
        dropped = ", ".join(f"{n} {reason}" for reason, n in account["dropped"].items())
        lines.append(
            f"- {name}: {account['rows_in']} rows, {account['kept']} kept"
            + (f", dropped: {dropped}" if dropped else "")
        )
    return [*lines, "", *_audit_lines(run)]


def _audit_lines(run: Run) -> list[str]:
    """The verdict of the audit and what it found, without a word of the rows themselves."""
    try:
        audit = read_object(run.path / AUDIT)
        found = [one for one in audit["findings"] if one["verdict"] != "ok"]
        lines = [
            f"- {one['verdict']}: {_plain(one['title'])} ({one['count']} of {one['of']} rows)"
            for one in found
        ]
        verdict = str(audit["verdict"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    said = "nothing stands out" if verdict == "ok" else f"the worst verdict is “{verdict}”"
    return [f"`orpo data audit`, quick part: {said}.", "", *lines, *([""] if lines else [])]


def _licence_lines(about: About, base: str) -> list[str]:
    named = about.licence.get("license_name") or about.licence.get("license")
    if named:
        link = about.licence.get("license_link")
        return ["## Licence", "", f"{_plain(named)}{f' ({link})' if link else ''}", ""]
    if not about.repo:  # a card that nobody but the owner of the folder reads
        return []
    of_base = f" Ask what the licences of {_code(base)} and of the data allow." if base else ""
    return ["## Licence", "", f"Not known: none was named when this model was pushed.{of_base}", ""]


def _setting_lines(run: Run) -> list[str]:
    objective = objective_of(run)
    own = [name for name in _SETTINGS if _OWN.get(name, objective) == objective]
    rows = [f"| {name} | {_plain(run.recipe[name])} |" for name in own if name in run.recipe]
    return ["## Settings", "", "| setting | value |", "|---|---|", *rows, ""]


def _picture_lines(about: About) -> list[str]:
    if not about.pictures:
        return []
    shown = [f"![{_plain(title)}]({path})" for title, path in about.pictures.items()]
    return ["## Curves", "", *shown, ""]


def _result_lines(run: Run) -> list[str]:
    """Held-out pairs before and after; without such, the last numbers that were logged."""
    before, after = run.evaluation.get("before", {}), run.evaluation.get("after", {})
    if after:
        verdict: Any = after.get("verdict")
        intervals: Any = after.get("intervals")
        rows = [
            f"| {n} | {_shown(before.get(n))} | {_shown(after[n])}{_range(intervals, n)} |"
            for n in _numbers(after)
        ]
        said = [_plain(verdict), ""] if isinstance(verdict, str) else []
        ranges = " (95 % interval)" if intervals else ""
        head = f"| metric | before | after{ranges} |"
        lines = _table("Results on held-out pairs", head, rows)
        return [*lines[:2], *said, *lines[2:]]
    lines = []
    for what, logged in (("Training", run.training), ("Evaluation", run.evaluations)):
        if logged:
            last = logged[-1]
            rows = [f"| {name} | {_shown(last[name])} |" for name in _numbers(last)]
            lines += _table(f"{what} metrics at step {last['step']}", "| metric | value |", rows)
    return lines


def _table(title: str, head: str, rows: list[str]) -> list[str]:
    rule = "|" + "---|" * (head.count("|") - 1)
    return [f"## {title}", "", head, rule, *rows, ""]


def _numbers(line: dict[str, Any]) -> list[str]:
    return [n for n, value in line.items() if isinstance(value, int | float) and n != "step"]


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "–"


def _range(intervals: Any, name: str) -> str:
    found = intervals.get(name) if isinstance(intervals, dict) else None
    low, high = (found.get(end) for end in ("low", "high")) if isinstance(found, dict) else (0, 0)
    if not isinstance(found, dict) or low is None or high is None:
        return ""
    return f" ({_shown(low)} to {_shown(high)})"


def _plain(text: object) -> str:
    """Names and values from outside, on one line and without markup of their own."""
    return re.sub(r"([\\`|<>\[\]])", r"\\\1", " ".join(str(text).split()))


def _code(text: str) -> str:
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"
