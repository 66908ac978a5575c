"""Before the first step: what fits, what does not, and what a run is told."""

from __future__ import annotations

from collections.abc import Callable

import datasets
import pytest

from orpo import ORPOConfig, ORPOTrainer
from orpo.engine.memory import MemoryEstimate
from orpo.engine.padded import PaddedEngine
from orpo.engine.shared import SharedEngine
from orpo.errors import ConfigError
from orpo.train.before.memory import (
    LongestPair,
    check_memory,
    longest_pair,
    optimizer_bytes,
    pair_lengths,
)
from tests.train.small import Stream, text_rows

Make = Callable[..., ORPOTrainer]
GIB = 2**30
ROWS = [
    {"prompt_ids": [1] * p, "chosen_ids": [2] * c, "rejected_ids": [3] * r, "row": 10 + i}
    for i, (p, c, r) in enumerate([(5, 3, 3), (2, 9, 9), (4, 14, 1), (1, 1, 1)])
]


@pytest.mark.parametrize("kind", ["arrow", "selected", "list"])
def test_the_longest_pair_is_that_of_the_engine(kind: str) -> None:
    data = datasets.Dataset.from_list(ROWS)
    given = {"arrow": data, "selected": data.select([3, 2, 1, 0]), "list": ROWS}[kind]
    assert longest_pair(pair_lengths(given), SharedEngine()) == LongestPair(11, 20, 11)
    assert longest_pair(pair_lengths(given), PaddedEngine()) == LongestPair(12, 36, 18)
    assert longest_pair(pair_lengths(Stream(ROWS)), SharedEngine()) is None  # nobody knows


def test_a_pair_that_does_not_fit_is_named() -> None:
    estimate = MemoryEstimate(2 * GIB, GIB // 1000, 4 * GIB, "cpu")
    check_memory(estimate, LongestPair(7, 1900, 1500))
    with pytest.raises(ConfigError) as caught:
        check_memory(estimate, LongestPair(7, 4000, 3000))
    text = str(caught.value)
    assert "train_dataset, row 7" in text
    assert "4000 positions needs about 6.0 GiB, and 4.0 GiB are there" in text
    assert "max_length to about 1500" in text
    assert "\n" not in text
    with pytest.raises(ConfigError, match=r"about 9.0 GiB .* and 4.0 GiB are there.*--lora"):
        check_memory(MemoryEstimate(9 * GIB, 1, 4 * GIB, "cpu"), None)


def test_training_stops_before_it_starts(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(train_dataset=text_rows(), max_steps=1)
    monkeypatch.setattr("orpo.engine.memory.available_bytes", lambda device: 1 << 16)
    with pytest.raises(ConfigError, match="gradients, optimizer states"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_little_memory_makes_small_micro_batches_and_the_same_loss(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"max_steps": 1, "per_device_train_batch_size": 8, "logging_steps": 1}
    losses = []
    for room in (None, 40):
        trainer = make_trainer(train_dataset=text_rows(), **settings)
        if room is not None:
            monkeypatch.setattr(MemoryEstimate, "max_tokens", room)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert trainer._max_tokens == 40
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    trainer = make_trainer(train_dataset=text_rows(), max_tokens_per_microbatch=33, **settings)
    trainer.train()
    assert trainer._max_tokens == 33  # what was asked for is taken


def test_states_of_the_optimizer() -> None:
    for optim, size in {"adamw_torch": 8, "adamw_8bit": 2, "adafactor": 0, "sgd": 0}.items():
        assert optimizer_bytes(ORPOConfig(optim=optim)) == size
