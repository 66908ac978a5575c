"""The file that shows an optimizer step whose loss or gradient was not finite, row by row."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerState, TrainingArguments

from orpo.errors import NonFiniteError
from orpo.runs.writing import write_text
from orpo.train.guards import Tell, log_warning
from orpo.train.metrics import COLUMNS
from orpo.train.parallel import gathered, most_of_ranks
from orpo.train.weights import name_some, spoilt_weights

_NAMED_PARAMETERS = 20


@dataclass(frozen=True)
class Watched:
    """A micro-batch of the optimizer step that is under way."""

    table: Tensor
    batch: dict[str, Tensor]
    columns: tuple[str, ...] = COLUMNS


@dataclass(frozen=True)
class Offence:
    """What was not finite."""

    what: str
    step: int
    rows: list[dict[str, Any]]
    parameters: list[str]

    def __str__(self) -> str:
        """What is not finite, at which step, in which rows."""
        numbers = self.suspects
        listed = ", ".join(map(str, numbers[:16])) + (" …" if len(numbers) > 16 else "")
        return (
            f"{'the' if self.what == 'loss' else 'a'} {self.what} is not finite at optimizer step "
            f"{self.step} (rows {listed or 'unknown'})"
        )

    @property
    def suspects(self) -> list[int]:
        """Numbers of the rows to look at: those that are not finite themselves, else all."""
        spoilt = {row["row"] for row in self.rows if not row["finite"]}
        every = {row["row"] for row in self.rows}
        return sorted(spoilt if self.what == "loss" else every)


def describe(watched: list[Watched], rank: int, tokenizer: Any = None) -> list[dict[str, Any]]:
    """Each row of a rank's micro-batches as plain values: number, figures, token ids, text."""
    rows: list[dict[str, Any]] = []
    for part in watched:
        for index, number in enumerate(part.batch["row"].tolist()):
            figures, ids = part.table[index].tolist(), _token_ids(part.batch, index)
            # JSON knows no NaN.
            strict = [value if math.isfinite(value) else str(value) for value in figures]
            row = {
                "row": number,
                "rank": rank,
                "finite": all(map(math.isfinite, figures)),
                "figures": dict(zip(part.columns, strict, strict=True)),
                "token_ids": ids,
            }
            if tokenizer is not None:
                row["text"] = {name: tokenizer.decode(tokens) for name, tokens in ids.items()}
            rows.append(row)
    return rows


def _token_ids(batch: dict[str, Tensor], index: int) -> dict[str, list[int]]:
    """The pair's ids without padding; empty where the batch is not a collator's."""
    found: dict[str, list[int]] = {}
    for side in ("chosen", "rejected"):
        if f"{side}_input_ids" not in batch:
            continue
        ids = batch[f"{side}_input_ids"][index]
        answer = batch[f"{side}_answer_mask"][index].bool()
        prompt = batch[f"{side}_attention_mask"][index].bool() & ~answer
        found.setdefault("prompt", ids[prompt].tolist())
        found[side] = ids[answer].tolist()
    return found


_FIX = "Lower learning_rate, check these rows, or use bf16 or fp32 instead of fp16."
_STREAK = 3
_IN_A_ROW = (
    f"{_STREAK} optimizer steps in a row were not finite, the last one step {{}}: that does not "
    "pass by itself. Stop, and start again with a lower learning_rate, in bf16 or fp32."
)
_STATE = "orpo.nonfinite"  # no callback's name: transformers would build that callback anew


class NonFiniteGuard(TrainerCallback):
    """Stops, or skips, an optimizer step whose loss or gradient is not finite.

    It looks once per optimizer step, at numbers that stay on the device until then. All ranks
    exchange two numbers and come to the same decision. The step's rows are written to
    `nonfinite-step-N.json` in output_dir.
    """

    def __init__(
        self,
        *,
        skip: bool = False,
        max_skipped: int = 10,
        tell: Tell = log_warning,
        snapshot: Callable[[], Callable[[], None]] | None = None,
        engine_steps: bool = False,
    ) -> None:
        self._skip, self._max_skipped, self._tell = skip, max_skipped, tell
        self._snapshot, self._engine_steps = snapshot, engine_steps
        self.skipped = 0  # in this run, before a resume too
        self._in_a_row = 0  # that were skipped
        self._put_back: Callable[[], None] | None = None
        self._running: tuple[TrainingArguments, TrainerState, Any] | None = None
        self._forget()

    def _forget(self) -> None:
        self._watched: list[Watched] = []
        self._checked = 0  # micro-batches that were looked at already
        self._norms: Tensor | None = None
        self._precision: torch.dtype | None = None  # the norms' own, if it is one
        self._looked = False
        self._norm: Tensor | float | None = None

    # What the trainer shows

    def watch(
        self, table: Tensor, batch: dict[str, Tensor], columns: tuple[str, ...] = COLUMNS
    ) -> None:
        """Remember a micro-batch of the coming optimizer step, until that step."""
        self._watched.append(Watched(table, batch, columns))
        if self._engine_steps and self._running is not None:
            args, state, tokenizer = self._running
            if self._found(args)[0]:
                offence = self._offence("loss", state, [], tokenizer)
                raise NonFiniteError(
                    f"{offence}; the step was not taken. {_FIX} {_written(offence, args)}"
                )
            self._checked = len(self._watched)

    def look(self, model: nn.Module) -> None:
        """Measure the gradients before they are clipped, which spreads one NaN to all of them."""
        self._looked = True
        gradients = [gradient for _, gradient in _gradients(model)]
        if gradients:
            # The largest entry would do, but takes forty times as long on a processor.
            norms = torch._foreach_norm(gradients, 2)
            self._precision = norms[0].dtype if len({n.dtype for n in norms}) == 1 else None
            device = norms[0].device  # a model may be spread over several
            self._norms = torch.stack([norm.float().to(device) for norm in norms])

    def total_norm(self) -> Tensor | None:
        """The norm of this process's gradients out of what `look` measured; None if not in fp32."""
        if self._norms is None or self._precision is not torch.float32:
            return None
        total: Tensor = torch.linalg.vector_norm(self._norms, 2)
        return total

    def watch_norm(self, norm: Tensor | float | None) -> None:
        """Take note of the norm of all gradients: an infinite one makes NaNs where one clips."""
        self._norm = norm.full_tensor() if isinstance(norm, DTensor) else norm

    def add_to(self, logs: dict[str, float]) -> None:
        """Add `skipped_steps`, if any, to what is logged; drop a skipped step's gradient norm."""
        if self._in_a_row:
            logs.pop("grad_norm", None)
        if self.skipped:
            logs["skipped_steps"] = self.skipped

    # What transformers calls

    def on_train_begin(
        self, args: Any, state: Any, control: Any, processing_class: Any = None, **_: Any
    ) -> None:
        """Forget a step that was never finished; recall what a resumed run had skipped."""
        self._forget()
        self._in_a_row, self._put_back = 0, None
        stored: Any = (state.stateful_callbacks or {}).get(_STATE, {})
        self.skipped = int(stored.get("skipped_steps", 0))
        self._running = (args, state, processing_class)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remember the logged figures as they are without this step."""
        if self._skip and self._snapshot is not None:
            self._put_back = self._snapshot()

    def on_pre_optimizer_step(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: nn.Module | None = None,
        processing_class: Any = None,
        **_: Any,
    ) -> None:
        """Check the losses and gradients of the step that is about to be taken."""
        if not self._looked and model is not None and not args.fp16:
            self.look(model)
        try:
            loss, gradient = self._found(args)
            before, self._in_a_row = self._in_a_row, 0
            if loss or gradient:
                what = "loss" if loss else "gradient"
                names = [] if loss else self._spoilt(model)
                offence = self._offence(what, state, names, processing_class)
                if loss or offence.parameters or self._engine_steps:
                    self._act(offence, _written(offence, args), state, model)
                    self._in_a_row = before + 1
                    if self._in_a_row == _STREAK and state.is_world_process_zero:
                        self._tell("nonfinite_streak", _IN_A_ROW.format(offence.step))
        finally:
            self._forget()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Let go of the run."""
        self._running, self._put_back = None, None

    # What it decides

    def _found(self, args: TrainingArguments) -> tuple[bool, bool]:
        """Whether a loss or a gradient is not finite, here or on another rank."""
        zero = torch.zeros((), dtype=torch.bool, device=args.device)
        tables = [part.table for part in self._watched[self._checked :]]
        loss = ~torch.cat(tables).isfinite().all() if tables else zero
        gradient = zero
        if not args.fp16:  # its gradient scaler skips overflowing steps by design
            norms = [self._norms, self.total_norm() if self._norm is None else self._norm]
            found = [torch.as_tensor(norm).isfinite().all() for norm in norms if norm is not None]
            gradient = ~torch.stack([one.to(args.device) for one in found] or [~zero]).all()
        flags = torch.stack([loss.to(args.device), gradient.to(args.device)]).float()
        if _ranks() > 1:
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        loss_spoilt, gradient_spoilt = map(bool, flags.tolist())
        return loss_spoilt, gradient_spoilt

    def _spoilt(self, model: nn.Module | None) -> list[str]:
        """Names of the parameters whose gradient is not finite on this rank."""
        if model is None or self._norms is None:
            return []
        fine = self._norms.isfinite().tolist()
        # A norm may overflow where no entry does; clipping has then made zeros of the gradients.
        spoilt = [not bool(gradient.isfinite().all()) for _, gradient in _gradients(model)]
        names = [name for name, _ in _gradients(model)]
        before = [n for n, bad, ok in zip(names, spoilt, fine, strict=True) if bad and not ok]
        return before or [name for name, bad in zip(names, spoilt, strict=True) if bad]

    def _offence(self, what: str, state: TrainerState, names: list[str], tokenizer: Any) -> Offence:
        """The step as all ranks see it; every rank must ask."""
        rank, ranks = (torch.distributed.get_rank(), _ranks()) if _ranks() > 1 else (0, 1)
        found = gathered((describe(self._watched, rank, tokenizer), names), ranks)
        rows = [row for part, _ in found for row in part]
        spoilt = list(dict.fromkeys(name for _, part in found for name in part))
        return Offence(what, state.global_step + 1, rows, spoilt)

    def _act(
        self, what: Offence, written: str, state: TrainerState, model: nn.Module | None
    ) -> None:
        if fatal := self._fatal(model):
            raise NonFiniteError(f"{what}; {fatal}. {_FIX} {written}")
        assert model is not None
        model.zero_grad(set_to_none=True)  # an optimizer passes over a parameter without gradient
        self.skipped += 1
        state.stateful_callbacks[_STATE] = {"skipped_steps": self.skipped}
        if self._put_back is not None:
            self._put_back()
        if state.is_world_process_zero:
            count = f"{self.skipped} of at most {self._max_skipped}"
            self._tell("skipped_step", f"{what}; the step was skipped, {count}. {written}")

    def _fatal(self, model: nn.Module | None) -> str:
        """Why the step cannot be skipped; empty if it can."""
        if self._engine_steps:
            return (
                "DeepSpeed had taken the step before it could be looked at: go back to the newest "
                "checkpoint"
            )
        if not self._skip or model is None:
            return "the step was not taken"
        if self.skipped >= self._max_skipped:
            return (
                f"the step was not taken. {self.skipped} steps of this run were skipped before, as "
                "many as max_nonfinite_steps allows"
            )
        spoilt = spoilt_weights(model)
        if most_of_ranks(len(spoilt), next(model.parameters()).device):
            return (
                f"weights are not finite themselves ({name_some(spoilt)}), which no skipped step "
                "mends: go back to the newest checkpoint"
            )
        return ""


def _written(offence: Offence, args: TrainingArguments) -> str:
    """Write the step's rows on the first rank, as JSON with a line for each; say where they are."""
    path = Path(str(args.output_dir)) / f"nonfinite-step-{offence.step}.json"
    if args.process_index == 0:
        head: dict[str, Any] = {"step": offence.step, "what": offence.what}
        if offence.what == "gradient":
            head["parameters"] = offence.parameters[:_NAMED_PARAMETERS]
            head["parameter_count"] = len(offence.parameters)
        rows = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in offence.rows)
        text = json.dumps(head)[:-1] + ', "rows": [\n' + ",\n".join(rows) + "\n]}\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
        except OSError as error:
            return f"The batch could not be written to {path} ({error.strerror})."
    return f"The batch is in {path}."


def _ranks() -> int:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1


def _gradients(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Name and gradient; a sharded one where it lies: some ranks hold nothing of a small one."""
    found = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    local = [(name, g.to_local() if isinstance(g, DTensor) else g) for name, g in found]
    return [(name, gradient) for name, gradient in local if gradient.numel()]
