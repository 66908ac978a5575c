"""An audit as a job: rows that are drawn for measuring, and what a few real steps say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from orpo.config import ORPOConfig
from orpo.data.sample import Sample
from orpo.data.types import Row
from orpo.errors import ConfigError, DataError, ModelError
from orpo.jobs.audit_job import AuditJob, run_audit
from tests.train.small import byte_tokenizer, tiny_llama

SAID: list[str] = []


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small Llama with one token per byte."""
    folder = tmp_path_factory.mktemp("model")
    tiny_llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [
        {
            "prompt": f"Say {n}",
            "chosen": f"It is {n}, of course." * (n % 4 * 2 + 1),
            "rejected": "no",
        }
        for n in range(40)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config(folder: Path, **settings: object) -> ORPOConfig:
    return ORPOConfig(output_dir=str(folder / "unused"), use_cpu=True, **settings)


def test_steps_are_measured_and_nothing_is_left_behind(model: Path, pairs: Path) -> None:
    settings = config(pairs.parent, max_length=128)
    before = {p.name for p in model.iterdir()}
    job = AuditJob(str(pairs), model=str(model), config=settings, measure=True)
    audit = run_audit(job, say=SAID.append)
    budget = audit.budget
    assert budget["tokens_per_second"] > 0
    seconds = budget["tokens_per_epoch"] / budget["tokens_per_second"]
    assert budget["seconds_per_epoch"] == pytest.approx(seconds)
    assert budget["peak_bytes"] > 0
    (note,) = [note for note in audit.notes if note.startswith("time: ")]
    assert "5 training steps of 4 pairs" in note  # 24 pairs are drawn, the first step warms up
    assert {p.name for p in model.iterdir()} == before
    assert [p.name for p in pairs.parent.iterdir()] == ["pairs.jsonl"]


def test_without_measuring_no_time_is_claimed(model: Path, pairs: Path) -> None:
    job = AuditJob(str(pairs), model=str(model), config=config(pairs.parent, max_length=128))
    budget = run_audit(job, say=SAID.append).budget
    assert budget["pairs"] == 40
    assert budget.keys().isdisjoint({"tokens_per_second", "seconds_per_epoch", "peak_bytes"})


def test_lengths_are_those_before_any_limit(model: Path, pairs: Path) -> None:
    settings = config(pairs.parent, max_length=32)
    audit = run_audit(AuditJob(str(pairs), model=str(model), config=settings), say=SAID.append)
    cut = {limit.max_length: limit.cut for limit in audit.truncation}
    assert cut[32] > cut[128] == 10
    assert cut[256] == 0


def test_the_settings_of_the_training_decide(model: Path, pairs: Path) -> None:
    settings = config(pairs.parent, max_length=40, truncation="drop")
    audit = run_audit(AuditJob(str(pairs), model=str(model), config=settings), say=SAID.append)
    assert audit.max_length == 40
    assert audit.rows.dropped["too_long"] > 0
    assert audit.rows.rows_in == 40


def test_too_few_pairs_to_measure_with(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "few.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 3, encoding="utf-8")
    job = AuditJob(str(path), model=str(model), config=config(tmp_path), measure=True)
    with pytest.raises(DataError, match="too few to measure"):
        run_audit(job, say=SAID.append)


def test_evaluation_rows_are_read(pairs: Path) -> None:
    job = AuditJob(str(pairs), eval_dataset=str(pairs), config=config(pairs.parent))
    audit = run_audit(job, say=SAID.append)
    (leak,) = [f for f in audit.findings if f.check == "leakage"]
    assert (leak.count, leak.verdict) == (40, "stop")


def test_mistakes_are_the_users(tmp_path: Path, pairs: Path) -> None:
    settings = config(tmp_path)
    with pytest.raises(ConfigError, match="--measure"):
        AuditJob(str(pairs), config=settings, measure=True)
    with pytest.raises(ConfigError, match="DATASET"):
        AuditJob("", config=settings)
    with pytest.raises(DataError, match=r"none\.jsonl"):
        run_audit(AuditJob(str(tmp_path / "none.jsonl"), config=settings), say=SAID.append)
    with pytest.raises(ModelError):
        run_audit(AuditJob(str(pairs), model="./none", config=settings), say=SAID.append)


def test_every_row_has_the_same_chance_to_be_drawn() -> None:
    drawn: Counter[int] = Counter()
    for seed in range(400):
        sample = Sample(5, seed)
        assert [row.index for row in sample.passing(Row({}, "", i) for i in range(20))] == [
            *range(20)
        ]
        assert len({row.index for row in sample.rows}) == 5
        drawn.update(row.index for row in sample.rows)
    assert set(drawn) == set(range(20))
    assert max(drawn.values()) < 2 * min(drawn.values())  # 100 each but for chance


def test_fewer_rows_than_are_drawn() -> None:
    sample = Sample(5, 0)
    assert len(list(sample.passing(Row({}, "", i) for i in range(3)))) == 3
    assert [row.index for row in sample.rows] == [0, 1, 2]
