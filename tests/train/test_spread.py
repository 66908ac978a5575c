"""One rank and two ranks are the same run: DDP and FSDP2, both engines, all weights and LoRA.

`pytest tests/train/test_spread.py -rP` prints the differences. Accelerate takes FSDP for granted on
accelerators only and falls back to DDP on processors. So that it is itself here, this file (and
nothing else) calls the processors an accelerator while the Accelerator is made:
`_as_on_an_accelerator`. All that follows is what a user of GPUs runs. DeepSpeed's ZeRO-2 and ZeRO-3
are run where it is installed.
"""

import io
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback

from orpo import ORPOTrainer
from tests.train.accelerate_configs import environment
from tests.train.jobs import on_two_ranks
from tests.train.one_step import quiet_trainer
from tests.train.oracle_fp64 import relative_difference
from tests.train.small import text_rows, tiny_llama
from tests.train.whole_runs import losses_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STEPS = 12
SCENARIOS = {  # every two of them meet
    f"{wrapper}, {engine}, {what}": {
        **{"wrapper": wrapper, "engine": engine, "lora": what == "lora"},
        "tied": (wrapper == "ddp") == (engine == "shared"),
    }
    for wrapper, engine, what in (
        ("ddp", "shared", "full"),
        ("ddp", "padded", "lora"),
        ("fsdp2", "shared", "lora"),
        ("fsdp2", "padded", "full"),
    )
}


class FirstGradients(TrainerCallback):
    """The gradients that the optimizer saw first, whole."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, *args: Any, model: Any, **kwargs: Any) -> None:
        if not self.found:
            named = model.named_parameters()
            self.found = {n: whole(p.grad) for n, p in named if p.grad is not None}


def whole(tensor: Tensor) -> Tensor:
    full = getattr(tensor, "full_tensor", None)
    return (tensor if full is None else full()).detach().clone()


def trainer_of(
    folder: Path, ranks: int, *, engine: str, lora: bool, tied: bool = False, **settings: Any
) -> ORPOTrainer:
    """A run over four pairs per optimizer step, whatever the number of ranks."""
    given: dict[str, Any] = {"model": tiny_llama(tie_word_embeddings=tied)}
    if lora:
        from peft import LoraConfig

        given["peft_config"] = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    plan = {
        "train_dataset": text_rows(8),
        "engine": engine,
        "per_device_train_batch_size": 2 // ranks,
        "gradient_accumulation_steps": 2,
        "max_tokens_per_microbatch": 250,
        "max_steps": STEPS,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
    }
    return quiet_trainer(ORPOTrainer, str(folder), **given, **{**plan, **settings})


def found_by(trainer: ORPOTrainer) -> dict[str, Any]:
    """Losses, and the parameters that were trained; every rank must ask."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    weights = {n: whole(p) for n, p in model.named_parameters() if p.requires_grad}
    return {"losses": [line["loss"] for line in losses_of(trainer)], "weights": weights}


@contextmanager
def wrapped(wrapper: str) -> Iterator[None]:
    """As `accelerate launch` with the shipped config would have it."""
    if wrapper != "fsdp2":
        yield
        return
    given = environment("fsdp2", "--mixed_precision", "no")
    given = {k: v for k, v in given.items() if k.startswith(("FSDP_", "ACCELERATE_"))}
    with patch.dict(os.environ, given), _as_on_an_accelerator():
        yield


@contextmanager
def _as_on_an_accelerator() -> Iterator[None]:
    made = AcceleratorState.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if PartialState._shared_state.get("distributed_type") is DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU
        made(self, *args, **kwargs)

    with patch.object(AcceleratorState, "__init__", init):
        yield


def every_scenario(out: Path) -> dict[str, Any]:
    """First loss and gradients of each, and what is left after all steps."""
    found = {}
    for name, scenario in SCENARIOS.items():
        settings, capture = {k: v for k, v in scenario.items() if k != "wrapper"}, FirstGradients()
        with wrapped(scenario["wrapper"]):
            trainer = trainer_of(out / name, 2, eval_dataset=text_rows(3), **settings)
            trainer.add_callback(capture)
            trainer.evaluate()  # which must not change how the model is wrapped
            trainer.train()
        kind = {"ddp": DistributedDataParallel, "fsdp2": FSDPModule}[scenario["wrapper"]]
        assert isinstance(trainer.model_wrapped, kind), type(trainer.model_wrapped)
        assert trainer.engine.name == scenario["engine"]
        found[name] = {**found_by(trainer), "gradients": capture.found}
    return found


def test_two_ranks_take_the_steps_of_one(tmp_path: Path) -> None:
    both, _ = on_two_ranks(every_scenario, tmp_path)
    for name, scenario in SCENARIOS.items():
        shape = {k: v for k, v in scenario.items() if k != "wrapper"}
        trainer, capture = trainer_of(tmp_path / "one", 1, **shape), FirstGradients()
        trainer.add_callback(capture)
        trainer.train()
        alone, ours = {**found_by(trainer), "gradients": capture.found}, both[name]
        losses, expected = ours["losses"], alone["losses"]
        apart = abs(losses[0] - expected[0])
        difference = relative_difference(ours["gradients"], alone["gradients"])
        assert ours["weights"].keys() == alone["weights"].keys()
        pairs = [(ours["weights"][n], weight) for n, weight in alone["weights"].items()]
        furthest = max(float((one - other).abs().max()) for one, other in pairs)
        print(f"{name}: loss {apart:.1e}, gradients {difference:.1e}, weights {furthest:.1e}")
        assert len(losses) == STEPS
        assert expected[-1] < expected[0] - 0.05, name  # something was learnt
        assert apart <= 2e-6 * max(1.0, expected[0]), name
        assert difference < 1e-5, name
        assert furthest < 1e-4, name


_load = pickle.load


def _from_memory_only(file: Any, **settings: Any) -> Any:
    """Ranks send each other objects; a file is never unpickled."""
    assert isinstance(file, io.BytesIO), f"a pickle was loaded: {file}"
    return _load(file, **settings)


def resumed_in_pieces(out: Path) -> dict[str, Any]:
    """Runs under FSDP2 that go on from a checkpoint, beside ones that were never stopped.

    Each is scored ahead of training, and its model is written at the end.
    """
    shape: dict[str, Any] = {"engine": "shared", "lora": False, "max_steps": 4}
    shape |= {"save_strategy": "steps", "save_steps": 2}
    found = {}
    for kept in ("SHARDED_STATE_DICT", "FULL_STATE_DICT"):
        with wrapped("fsdp2"), patch.dict(os.environ, {"FSDP_STATE_DICT_TYPE": kept}):
            trainer = trainer_of(out / kept, 2, eval_dataset=text_rows(7), **shape)
            before = trainer.evaluate()["eval_loss"]
            trainer.train()
            after = trainer.evaluate()["eval_loss"]
            straight = found_by(trainer)["weights"]
            trainer.save_model()
            again = trainer_of(out / kept, 2, **shape)
            with patch.object(pickle, "load", _from_memory_only):
                again.train(resume_from_checkpoint=str(out / kept / "checkpoint-2"))
            weights = found_by(again)["weights"]
        assert again.state.global_step == 4
        assert all(torch.equal(weights[name], weight) for name, weight in straight.items())
        found[kept] = {"before": before, "after": after, "weights": straight}
    return found


def test_checkpoints_in_pieces_and_whole_go_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    both, _ = on_two_ranks(resumed_in_pieces, tmp_path)
    shape = {"engine": "shared", "lora": False, "eval_dataset": text_rows(7), "max_steps": 4}
    one = trainer_of(tmp_path / "one", 1, **shape)
    before = one.evaluate()["eval_loss"]
    one.train()
    after = one.evaluate()["eval_loss"]
    for kept, found in both.items():
        pieces = (tmp_path / kept / "checkpoint-4").glob("*/*.distcp")
        assert bool(list(pieces)) == (kept == "SHARDED_STATE_DICT")
        assert found["before"] == pytest.approx(before, rel=1e-6)
        assert found["after"] == pytest.approx(after, rel=1e-5)
        written = load_file(tmp_path / kept / "model.safetensors")  # whole in either case
        for name, weight in found["weights"].items():
            assert torch.equal(written[name], weight), name


def under_deepspeed(out: Path, engine: str, what: str) -> dict[str, Any]:
    """On processors: scored, trained, scored again, written, resumed."""

    def run_of() -> ORPOTrainer:
        return trainer_of(
            out / "run",
            2,
            engine=engine,
            lora=what == "lora",
            eval_dataset=text_rows(7),
            max_steps=6,
            use_cpu=False,  # accelerate looks for DeepSpeed elsewhere only
            ddp_backend="gloo",
            save_strategy="steps",
            save_steps=3,
        )

    trainer = run_of()
    found = {"before": trainer.evaluate()["eval_loss"]}
    trainer.train()
    found["after"] = trainer.evaluate()["eval_loss"]
    found["losses"] = [line["loss"] for line in losses_of(trainer)]
    trainer.save_model()
    again = run_of()
    again.train(resume_from_checkpoint=str(out / "run" / "checkpoint-3"))
    again.save_model(str(out / "again"))
    return {**found, "losses again": [line["loss"] for line in losses_of(again)]}


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
@pytest.mark.parametrize(
    ("stage", "engine", "what"), [(2, "shared", "full"), (3, "padded", "lora")]
)
def test_two_ranks_under_deepspeed_take_the_steps_of_one(
    stage: int, engine: str, what: str, tmp_path: Path
) -> None:
    given = environment(f"zero{stage}", "--mixed_precision", "no")
    given = {k: v for k, v in given.items() if k.startswith("ACCELERATE_")}
    given["DS_ACCELERATOR"] = "cpu"
    found, _ = on_two_ranks(under_deepspeed, tmp_path, engine, what, **given)
    shape = {"engine": engine, "lora": what == "lora", "max_steps": 6}
    one = trainer_of(tmp_path / "one", 1, eval_dataset=text_rows(7), **shape)
    assert found["before"] == pytest.approx(one.evaluate()["eval_loss"], rel=1e-6)
    one.train()
    expected = found_by(one)
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    assert found["after"] == pytest.approx(one.evaluate()["eval_loss"], rel=1e-5)
    assert found["losses again"] == found["losses"]  # resumed without a pickle being run
    name = "adapter_model.safetensors" if what == "lora" else "model.safetensors"
    written, again = load_file(tmp_path / "run" / name), load_file(tmp_path / "again" / name)
    assert all(torch.equal(again[name], weight) for name, weight in written.items())
    if what == "full":
        for name, weight in expected["weights"].items():
            assert float((written[name] - weight).abs().max()) < 1e-4, name
