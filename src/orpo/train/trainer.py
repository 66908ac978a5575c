"""ORPOTrainer: `transformers.Trainer` with pairs, the ORPO objective and exact normalisation."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    set_seed,
)
from transformers.trainer_utils import EvalLoopOutput

from orpo.config import ORPOConfig
from orpo.data import (
    Ledger,
    LengthPolicy,
    PairCollator,
    PairTokenizer,
    Preparation,
    Row,
    StreamedPairs,
    is_prepared,
    iterate_dataset,
    split_by_tokens,
)
from orpo.engine import select_engine
from orpo.errors import ConfigError, DataError, ModelError
from orpo.objective import ORPOLoss, PairLogps, orpo_loss
from orpo.train.guards import NonFiniteGuard
from orpo.train.metrics import COLUMNS, MetricSums, pair_table, summarise
from orpo.train.models import (
    add_adapter,
    disable_dropout,
    ensure_trainable,
    load_model,
    load_tokenizer,
    prepare_tokenizer,
)
from orpo.train.recorder import RunRecorder, write_model_card

if TYPE_CHECKING:
    from peft import PeftConfig

__all__ = ["ORPOTrainer"]

Batch = dict[str, Tensor]


class ORPOTrainer(Trainer):
    """Trains a decoder-only language model on preference pairs, in one stage.

    Args:
        model: A model object, the path of a model folder, or a Hub id; None with `model_init`.
        args: An `ORPOConfig`; None for the defaults.
        data_collator: Replaces `orpo.data.PairCollator`; must give the same batch.
        train_dataset: Map-style or streaming, of any format that `orpo.data.formats` reads, or
            already tokenised.
        eval_dataset: The same, or a dict of them.
        processing_class: The tokenizer; found by the model's name if absent.
        tokenizer: The same under its shorter name.
        model_init: Called for a fresh model, for hyper-parameter search.
        compute_metrics: Receives an `EvalPrediction` whose `predictions` are two float arrays of
            shape (pairs,): the length-averaged log-probabilities of the chosen and of the
            rejected answers. `label_ids` holds the index of each pair's row.
        callbacks: Further callbacks.
        optimizers: Optimizer and scheduler, if not the configured ones.
        preprocess_logits_for_metrics: Not used: logits are never kept.
        peft_config: Train an adapter with these settings instead of the whole model.

    Attributes:
        ledgers: Name of a data set -> what became of each of its rows.
        notes: What was decided on the user's behalf, one line each.
        run_facts: Further entries of the run folder's recipe.yaml, such as the data set's name.

    Raises:
        ConfigError: Arguments that contradict each other.
        DataError: Data that cannot be read.
        ModelError: A model or tokenizer that cannot be loaded or trained.
    """

    args: ORPOConfig
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None

    def __init__(  # noqa: PLR0913, PLR0917 - the arguments of transformers.Trainer
        self,
        model: PreTrainedModel | nn.Module | str | Path | None = None,
        args: ORPOConfig | None = None,
        data_collator: Callable[[list[Any]], Batch] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        model_init: Callable[[], PreTrainedModel] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
        peft_config: PeftConfig | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        args = ORPOConfig() if args is None else args
        if not isinstance(args, ORPOConfig):
            raise ConfigError(f"expected an ORPOConfig, got {type(args).__name__}", where="args")
        if preprocess_logits_for_metrics is not None:
            raise ConfigError(
                "logits are never kept, so there is nothing to preprocess",
                where="preprocess_logits_for_metrics",
                fix="Use compute_metrics: it receives the log-probabilities of each pair.",
            )
        self.run_facts: dict[str, Any] = {}
        self.ledgers: dict[str, Ledger] = {}
        self.notes: list[str] = []
        set_seed(args.seed)  # an adapter's weights are drawn before Trainer seeds
        built, model_init = _resolve_model(model, model_init, args, peft_config)
        tokenizer = _one_tokenizer(processing_class, tokenizer) or load_tokenizer(
            _name_of(built, model), args
        )
        self.notes += prepare_tokenizer(tokenizer, args)
        self.preparation = Preparation(
            PairTokenizer(
                tokenizer,
                LengthPolicy(args.max_length, args.max_prompt_length, args.truncation),
                args.chat_template_kwargs if isinstance(args.chat_template_kwargs, dict) else {},
            ),
            on_bad_row=args.on_bad_row,
        )
        self._metric_sums = MetricSums()
        self._guard = NonFiniteGuard()
        super().__init__(
            model=None if model_init is not None else built,
            args=args,
            data_collator=data_collator or PairCollator(_pad_id(tokenizer)),
            train_dataset=self._prepare(train_dataset, "train_dataset"),
            eval_dataset=self._prepare_eval(eval_dataset),
            processing_class=tokenizer,
            model_init=model_init,
            compute_metrics=compute_metrics,
            callbacks=[self._guard, RunRecorder(self._facts), *(callbacks or [])],
            optimizers=optimizers,
        )
        # The loss of a micro-batch is its share of the whole step's: nothing is left to divide.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        config = getattr(built, "config", None)
        self.engine, note = select_engine(args.engine, config, args.nll_scope)
        self.notes.append(note)
        self._aux_coef = float(getattr(config, "router_aux_loss_coef", 0.0) or 0.0)

    # What the data become

    def _prepare(self, dataset: Any, name: str) -> Any:
        if dataset is None or is_prepared(dataset):
            return dataset
        if isinstance(dataset, str | Path):
            raise ConfigError(
                "expected a data set object, got a path or name",
                where=name,
                fix="Load it first, e.g. datasets.load_dataset(...), or use `orpo train`.",
            )
        if isinstance(dataset, Iterator) or not isinstance(dataset, Iterable):
            raise DataError(
                f"expected a map-style or streaming data set, got {type(dataset).__name__}",
                where=name,
            )
        if isinstance(dataset, torch.utils.data.IterableDataset | datasets.IterableDataset):
            rows: Callable[[], Iterator[Row]] = partial(iterate_dataset, dataset, name)
            streamed = StreamedPairs(rows, self.preparation, name)
            self.ledgers[name] = streamed.ledger
            return streamed
        prepared, self.ledgers[name] = self.preparation(iterate_dataset(dataset, name), name)
        return prepared

    def _prepare_eval(self, dataset: Any) -> Any:
        if isinstance(dataset, dict | datasets.DatasetDict):
            return {
                key: self._prepare(value, f"eval_dataset[{key}]") for key, value in dataset.items()
            }
        return self._prepare(dataset, "eval_dataset")

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As in transformers; a data set given here is prepared like the others."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._prepare(eval_dataset, "eval_dataset")
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """As in transformers; the data set is prepared like the others."""
        return super().get_test_dataloader(self._prepare(test_dataset, "test_dataset"))

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["prompt_ids", "chosen_ids", "rejected_ids", "row"]

    # The loss

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers: `resume_from_checkpoint`, `trial`, `ignore_keys_for_eval`."""
        if self.train_dataset is None:
            raise ConfigError("there is nothing to train on", where="train_dataset")
        self._last_log = time.perf_counter()
        return super().train(*args, **kwargs)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | None]:
        """The micro-batches of one optimizer step, and the step's NLL tokens and pairs."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return samples, self._step_totals(samples, device)

    def _step_totals(self, samples: list[Batch], device: torch.device) -> Tensor:
        """(2,) int64: NLL tokens and pairs of all micro-batches on all ranks."""
        mask = "attention_mask" if self.args.nll_scope == "sequence" else "answer_mask"
        totals = torch.zeros(1, 2, dtype=torch.int64, device=device)
        for batch in samples:
            totals[0, 0] += batch[f"chosen_{mask}"][:, 1:].sum().to(device)
            totals[0, 1] += len(batch["row"])
        everywhere: Tensor = self.accelerator.gather(totals)
        return everywhere.sum(0)

    def training_step(
        self, model: nn.Module, inputs: Batch, num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        """Forward and backward of one micro-batch, in parts of `max_tokens_per_microbatch`."""
        parts = split_by_tokens(inputs, self.args.max_tokens_per_microbatch)
        losses = []
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            sync = contextlib.nullcontext() if last else self.accelerator.no_sync(model=model)
            with sync:
                losses.append(super().training_step(model, part, num_items_in_batch))
        loss = torch.stack(losses).sum()
        self._guard.watch(loss, inputs["row"])
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """This micro-batch's share of the loss of the whole optimizer step.

        Args:
            model: The model, wrapped or not.
            inputs: A batch of `PairCollator`.
            return_outputs: Also return {"pairs": table}, with `metrics.COLUMNS` as columns.
            num_items_in_batch: (2,): NLL tokens and pairs of the step; None for this batch's own.

        Returns:
            A float32 scalar whose average over ranks, summed over micro-batches, is the step's L.
        """
        results: list[ORPOLoss] = []

        def objective(logps: PairLogps) -> Tensor:
            share, result = self._share(logps, num_items_in_batch)
            results.append(result)
            return share

        output = self.engine(model, inputs, objective)
        table = pair_table(output.logps, results[0])
        if model.training:
            self._metric_sums.add(table)
        loss = output.loss.float()
        return (loss, {"pairs": table}) if return_outputs else loss

    def _share(self, logps: PairLogps, totals: Tensor | None) -> tuple[Tensor, ORPOLoss]:
        """This batch's share of the step's loss, and the objective's own result.

        With T tokens and N pairs in the step, sum_i nll_i / T + alpha * sum_i or_i / N is the
        mean over N of (nll_i * N / T) + alpha * or_i; this batch holds part of the sum.
        """
        pairs, ranks = len(logps.nll_sum), 1
        if totals is None:
            totals = torch.stack([logps.nll_tokens.sum(), logps.nll_tokens.new_tensor(pairs)])
        else:
            ranks = self.accelerator.num_processes  # gradients are averaged over ranks
        step_tokens, step_pairs = totals.to(logps.nll_sum.dtype).unbind()
        result = orpo_loss(
            logps.chosen_logps,
            logps.rejected_logps,
            logps.nll_sum * (step_pairs / step_tokens),
            alpha=self._alpha,
            beta=self._beta,
        )
        loss = result.loss
        if logps.aux_loss is not None:
            loss = loss + self._aux_coef * logps.aux_loss
        return loss * (pairs / step_pairs) * ranks, result

    @property
    def _alpha(self) -> float:
        assert self.args.orpo_alpha is not None
        return self.args.orpo_alpha

    @property
    def _beta(self) -> float:
        assert self.args.orpo_beta is not None
        return self.args.orpo_beta

    # The numbers

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, adding the metrics of the pairs trained on since the last log."""
        if "loss" in logs and not any(key.startswith("eval_") for key in logs):
            logs.update(self._train_metrics())
        super().log(logs, start_time)

    def _train_metrics(self) -> dict[str, float]:
        sums = self._metric_sums.take()
        if sums is None:
            return {}
        total = self.accelerator.reduce(sums, reduction="sum").tolist()
        columns = dict(zip(COLUMNS, total, strict=False))
        metrics = summarise(columns, total[-1], alpha=self._alpha, beta=self._beta)
        now = time.perf_counter()
        seconds, self._last_log = now - self._last_log, now
        return {**metrics, "tokens_per_second": columns["tokens"] / seconds}

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Batch,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Score one batch: (loss, table of pairs, row indices); never logits."""
        inputs = self._prepare_inputs(inputs)
        tables, rows = [], []
        for part in split_by_tokens(inputs, self.args.max_tokens_per_microbatch):
            with torch.no_grad(), self.compute_loss_context_manager():
                _, outputs = self.compute_loss(model, part, return_outputs=True)
            tables.append(outputs["pairs"])
            rows.append(part["row"])
        return None, torch.cat(tables), torch.cat(rows)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Score a whole data set; the loss is that of all its pairs in one batch."""
        custom = self.compute_metrics
        self.compute_metrics = self._table_metrics(custom)
        try:
            output = super().evaluation_loop(
                dataloader, description, False, ignore_keys, metric_key_prefix
            )
        finally:
            self.compute_metrics = custom
        if output.predictions is None:
            raise DataError(
                "there is no pair to evaluate", where="eval_dataset", fix="Give at least one row."
            )
        table = _by_column(output.predictions)
        return output._replace(predictions=(table["chosen_logps"], table["rejected_logps"]))

    def _table_metrics(
        self, custom: Callable[[EvalPrediction], dict[str, float]] | None
    ) -> Callable[[EvalPrediction], dict[str, float]]:
        def metrics(prediction: EvalPrediction) -> dict[str, float]:
            table = _by_column(prediction.predictions)
            sums = {name: float(column.sum()) for name, column in table.items()}
            result = summarise(sums, len(table["log_odds"]), alpha=self._alpha, beta=self._beta)
            result["loss"] = (
                result["nll_loss"]
                - self._alpha * result["log_odds_ratio"]
                + self._aux_coef * result.get("aux_loss", 0.0)
            )
            if custom is not None:
                answers = (table["chosen_logps"], table["rejected_logps"])
                result |= custom(
                    EvalPrediction(predictions=answers, label_ids=prediction.label_ids)
                )
            return result

        return metrics

    def floating_point_ops(self, inputs: Mapping[str, Tensor]) -> int:
        """6 x (parameters without embeddings) x positions that go through the model."""
        positions = inputs["chosen_input_ids"].numel() + inputs["rejected_input_ids"].numel()
        return 6 * positions * self._body_parameters

    @property
    def _body_parameters(self) -> int:
        if not hasattr(self, "_counted_parameters"):
            count = getattr(self.model, "num_parameters", None)
            self._counted_parameters: int = int(count(exclude_embeddings=True)) if count else 0
        return self._counted_parameters

    # The run folder

    def _facts(self) -> dict[str, Any]:
        return {
            "model": _name_of(self.model, None, required=False),
            **self.run_facts,
            "_run": {
                "engine": self.engine.name,
                "notes": list(self.notes),
                "parameters": sum(p.numel() for p in self.model.parameters()),
                "trainable_parameters": sum(
                    p.numel() for p in self.model.parameters() if p.requires_grad
                ),
                "world_size": self.args.world_size,
                "data": {name: ledger.as_dict() for name, ledger in self.ledgers.items()},
            },
        }

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write README.md from what this run measured."""
        if self.is_world_process_zero():
            write_model_card(Path(self.args.output_dir))


def _resolve_model(
    model: PreTrainedModel | nn.Module | str | Path | None,
    model_init: Callable[..., PreTrainedModel] | None,
    args: ORPOConfig,
    peft_config: PeftConfig | None,
) -> tuple[nn.Module, Callable[..., nn.Module] | None]:
    """The model to train, and a `model_init` that prepares its models in the same way."""
    if (model is None) == (model_init is None):
        raise ConfigError("exactly one of model and model_init is needed", where="model")
    if model_init is not None:
        takes_trial = bool(inspect.signature(model_init).parameters)

        def build(trial: Any = None) -> nn.Module:
            model = model_init(trial) if takes_trial else model_init()
            return _ready(model, args, peft_config)

        first = [build()]

        def init(trial: Any = None) -> nn.Module:
            return first.pop() if first else build(trial)

        return first[0], init
    if not isinstance(model, str | Path) and args.model_init_kwargs:
        raise ConfigError(
            "only used for a model given by path or id, but the model is an object",
            where="model_init_kwargs",
        )
    assert model is not None
    loaded = load_model(str(model), args) if isinstance(model, str | Path) else model
    return _ready(loaded, args, peft_config), None


def _ready(model: nn.Module, args: ORPOConfig, peft_config: PeftConfig | None) -> nn.Module:
    ensure_trainable(getattr(model, "config", None), _name_of(model, None, required=False))
    if peft_config is not None:
        model = add_adapter(model, peft_config, args)
    if args.disable_dropout:
        disable_dropout(model)
    return model


def _one_tokenizer(
    processing_class: PreTrainedTokenizerBase | None, tokenizer: PreTrainedTokenizerBase | None
) -> PreTrainedTokenizerBase | None:
    if processing_class is not None and tokenizer is not None and tokenizer is not processing_class:
        raise ConfigError(
            "processing_class and tokenizer are two names of one argument", where="tokenizer"
        )
    return processing_class if processing_class is not None else tokenizer


def _name_of(built: nn.Module | None, given: object, *, required: bool = True) -> str:
    """The path or id that a model came from."""
    if isinstance(given, str | Path):
        return str(given)
    name = str(getattr(getattr(built, "config", None), "_name_or_path", "") or "")
    if not name and required:
        raise ModelError(
            "no tokenizer was given, and the model does not know where it came from",
            where="tokenizer",
            fix="Pass tokenizer=...",
        )
    return name


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)


def _by_column(predictions: Any) -> dict[str, Any]:
    parts = predictions if isinstance(predictions, list) else [predictions]
    table = np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])
    return {name: table[:, i] for i, name in enumerate(COLUMNS)}
