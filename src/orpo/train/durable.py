"""A `transformers.Trainer` whose runs are not lost; it knows nothing of pairs.

Checkpoints are committed by all ranks together, a signal ends a run at a step's border, and a run
that goes on computes, draws and logs what the run would have that was never interrupted.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import IntervalStrategy

from orpo.config import FEWEST_LOGS, MOST_STEPS_OF_A_LOG, ORPOConfig
from orpo.errors import CheckpointError, NonFiniteError, OrpoError, TrainingError
from orpo.runs.checkpoints import checkpoint_name, rotate, set_aside
from orpo.runs.commit import sweep
from orpo.runs.files import METRICS, read_jsonl, read_recipe, spelled_as
from orpo.runs.lock import run_lock
from orpo.runs.manifest import read_manifest
from orpo.runs.writing import make_way
from orpo.terminal import Say
from orpo.train import checkpoints, continuity
from orpo.train.guards import EVALUATING, EXCHANGING, LOADING, SAVING, Watchdog
from orpo.train.parallel import most_of_ranks
from orpo.train.recorder import RunRecorder
from orpo.train.same_run import check_same_run
from orpo.train.weights import as_data, check_weight_files, name_some, spoilt_weights


class DurableTrainer(Trainer):
    """Saves, stops and goes on."""

    args: ORPOConfig
    say: Say  # told, in one line, what the user should know of
    _continuity: continuity.Continuity
    _recorder: RunRecorder
    _watchdog: Watchdog
    _checked: tuple[str | bool, Path, str, list[tuple[str, str]]] | None = None
    _as_trained = False  # whether the model's weights are those of an optimizer that switches

    # Going on

    @contextlib.contextmanager
    def _holding_the_folder(self, asked: str | bool | None) -> Iterator[str | None]:
        """The run folder belongs to this run, which goes on from the checkpoint that is given."""
        folder, first = Path(str(self.args.output_dir)), self.is_world_process_zero()
        watching = self._watchdog.watching(folder, self.args.process_index)
        at_start = self.args.eval_on_start
        with run_lock(folder) if first else contextlib.nullcontext() as without_lock:
            if first:
                sweep(folder)
            self._continuity = continuity.Continuity()
            if without_lock:
                self._tell("unlocked", without_lock)
            checkpoint = self._go_on_from(asked) if asked else None
            if checkpoint is None:
                self._set_aside("another run's checkpoints are set aside")
            self.args.eval_on_start = at_start and checkpoint is None
            try:
                with watching:
                    yield checkpoint
                    # A signal in the last step stops a run that has nothing left to do as well.
                    self._continuity.told = self._agreed_to_stop()
                    if self._continuity.told:
                        self.commit_here()
                if self.stopped:
                    step = self.state.global_step
                    self._record("stopped", f"stopped at step {step} of {self.state.max_steps}")
            except TrainingError as error:
                with contextlib.suppress(OrpoError):  # a full disk may not take this line either
                    self._record("failed", str(error))
                raise
            finally:
                self.args.eval_on_start = at_start

    def check_resume(self, asked: str | bool) -> Path:
        """Find the checkpoint to go on from, and make sure that it is this run's.

        Nothing is written. `train`, asked for the same, takes it without reading it once more.
        """
        path, run, passed_over = checkpoints.find_checkpoint(asked, Path(str(self.args.output_dir)))
        check_weight_files(str(path))
        state = checkpoints.read_state(path)
        checkpoints.read_progress(path)
        read_jsonl(path / METRICS)
        if self.args.logging_steps is None:
            self.args.logging_steps = state.logging_steps  # as it began
        now = self._recorder.recipe(self.args)
        before = spelled_as(now, read_recipe(path), path)
        changed = check_same_run(before, now, allow=self.args.resume_changed)
        lines = [("passed_over", line) for line in passed_over]
        self._checked = asked, path, run, [*lines, *(("changed", line) for line in changed)]
        return path

    def _go_on_from(self, asked: str | bool) -> str:
        if self._checked is None or self._checked[0] != asked:
            self.check_resume(asked)
        assert self._checked is not None
        (_, path, run, lines), self._checked = self._checked, None
        for kind, line in lines:
            self._tell(kind, line)
        progress, step = checkpoints.read_progress(path), read_manifest(path).step
        self._continuity = continuity.Continuity(run, resumed=progress, committed=step)
        self._recorder.go_on_from(path, self.args, progress.metric_lines)
        self._tell("resumed", f"going on from {path.name}", step=step)
        self._set_aside("what comes after it is set aside", after=step, run=run)
        return str(path)

    def _set_aside(self, why: str, *, after: int = 0, run: str | None = None) -> None:
        """Rename the checkpoints that are not before this run's next one, and say so."""
        if self.is_world_process_zero():
            moved = set_aside(Path(str(self.args.output_dir)), after=after, run=run)
            names = ", ".join(f"{old.name} as {new.name}" for old, new in moved.items())
            if moved:
                self._tell("abandoned", f"{why}: {names}", step=after)

    def set_initial_training_values(self, args: Any, dataloader: Any) -> Any:
        """As in transformers; by the number of steps is logged where nobody has said how often."""
        found = super().set_initial_training_values(args, dataloader)
        if args.logging_steps is None:
            args.logging_steps = min(MOST_STEPS_OF_A_LOG, max(1, found[-1] // FEWEST_LOGS))
        return found

    def _begin_epoch(self) -> None:
        """Take down, or take up, what the coming steps begin with."""
        self._as_trained = True
        self._continuity.begin_epoch()
        self._make_up()

    def _end_epoch(self) -> None:
        self._continuity.epoch_over = True

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        self._make_up()  # where the run went on from its very end, and no epoch has begun
        self._continuity.lines = self._recorder.lines
        switches = continuity.switching(self.optimizer)
        if switches is not None and self._as_trained:
            switches.eval()  # before the best weights are loaded, which are to be used as they are
        self._as_trained = False
        with as_data() if self._in_pieces else contextlib.nullcontext():  # the best weights
            output = super()._finalize_training(*args, **kwargs)
        return output._replace(training_loss=output.metrics["train_loss"])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in transformers; the mean loss is that of the run, whatever calls it took."""
        if "train_loss" in logs:
            steps = self.state.global_step - self._continuity.uncounted
            logs["train_loss"] = self._total_loss_scalar / max(steps, 0.001)
        super().log(logs, start_time)

    def _make_up(self) -> None:
        """Do what was due when the checkpoint was written that the run goes on from."""
        progress, self._continuity.resumed = self._continuity.resumed, None
        if progress is None:
            return
        self._take_up(progress)
        control, args, ended = self.control, self.args, progress.epoch_end
        control.should_save = False
        control.should_log = ended and args.logging_strategy == IntervalStrategy.EPOCH
        at_epochs = ended and args.eval_strategy == IntervalStrategy.EPOCH
        control.should_evaluate = progress.evaluate or at_epochs
        if control.should_log or control.should_evaluate:
            self._maybe_log_save_evaluate(
                self._tr_loss,
                progress.grad_norm,
                self.model_wrapped,
                None,
                self.state.epoch,
                None,
                time.time(),
                learning_rate=progress.learning_rate,
            )
        control.should_log = control.should_evaluate = False

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As in transformers; settings that have changed knowingly are those given now."""
        given = continuity.settings_of(self.optimizer)
        bases = list(getattr(self.lr_scheduler, "base_lrs", []))
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and not self.is_deepspeed_enabled:
            continuity.follow(self.optimizer, self.lr_scheduler, given, bases)
            self._as_trained = continuity.put_back(Path(checkpoint), self.model, self.optimizer)

    def _to_be_used(self) -> contextlib.AbstractContextManager[continuity.Exact]:
        """Within it the model's weights are those that a switching optimizer wants to be used."""
        return continuity.to_be_used(self.optimizer if self._as_trained else None)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        names = spoilt_weights(self.model)
        if names:
            raise CheckpointError(
                f"its weights are not finite: {name_some(names)}", where=resume_from_checkpoint
            )

    def _take_up(self, progress: checkpoints.Progress) -> None:
        """Sum on where the checkpoint was written, so that the next log is of all its steps."""
        rank, sums = self.args.process_index, progress.loss_sums
        mean = sum(sums) / max(1, len(sums))
        self._tr_loss += sums[rank] if len(sums) == self.args.world_size else mean
        self._globalstep_last_logged = progress.last_logged
        if progress.total_loss is None:  # of an earlier version: the mean is of this call's steps
            self._total_loss_scalar, self._continuity.uncounted = -mean, self.state.global_step
        else:
            self._total_loss_scalar = progress.total_loss
            self._continuity.uncounted = progress.uncounted

    def _progress(self) -> checkpoints.Progress:
        """What a run that goes on from here has to know."""
        grad_norm, learning_rate = self._continuity.figures
        lines = self._continuity.lines
        return checkpoints.Progress(
            loss_sums=[float(self._tr_loss)],
            total_loss=self._total_loss_scalar,
            uncounted=self._continuity.uncounted,
            last_logged=self._globalstep_last_logged,
            metric_lines=self._recorder.lines if lines is None else lines,
            evaluate=self._continuity.evaluate,
            epoch_end=self._continuity.before_epoch_end(self.state.epoch),
            grad_norm=None if grad_norm is None else float(grad_norm),
            learning_rate=learning_rate,
        )

    # Stopping

    def _stopping_at_once(self) -> contextlib.AbstractContextManager[None]:
        """Work that a signal may cut off, because it is done again; ranks agree on it first."""
        stop, alone = continuity.stop_of(self.callback_handler.callbacks), self.args.world_size == 1
        return stop.at_once() if stop and alone and self.is_in_train else contextlib.nullcontext()

    def _agreed_to_stop(self, *, ends: bool = False) -> bool:
        """Whether any rank was told to stop, or is at its end; every rank must ask."""
        return bool(most_of_ranks(int(ends or self._told_to_stop), self.args.device))

    @property
    def _told_to_stop(self) -> bool:
        stop = continuity.stop_of(self.callback_handler.callbacks)
        return stop is not None and stop.received is not None  # on this rank

    def _next_samples(self, fetch: Callable[[], list[Any]]) -> list[Any] | None:
        """The batches of the coming step; None where the run ends instead, on all ranks."""
        self._watchdog.enter(LOADING)
        # A run that went on from its last step has nothing left to do.
        ends = self._continuity.stopping or self.state.global_step >= self.state.max_steps
        samples: list[Any] = []
        try:
            with self._stopping_at_once():
                samples = [] if ends else fetch()
        except continuity.StopRequested:
            ends = True
        except RuntimeError:  # the signal has ended the loader's processes as well
            if not self._told_to_stop:
                raise
            ends = True
        self._watchdog.enter(EXCHANGING)
        if self._agreed_to_stop(ends=ends):
            self._continuity.stop(self.control)
            return None
        self._continuity.first = False
        return samples

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Log where the run ends, so that no step is missing; where it is stopped, only save."""
        control, ends = self.control, self.state.global_step >= self.state.max_steps
        self._continuity.figures = args[1], kwargs.get("learning_rate")
        if self._continuity.stopping:
            control.should_log = control.should_evaluate = False
            control.should_save = self._continuity.committed != self.state.global_step
        elif ends and self.args.logging_strategy != "no":
            control.should_log = True
        try:
            super()._maybe_log_save_evaluate(*args, **kwargs)
        except continuity.StopRequested:
            self._continuity.evaluate = True
            self._continuity.stop(control)
            self._maybe_log_save_evaluate(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; what it draws at random does not change the training."""
        with (
            continuity.keep_randomness(),
            self._stopping_at_once(),
            self._watchdog.during(EVALUATING),
            self._to_be_used(),
        ):
            return super().evaluate(*args, **kwargs)

    def _leave_together(self) -> None:
        """Between two batches of an evaluation: several ranks can only leave it all at once."""
        if self.is_in_train and self.args.world_size > 1 and self._agreed_to_stop():
            raise continuity.StopRequested

    def commit_here(self) -> None:
        """Commit a checkpoint of the steps taken, if there is none yet; every rank must call it."""
        step, best = self.state.global_step, self.state.best_model_checkpoint
        if self.args.load_best_model_at_end and best is not None and not self.is_in_train:
            return  # by now the weights are those of another step
        if self._continuity.committed != step:
            self._save_checkpoint(self.model_wrapped, None)

    @property
    def stopped(self) -> bool:
        """Whether a signal, to any rank, ended the last call of `train`, maybe in its last step."""
        return self._continuity.told

    # Saving

    @property
    def committed_step(self) -> int | None:
        """The step of the newest checkpoint that `train` committed or went on from."""
        return self._continuity.committed

    def _get_output_dir(self, trial: Any) -> str:
        aside = self._continuity.aside
        return super()._get_output_dir(trial) if aside is None else str(aside)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As in transformers, but written aside, described, and committed by all ranks."""
        step, folder = self.state.global_step, Path(self._get_output_dir(trial))
        with self._to_be_used() as exact:
            self._refuse_spoilt_weights()
            with (
                self._watchdog.during(SAVING),
                self._with_optimizer(),
                checkpoints.committing(folder, step, self._continuity.run, self.args) as aside,
            ):
                self._continuity.aside = aside
                pushed, self.args.push_to_hub = self.args.push_to_hub, False  # once it is committed
                try:
                    super()._save_checkpoint(model, trial)
                finally:
                    self._continuity.aside, self.args.push_to_hub = None, pushed
                inner, resumable = aside / checkpoint_name(step), not self.args.save_only_model
                self._complete(folder, inner)
                if resumable and self.args.should_save and not self._in_pieces:
                    continuity.write_trained(inner, self.model, exact)
        self._continuity.committed = step if resumable else self._continuity.committed
        if self.args.should_save:
            self._rotate(folder)
        if self.args.push_to_hub:
            checkpoints.push_checkpoint(self, folder / checkpoint_name(step))

    @property
    def _in_pieces(self) -> bool:
        """Whether weights, gradients or optimizer states are divided among the ranks."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def save_state(self) -> None:
        """As in transformers, into this folder whatever stands there under the file's name."""
        if self.is_world_process_zero():
            make_way(Path(str(self.args.output_dir)) / TRAINER_STATE_NAME)
        super().save_state()

    def _refuse_spoilt_weights(self) -> None:
        """An optimizer step may overflow though its gradients were finite."""
        names = spoilt_weights(self.model)
        if most_of_ranks(len(names), self.args.device):
            step, last = self.state.global_step, self._continuity.committed
            said = f"weights are not finite after optimizer step {step} ({name_some(names)})"
            found = "none was saved before" if last is None else f"the newest is of step {last}"
            raise NonFiniteError(
                f"{said}; no checkpoint was written of it, {found}. Lower learning_rate."
            )

    @contextlib.contextmanager
    def _with_optimizer(self) -> Iterator[None]:
        """A run that is stopped goes on, also one that asks for save_only_model."""
        asked, stopped = self.args.save_only_model, self._continuity.stopping
        self.args.save_only_model = asked and not (stopped or self._continuity.told)
        try:
            yield
        finally:
            self.args.save_only_model = asked

    def _complete(self, folder: Path, inner: Path) -> None:
        """Add to a checkpoint what transformers does not know of."""
        checkpoints.write_progress(inner, self._progress(), self.args)
        if not self.args.should_save:
            return
        state = self.state
        best = folder / checkpoint_name(state.best_global_step or 0)
        if state.best_global_step and (best.exists() or best.name == inner.name):
            state.best_model_checkpoint = str(best)
            state.save_to_json(str(inner / TRAINER_STATE_NAME))
        self._recorder.write_recipe(self.args, inner)
        self._recorder.copy_metrics(self.args, inner)

    def _rotate(self, folder: Path) -> None:
        limit, best = self.args.save_total_limit, self.state.best_model_checkpoint
        if not limit or limit < 0:
            return
        try:
            rotate(folder, limit, run=self._continuity.run, best=best)
        except CheckpointError as error:
            self._tell("unreadable", f"{error}; older checkpoints are kept")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in transformers; a model that is saved to keep is committed with a manifest."""
        if _internal_call:
            super().save_model(output_dir, _internal_call=True)
            return
        folder, step = Path(output_dir or str(self.args.output_dir)), self.state.global_step
        saving, run = self._watchdog.during(SAVING), self._continuity.run
        with (
            self._to_be_used(),
            saving,
            checkpoints.committing_model(folder, step, run, self.args) as aside,
        ):
            self._refuse_spoilt_weights()
            if self.is_fsdp_enabled:  # transformers saves none where checkpoints are sharded
                self._save(str(aside), self.accelerator.get_state_dict(self.model))
            else:
                super().save_model(str(aside), _internal_call=True)
        if self.args.push_to_hub:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    # What happened

    def _tell(self, kind: str, message: str, **details: Any) -> None:
        """Something happened that the user should know of: it is said and put on record."""
        self._record(kind, message, **details)
        if self.is_world_process_zero():
            self.say(message)

    def _record(self, kind: str, message: str, **details: Any) -> None:
        step = details.pop("step", self.state.global_step)
        self._recorder.event(self.args, step, kind, message, **details)
