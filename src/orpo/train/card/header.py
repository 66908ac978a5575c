"""The header of a card: metadata by which the Hub files a model, and its results."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCardData

from orpo.runs import Run, base_model_id, hub_datasets, hub_id, short_name

if TYPE_CHECKING:
    from orpo.train.card.write import About

__all__ = ["card_header", "dataset_names", "objective_of"]


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
