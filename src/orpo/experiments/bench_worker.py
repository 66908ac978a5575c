"""`python -m orpo.experiments.bench_worker SPEC`: trains one side, a step when it is told "go".

JSON, an object with one key per line: `ready` before the first step, `step` after each, `done`, or
`refused` with a message. It speaks only at rest, the next batch loaded or all of them trained on,
so that nothing of it runs while another side is measured; it ends when nobody listens any more.
"""

import hashlib
import json
import math
import os
import sys
from array import array
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import datasets
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

from orpo.config import ORPOConfig
from orpo.data.types import COLUMNS
from orpo.errors import UserError
from orpo.experiments.bench_rows import SideSpec
from orpo.experiments.measuring import MemoryMeter
from orpo.runs.reading import read_object
from orpo.runs.typed import typed
from orpo.train.trainer import ORPOTrainer
from orpo.train.work import StepClock, now

_ALPHA = 0.1


class Channel:
    """The two pipes to the parent; whatever else is printed goes to stderr."""

    def __init__(self) -> None:
        self._out: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        sys.stdout = sys.stderr

    def send(self, kind: str, content: Any) -> None:
        """One line."""
        self._out.write(json.dumps({kind: content}) + "\n")
        self._out.flush()

    def wait(self) -> None:
        """Until the next "go"; the process ends if none will come."""
        if not sys.stdin.readline():
            raise SystemExit("nobody is measuring any more")


class Pacemaker(StepClock):
    """Rests before each step and tells of the last; the meter starts at the first rest."""

    def __init__(self, channel: Channel, meter: MemoryMeter) -> None:
        super().__init__()
        self._channel, self._meter = channel, meter
        self.facts: dict[str, Any] = {}
        self._loss: float | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Rest until told to go on."""
        if self.began:
            self._report()
        else:
            self._meter.start(kwargs["model"])
            self._channel.send("ready", self.facts)
        self._channel.wait()
        super().on_step_begin(args, state, control)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep the step's loss, if it is a number: JSON knows no other."""
        if logs and "loss" in logs:
            loss = float(logs["loss"])
            self._loss = loss if math.isfinite(loss) else None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last step's figures and, when every side has taken its last, the memory of all."""
        if self.began:
            self._report()
            self._channel.wait()
        memory = {"idle": self._meter.idle, "peak": self._meter.peak(), "exact": self._meter.exact}
        self._channel.send("done", memory)

    def _report(self) -> None:
        between = now() - self.ended[-1]
        step = {"seconds": self.seconds[-1], "between": between, "loss": self._loss}
        self._channel.send("step", step)


def main() -> None:
    """Train as the spec says."""
    channel = Channel()
    spec = typed(SideSpec, read_object(Path(sys.argv[1])), where=sys.argv[1])
    pacemaker = Pacemaker(channel, MemoryMeter())
    make = _trl if spec.side.startswith("trl") else _ours
    try:
        trainer = make(spec, datasets.Dataset.from_list(spec.rows))
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(pacemaker)
        ours = isinstance(trainer, ORPOTrainer)
        pacemaker.facts = {
            "engine": trainer.engine.name if ours else "padded",
            "notes": list(trainer.notes) if ours else [],
            "gradient_checkpointing": bool(trainer.args.gradient_checkpointing),
            "tokens": [_digest(row) for row in trainer.train_dataset],
        }
        trainer.train()
    except UserError as error:
        channel.send("refused", str(error))


def _digest(row: Any) -> str:
    """Of a pair's token ids, prompt + chosen and prompt + rejected."""
    if "chosen_input_ids" in row:
        sequences = (row["chosen_input_ids"], row["rejected_input_ids"])
    else:
        prompt, chosen, rejected = (list(row[name]) for name in COLUMNS[:3])
        sequences = (prompt + chosen, prompt + rejected)
    digest = hashlib.sha256()
    for ids in sequences:
        digest.update(array("q", [*ids, -1]).tobytes())
    return digest.hexdigest()[:16]


def _ours(spec: SideSpec, rows: datasets.Dataset) -> Any:
    config = ORPOConfig(
        **_settings(spec),
        orpo_alpha=_ALPHA,
        orpo_beta=1.0,
        engine="padded" if spec.side == "orpo-padded" else "auto",
        model_dtype="bfloat16" if spec.job.precision == "bf16-pure" else "float32",
        # As by itself in a run that is long enough; the steps that warm up pay for it.
        compile_blocks=spec.job.precision == "bf16" and not torch.accelerator.is_available(),
    )
    adapter = _adapter(spec)
    return ORPOTrainer(model=spec.job.model, args=config, train_dataset=rows, peft_config=adapter)


def _trl(spec: SideSpec, rows: datasets.Dataset) -> Any:
    trl: Any = import_module("trl.experimental.orpo")
    tokenizer = AutoTokenizer.from_pretrained(spec.job.model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    dtype = torch.bfloat16 if spec.job.precision == "bf16-pure" else torch.float32
    return trl.ORPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(spec.job.model, dtype=dtype),
        args=trl.ORPOConfig(**_settings(spec), beta=_ALPHA),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=_adapter(spec),
    )


def _settings(spec: SideSpec) -> dict[str, Any]:
    """What both configurations call by the same name; the weights hardly move at this rate."""
    accelerated = torch.accelerator.is_available()
    return {
        "output_dir": spec.folder,
        "max_length": spec.max_length,
        "max_steps": spec.job.rounds,
        "per_device_train_batch_size": spec.batch_size,
        "gradient_checkpointing": spec.job.checkpoints(spec.side),
        "bf16": spec.job.precision == "bf16",
        "optim": "adamw_torch_fused",
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "use_cpu": not accelerated,
        "dataloader_pin_memory": accelerated,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _adapter(spec: SideSpec) -> Any:
    if not spec.job.lora:
        return None
    from peft import LoraConfig  # noqa: PLC0415 - loads in seconds

    return LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )


if __name__ == "__main__":
    main()
