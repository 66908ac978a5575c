"""What is trained, what is logged of it, what it costs, and that a stop changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from orpo import ConfigError, ORPOConfig, ORPOTrainer
from orpo.errors import CheckpointError
from orpo.objective.types import PairLogps
from orpo.settings import unused_strengths
from orpo.train.before.memory import Plan
from orpo.train.reference import REFERENCE, Reference
from orpo.train.step_loss import StepLoss
from orpo.train.work import WORK, Work
from tests import forked
from tests.train.objectives_worker import run
from tests.train.one_step import quiet_trainer, step_gradients
from tests.train.oracle_fp64 import (
    gradients,
    in_fp64,
    pairs_of,
    relative_difference,
    sequence_logps,
)
from tests.train.small import Stream, text_rows, tiny_llama
from tests.train.whole_runs import differences, lines_of, trainer_for

FIELDS = {"output_dir", "objective", "orpo_alpha", "orpo_beta", "dpo_beta", "use_cpu"}
OBJECTIVES = ("orpo", "sft", "dpo")
ENGINES = ("shared", "padded")


def config(**settings: Any) -> ORPOConfig:
    return ORPOConfig(output_dir="unused", use_cpu=True, report_to="none", **settings)


def trainer_of(folder: Path, objective: str, **settings: Any) -> ORPOTrainer:
    return trainer_for(folder, **{"objective": objective, "orpo_alpha": None, **settings})


class TestSettings:
    @pytest.mark.parametrize(
        ("objective", "strengths"),
        [("orpo", (0.1, 1.0, None)), ("sft", (None, None, None)), ("dpo", (None, None, 0.1))],
    )
    def test_only_its_own_strengths_have_defaults(
        self, objective: str, strengths: tuple[float | None, ...]
    ) -> None:
        args = config(objective=objective)
        assert (args.orpo_alpha, args.orpo_beta, args.dpo_beta) == strengths
        assert unused_strengths(args) == []
        again = ORPOConfig(**{k: v for k, v in args.to_dict().items() if k in FIELDS})
        assert (again.orpo_alpha, again.orpo_beta, again.dpo_beta) == strengths

    @pytest.mark.parametrize(
        ("objective", "given"),
        [("sft", ["orpo_alpha"]), ("dpo", ["orpo_alpha", "orpo_beta"]), ("orpo", ["dpo_beta"])],
    )
    def test_those_of_others_are_said_to_be_unused(
        self, tmp_path: Path, objective: str, given: list[str]
    ) -> None:
        trainer = trainer_of(tmp_path, objective, **dict.fromkeys(given, 0.3))
        said = [note for note in trainer.notes if "is not used" in note]
        assert said == [f"{name} is not used: the objective is {objective}" for name in given]

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"objective": "kto"}, "objective: 'kto' is none of orpo, sft, dpo"),
            ({"objective": "dpo", "dpo_beta": 0.0}, "dpo_beta: must be positive, is 0.0"),
            ({"objective": "dpo", "beta": 0.1}, "the objective is dpo. Use dpo_beta."),
            ({"objective": "sft", "beta": 0.1}, "the objective is sft. Leave it out."),
        ],
    )
    def test_what_cannot_be_meant_is_refused_in_one_line(
        self, settings: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            config(**settings)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("which", ["train_dataset", "eval_dataset", "eval_dataset[b]"])
    def test_dpo_refuses_a_stream(self, tmp_path: Path, which: str) -> None:
        stream = Stream(text_rows(5))
        given = {"eval_dataset[b]": {"eval_dataset": {"a": text_rows(3), "b": stream}}}
        with pytest.raises(ConfigError, match="and a stream has no end") as caught:
            trainer_of(tmp_path, "dpo", max_steps=2, **given.get(which, {which: stream}))
        assert caught.value.where == which

    def test_sft_takes_a_stream(self, tmp_path: Path) -> None:
        rows = text_rows(11)
        losses = []
        for name, data in (("rows", rows), ("stream", Stream(rows))):
            settings = {"train_dataset": data, "train_sampling_strategy": "sequential"}
            trainer = trainer_of(tmp_path / name, "sft", max_steps=2, logging_steps=1, **settings)
            trainer.train()
            losses.append([line["loss"] for line in lines_of(tmp_path / name) if "loss" in line])
        assert losses[0] == losses[1]


# The numbers


@pytest.mark.parametrize("nll_scope", ["sequence", "completion"])
@pytest.mark.parametrize("engine", ENGINES)
def test_sft_is_orpo_without_preference(tmp_path: Path, engine: str, nll_scope: str) -> None:
    settings = {"engine": engine, "nll_scope": nll_scope, "per_device_train_batch_size": 4}
    settings["gradient_accumulation_steps"] = 2
    sft = step_gradients(str(tmp_path / "a"), objective="sft", orpo_alpha=None, **settings)
    orpo = step_gradients(str(tmp_path / "b"), orpo_alpha=0.0, **settings)
    assert relative_difference(sft, orpo) < 1e-6
    trainer = quiet_trainer(ORPOTrainer, str(tmp_path / "c"), train_dataset=text_rows())
    exact = gradients(tiny_llama(), pairs_of(trainer.train_dataset), alpha=0.0, nll_scope=nll_scope)
    assert relative_difference(sft, exact) < 1e-5
    preferred = gradients(
        tiny_llama(), pairs_of(trainer.train_dataset), alpha=0.01, nll_scope=nll_scope
    )
    assert relative_difference(sft, preferred) > 1e-4  # the check would notice


def test_the_same_numbers_give_sft_and_orpo_without_preference_the_same_gradient() -> None:
    """To the bit, from the log-probabilities on."""

    def share(parts: StepLoss) -> list[Tensor]:
        torch.manual_seed(0)
        sums = [(-50 * torch.rand(5, dtype=torch.float64)).requires_grad_() for _ in range(3)]
        counts = torch.tensor([3, 9, 2, 7, 5])
        logps = PairLogps(sums[0], counts, sums[1], counts.flip(0), -sums[2], counts + 4)
        loss = parts.share(logps, torch.tensor([46, 5, 5]))
        found = torch.autograd.grad(loss, sums, materialize_grads=True, allow_unused=True)
        return [loss.detach(), *found]

    sft, orpo = share(StepLoss(0.7, 1.0, objective="sft")), share(StepLoss(0.0, 1.0))
    assert all(torch.equal(a, b) for a, b in zip(sft, orpo, strict=True))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_engines_and_splits_take_the_same_steps(tmp_path: Path, objective: str) -> None:
    """Three steps each: one micro-batch or many, prompts shared or not."""
    runs = {}
    for name, settings in {
        "at once": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1},
        "split": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
        "by tokens": {"per_device_train_batch_size": 4, "max_tokens_per_microbatch": 60},
        "padded": {"per_device_train_batch_size": 4, "engine": "padded"},
    }.items():
        given = {"gradient_accumulation_steps": 1, **settings, "train_dataset": text_rows(12)}
        trainer = trainer_of(
            tmp_path / name, objective, max_steps=3, logging_steps=1, save_strategy="no", **given
        )
        trainer.train()
        runs[name] = [line for line in lines_of(tmp_path / name) if "loss" in line]
    first = runs.pop("at once")
    for name, lines in runs.items():
        for ours, expected in zip(lines, first, strict=True):
            if objective == "dpo" and ours["step"] == 1:  # rounding decides between equals
                ours["rewards/accuracies"] = expected["rewards/accuracies"]
            assert ours == pytest.approx(expected, rel=1e-3, abs=2e-5), name


COMMON = {"logps/chosen", "logps/rejected", "log_odds_chosen"}
REWARDS = {f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")}
SUMS = {"logps_sum/chosen", "logps_sum/rejected"}
TRAINED = {
    "orpo": {"nll_loss", "log_odds_ratio", *COMMON, *REWARDS},
    "sft": {"nll_loss", "logps/chosen"},
    "dpo": {"preference_accuracy", *COMMON, *REWARDS, *SUMS},
}
EVALUATED = {
    "orpo": TRAINED["orpo"],
    "sft": {"nll_loss", "preference_accuracy", *COMMON},
    "dpo": {"nll_loss", *TRAINED["dpo"]},
}
_OTHERS = {"step", "epoch", "loss", "grad_norm", "learning_rate"}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_was_not_computed_is_not_logged(tmp_path: Path, objective: str) -> None:
    trainer = trainer_of(tmp_path, objective, max_steps=2, eval_strategy="steps", eval_steps=2)
    trainer.train()
    line = next(line for line in lines_of(tmp_path) if "loss" in line)
    assert line.keys() - _OTHERS == TRAINED[objective]
    evaluated = next(line for line in lines_of(tmp_path) if "eval_loss" in line)
    names = {name.removeprefix("eval_") for name in evaluated} - _OTHERS
    assert {name for name in names if "per_second" not in name} == EVALUATED[objective]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_held_out_figures_are_those_of_the_definition_under_every_objective(
    tmp_path: Path, objective: str
) -> None:
    trainer = trainer_of(tmp_path, objective, max_steps=3, save_strategy="no")
    trainer.train()
    metrics = trainer.evaluate()
    model = in_fp64(trainer.model)
    answers = []
    with torch.no_grad():
        for prompt, chosen, rejected in pairs_of(trainer.eval_dataset):
            both = (
                sequence_logps(model, prompt + ids)[len(prompt) - 1 :] for ids in (chosen, rejected)
            )
            answers.append([float(logps.mean()) for logps in both])
    chosen, rejected = (sum(side) / len(answers) for side in zip(*answers, strict=True))
    accuracy = sum(w > other for w, other in answers) / len(answers)
    name = "rewards/accuracies" if objective == "orpo" else "preference_accuracy"
    assert metrics["eval_logps/chosen"] == pytest.approx(chosen, rel=1e-5)
    assert metrics["eval_logps/rejected"] == pytest.approx(rejected, rel=1e-5)
    assert metrics[f"eval_{name}"] == accuracy


class Seen(TrainerCallback):
    """Token ids that went through a model while it was training, and while it was not."""

    def __init__(self, model: nn.Module) -> None:
        self.ids: dict[bool, list[Tensor]] = {True: [], False: []}
        model.register_forward_pre_hook(self._look, with_kwargs=True)

    def _look(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.ids[module.training].append(kwargs["input_ids"].clone())

    def tokens(self, *, training: bool) -> set[int]:
        return {int(i) for ids in self.ids[training] for i in ids.unique()}


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """No trial passes of the memory estimate."""
    monkeypatch.setattr("orpo.train.trainer.make_plan", lambda *_: Plan(10**6, False))


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("engine", ENGINES)
def test_sft_computes_no_rejected_answer(tmp_path: Path, engine: str) -> None:
    rows = [{**row, "rejected": "#" * 9} for row in text_rows(11)]
    model = tiny_llama()
    trainer = trainer_of(
        tmp_path, "sft", engine=engine, model=model, train_dataset=rows, eval_dataset=rows
    )
    seen = Seen(model)
    trainer.train()
    trainer.evaluate()
    (hash_token,) = trainer.processing_class("#")["input_ids"]
    assert hash_token not in seen.tokens(training=True)
    assert hash_token in seen.tokens(training=False)
    if engine == "padded":  # nor a prompt on its own
        steps = trainer.state.max_steps
        assert sum(len(ids) for ids in seen.ids[True]) == trainer.work.pairs
        assert steps == trainer.work.steps


def test_rows_without_rejected_answer_are_told_to_teach_dpo_nothing(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*text_rows(9)]
    rows[2] = {**rows[2], "rejected": None}
    settings = {"max_steps": 3, "logging_steps": 3, "train_sampling_strategy": "sequential"}
    trainer = trainer_of(tmp_path, "dpo", train_dataset=rows, **settings)
    assert "1 rows without rejected answer teach nothing: the objective is dpo" in trainer.notes
    trainer.train()
    assert trainer.work.sequences_trained == 2 * trainer.work.pairs - 1


# The reference


class TestReference:
    def test_is_asked_once_and_before_the_first_step(self, tmp_path: Path) -> None:
        model = tiny_llama()
        trainer = trainer_of(tmp_path, "dpo", model=model, max_steps=6, logging_steps=1)
        seen = Seen(model)
        before = trainer.evaluate()
        asked = len(seen.ids[False])
        assert before["eval_loss"] == pytest.approx(0.6931471805599453, rel=1e-9)
        assert before["eval_rewards/margins"] == 0
        trainer.train()
        of_training = len(seen.ids[False]) - asked
        assert 0 < of_training <= 2  # the evaluation's answers were known
        first = next(line for line in lines_of(tmp_path) if "loss" in line)
        assert first["rewards/margins"] == pytest.approx(0, abs=1e-6)
        again = len(seen.ids[False])
        after = trainer.evaluate()
        assert after["eval_rewards/margins"] != 0
        assert len(seen.ids[False]) - again == asked // 2  # the model, not its reference

    def test_is_the_model_that_a_second_training_begins_with(self, tmp_path: Path) -> None:
        trainer = trainer_of(tmp_path, "dpo", max_steps=2, logging_steps=1)
        trainer.train()
        trainer.train()
        first = next(line for line in lines_of(tmp_path) if "loss" in line)
        assert first["rewards/margins"] == pytest.approx(0, abs=1e-6)

    def test_of_data_that_come_too_late_is_not_known(self, tmp_path: Path) -> None:
        trainer = trainer_of(tmp_path, "dpo", max_steps=1)
        trainer.train()
        trainer.evaluate()
        with pytest.raises(ConfigError, match="come from the model before training") as caught:
            trainer.evaluate(text_rows(7)[3:])
        assert "\n" not in str(caught.value)

    def test_several_evaluation_sets_have_one_each(self, tmp_path: Path) -> None:
        sets = {"a": text_rows(5), "b": text_rows(9)[5:]}
        trainer = trainer_of(tmp_path, "dpo", eval_dataset=sets, max_steps=2)
        trainer.train()
        metrics = trainer.evaluate()
        for name, rows in sets.items():
            alone = trainer_of(tmp_path / name, "dpo", eval_dataset=rows, max_steps=2)
            alone.train()
            wanted = alone.evaluate()["eval_rewards/margins"]
            assert metrics[f"eval_{name}_rewards/margins"] == pytest.approx(wanted, rel=1e-6)
        assert {*trainer.eval_dataset} == {*sets}

    def test_has_the_same_precision_as_training(self, tmp_path: Path) -> None:
        trainer = trainer_of(tmp_path, "dpo", bf16=True, max_steps=1, logging_steps=1)
        trainer.train()
        first = next(line for line in lines_of(tmp_path) if "loss" in line)
        assert first["rewards/margins"] == pytest.approx(0, abs=2e-3)

    def test_dropout_does_not_change_it(self, tmp_path: Path) -> None:
        """The reference is no random network, and asking it draws nothing from training."""
        given = {"disable_dropout": False, "engine": "padded", "max_steps": 1}
        sums = []
        for name, dropout in (("a", 0.0), ("b", 0.5)):
            model = tiny_llama(attention_dropout=dropout)
            trainer = trainer_of(tmp_path / name, "dpo", model=model, **given)
            trainer.train()
            sums.append(torch.cat([*trainer.reference.sums.values()]))
        assert torch.equal(*sums)


# A stop changes nothing


class TestResume:
    SETTINGS: ClassVar[dict[str, Any]] = {"max_steps": 6, "save_steps": 2, "logging_steps": 1}

    def stopped(self, tmp_path: Path, objective: str, step: int = 4) -> Path:
        """A finished run, and beside it the folder of one that was killed after some steps."""
        whole, folder = tmp_path / "whole", tmp_path / "run"
        evaluate = {"eval_strategy": "steps", "eval_steps": 3}
        trainer = trainer_of(whole, objective, **self.SETTINGS, **evaluate)
        trainer.train()
        trainer.save_model()
        folder.mkdir()
        for name in ("recipe.yaml", "metrics.jsonl"):
            shutil.copy(whole / name, folder)
        shutil.copytree(whole / f"checkpoint-{step}", folder / f"checkpoint-{step}")
        return folder

    def resumed(self, folder: Path, objective: str, **settings: Any) -> ORPOTrainer:
        evaluate = {"eval_strategy": "steps", "eval_steps": 3}
        trainer = trainer_of(folder, objective, **{**self.SETTINGS, **evaluate, **settings})
        trainer.train(resume_from_checkpoint=True)
        trainer.save_model()
        return trainer

    @pytest.mark.parametrize("objective", OBJECTIVES)
    @pytest.mark.parametrize("step", [2, 4])
    def test_to_the_bit(self, tmp_path: Path, objective: str, step: int) -> None:
        folder = self.stopped(tmp_path, objective, step)
        trainer = self.resumed(folder, objective)
        assert not differences(folder, tmp_path / "whole")
        works = [json.loads((path / WORK).read_text()) for path in (folder, tmp_path / "whole")]
        assert works[0] == works[1] == trainer.work.as_dict()

    def test_a_reference_of_the_trained_weights_would_be_noticed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = self.stopped(tmp_path, "dpo")

        def later(self: Reference, checkpoint: Path, data: dict[str, Any]) -> None:
            model = tiny_llama()
            model.load_state_dict(load_file(checkpoint / "model.safetensors"), strict=False)
            kept, trainer.model = trainer.model, model
            self.begin(model, data)
            trainer.model = kept

        evaluate = {"eval_strategy": "steps", "eval_steps": 3}
        trainer = trainer_of(folder, "dpo", **self.SETTINGS, **evaluate)
        monkeypatch.setattr(Reference, "go_on_from", later)
        trainer.train(resume_from_checkpoint=True)
        trainer.save_model()
        assert differences(folder, tmp_path / "whole")

    def test_the_checkpoint_holds_it_and_vouches_for_it(self, tmp_path: Path) -> None:
        folder = self.stopped(tmp_path, "dpo")
        path = folder / "checkpoint-4" / REFERENCE
        flipped = bytearray(path.read_bytes())
        flipped[-3] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match=REFERENCE):
            self.resumed(folder, "dpo")

    @pytest.mark.parametrize("changed", ["train_dataset", "eval_dataset"])
    def test_other_data_are_refused(self, tmp_path: Path, changed: str) -> None:
        folder = self.stopped(tmp_path, "dpo")
        given = {changed: text_rows(13)[2:], "resume_changed": True}
        with pytest.raises(ConfigError, match="reference log-probabilities are not known"):
            self.resumed(folder, "dpo", **given)

    def test_another_objective_is_another_run(self, tmp_path: Path) -> None:
        folder = self.stopped(tmp_path, "sft")
        with pytest.raises(ConfigError, match="objective sft -> orpo"):
            self.resumed(folder, "orpo")


# Work


class Products(TorchDispatchMode):
    """Counts the operations of matrix products with weights: two-dimensional ones."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm"):
            left, right = args[-2:]
            self.flops += 2 * left.shape[0] * left.shape[1] * right.shape[1]
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_flops_are_those_of_the_products_that_were_made(
    tmp_path: Path, objective: str, engine: str
) -> None:
    """Counted by PyTorch's dispatcher while the run goes on; attention's are batched products."""
    trainer = trainer_of(
        tmp_path,
        objective,
        engine=engine,
        eval_dataset=None,
        max_steps=3,
        save_strategy="no",
    )
    with Products() as products:
        trainer.train()
    assert trainer.work.flops == pytest.approx(products.flops, rel=1e-9)


def common_prefix(a: list[int], b: list[int]) -> int:
    same = [x == y for x, y in zip(a, b, strict=False)]
    return same.index(False) if False in same else len(same)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_sequences_and_positions_are_those_of_the_rows(tmp_path: Path, objective: str) -> None:
    """Two epochs over twelve rows."""
    trainer = trainer_of(
        tmp_path,
        objective,
        train_dataset=text_rows(12),
        max_steps=-1,
        num_train_epochs=2,
        save_strategy="no",
    )
    trainer.train()
    prompts, shared, answers = 0, 0, 0
    for prompt, chosen, rejected in pairs_of(trainer.train_dataset):
        both = [prompt + chosen, prompt + rejected]
        prompts += len(prompt) + len(chosen)
        shared += sum(map(len, both)) - common_prefix(*both)
        answers += len(chosen) + len(rejected)
    work = trainer.work
    assert (work.steps, work.pairs) == (6, 24)
    assert work.positions_trained == 2 * (prompts if objective == "sft" else shared)
    wanted = {"orpo": (2, 2), "sft": (1, 1), "dpo": (3, 4)}  # asked once for two epochs
    assert (work.passes_per_pair, work.live_passes_per_pair) == wanted[objective]
    assert work.positions_scored == (shared if objective == "dpo" else 0)
    told = json.loads((tmp_path / WORK).read_text())
    assert told == work.as_dict()
    both_stages = work + work
    assert (both_stages.steps, both_stages.flops) == (12, 2 * work.flops)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # by peft
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_adapter_trains_and_its_frozen_weights_cost_less(tmp_path: Path, objective: str) -> None:
    from peft import LoraConfig

    works: list[Work] = []
    for name, adapter in (("whole", None), ("lora", LoraConfig(r=4, target_modules="all-linear"))):
        trainer = trainer_of(
            tmp_path / name, objective, peft_config=adapter, max_steps=3, logging_steps=1
        )
        trainer.train()
        losses = [line["loss"] for line in lines_of(tmp_path / name) if "loss" in line]
        assert losses[-1] < losses[0]
        works.append(trainer.work)
    whole, lora = works
    assert whole.positions_trained == lora.positions_trained
    assert 0.6 < lora.flops / whole.flops < 0.95  # DPO's reference costs the same


# Two ranks


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two real processes found, talking over gloo."""
    out = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        forked.two_ranks("tests.train.objectives_worker", out),
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_two_ranks_train_as_one(tmp_path: Path, two_ranks: Path, objective: str) -> None:
    alone = run(tmp_path, objective, ranks=1)
    both = json.loads((two_ranks / f"{objective}.json").read_text())
    weights, start = load_file(two_ranks / f"{objective}.safetensors"), tiny_llama()
    moved = {n: p.detach() - alone["weights"][n] for n, p in start.named_parameters()}
    apart = sum(float((weights[n] - w).square().sum()) for n, w in alone["weights"].items())
    assert apart < 1e-6 * sum(float(one.square().sum()) for one in moved.values())
    assert both["work"] == alone["work"]
    assert both["reference"].keys() == alone["reference"].keys()
    for key, sums in alone["reference"].items():
        assert torch.tensor(both["reference"][key]).numpy() == pytest.approx(
            torch.tensor(sums).numpy(), rel=1e-6
        )
    for name, value in {**alone["log"][1], **alone["evaluation"]}.items():
        theirs = {**both["log"][1], **both["evaluation"]}[name]
        if not any(part in name for part in ("runtime", "per_second", "preparation", "grad_norm")):
            assert theirs == pytest.approx(value, rel=1e-4, abs=1e-5), name
