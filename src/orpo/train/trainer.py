"""ORPOTrainer: `transformers.Trainer` with pairs, the ORPO objective and exact normalisation."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers as hf
from torch import Tensor, nn
from transformers import EvalPrediction, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, has_length

from orpo.config import ORPOConfig
from orpo.data.pack import PairCollator
from orpo.data.prepare import StreamedPairs
from orpo.data.types import COLUMNS as PREPARED
from orpo.data.types import Ledger
from orpo.engine.attention import transformer
from orpo.engine.memory import most_positions
from orpo.engine.microbatch import cut, positions_of
from orpo.engine.noise import noise_columns
from orpo.errors import ConfigError, DataError
from orpo.objective.types import PairLogps
from orpo.runs.files import RECIPE, write_json
from orpo.terminal import under_way
from orpo.train import foreseen, parallel, reference
from orpo.train.card import write_model_card
from orpo.train.checkpoints import Progress
from orpo.train.continuity import Continuity, EpochBorders
from orpo.train.datasets import as_evaluated, as_trained, check_objective, reader_for
from orpo.train.durable import DurableTrainer
from orpo.train.guards import CurveGuard, Watchdog
from orpo.train.memory import Plan, make_plan
from orpo.train.metrics import MetricSums, PairTable, columns_of, pair_table, summarise
from orpo.train.models import name_of, padding_id, resolve_model, resolve_tokenizer, vocabulary_size
from orpo.train.nonfinite import NonFiniteGuard
from orpo.train.parallel import agreed_engine, deal, in_entries, score_batch
from orpo.train.recorder import RunRecorder, model_facts
from orpo.train.same_run import identity
from orpo.train.saving import save_files, try_saving
from orpo.train.step_loss import StepLoss, count_items
from orpo.train.weights import as_data, usable
from orpo.train.work import WORK, Work, WorkMeter, on_all_ranks

if TYPE_CHECKING:
    from peft import PeftConfig


Batch = dict[str, Tensor]


class ORPOTrainer(DurableTrainer):
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
        reference: What DPO's reference says about the pairs; empty under another objective.
        run_facts: Further entries of the run folder's recipe.yaml, such as the data set's name.

    Raises:
        ConfigError: Arguments that contradict each other.
        DataError: Data that cannot be read.
        ModelError: A model or tokenizer that cannot be loaded or trained.
    """

    args: ORPOConfig
    train_dataset: Any
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None

    def __init__(  # noqa: PLR0913, PLR0917 - the arguments of transformers.Trainer
        self,
        model: hf.PreTrainedModel | nn.Module | str | Path | None = None,
        args: ORPOConfig | None = None,
        data_collator: Callable[[list[Any]], Batch] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: hf.PreTrainedTokenizerBase | None = None,
        model_init: Callable[[], hf.PreTrainedModel] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
        peft_config: PeftConfig | None = None,
        tokenizer: hf.PreTrainedTokenizerBase | None = None,
    ) -> None:
        args = _accepted(args, preprocess_logits_for_metrics)
        self.run_facts: dict[str, Any] = {}
        self.notes: list[str] = []
        if args.n_gpu > 1:
            self.notes.append(f"one of {args.n_gpu} GPUs is used: start with torchrun to use all")
            args._n_gpu = 1  # transformers would split packed rows over all of them
        foreseen.foresee(args, optimizers)
        hf.set_seed(args.seed)  # an adapter's weights are drawn before Trainer seeds
        built, model_init = resolve_model(model, model_init, args, peft_config)
        if args.disable_dropout and getattr(peft_config, "lora_dropout", None):
            self.notes.append("lora_dropout is off, as every dropout is with disable_dropout")
        name = str(model) if isinstance(model, str | Path) else name_of(built)
        tokenizer = resolve_tokenizer(processing_class, tokenizer, name, args)
        self._read, notes = reader_for(built, tokenizer, args)
        self.notes += notes
        own = {"own_metrics": compute_metrics is not None, "own_schedule": bool(optimizers[1])}
        data = self._read_all(args, train_dataset, eval_dataset, own)
        self.reference = reference.Reference(lambda dataset: reference.ask(self, dataset))
        collator = data_collator or PairCollator(padding_id(tokenizer, vocabulary_size(built)))
        if args.objective == "dpo":
            collator = reference.ReferenceCollator(collator, args.device)
        guards = self._guards(args)
        with foreseen.as_settings():
            super().__init__(
                model=None if model_init is not None else built,
                args=args,
                data_collator=collator,
                train_dataset=data[0],
                eval_dataset=data[1],
                processing_class=tokenizer,
                model_init=model_init,
                compute_metrics=compute_metrics,
                callbacks=[*guards, *(callbacks or [])],
                optimizers=optimizers,
            )
        self._begin()

    def _read_all(
        self, args: ORPOConfig, train_dataset: Any, eval_dataset: Any, own: dict[str, bool]
    ) -> tuple[Any, Any]:
        """The data as token ids, held against the settings."""
        train_dataset = self._read.one(train_dataset, "train_dataset")
        eval_dataset = self._read(eval_dataset, "eval_dataset")
        self.notes += self._read.settle_template()
        if isinstance(train_dataset, StreamedPairs) and args.dataloader_num_workers:
            self.notes.append("rows of a stream that worker processes read are not counted")
        foreseen.foresee_data(args, train_dataset, eval_dataset, args.world_size, **own)
        self.notes += check_objective(args, train_dataset, eval_dataset)
        return train_dataset, eval_dataset

    def _guards(self, args: ORPOConfig) -> list[TrainerCallback]:
        """What looks on, counts and records; transformers calls them in this order."""
        self.say = logging.getLogger("orpo.train").warning
        self._meter = WorkMeter(live=2 if args.objective == "dpo" else 1)
        self._metric_sums = MetricSums()
        self._guard = NonFiniteGuard(
            skip=args.on_nonfinite == "skip",
            max_skipped=args.max_nonfinite_steps,
            tell=self._tell,
            snapshot=self._figures,
            engine_steps=getattr(args, "deepspeed_plugin", None) is not None,
        )
        self._watchdog = Watchdog(args.stall_timeout, self._record)
        self._recorder, self._continuity = RunRecorder(self._facts), Continuity()
        borders = EpochBorders(self._begin_epoch, self._end_epoch)
        return [self._guard, CurveGuard(self._tell), self._watchdog, self._recorder, borders]

    def _begin(self) -> None:
        """What is due once transformers has everything: the engine, and what is ours to decide."""
        self._signature_columns = [*PREPARED, *reference.WITH_REFERENCE]
        self.neftune_noise_alpha = None  # transformers' noise depends on what is beside a pair
        self.engine, notes = agreed_engine(self.args, self.model)
        self.notes += notes
        parallel.prepare_uneven_passes(self, self.engine, self.args)
        self._planned_tokens, self._compiled = most_positions(self.args.device.type), False
        self._undo: Callable[[], None] = lambda: None
        # The loss of a micro-batch is its share of the whole step's: nothing is left to divide.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True

    def create_accelerator_and_postprocess(self) -> None:
        """As in transformers; gradients are clipped by the norm that the guard has measured."""
        super().create_accelerator_and_postprocess()
        parallel.exchange_gradients(self, self._guard)

    # The data

    @property
    def ledgers(self) -> dict[str, Ledger]:
        """Name of a data set -> what became of each of its rows."""
        return self._read.ledgers

    def _read_further(self, dataset: Any, name: str) -> Any:
        dataset = self._read.one(dataset, name)
        self.notes += self._read.settle_template()
        return dataset

    def get_train_dataloader(self) -> Any:
        """As in transformers; the pairs are what the objective trains on."""
        with as_trained(self):
            return super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As in transformers; a data set given here is prepared like the others."""
        if eval_dataset is None and self.eval_dataset is None:
            raise ConfigError("there is nothing to evaluate on", where="eval_dataset")
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._read_further(eval_dataset, "eval_dataset")
        with as_evaluated(self, eval_dataset) as one:
            return super().get_eval_dataloader(one)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """As in transformers; the data set is prepared like the others."""
        dataset = self._read_further(test_dataset, "test_dataset")
        with as_evaluated(self, dataset, "test_dataset") as one:
            return super().get_test_dataloader(one)

    # The loss

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """As in transformers: `resume_from_checkpoint`, `trial`, `ignore_keys_for_eval`."""
        if self.train_dataset is None:
            raise ConfigError("there is nothing to train on", where="train_dataset")
        with self._holding_the_folder(resume_from_checkpoint) as checkpoint:
            for line in self.check_saving():
                self._tell("mended", line)
            self._plan()
            self._metric_sums = MetricSums()
            try:
                self._meter.start(self.model, reference.begin_reference(self, checkpoint))
                self._last_log, self._watchdog.apart = time.perf_counter(), 0.0
                begun = lambda: self.state.global_step > (self.committed_step or 0)  # noqa: E731
                with foreseen.of_trackers(begun), usable(checkpoint):
                    output = super().train(checkpoint, *args, **kwargs)
                self._meter.whole = on_all_ranks(self.work, self.args.world_size)
                if self.is_world_process_zero():
                    write_json(Path(str(self.args.output_dir)) / WORK, self.work.as_dict())
                return output
            finally:
                self.engine.release(self.model)
                self._undo()

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; what it cannot do with this model is said of `optim`."""
        fix = "See optim_target_modules and optim_args, or choose another optimizer."
        with foreseen.told("optim", fix):
            return super().create_optimizer(*args, **kwargs)

    def check_memory(self) -> Plan | None:
        """Refuse what cannot fit, before anything is touched; None where it cannot be foreseen."""
        if self._in_pieces or transformer(self.model) is None:
            return None
        return make_plan(
            self.model, self.engine, self.args, self.train_dataset, self.accelerator.autocast
        )

    def check_saving(self) -> list[str]:
        """Try what the saves of this run need, and mend what can be; one line for each."""
        trusted = self.args.trust_remote_code
        said = try_saving(self.model, self.processing_class, trusted=trusted)
        self.notes += said
        return said

    @property
    def work(self) -> Work:
        """What the run took so far; while several ranks train, this rank's part of it."""
        return self._meter.total(self.state.global_step)

    def _plan(self) -> None:
        """Refuse what cannot fit; find out how large micro-batches may be, and what to compile."""
        plan = self.check_memory()
        if plan is None:
            return
        resumed = self._continuity.resumed
        if resumed is not None:  # other micro-batches would round differently
            asked = self.args.compile_blocks
            plan = Plan(
                resumed.max_tokens or plan.max_tokens,
                bool(resumed.compile_blocks) if asked is None else plan.compile_blocks,
            )
        self._planned_tokens, self._compiled = plan.max_tokens, plan.compile_blocks
        self._undo = parallel.speed_up(self, compiled=plan.compile_blocks)

    @property
    def _max_tokens(self) -> int:
        """Positions of a micro-batch: as asked for, or as planned."""
        return self.args.max_tokens_per_microbatch or self._planned_tokens

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[list[Batch]], Tensor | None]:
        """The micro-batches of one optimizer step, and the step's NLL tokens, pairs and rows.

        The pairs are dealt out anew, by tokens: each entry of the list, of which transformers
        wants as many as there are batches, holds as many micro-batches as it takes.
        """
        fetch = super().get_batch_samples
        samples = self._next_samples(lambda: fetch(epoch_iterator, num_batches, device)[0])
        if samples is None:
            return [], None
        counts = count_items(samples, self.args.nll_scope, device)
        totals = self.accelerator.gather(counts).sum(0)
        parts = deal(samples, self.engine, self._max_tokens, self.args.world_size)
        return in_entries(parts, len(samples)), totals

    def training_step(
        self,
        model: nn.Module,
        inputs: Batch | list[Batch],
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """Forward and backward of some micro-batches."""
        parts = inputs
        if isinstance(parts, Mapping):
            parts = cut([parts], self.engine, self._max_tokens)
        losses = [torch.zeros((), device=self.args.device)]
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            with contextlib.nullcontext() if last else parallel.gathering(self, model):
                losses.append(super().training_step(model, part, num_items_in_batch))
        if self.accelerator.sync_gradients and not self.args.fp16:
            self._guard.look(model)
        return torch.stack(losses).sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """This micro-batch's share of the loss of the whole optimizer step."""
        totals = num_items_in_batch
        # Gradients are averaged over ranks.
        ranks = 1 if totals is None else self.accelerator.num_processes
        if totals is None:
            totals = count_items([inputs], self.args.nll_scope, inputs["row"].device)[0]

        def objective(logps: PairLogps) -> Tensor:
            return self._parts.share(logps, totals, ranks)

        alpha, step, rows = self.args.neftune_noise_alpha, self.state.global_step, inputs["row"]
        if model.training and alpha:
            inputs = {**inputs, **noise_columns(alpha, self.args.seed, step, rows)}
        to_answer = model.training and self.args.objective == "dpo"  # no NLL of prompts
        engine = reference.answers_only(self.engine) if to_answer else self.engine
        output = engine(model, inputs, objective)
        loss = output.loss.float()
        if output.aux_loss is not None:
            loss = loss + self._parts.router_share(output.aux_loss, len(rows), totals, ranks)
        table = pair_table(output.logps, self._parts, output.aux_loss)
        if model.training:
            self._meter.add_trained(output)
            self._metric_sums.add(table)
            self._guard.watch(table, inputs, columns_of(self.args.objective))
        self._watchdog.beat()
        return (loss, {"pairs": table}) if return_outputs else loss

    @property
    def _parts(self) -> StepLoss:
        config = getattr(self.model, "config", None)
        aux_coef = float(getattr(config, "router_aux_loss_coef", 0.0) or 0.0)
        return StepLoss.of(self.args, aux_coef)

    def _take_up(self, progress: Progress) -> None:
        super()._take_up(progress)
        self._metric_sums.take_up(progress, self.args)
        self._meter.take_up(progress, self.args)

    def _progress(self) -> Progress:
        return dataclasses.replace(
            super()._progress(),
            max_tokens=self._planned_tokens,
            compile_blocks=self._compiled,
            **self._metric_sums.kept(),
            **self._meter.kept(self.state.global_step),
        )

    def _complete(self, folder: Path, inner: Path) -> None:
        super()._complete(folder, inner)
        if self.args.should_save and self.args.objective == "dpo":
            self.reference.save(inner)

    # The numbers

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, adding the metrics of the pairs trained on since the last log."""
        if "loss" in logs:
            if (sums := self._metric_sums.take()) is not None:
                total = self.accelerator.reduce(sums, reduction="sum").tolist()
                columns = dict(zip(columns_of(self.args.objective), total, strict=False))
                now = time.perf_counter()
                # Evaluations and saves in between are no part of the training's speed.
                seconds = now - self._last_log - self._watchdog.apart
                self._last_log, self._watchdog.apart = now, 0.0
                logs |= summarise(columns, total[-1], self._parts)
                logs["tokens_per_second"] = columns["tokens"] / seconds
            self._guard.add_to(logs)
        super().log(logs, start_time)

    def _figures(self) -> Callable[[], None]:
        """What the log is made of, as it is now; the result puts it back and counts a step less."""
        sums, loss = self._metric_sums.sums, self._tr_loss.clone()

        def put_back() -> None:
            self._metric_sums.sums = sums
            self._tr_loss.copy_(loss)
            # What transformers divides sums of losses by begins one step later.
            self._globalstep_last_logged += 1
            self._initial_global_step += 1
            self._continuity.uncounted += 1

        return put_back

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Batch,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Score one batch: (no loss, table of pairs, row indices); never logits."""
        self._leave_together()
        inputs = self._prepare_inputs(inputs)

        def table(part: Batch) -> Tensor:
            with torch.no_grad(), self.compute_loss_context_manager():
                _, outputs = self.compute_loss(model, part, return_outputs=True)
            pairs: Tensor = outputs["pairs"]
            return pairs

        found = score_batch(self, inputs, table)
        self._scored(len(found) * self.args.world_size)
        return None, found, inputs["row"]

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        with parallel.divided_once(self), as_data():
            return super()._prepare_for_training(*args, **kwargs)

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
        once = self.args.world_size > 1 and not has_length(dataloader)

        def gathered(found: EvalPrediction | EvalLoopOutput) -> PairTable:
            tables, rows = found.predictions, found.label_ids
            return PairTable.gathered(tables, rows, self.args.objective, once=once)

        def metrics(prediction: EvalPrediction) -> dict[str, float]:
            table = gathered(prediction)
            result = table.metrics(self._parts)
            if custom is not None:
                result |= custom(EvalPrediction(predictions=table.answers, label_ids=table.rows))
            return result

        self.compute_metrics = metrics
        count = None if once or not has_length(dataloader) else self.num_examples(dataloader)
        try:
            with parallel.scoring(self), under_way("scoring", count) as self._scored:
                output = super().evaluation_loop(
                    dataloader, description, False, ignore_keys, metric_key_prefix
                )
        finally:
            self.compute_metrics = custom
            if not self.is_in_train:
                self.engine.release(self.model)
        if output.predictions is None:
            raise DataError(
                "there is no pair to evaluate", where="eval_dataset", fix="Give at least one row."
            )
        table = gathered(output)
        return EvalLoopOutput(table.answers, table.rows, output.metrics, len(table.rows))

    def floating_point_ops(self, inputs: Batch | list[Batch]) -> int:
        """6 x (parameters without embeddings) x positions that go through the model."""
        parts = [inputs] if isinstance(inputs, Mapping) else inputs
        positions = sum(sum(positions_of(part, self.engine)) for part in parts)
        return 6 * positions * self._body_parameters

    @functools.cached_property
    def _body_parameters(self) -> int:
        count = getattr(self.model, "num_parameters", None)
        return int(count(exclude_embeddings=True)) if count else 0

    def _track_num_input_tokens(self, inputs: Batch | list[Batch]) -> None:
        if self.args.include_num_input_tokens_seen == "no":
            return
        names = ("input_ids", "attention_mask")
        for part in [inputs] if isinstance(inputs, Mapping) else inputs:
            both = {n: torch.cat([part[f"chosen_{n}"], part[f"rejected_{n}"]]) for n in names}
            super()._track_num_input_tokens(both)

    # The run folder

    def _facts(self) -> dict[str, Any]:
        return {
            "model": name_of(self.model),
            **self.run_facts,
            "_run": {
                "id": self._continuity.run,
                "engine": self.engine.name,
                "notes": list(self.notes),
                "max_tokens_per_microbatch": self._max_tokens,
                **model_facts(self.model),
                **identity(self.model, self.train_dataset),
                "world_size": self.args.world_size,
                "data": {name: ledger.as_dict() for name, ledger in self.ledgers.items()},
                "asked": self._read.decision and self._read.decision.as_dict(),
            },
        }

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        """Model and tokenizer as safetensors and JSON; no training_args.bin, which is a pickle."""
        if not (self.args.should_save or self.is_distributed_loading_by_transformers):
            return
        folder, writes = output_dir or self.args.output_dir, self.args.should_save
        # Ranks that write nothing take part where a model was sharded as it was loaded.
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        how = {"state_dict": state_dict, "is_main_process": writes}
        for line in save_files(model, self.processing_class, folder, **how):
            self._tell("unsaved", line)

    def create_model_card(self, **about: Any) -> None:
        """Write README.md from what this run measured."""
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            if not (folder / RECIPE).is_file():
                self._recorder.write_recipe(self.args)
            write_model_card(folder, **about)


def _accepted(args: ORPOConfig | None, preprocess_logits: object) -> ORPOConfig:
    args = ORPOConfig() if args is None else args
    if not isinstance(args, ORPOConfig):
        raise ConfigError(f"expected an ORPOConfig, got {type(args).__name__}", where="args")
    if preprocess_logits is not None:
        raise ConfigError(
            "logits are never kept, so there is nothing to preprocess",
            where="preprocess_logits_for_metrics",
            fix="Use compute_metrics: it receives the log-probabilities of each pair.",
        )
    return args
