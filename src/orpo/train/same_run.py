"""Whether a run that goes on is still the run that was stopped: two recipes compared.

Each setting is of a kind that says what it can change; one of no kind, such as one that a later
transformers adds, is taken to make another run. Beside the settings, facts of `_run` are compared:
the prepared pairs by their content, the adapter, the number of processes, versions.
"""

import hashlib
import math
import re
import weakref
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, cast

import datasets
import numpy as np
import pyarrow.compute as pc
from torch import nn

from orpo.config import ORPOConfig
from orpo.data.types import COLUMNS
from orpo.errors import ConfigError
from orpo.train.weights import frozen_weights


def _names(text: str) -> set[str]:
    return {*text.split()}


WRITTEN = _names("""
    output_dir run_name report_to project trackio_space_id trackio_bucket_id
    trackio_static_space_id logging_strategy logging_steps logging_first_step log_on_each_node
    logging_nan_inf_filter include_num_input_tokens_seen log_level log_level_replica disable_tqdm
    save_only_model save_on_each_node enable_jit_checkpoint push_to_hub hub_token hub_private_repo
    hub_model_id hub_strategy hub_always_push hub_revision do_train do_eval do_predict debug
    skip_memory_metrics include_for_metrics batch_eval_metrics label_names remove_unused_columns
    resume_from_checkpoint restore_callback_states_from_checkpoint resume_changed local_rank
    dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
    dataloader_multiprocessing_context torch_empty_cache_steps ddp_timeout data_cache samples
    sample_tokens strict resume overwrite nproc stall_timeout on_nonfinite max_nonfinite_steps
""")
"""What is logged, saved, sent or waited for; the weights do not know of it."""

EVALUATION = _names("""
    eval_strategy eval_steps eval_delay eval_on_start eval_dataset per_device_eval_batch_size
    prediction_loss_only eval_do_concat_batches eval_use_gather_object eval_accumulation_steps
""")
"""When and on what is evaluated."""

SAVING = {"save_strategy", "save_steps", "save_total_limit"}
"""When is saved; the best model at the end is one of those saved."""

ROUNDING = _names("""
    max_tokens_per_microbatch engine compile_blocks use_cpu gradient_checkpointing
    gradient_checkpointing_kwargs activation_checkpointing activation_checkpointing_kwargs
    torch_compile torch_compile_backend torch_compile_mode use_cache full_determinism
    ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend
""")
"""How the same numbers are computed; random numbers would be drawn in another order."""

LENGTH = {"max_steps", "num_train_epochs"}
"""Where the run ends; most schedules of the learning rate look ahead to it."""

SPLIT = {"per_device_train_batch_size", "gradient_accumulation_steps"}
"""How the pairs of an optimizer step are divided."""

WORKERS = {"dataloader_num_workers"}
"""Who reads the rows; those of a stream are dealt out among the workers."""

DATA = _names("""
    dataset mix held_out on_bad_row data_format columns pair_rule max_length max_prompt_length
    truncation tokenizer chat_template chat_template_kwargs
""")
"""What the prepared pairs are made from; the same pairs are the same, whatever made them."""

OTHER = _names("""
    model model_revision model_dtype model_init_kwargs quantize trust_remote_code lora_r
    lora_alpha lora_dropout lora_target_modules learning_rate lr_scheduler_type lr_scheduler_kwargs
    warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon
    optim_target_modules average_tokens_across_devices max_grad_norm label_smoothing_factor bf16
    fp16 tf32 bf16_full_eval fp16_full_eval use_liger_kernel liger_kernel_config
    neftune_noise_alpha auto_find_batch_size load_best_model_at_end metric_for_best_model
    greater_is_better ignore_data_skip seed data_seed accelerator_config parallelism_config
    dataloader_drop_last dataloader_in_order train_sampling_strategy length_column_name fsdp
    fsdp_config deepspeed objective orpo_alpha orpo_beta dpo_beta beta nll_scope disable_dropout
""")
"""What always makes another run."""

KNOWN = WRITTEN | EVALUATION | SAVING | ROUNDING | LENGTH | SPLIT | WORKERS | DATA | OTHER

Recipe = Mapping[str, Any]

_FACTS_ROUNDING = ("engine", "max_tokens_per_microbatch")
_FACTS_OTHER = {
    "data_fingerprint": "the prepared pairs are other ones",
    "world_size": "pairs, random numbers and optimizer states lie elsewhere",
    "adapter": "",
    "adapter_settings": "",
    "parameters": "",
    "trainable_parameters": "",
    "model_commit": "the model's files are other ones",
    "frozen_weights": "the frozen weights are other ones",
}
_DIGESTS = ("data_fingerprint", "frozen_weights")
_ABOUT_RESUMING = {"_run", "resume", "resume_from_checkpoint", "resume_changed", "overwrite"}
_ENDLESS = ("constant", "constant_with_warmup", "inverse_sqrt")
_SEEN = 4  # changes that a message lists
_FIX = (
    "Give the settings of the run, start a new one in another output_dir, or say "
    "--resume_changed true to go on with these."
)
_DEFAULTS = {
    f.name: f.default if f.default is not MISSING else None for f in fields(ORPOConfig) if f.init
}
_UNSET: tuple[Any, ...] = (None, False, 0, "", {}, [])


@dataclass(frozen=True)
class Change:
    """One setting that is not what it was."""

    name: str
    before: Any
    now: Any
    why: str = ""

    def __str__(self) -> str:
        if self.name in _DIGESTS:  # nobody reads them
            return self.why
        old, new = ("not set" if v is None else str(v) for v in (self.before, self.now))
        old, new = (v if len(v) <= 60 else f"{v[:57]}..." for v in (old, new))
        said = f"{self.name} {old} -> {new}"
        return f"{said} ({self.why})" if self.why else said


@dataclass(frozen=True)
class RecipeChanges:
    """What differs between two recipes."""

    harmless: list[Change]
    breaking: list[Change]


def check_same_run(before: Recipe, now: Recipe, allow: bool) -> list[str]:
    """What to say about a run that goes on, one line for each kind of change that there is."""
    changes = recipe_changes(before, now)
    if changes.breaking and not allow:
        raise ConfigError(
            f"this is not the run that was stopped: {_listed(changes.breaking)}",
            where=changes.breaking[0].name,
            fix=_FIX,
        )
    heads = {"another run from here on": changes.breaking}
    heads["changed since it stopped"] = changes.harmless
    return [f"{head}: {_listed(found)}" for head, found in heads.items() if found]


def recipe_changes(before: Recipe, now: Recipe) -> RecipeChanges:
    """Compare two recipes."""
    pair = _Pair(before, now)
    harmless: list[Change] = []
    breaking: list[Change] = []
    for name in sorted((before.keys() | now.keys()) - _ABOUT_RESUMING):
        if not _same(name, before, now):
            is_harmless, why = pair.judge(name)
            change = Change(name, before.get(name), now.get(name), why)
            (harmless if is_harmless else breaking).append(change)
    said = {change.name for change in (*harmless, *breaking)}
    # Chosen by the run itself, by the machine and its memory.
    chosen = [name for name in _FACTS_ROUNDING if name not in said]
    for name in (*chosen, "versions"):
        harmless += _differing(name, *pair.facts(name), "numbers may differ by rounding")
    for name, why in _FACTS_OTHER.items():
        breaking += _differing(name, *pair.facts(name), why)
    return RecipeChanges(harmless, breaking)


class _Pair:
    """Two recipes, and what can only be told from both as a whole."""

    def __init__(self, before: Recipe, now: Recipe) -> None:
        self.before, self.now = before, now

    def facts(self, name: str) -> tuple[Any, Any]:
        """A value of `_run` before and now."""
        old, new = (_mapping(recipe.get("_run")) for recipe in (self.before, self.now))
        return _plain(old.get(name)), _plain(new.get(name))

    def judge(self, name: str) -> tuple[bool, str]:
        """Whether a change of this setting is harmless, and why (or why not)."""
        old, new = self.facts("data_fingerprint")
        if name in EVALUATION | SAVING:
            return self._evaluation()
        if name in ROUNDING:
            return self._rounding()
        if name in WORKERS:
            known = new is not None
            return known, "" if known else "deals the rows of a stream out in another order"
        if name in DATA:
            same = old is not None and old == new
            return same, "the prepared pairs are the same" if same else ""
        if name in LENGTH:
            return True, self._schedule()
        return self._split() if name in SPLIT else (name in WRITTEN, "")

    def _rounding(self) -> tuple[bool, str]:
        """Numbers computed otherwise are drawn in another order, if from what all share."""
        for recipe in self._both:
            sampler = _mapping(recipe.get("accelerator_config")).get("use_seedable_sampler")
            if recipe.get("disable_dropout") is False or sampler is False:
                return False, "other random numbers are drawn"
        return True, "numbers may differ by rounding"

    def _evaluation(self) -> tuple[bool, str]:
        for recipe in self._both:
            if recipe.get("load_best_model_at_end"):
                return False, "the best model is chosen out of others"
            if recipe.get("lr_scheduler_type") in {"reduce_lr_on_plateau", "greedy"}:
                return False, "the learning rate follows the evaluations"
        return True, ""

    def _schedule(self) -> str:
        """Nobody gives another length by accident; no more steps are lost, and it is said."""
        kind, warmup = self.now.get("lr_scheduler_type"), self.now.get("warmup_steps") or 0
        if kind in _ENDLESS and (kind == "constant" or warmup == 0 or warmup >= 1):
            return "the steps up to the earlier end are the same"
        return f"{kind}: from here on the schedule is that of the new length"

    def _split(self) -> tuple[bool, str]:
        """The pairs of a step are the next ones of the order drawn, however they are dealt out.

        Up to the end of an epoch: there, what is left over is filled up or cut off by batches.
        """
        products = [math.prod(_count(r.get(name)) for name in SPLIT) for r in self._both]
        if products[0] != products[1]:
            return False, f"{products[0]} -> {products[1]} pairs per device and step"
        per_step = products[0] * _count(self.facts("world_size")[1])
        accounts = _mapping(_mapping(self.now.get("_run")).get("data"))
        rows = (accounts.get("train_dataset") or {}).get("kept")
        if self.facts("data_fingerprint")[1] is None or not rows or rows % per_step:
            return False, "an epoch ends with other steps"
        return self._rounding()

    @property
    def _both(self) -> tuple[Recipe, Recipe]:
        return self.before, self.now


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _count(value: Any) -> int:
    """A number of pairs or processes; 1 where a recipe says none that can be meant."""
    return value if isinstance(value, int) and value > 0 else 1


def _same(name: str, before: Recipe, now: Recipe) -> bool:
    """Whether a setting means the same; one that only one side knows does so at its default."""
    if name in before and name in now:
        return bool(_plain(before[name]) == _plain(now[name]))
    known = before.get(name, now.get(name))
    return known in _UNSET or _plain(known) == _plain(_DEFAULTS.get(name))


def _plain(value: Any) -> Any:
    """A value as recipe.yaml gives it back."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return getattr(value, "value", value)


def _differing(name: str, old: Any, new: Any, why: str) -> list[Change]:
    """The changes of a fact, entry by entry; none where one of the runs does not know it."""
    if None in (old, new) or old == new:
        return []
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [Change(name, old, new, why)]
    found: list[Change] = []
    for key in sorted(old.keys() | new.keys()):
        entry, values = f"{name}.{key}", (old.get(key), new.get(key))
        known = None not in values
        found += _differing(entry, *values, why) if known else [Change(entry, *values, why)]
    return found


def _listed(changes: list[Change]) -> str:
    more = len(changes) - _SEEN
    said = "; ".join(str(change) for change in changes[:_SEEN])
    return f"{said}; and {more} more" if more > 0 else said


_TOKENS = COLUMNS[:3]
_ROWS_AT_ONCE = 1000  # rows
_OF_NO_MATTER = ("base_model_name_or_path", "inference_mode", "auto_mapping", "peft_version")
_LAYER = re.compile(r"\.\d+(?=\.|$)")
_known: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def identity(model: nn.Module, train_dataset: Any) -> dict[str, Any]:
    """Entries of a recipe's `_run` by which a run that goes on is recognised."""
    adapters: dict[str, Any] = {}  # what makes each compute what it computes, by its name
    for adapter, config in (cast(Any, getattr(model, "peft_config", None)) or {}).items():
        settings = {k: v for k, v in sorted(config.to_dict().items()) if k not in _OF_NO_MATTER}
        adapters[str(adapter)] = {name: _told(value) for name, value in settings.items() if value}
    return {
        "data_fingerprint": data_fingerprint(train_dataset),
        "model_commit": getattr(model, "loaded_commit", None),
        "adapter_settings": adapters or None,
        "frozen_weights": frozen_weights(model),
    }


def data_fingerprint(dataset: Any) -> str | None:
    """A digest of the token ids and weights of prepared pairs, in order; None for a stream.

    It depends neither on where the data set lies nor on what it was made from.
    """
    if not isinstance(dataset, datasets.Dataset) or not {*_TOKENS} <= {*dataset.column_names}:
        return None
    if dataset in _known:
        return _known[dataset]
    # Lengths apart from values, so that it does not matter how the rows are cut into batches.
    digests = [hashlib.sha256() for _ in range(2 * len(_TOKENS) + 1)]
    for table in dataset.with_format("arrow").iter(_ROWS_AT_ONCE):
        columns: list[tuple[Any, type[np.generic]]] = []
        for name in _TOKENS:
            ids = table.column(name)
            columns.append((pc.fill_null(pc.list_value_length(ids), -1), np.int32))
            columns.append((pc.list_flatten(ids), np.int32))
        if "weight" in table.column_names:
            columns.append((table.column("weight"), np.float32))
        for digest, (values, kind) in zip(digests, columns, strict=False):
            digest.update(np.ascontiguousarray(values.to_numpy(), kind).data)
    together = "".join(digest.hexdigest() for digest in digests).encode()
    _known[dataset] = hashlib.sha256(together).hexdigest()[:32]
    return _known[dataset]


def _told(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _told(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):  # names of modules, once for all layers
        return sorted({_LAYER.sub(".*", str(_told(one))) for one in value})
    value = getattr(value, "value", value)
    return value if isinstance(value, bool | int | float | str) else str(value)
