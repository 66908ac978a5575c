"""An adapter and its base model become one model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orpo.errors import ConfigError, ModelError
from orpo.evaluate import is_adapter, load_answerer

__all__ = ["merge_adapter"]


def merge_adapter(run: str, output: str, *, dtype: str = "auto") -> Path:
    """Merge the adapter of a run folder into its base model and save the result.

    Args:
        run: Folder with the adapter (adapter_config.json).
        output: New folder for the merged model and its tokenizer.
        dtype: Dtype of the merged weights; "auto" keeps the base model's.

    Raises:
        ModelError: The folder holds no adapter.
        ConfigError: The output folder is not empty.
    """
    if not is_adapter(run):
        raise ModelError(
            "holds no adapter to merge (no adapter_config.json)",
            where=run,
            fix="A run without LoRA is a whole model already.",
        )
    target = Path(output)
    if target.exists() and any(target.iterdir()):
        raise ConfigError("the folder is not empty", where=output, fix="Give a new folder.")
    answerer = load_answerer(run, dtype=dtype)
    adapted: Any = answerer.model
    adapted.merge_and_unload(safe_merge=True).save_pretrained(target)
    answerer.tokenizer.save_pretrained(target)
    return target
