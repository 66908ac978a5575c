"""DPO beside TRL's DPOTrainer, step by step, and beside the definition in float64.

`pytest tests/train/test_dpo_parity.py -rP` prints the differences.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import TrainerCallback

from orpo import ORPOTrainer
from orpo.engine import head
from orpo.train.reference import WITH_REFERENCE
from tests.train.one_step import quiet_trainer
from tests.train.oracle_fp64 import Pair, in_fp64, pairs_of, relative_difference, sequence_logps
from tests.train.small import byte_tokenizer, text_rows, tiny_llama

BETA = 0.3
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "dpo_parity.py"


class Watch(TrainerCallback):
    """Keeps the weights and the gradients of every step, as the optimizer is about to see them."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.gradients: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, *args: Any, model: Any, **kwargs: Any) -> None:
        trained = [(n, p) for n, p in model.named_parameters() if p.grad is not None]
        self.weights.append({n: p.detach().clone() for n, p in trained})
        self.gradients.append({n: p.grad.clone() for n, p in trained})


def answer_sums(model: nn.Module, pair: Pair) -> list[Tensor]:
    """log p(y_w|x) and log p(y_l|x), one sequence at a time, in float64."""
    prompt, *answers = pair
    both = (sequence_logps(model, prompt + answer) for answer in answers)
    return [logps[len(prompt) - 1 :].sum() for logps in both]


def dpo(policy: nn.Module, reference: nn.Module, pairs: list[Pair], beta: float) -> dict[str, Any]:
    """Eq. 7 of arXiv 2305.18290 as written: -log sigma(beta log pi/ref(w) - beta log pi/ref(l))."""
    losses, rewards = [], []
    for pair in pairs:
        now, (was_w, was_l) = answer_sums(policy, pair), answer_sums(reference, pair)
        chosen, rejected = beta * (now[0] - was_w.detach()), beta * (now[1] - was_l.detach())
        losses.append(torch.log(1 + torch.exp(rejected - chosen)))
        rewards.append((float(chosen.detach()), float(rejected.detach())))
    chosen, rejected = (sum(r) / len(pairs) for r in zip(*rewards, strict=True))
    return {
        "loss": torch.stack(losses).mean(),
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": sum(w > other for w, other in rewards) / len(pairs),
    }


SPLITS: dict[str, dict[str, Any]] = {
    "8 pairs at once": {"per_device_train_batch_size": 8},
    "1 pair, 8 times": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
    "by tokens": {"per_device_train_batch_size": 8, "max_tokens_per_microbatch": 120},
    "padded, by tokens": {
        "per_device_train_batch_size": 8,
        "engine": "padded",
        "max_tokens_per_microbatch": 200,
    },
}


def trained(folder: Path, watch: Watch, **settings: Any) -> ORPOTrainer:
    """Two steps over the same eight pairs: in the second the model is not its reference."""
    trainer = quiet_trainer(
        ORPOTrainer,
        str(folder),
        train_dataset=text_rows(),
        objective="dpo",
        orpo_alpha=None,
        dpo_beta=BETA,
        max_steps=2,
        num_train_epochs=2,
        learning_rate=1e-3,
        warmup_steps=0,
        logging_steps=1,
        callbacks=[watch],
        **settings,
    )
    trainer.train()
    return trainer


def check(trainer: ORPOTrainer, watch: Watch, start: nn.Module) -> float:
    """The second step's loss, rewards and gradient beside float64; the gradient's difference."""
    pairs = pairs_of(trainer.train_dataset)
    policy = in_fp64(start)
    policy.load_state_dict(watch.weights[1], strict=False)
    expected = dpo(policy, in_fp64(start), pairs, BETA)
    expected["loss"].backward()
    first, second = (line for line in trainer.state.log_history if "loss" in line)
    assert first["loss"] == pytest.approx(0.693147180, rel=1e-6)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert abs(second["rewards/margins"]) > 1e-3  # or nothing would be compared
    for name, value in expected.items():
        assert second[name] == pytest.approx(
            float(torch.as_tensor(value).detach()), rel=1e-5, abs=1e-6
        )
    grads = {n: p.grad for n, p in policy.named_parameters() if n in watch.gradients[1]}
    return relative_difference(watch.gradients[1], grads)


def adapted() -> nn.Module:
    """An adapter that is not zero: it is a part of the reference."""
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(tiny_llama(), config)  # which seeds


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # by peft
@pytest.mark.parametrize("split", [*SPLITS, "an adapter"])
def test_every_split_has_the_gradient_of_the_definition(tmp_path: Path, split: str) -> None:
    watch, make = Watch(), adapted if split == "an adapter" else tiny_llama
    settings = SPLITS.get(split, SPLITS["8 pairs at once"])
    trainer = trained(tmp_path, watch, model=make(), **settings)
    difference = check(trainer, watch, make())
    print(f"{split}: {difference:.1e}")
    assert difference < 1e-5
    if split == "an adapter":
        (found,) = trainer.reference.sums.values()
        with torch.no_grad():
            base = [answer_sums(in_fp64(tiny_llama()), p) for p in pairs_of(trainer.train_dataset)]
        assert (found - torch.tensor(base)).abs().max() > 1e-2


@pytest.mark.parametrize(
    "planted", ["no reference", "the reference follows", "averages", "answers swapped"]
)
def test_the_check_rejects_planted_mistakes(
    tmp_path: Path, planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = head.as_pair_logps

    def wrong(*args: Any) -> Any:
        logps = right(*args)
        if logps.reference_chosen is None:
            return logps
        both = [logps.reference_chosen, logps.reference_rejected]
        if planted == "no reference":
            both = [0 * one for one in both]
        elif planted == "the reference follows":
            both = [logps.chosen_sum.detach(), logps.rejected_sum.detach()]
        elif planted == "averages":
            both = [both[0] / logps.chosen_tokens, both[1] / logps.rejected_tokens]
        else:
            both.reverse()
        return right(args[0], args[1], dict(zip(WITH_REFERENCE, both, strict=True)))

    for place in ("head", "fused_head"):
        monkeypatch.setattr(f"orpo.engine.{place}.as_pair_logps", wrong)
    watch = Watch()
    trainer = trained(tmp_path, watch, per_device_train_batch_size=8)
    with pytest.raises(AssertionError):
        assert check(trainer, watch, tiny_llama()) < 1e-5


# TRL


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """benchmarks/dpo_parity.py, which prints the same comparison for any model."""
    spec = importlib.util.spec_from_file_location("dpo_parity", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dpo_parity"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_trl_takes_the_same_steps(script: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="the comparison needs the bench extra")
    tiny_llama(tie_word_embeddings=True).save_pretrained(tmp_path)
    byte_tokenizer(pad_token="</s>").save_pretrained(tmp_path)
    start = str(tmp_path)
    setting = script.Setting(start, text_rows(16), 6, 4, 2, BETA, 1e-3)
    theirs = script.trl_side(setting)
    model, _ = script.parts(start)
    for engine in ("shared", "padded"):
        found = script.differences(script.orpo_side(setting, engine=engine), theirs, model)
        print(f"{engine}, two batches a step: {found}")
        assert found["same_token_ids"]
        assert found["loss"] < 1e-5
        assert found["margins"] < 1e-4
        assert found["weights"] < 1e-3
    assert theirs.steps[-1]["loss"] < 0.6  # they did learn
    other = script.Setting(start, text_rows(16), 6, 4, 2, 1.1 * BETA, 1e-3)
    wrong = script.differences(script.orpo_side(other), theirs, model)
    assert wrong["loss"] > 1e-3
    assert wrong["weights"] > 1e-2
