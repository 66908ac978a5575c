"""A card: its header, which the Hub reads, and its text."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from orpo.errors import DataError
from orpo.quantities import as_number, as_percent, beside, measure, number, told_ends
from orpo.runs.files import AUDIT, Run, base_model_id, hub_datasets, hub_id, read_run, short_name
from orpo.runs.reading import read_object, read_text
from orpo.runs.writing import write_text


@dataclass(frozen=True)
class About:
    """What a card says that the run does not know."""

    name: str = ""  # the model's; that of the run folder if empty
    base_model: str = ""  # Hub id of the model that the run started from; as the run says if empty
    licence: Mapping[str, str] = field(default_factory=dict)
    """`license`, and `license_name` and `license_link` where the licence is "other"."""
    language: str | list[str] | None = None
    tags: list[str] = field(default_factory=list)  # beside those of the method and the data
    datasets: list[str] = field(default_factory=list)  # Hub ids beside those of the run
    pipeline_tag: str = "text-generation"
    merged: bool = False  # the weights are whole, though the run trained an adapter
    repo: str = ""  # where the model is loaded from, in the card's example; none without
    pictures: Mapping[str, str] = field(default_factory=dict)  # title -> path, shown at the end


def model_card(run: Run, about: About) -> str:
    """The card of a run."""
    name = about.name or run.path.resolve().name
    header = card_header(run, about, name)
    return f"---\n{header.to_yaml()}\n---\n\n{card_body(run, about, name)}"


def write_model_card(folder: Path, **about: Any) -> None:
    """Write README.md of a run folder from its recipe and its measured numbers."""

    def several(name: str) -> list[str]:
        value = about.get(name)
        return [value] if isinstance(value, str) else list(value or [])

    licence = about.get("license")
    known = About(
        name=about.get("model_name") or "",
        base_model=about.get("finetuned_from") or "",
        licence={"license": licence} if licence else {},
        language=about.get("language"),
        tags=several("tags"),
        datasets=several("dataset_tags"),
        pipeline_tag=about.get("tasks") or "text-generation",
    )
    write_text(folder / "README.md", model_card(read_run(folder), known))


def card_header(run: Run, about: About, name: str) -> ModelCardData:
    """The metadata of a run's model, in the Hub's own terms."""
    names = dataset_names(run)
    base = about.base_model or base_model_id(run)
    adapter = bool(run.facts.get("adapter")) and not about.merged
    results = _results(run)
    words = [objective_of(run), "preference-optimization", *about.tags]
    for named in names:  # the last part, in the letters that a tag may have
        last = (hub_id(named) or short_name(named)).rsplit("/", 1)[-1]
        plain = re.sub(r"(\.(jsonl?|csv|parquet|gz))+$", "", last)
        words.append(re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-.").lower()[:64])
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


_SETTINGS = (
    *("objective", "orpo_alpha", "orpo_beta", "dpo_beta", "learning_rate", "lr_scheduler_type"),
    *("num_train_epochs", "max_steps", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "max_length", "nll_scope", "seed"),
)
_OWN = {"orpo_alpha": "orpo", "orpo_beta": "orpo", "dpo_beta": "dpo"}


def card_body(run: Run, about: About, name: str) -> str:
    """Everything after the header, as the template says it."""
    objective = objective_of(run)
    own = [name for name in _SETTINGS if _OWN.get(name, objective) == objective]
    adapter = bool(run.facts.get("adapter")) and not about.merged
    asked, told = run.facts.get("asked"), run.path / "tokenizer_config.json"
    as_said = isinstance(asked, dict) and asked.get("agrees") and not asked.get("others")
    made = jinja2.Environment(  # noqa: S701 - Markdown
        loader=jinja2.PackageLoader("orpo.train", ""), trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {
        "plain": _plain,
        "code": _code,
        "quoted": lambda value: _code(repr(value)),
        "told": lambda line: beside({}, line, run.recipe),
    }
    before, after = (run.evaluation.get(moment, {}) for moment in ("before", "after"))
    said = made.get_template("card.md.jinja").render(
        run=run,
        about=about,
        name=name,
        objective=objective,
        base=about.base_model or base_model_id(run) or short_name(run.recipe.get("model")),
        verdict=run.evaluation.get("verdict", {}).get("says"),
        after=after,
        results=beside(before, after, run.recipe),
        ranges=_ranges(after.get("intervals")),
        adapter=adapter,
        loader="AutoPeftModelForCausalLM" if adapter else _loader(run.path),
        in_turns=(run.path / "chat_template.jinja").is_file()
        or (told.is_file() and '"chat_template"' in read_text(told)),
        # What answers were trained after, where the template by itself says something else.
        asked=asked if isinstance(asked, dict) and not as_said else None,
        named=[short_name(one) for one in dataset_names(run)],
        audit=_audit(run),
        licence=about.licence.get("license_name") or about.licence.get("license"),
        settings=[name for name in own if name in run.recipe],
    )
    return f"{said}\n"


def _loader(folder: Path) -> str:
    """The class that loads the model; its own where it does more than read."""
    try:
        config = read_object(folder / "config.json")
    except DataError:
        config = {}
    own = config.get("architectures") if "text_config" in config else None
    return str(own[0]) if isinstance(own, list) and own else "AutoModelForCausalLM"


def _audit(run: Run) -> dict[str, Any] | None:
    """The verdict of the audit and what it found, without a word of the rows themselves."""
    try:
        audit = read_object(run.path / AUDIT)
        for one in audit["findings"]:
            _ = [one[name] for name in ("verdict", "title", "count", "of")]
        return {"verdict": str(audit["verdict"]), "findings": audit["findings"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _ranges(intervals: Any) -> dict[str, str]:
    """Metric, by the name that it is told under -> its 95 % interval."""
    found = {}
    for name, one in intervals.items() if isinstance(intervals, dict) else ():
        ends = [number(one.get(end)) for end in ("low", "high")] if isinstance(one, dict) else []
        if ends and ends[0] is not None and ends[1] is not None:
            found[name] = ends[0], ends[1]
    return {
        name: f" ({' to '.join(map(as_percent if measure(name).share else as_number, ends))})"
        for name, ends in told_ends(found).items()
    }


def _plain(text: object) -> str:
    """Names and values from outside, on one line and without markup of their own."""
    return re.sub(r"([\\`|<>\[\]])", r"\\\1", " ".join(str(text).split()))


def _code(text: str) -> str:
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"
