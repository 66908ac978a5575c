"""A trained model for answering: a full model folder, an adapter folder, or a Hub id.

And an adapter and its base model as one model folder: `merge_adapter` compares the logits of the
adapter with those of what was written, on a few rows.
"""

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from orpo.config import ORPOConfig
from orpo.errors import CheckpointError, ModelError, SaveError
from orpo.runs.claim import claim_new
from orpo.runs.commit import commit_files, stage
from orpo.runs.files import ADAPTER_FILE, RECIPE, found_names, read_recipe, require_adapter
from orpo.runs.manifest import MANIFEST, read_manifest, verify
from orpo.runs.writing import refuse_links
from orpo.terminal import Say
from orpo.train.adapters import base_of_adapter, found_from, peft_quiet
from orpo.train.checkpoints import explain_write_error
from orpo.train.models import UNREADABLE, load_adapter, load_model, load_tokenizer, unloadable
from orpo.train.saving import save_files

MERGED = "merged"
"""Where a run folder keeps its adapter merged, for what cannot load adapters."""
_ROWS, _TOKENS = 4, 24
_ROUNDING = {torch.bfloat16: 0.1, torch.float16: 0.02}
_ROUNDING_OF_FULL = 1e-3
"""Root mean square of the difference that rounding can make, in those of the logits."""


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


def started_from(model: str) -> str | None:
    """The model that a run or an adapter started from, by name; None if it is neither."""
    folder = Path(model)
    there = (folder / RECIPE).is_file()
    recipe = found_names(read_recipe(folder), folder) if there else {}
    if recipe.get("model"):
        return found_from(model, str(recipe["model"]))
    try:
        return base_of_adapter(model) if is_adapter(model) else None
    except ModelError:
        return None  # who loads it has more to say about it


def merge_adapter(run: str, output: str, *, dtype: str = "auto") -> Path:
    """Merge the adapter of a run folder into its base model, and commit the result.

    Args:
        run: Folder with the adapter (adapter_config.json).
        output: New folder for the merged model and its tokenizer.
        dtype: Dtype of the merged weights; "auto" keeps the base model's.

    Raises:
        ModelError: The folder holds no adapter, or what it becomes would be another model.
        CheckpointError: The adapter is not what was committed.
        SaveError: The result could not be written.
        ConfigError: The output folder is not empty.
    """
    require_adapter(run)
    target = Path(output)
    claim_new(target)
    answerer = load_answerer(run, dtype=dtype)
    adapted: Any = answerer.model
    try:
        before = _logits_of(adapted)
        untie(adapted)
        with peft_quiet():
            merged = Answerer(adapted.merge_and_unload(safe_merge=True), answerer.tokenizer)
    except UNREADABLE as error:  # such as a kind of adapter that cannot be merged
        raise unloadable("adapter", run, error) from error
    try:
        _save(merged, Path(run), target, before)
    except Exception as error:
        reason = explain_write_error(error, target)
        if reason is None:
            raise
        raise SaveError(f"{target} could not be written: {reason}") from error
    return target


def _save(merged: Answerer, run: Path, target: Path, before: Tensor) -> None:
    """Under the name of the run that the adapter comes from, if it says so.

    What is compared is what was written: weights that are tied are saved once.
    """
    name, step = "", 0
    with contextlib.suppress(CheckpointError):
        of_adapter = read_manifest(run)
        name, step = of_adapter.run, of_adapter.step
    staged = stage(target, "model")
    try:
        model: Any = merged.model
        dtype = model.dtype
        save_files(model, merged.tokenizer, str(staged))
        for parameter in model.parameters():  # the memory is needed for what was saved
            parameter.data = torch.empty(0)
        _ensure_same(before, _logits_of(load_answerer(str(staged)).model), dtype, str(run))
        commit_files(staged, target, run=name, step=step)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if target.is_dir() and not any(target.iterdir()):
            target.rmdir()


def merged_folder(run: Path) -> Path | None:
    """The merged model that `merge_once` has left of this very adapter; None if there is none."""
    folder = run / MERGED
    try:
        of_run, merged = read_manifest(run), verify(folder)
    except CheckpointError:
        return None
    same = (merged.run, merged.step) == (of_run.run, of_run.step)
    return folder if same and merged.kind == "model" else None


def merge_once(run: Path, *, say: Say) -> Path:
    """The adapter of a run as a whole model in its folder, `merged`; made where it is not there."""
    found = merged_folder(run)
    if found is not None:
        return found
    folder = run / MERGED
    refuse_links(run, (MERGED,))
    if (folder / MANIFEST).is_file():  # of an adapter that was since trained anew
        shutil.rmtree(folder)
    say(f"merging the adapter into its base model: {folder}")
    return merge_adapter(str(run), str(folder))


def _logits_of(model: Any) -> Tensor:
    """What a model predicts for a few fixed rows of tokens, (rows, tokens, vocabulary) fp32."""
    size = int(model.get_input_embeddings().weight.shape[0])
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(0, size, (_ROWS, _TOKENS), generator=draws)
    ids[0] = torch.linspace(0, size - 1, _TOKENS).long()  # the last ones may have been added
    device = model.get_input_embeddings().weight.device
    model.eval()
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids.to(device), use_cache=False).logits
    return logits.float().cpu()


def untie(adapted: Any) -> None:
    """Give the output layer weights of its own, where an adapter changed one of two that were one.

    Merged into the matrix that both share, a change of the output layer would also be one of the
    embedding, and the other way round.
    """
    base = adapted.get_base_model()
    table, head = base.get_input_embeddings(), base.get_output_embeddings()
    if table is None or head is None:
        return
    inner = getattr(head, "base_layer", head)
    is_adapted = hasattr(table, "base_layer") or hasattr(head, "base_layer")
    tied = getattr(table, "base_layer", table).weight is getattr(inner, "weight", None)
    if is_adapted and tied:
        inner.weight = nn.Parameter(inner.weight.detach().clone(), requires_grad=False)
        for config in (base.config, base.config.get_text_config()):
            config.tie_word_embeddings = False


def _ensure_same(before: Tensor, after: Tensor, dtype: torch.dtype, where: str) -> None:
    """Refuse a merged model whose logits differ by more than rounding."""
    if before.shape == after.shape:
        allowed = _ROUNDING.get(dtype, _ROUNDING_OF_FULL) * float(before.std())
        off = float((after - before).square().mean().sqrt())
        if off <= allowed:
            return
        said = f"its logits differ by {off:.2g}, and rounding explains {allowed:.2g}"
    else:
        said = f"its logits have the shape {tuple(after.shape)}, not {tuple(before.shape)}"
    raise ModelError(
        f"merged, the model would be another one ({said})",
        where=where,
        fix="Use the adapter as it is, or merge it in float32 (--dtype float32).",
    )
