"""A trained model for answering: a full model folder, an adapter folder, or a Hub id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from orpo.config import ORPOConfig
from orpo.errors import ModelError
from orpo.runs.files import ADAPTER_FILE, RECIPE, read_recipe
from orpo.train.adapters import base_of_adapter, found_from
from orpo.train.models import load_adapter, load_model, load_tokenizer


@dataclass(frozen=True)
class Answerer:
    """A model in evaluation mode with its tokenizer, and what its chat template is told."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds a peft adapter rather than a whole model."""
    return (Path(folder) / ADAPTER_FILE).is_file()


def load_answerer(name: str, *, dtype: str = "auto", trust_remote_code: bool = False) -> Answerer:
    """Load a model and its tokenizer onto the device that is there.

    Args:
        name: Folder of a model or adapter, or a Hub id.
        dtype: "auto" keeps the dtype that the weights are saved in.
        trust_remote_code: Allow the model's own code to run.

    Raises:
        ModelError: It cannot be loaded, or an adapter's base model cannot.
        CheckpointError: Its files are not what was committed.
    """
    settings = ORPOConfig(
        output_dir="unused", model_dtype=dtype, trust_remote_code=trust_remote_code
    )
    model: nn.Module = (
        load_adapter(name, settings, trained=False)
        if is_adapter(name)
        else load_model(name, settings)
    )
    tokenizer = load_tokenizer(name, settings)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return Answerer(model.to(accelerator or torch.device("cpu")).eval(), tokenizer)


def recipe_of(model: str) -> dict[str, Any]:
    """The recipe of the run that a model is; empty if it is no run."""
    folder = Path(model)
    return read_recipe(folder) if (folder / RECIPE).is_file() else {}


def started_from(model: str) -> str | None:
    """The model that a run or an adapter started from, by name; None if it is neither."""
    recipe = recipe_of(model)
    if recipe.get("model"):
        return found_from(model, str(recipe["model"]))
    try:
        return base_of_adapter(model) if is_adapter(model) else None
    except ModelError:
        return None  # who loads it has more to say about it
