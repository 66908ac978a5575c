"""What is trained, what is logged of it, what it costs, and that a stop changes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from orpo import ConfigError, ORPOConfig, ORPOTrainer
from orpo.errors import CheckpointError
from orpo.settings import unused_strengths
from orpo.train.memory import Plan
from orpo.train.reference import REFERENCE, Reference
from orpo.train.work import WORK
from tests.train.jobs import on_two_ranks
from tests.train.one_step import quiet_trainer, step_gradients
from tests.train.oracle_fp64 import (
    gradients,
    in_fp64,
    pairs_of,
    relative_difference,
    sequence_logps,
)
from tests.train.small import Stream, text_rows, tiny_llama
from tests.train.whole_runs import (
    differences,
    finished,
    flip_a_bit,
    lines_of,
    looks_killed,
    losses_of,
    trainer_for,
)

FIELDS = {"output_dir", "objective", "orpo_alpha", "orpo_beta", "dpo_beta", "use_cpu"}
OBJECTIVES = ("orpo", "sft", "dpo")
ENGINES = ("shared", "padded")


def trainer_of(folder: Path, objective: str, **settings: Any) -> ORPOTrainer:
    return trainer_for(folder, **{"objective": objective, "orpo_alpha": None, **settings})


def trained(folder: Path, objective: str, **settings: Any) -> ORPOTrainer:
    trainer = trainer_of(folder, objective, **{"save_strategy": "no", **settings})
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("objective", "strengths", "unused"),
    [
        ("orpo", (0.1, 1.0, None), ["dpo_beta"]),
        ("sft", (None, None, None), ["orpo_alpha"]),
        ("dpo", (None, None, 0.1), ["orpo_alpha", "orpo_beta"]),
    ],
)
def test_only_its_own_strengths_have_defaults_and_others_are_said_to_be_unused(
    tmp_path: Path, objective: str, strengths: tuple[float | None, ...], unused: list[str]
) -> None:
    args = ORPOConfig(output_dir="unused", use_cpu=True, report_to="none", objective=objective)
    again = ORPOConfig(**{k: v for k, v in args.to_dict().items() if k in FIELDS})
    for one in (args, again):
        assert (one.orpo_alpha, one.orpo_beta, one.dpo_beta) == strengths
    assert unused_strengths(args) == []
    trainer = trainer_of(tmp_path, objective, **dict.fromkeys(unused, 0.3))
    said = [note for note in trainer.notes if "is not used" in note]
    assert said == [f"{name} is not used: the objective is {objective}" for name in unused]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "kto"}, "objective: 'kto' is none of orpo, sft, dpo"),
        ({"objective": "dpo", "dpo_beta": 0.0}, "dpo_beta: must be positive, is 0.0"),
        ({"objective": "dpo", "beta": 0.1}, "the objective is dpo. Use dpo_beta."),
        ({"objective": "sft", "beta": 0.1}, "the objective is sft. Leave it out."),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ORPOConfig(output_dir="unused", **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dpo_refuses_a_stream_and_sft_takes_it(tmp_path: Path) -> None:
    rows, stream = text_rows(11), Stream(text_rows(11))
    for where, given in (
        ("train_dataset", {"train_dataset": stream}),
        ("eval_dataset", {"eval_dataset": stream}),
        ("eval_dataset[b]", {"eval_dataset": {"a": text_rows(3), "b": stream}}),
    ):
        with pytest.raises(ConfigError, match="and a stream has no end") as caught:
            trainer_of(tmp_path, "dpo", max_steps=2, **given)
        assert caught.value.where == where
    plan = {"max_steps": 2, "logging_steps": 1, "train_sampling_strategy": "sequential"}
    ours, theirs = (
        trained(tmp_path / str(n), "sft", train_dataset=data, **plan)
        for n, data in enumerate((rows, stream))
    )
    assert [line["loss"] for line in losses_of(ours)] == [x["loss"] for x in losses_of(theirs)]


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
    exact, preferred = (
        gradients(tiny_llama(), pairs_of(trainer.train_dataset), alpha=alpha, nll_scope=nll_scope)
        for alpha in (0.0, 0.01)
    )
    assert relative_difference(sft, exact) < 1e-5
    assert relative_difference(sft, preferred) > 1e-4  # the check would notice


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
def test_what_is_logged_was_computed_and_held_out_figures_are_those_of_the_definition(
    tmp_path: Path, objective: str
) -> None:
    trainer = trained(tmp_path, objective, max_steps=2)
    metrics = trainer.evaluate()
    line, evaluated = (
        next(line for line in lines_of(tmp_path) if name in line) for name in ("loss", "eval_loss")
    )
    assert line.keys() - _OTHERS == TRAINED[objective]
    names = {name.removeprefix("eval_") for name in evaluated} - _OTHERS
    assert names == EVALUATED[objective]
    model, answers = in_fp64(trainer.model), []
    with torch.no_grad():
        for prompt, *both in pairs_of(trainer.eval_dataset):
            found = (sequence_logps(model, prompt + ids)[len(prompt) - 1 :] for ids in both)
            answers.append([float(logps.mean()) for logps in found])
    chosen, rejected = (sum(side) / len(answers) for side in zip(*answers, strict=True))
    name = "rewards/accuracies" if objective == "orpo" else "preference_accuracy"
    assert metrics["eval_logps/chosen"] == pytest.approx(chosen, rel=1e-5)
    assert metrics["eval_logps/rejected"] == pytest.approx(rejected, rel=1e-5)
    assert metrics[f"eval_{name}"] == sum(w > other for w, other in answers) / len(answers)


class Seen:
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
    plan = {"engine": engine, "train_dataset": rows, "eval_dataset": rows, "max_steps": 1}
    trainer = trainer_of(tmp_path, "sft", **plan)
    seen = Seen(trainer.model)
    trainer.train()
    trainer.evaluate()
    (hash_token,) = trainer.processing_class("#")["input_ids"]
    assert hash_token not in seen.tokens(training=True)
    assert hash_token in seen.tokens(training=False)
    if engine == "padded":  # nor a prompt on its own
        assert sum(len(ids) for ids in seen.ids[True]) == trainer.work.pairs


def test_rows_without_rejected_answer_are_told_to_teach_dpo_nothing(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*text_rows(9)]
    rows[2] = {**rows[2], "rejected": None}
    plan = {"max_steps": 3, "train_sampling_strategy": "sequential"}
    trainer = trained(tmp_path, "dpo", train_dataset=rows, **plan)
    assert "1 rows without rejected answer teach nothing: the objective is dpo" in trainer.notes
    assert trainer.work.sequences_trained == 2 * trainer.work.pairs - 1


# The reference


class TestReference:
    def test_is_asked_once_of_the_model_that_a_training_begins_with(self, tmp_path: Path) -> None:
        trainer = trainer_of(tmp_path, "dpo", max_steps=2, logging_steps=1, save_strategy="no")
        seen = Seen(trainer.model)
        before = trainer.evaluate()
        asked = len(seen.ids[False])
        assert before["eval_loss"] == pytest.approx(0.6931471805599453, rel=1e-9)
        assert before["eval_rewards/margins"] == 0
        trainer.train()
        of_training = len(seen.ids[False]) - asked
        assert 0 < of_training <= 2  # the evaluation's answers were known
        assert losses_of(trainer)[0]["rewards/margins"] == pytest.approx(0, abs=1e-6)
        again = len(seen.ids[False])
        after = trainer.evaluate()
        assert after["eval_rewards/margins"] != 0
        assert len(seen.ids[False]) - again == asked // 2  # the model, not its reference
        trainer.train()
        assert losses_of(trainer)[0]["rewards/margins"] == pytest.approx(0, abs=1e-6)
        with pytest.raises(ConfigError, match="come from the model before training") as caught:
            trainer.evaluate(text_rows(7)[3:])
        assert "\n" not in str(caught.value)

    def test_several_evaluation_sets_have_one_each(self, tmp_path: Path) -> None:
        sets = {"a": text_rows(5), "b": text_rows(9)[5:]}
        trainer = trained(tmp_path, "dpo", eval_dataset=sets, max_steps=2)
        metrics = trainer.evaluate()
        for name, rows in sets.items():
            alone = trained(tmp_path / name, "dpo", eval_dataset=rows, max_steps=2)
            wanted = alone.evaluate()["eval_rewards/margins"]
            assert metrics[f"eval_{name}_rewards/margins"] == pytest.approx(wanted, rel=1e-6)
        assert {*trainer.eval_dataset} == {*sets}

    def test_has_the_same_precision_as_training(self, tmp_path: Path) -> None:
        trainer = trained(tmp_path, "dpo", bf16=True, max_steps=1)
        assert losses_of(trainer)[0]["rewards/margins"] == pytest.approx(0, abs=2e-3)

    def test_dropout_does_not_change_it(self, tmp_path: Path) -> None:
        """The reference is no random network, and asking it draws nothing from training."""
        plan = {"disable_dropout": False, "engine": "padded", "max_steps": 1}
        sums = []
        for dropout in (0.0, 0.5):
            model = tiny_llama(attention_dropout=dropout)
            trainer = trained(tmp_path / str(dropout), "dpo", model=model, **plan)
            sums.append(torch.cat([*trainer.reference.sums.values()]))
        assert torch.equal(*sums)


# A stop changes nothing


PLAN = {"max_steps": 6, "save_steps": 2, "logging_steps": 1, "eval_steps": 3}
PLAN |= {"eval_strategy": "steps", "save_strategy": "steps", "orpo_alpha": None}


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by each objective that nobody stopped."""
    folder = tmp_path_factory.mktemp("wholes")
    for objective in OBJECTIVES:
        finished(folder / objective, objective=objective, **PLAN)
    return folder


class TestResume:
    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_to_the_bit(self, wholes: Path, tmp_path: Path, objective: str) -> None:
        whole, folder = wholes / objective, tmp_path / "run"
        trainer = finished(looks_killed(whole, folder, 4), resume=True, objective=objective, **PLAN)
        assert not differences(folder, whole)
        told = [json.loads((path / WORK).read_text()) for path in (folder, whole)]
        assert told[0] == told[1] == trainer.work.as_dict()

    def test_a_reference_of_the_trained_weights_would_be_noticed(
        self, wholes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = looks_killed(wholes / "dpo", tmp_path / "run", 4)

        def later(self: Reference, checkpoint: Path, data: dict[str, Any]) -> None:
            model = tiny_llama()
            model.load_state_dict(load_file(checkpoint / "model.safetensors"), strict=False)
            kept, trainer.model = trainer.model, model
            self.begin(model, data)
            trainer.model = kept

        trainer = trainer_of(folder, "dpo", **PLAN)
        monkeypatch.setattr(Reference, "go_on_from", later)
        trainer.train(resume_from_checkpoint=True)
        trainer.save_model()
        assert differences(folder, wholes / "dpo")

    @pytest.mark.parametrize(
        ("objective", "changed", "message"),
        [
            ("dpo", {"train_dataset": text_rows(13)[2:]}, "reference log-probabilities are not"),
            ("dpo", {"eval_dataset": text_rows(13)[2:]}, "reference log-probabilities are not"),
            ("dpo", {}, REFERENCE),  # which the checkpoint vouches for
            ("sft", {"objective": "orpo", "resume_changed": False}, "objective sft -> orpo"),
        ],
    )
    def test_what_is_refused(
        self, wholes: Path, tmp_path: Path, objective: str, changed: Any, message: str
    ) -> None:
        folder = looks_killed(wholes / objective, tmp_path / "run", 4)
        if not changed:
            flip_a_bit(folder / "checkpoint-4" / REFERENCE)
        given = {"objective": objective, "resume_changed": True, **PLAN, **changed}
        with pytest.raises((ConfigError, CheckpointError), match=message):
            finished(folder, resume=True, **given)


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
    plan = {"eval_dataset": None, "max_steps": 3, "save_strategy": "no"}
    trainer = trainer_of(tmp_path, objective, engine=engine, **plan)
    with Products() as products:
        trainer.train()
    assert trainer.work.flops == pytest.approx(products.flops, rel=1e-9)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # by peft
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_work_is_that_of_the_rows_and_frozen_weights_cost_less(
    tmp_path: Path, objective: str
) -> None:
    """Two epochs over twelve rows, by the whole model and by an adapter."""
    plan = {"train_dataset": text_rows(12), "max_steps": -1, "num_train_epochs": 2}
    trainer = trained(tmp_path, objective, **plan)
    prompts, shared = 0, 0
    for prompt, chosen, rejected in pairs_of(trainer.train_dataset):
        alike = [a == b for a, b in zip(chosen, rejected, strict=False)]
        prompts += len(prompt) + len(chosen)
        shared += len(prompt) + len(chosen) + len(rejected) - [*alike, False].index(False)
    work = trainer.work
    assert (work.steps, work.pairs) == (6, 24)
    assert work.positions_trained == 2 * (prompts if objective == "sft" else shared)
    wanted = {"orpo": (2, 2), "sft": (1, 1), "dpo": (3, 4)}  # asked once for two epochs
    assert (work.passes_per_pair, work.live_passes_per_pair) == wanted[objective]
    assert work.positions_scored == (shared if objective == "dpo" else 0)
    assert json.loads((tmp_path / WORK).read_text()) == work.as_dict()
    assert ((work + work).steps, (work + work).flops) == (12, 2 * work.flops)
    adapter = LoraConfig(r=4, target_modules="all-linear")
    lora = trained(tmp_path / "lora", objective, peft_config=adapter, **plan)
    assert losses_of(lora)[-1]["loss"] < losses_of(lora)[0]["loss"]
    assert lora.work.positions_trained == work.positions_trained
    assert 0.6 < lora.work.flops / work.flops < 0.95  # DPO's reference costs the same


# Two ranks


def by_objective(out: Path) -> dict[str, Any]:
    """Two steps over eight rows; an evaluation over seven: a rank's share is filled up."""
    torch.distributed.init_process_group("gloo")
    return {objective: of_ranks(out / objective, objective, 2) for objective in ("sft", "dpo")}


def of_ranks(out: Path, objective: str, ranks: int) -> dict[str, Any]:
    trainer = quiet_trainer(
        ORPOTrainer,
        str(out),
        objective=objective,
        orpo_alpha=None,
        train_dataset=text_rows(8),
        eval_dataset=text_rows(7),
        per_device_train_batch_size=8 // ranks,
        per_device_eval_batch_size=2,
        num_train_epochs=2,
        max_steps=2,
        learning_rate=1e-3,
        warmup_steps=0,
        logging_steps=1,
    )
    trainer.train()
    return {
        "log": {**losses_of(trainer)[1], **trainer.evaluate()},
        "work": trainer.work.as_dict(),
        "reference": trainer.reference.sums,
        "weights": {n: p.detach().clone() for n, p in trainer.model.named_parameters()},
    }


@pytest.mark.slow
def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    both, _ = on_two_ranks(by_objective, tmp_path)
    for objective, found in both.items():
        alone, start = of_ranks(tmp_path / "alone", objective, 1), tiny_llama()
        weights = alone["weights"]
        apart = sum(float((found["weights"][n] - w).square().sum()) for n, w in weights.items())
        moved = (
            float((p.detach() - weights[n]).square().sum()) for n, p in start.named_parameters()
        )
        assert apart < 1e-6 * sum(moved)
        assert found["work"] == alone["work"]
        assert found["reference"].keys() == alone["reference"].keys()
        for key, sums in alone["reference"].items():
            torch.testing.assert_close(found["reference"][key], sums, rtol=1e-6, atol=0)
        for name, value in alone["log"].items():
            if not any(p in name for p in ("runtime", "per_second", "preparation", "grad_norm")):
                assert found["log"][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
