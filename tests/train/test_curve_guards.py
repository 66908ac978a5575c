"""A loss that jumps and a margin that collapses are said in words; ordinary curves are not."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from orpo import ORPOTrainer
from orpo.runs.curves import HISTORY, Series, loss_spike, loss_tripled, margin_collapse
from orpo.train.guards import CurveGuard
from tests.train.small import text_rows

Make = Callable[..., ORPOTrainer]
LOGS = 100


def windows(values: list[float], length: int) -> Iterator[list[float]]:
    for end in range(1, len(values) + 1):
        yield values[max(0, end - length) : end]


def test_ordinary_losses_raise_few_alarms() -> None:
    """Falling, flat, skewed and tiny losses with noise from 2 % to 30 %."""
    random, steps, alarms = np.random.default_rng(7), np.arange(LOGS), 0
    for number in range(400):
        noise = random.uniform(0.02, 0.3) * random.standard_normal(LOGS)
        falling = 1.2 + 1.3 * np.exp(-steps / random.uniform(5, 40))
        flat, tiny = 1.5 + noise, np.abs(0.02 + 0.1 * noise)
        losses = (falling * (1 + noise), falling * np.exp(noise), flat, tiny)[number % 4].tolist()
        alarms += any(loss_spike(window) for window in windows(losses, HISTORY + 1))
        curve = dict(enumerate(losses))
        alarms += any(
            loss_tripled(Series("loss", None, {i: curve[i] for i in range(end)}))
            for end in range(LOGS)
        )
    print(f"{alarms} of 400 ordinary loss curves were taken for spikes")
    assert alarms < 8


def test_ordinary_margins_raise_few_alarms() -> None:
    """Margins that grow, stay small, stay at nothing, or rise and settle, over 16 pairs a log."""
    random, steps, alarms = np.random.default_rng(8), np.arange(LOGS), 0
    rises = 1 - np.exp(-steps / 30)
    settles = np.exp(-(((steps - 30) / 20) ** 2))
    shapes = (
        (0.3 * rises, 0.5 + 0.35 * rises),
        (0.05 + 0 * steps, 0.56 + 0 * steps),
        (0.0 * steps, 0.5 + 0 * steps),
        (0.15 + 0.15 * settles, 0.68 + 0 * steps),
    )
    for number in range(400):
        margin, accuracy = shapes[number % 4]
        margins = margin + random.uniform(0.02, 0.3) * random.standard_normal(LOGS)
        both = (margins.tolist(), (random.binomial(16, accuracy) / 16).tolist())
        pairs = zip(*(windows(values, 2 * HISTORY) for values in both), strict=True)
        alarms += any(margin_collapse(*pair) for pair in pairs)
    print(f"{alarms} of 400 ordinary margins were taken for collapses")
    assert alarms < 8


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
def test_a_spike_is_seen_on_an_ordinary_curve(noise: float) -> None:
    random = np.random.default_rng(3)
    for _ in range(100):
        losses = (1.9 * (1 + noise * random.standard_normal(20))).tolist()
        spike = loss_spike([*losses, 3.8])
        assert spike is not None
        assert spike.before == pytest.approx(1.9, rel=0.05)
        assert spike.now == 3.8


@pytest.mark.parametrize(
    ("losses", "spike"),
    [
        ([1.9, 1.8, 7.0, 1.85, 1.8, 6.0], True),  # one does not hide the next
        ([], False),
        ([7.0], False),
        ([1.0, 1.0, 1.0, 1.0, 9.0], False),  # four before it are too few
        ([1.9, 1.9, 1.9, 1.9, 1.9, 2.3], False),  # 21 %
        ([0.01, 0.01, 0.01, 0.01, 0.01, 0.05], False),  # five times nothing
        ([9.0, 8.0, 7.0, 6.0, 5.0, 4.0], False),
        ([1.0, 1.0, 1.0, 1.0, 1.0, float("nan")], False),  # another guard's business
        ([1.0, float("nan"), 1.0, 1.0, 1.0, 9.0], False),
    ],
)
def test_what_is_a_spike(losses: list[float], spike: bool) -> None:
    assert (loss_spike(losses) is not None) == spike


@pytest.mark.parametrize("logs_of_the_fall", [1, 5, 20])
def test_a_collapse_is_seen(logs_of_the_fall: int) -> None:
    random, steps = np.random.default_rng(5), np.arange(LOGS)
    for _ in range(20):
        fall = np.clip((steps - 50) / logs_of_the_fall, 0, 1)
        margins = 0.3 - 0.4 * fall + 0.06 * random.standard_normal(LOGS)
        seen = [
            margin_collapse(window, [0.5] * len(window))
            for window in windows(margins.tolist(), 2 * HISTORY)
        ]
        assert any(seen)
        assert not any(seen[:50])


def test_an_accuracy_below_one_half_is_a_collapse() -> None:
    fall = margin_collapse([0.01] * 20, [0.7] * 15 + [0.4] * 5)
    assert fall is not None
    assert fall.name == "rewards/accuracies"
    assert (fall.before, fall.now) == pytest.approx((0.7, 0.4))
    assert margin_collapse([0.01] * 20, [0.58] * 15 + [0.4] * 5) is None  # never was clear
    assert margin_collapse([0.01] * 20, [0.7] * 15 + [0.55] * 5) is None  # still above one half


# The callback


def heard(folder: Path, losses: list[float], resume_after: int = 0, **others: Any) -> list[Any]:
    """What the callback says to lines logged every ten steps."""
    said: list[tuple[str, str]] = []
    guard = CurveGuard(lambda kind, message: said.append((kind, message)))
    args = TrainingArguments(output_dir=str(folder), use_cpu=True, dataloader_pin_memory=False)
    history: list[Any] = [
        {"loss": x, "learning_rate": 8e-6, **{k: v[i] for k, v in others.items()}, "step": step}
        for i, (x, step) in enumerate(zip(losses, range(10, 10**4, 10), strict=False))
    ]
    state = TrainerState(log_history=history[:resume_after])
    guard.on_train_begin(args, state, TrainerControl())
    for line in history[resume_after:]:
        state.global_step = line["step"]
        guard.on_log(args, state, TrainerControl(), logs=line)
        guard.on_log(args, state, TrainerControl(), logs={"eval_loss": 9.0})  # is passed over
    return said


def test_what_is_said(tmp_path: Path) -> None:
    ((kind, message),) = heard(tmp_path, [1.92] * 12 + [7.4])
    assert kind == "loss_spike"
    assert message.startswith(
        "the loss rose from about 1.92 to 7.4 at step 130; the learning rate there is 8e-06."
    )
    margins = {"rewards/margins": [0.12] * 15 + [-0.01] * 5, "rewards/accuracies": [0.7] * 20}
    ((kind, message),) = heard(tmp_path, [1.0] * 20, **margins)
    assert kind == "margin_collapse"
    assert message.startswith("rewards/margins fell from about 0.12 to ")
    tripled = heard(tmp_path, [13.7, 20.0, 42.0, 45.0, 70.0, *[95.6] * 60])
    assert [kind for kind, _ in tripled] == ["loss_tripled"]  # once, however long it lasts
    assert tripled[0][1].startswith("the loss began at about 13.7 and is 70 at step 50, at least")
    slope = [i / 40 for i in range(40)]
    falling = {"log_odds_chosen": slope, "logps/chosen": [-0.8 - x for x in slope]}
    ((kind, message),) = heard(tmp_path, [1.0] * 40, **falling)
    assert kind == "chosen_falls"
    assert "at step" not in message
    assert "of the chosen answers fell from -0.8" in message
    assert not heard(tmp_path, [1.0] * 40, **falling | {"log_odds_chosen": [0.1] * 40})
    # Rows without rejected answer alone give zeros, which say nothing about the preference.
    zeros = {"rewards/margins": [0.12] * 15 + [0.0] * 20}
    zeros["rewards/accuracies"] = [0.7] * 15 + [0.0] * 20
    assert not heard(tmp_path, [1.0] * 35, **zeros)


def test_a_sign_is_said_again_after_twenty_logs_without_it_also_by_a_run_that_goes_on(
    tmp_path: Path,
) -> None:
    losses = [1.0] * 100
    for spike in (10, 13, 20, 29, 30, 60):
        losses[spike] = 5.0
    said = heard(tmp_path, losses)
    steps = [message.split("at step ")[1].split(";")[0] for _, message in said]
    assert steps == ["110", "610"]
    for resume_after in (5, 11, 30, 38):
        first = heard(tmp_path, losses[:resume_after])
        assert first + heard(tmp_path, losses, resume_after) == said


def test_a_trainer_whose_loss_jumps_says_so(make_trainer: Make, caplog: Any) -> None:
    trainer = make_trainer(train_dataset=text_rows(), max_steps=9, learning_rate=1e-4)
    trainer.model.model.norm.register_forward_hook(
        lambda module, args, output: output * 40 if trainer.state.global_step == 7 else output
    )
    trainer.train()
    (line,) = [text for text in caplog.messages if text.startswith("the loss rose")]
    assert "at step 8;" in line
