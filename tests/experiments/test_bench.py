"""The bench: its rows, its arithmetic, and workers that really train."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from orpo.data.types import TextPair
from orpo.errors import ConfigError, DataError, ModelError, TrainingError
from orpo.experiments import bench
from orpo.experiments import bench_rows as rowing
from orpo.experiments.bench import ModelSize, Side, Step
from orpo.experiments.bench_rows import BenchRow, PairLengths, RowMaker, SideSpec
from orpo.experiments.bench_worker import Pacemaker
from orpo.experiments.measuring import MemoryMeter
from orpo.experiments.plans import BenchJob
from orpo.runs.processes import Supervisor, supervised
from tests.train.small import byte_tokenizer, text_rows, tiny_llama

HH = rowing.SHAPES["hh-like"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def test_the_work_of_a_pair_counted_by_hand() -> None:
    size = ModelSize(body=100, vocabulary=10, width=3)
    pair = PairLengths(prompt=5, chosen=2, rejected=4)
    assert size.useful_flops(pair, lora=False) == 6 * 100 * 11 + 6 * 30 * 10
    assert size.useful_flops(pair, lora=True) == 4 * 100 * 11 + 4 * 30 * 10


def test_embeddings_and_head_are_not_in_the_body(model: Path, tmp_path: Path) -> None:
    body = 2 * (32 * (32 + 16 + 16 + 32) + 3 * 32 * 64 + 2 * 32) + 32
    for tied in (True, False):
        found = bench.size_of(tiny_llama(tie_word_embeddings=tied))
        assert found == ModelSize(body=body, vocabulary=260, width=32)
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())  # no weights
    assert bench.model_size(str(tmp_path)) == bench.size_of(tiny_llama(), positions=512)


def rows_of(lengths: list[tuple[int, int, int]]) -> list[BenchRow]:
    return [BenchRow({"chosen": f"c{i}"}, PairLengths(*item)) for i, item in enumerate(lengths)]


def test_grouping_keeps_the_rows_and_those_of_the_warm_up_in_place() -> None:
    rows = rows_of([(1, n, 1) for n in (9, 1, 5, 30, 2, 29, 4, 3)])
    grouped = rowing.grouped_by_length(rows, batch_size=2, warmup=1)
    assert grouped[:2] == rows[:2]
    batches = {frozenset(row.lengths.chosen for row in grouped[i : i + 2]) for i in (2, 4, 6)}
    assert batches == {frozenset({2, 3}), frozenset({4, 5}), frozenset({29, 30})}


@pytest.mark.parametrize("shape", rowing.SHAPES.values(), ids=str)
def test_drawn_lengths_have_the_means_of_the_shape(shape: PairLengths) -> None:
    lengths = rowing.draw_lengths(shape, 400)
    assert lengths == rowing.draw_lengths(shape, 400)
    for column, mean in zip(zip(*lengths, strict=True), shape, strict=True):
        assert sum(column) / len(column) == pytest.approx(mean, rel=0.02)
        assert max(column) > 3 * mean
    chosen, rejected = (torch.tensor([pair[i] for pair in lengths]).log() for i in (1, 2))
    assert 0.3 < float(torch.corrcoef(torch.stack([chosen, rejected]))[0, 1]) < 0.7


@pytest.mark.parametrize("texts", [[TextPair("would you help me", " please, what is it", "")], []])
def test_synthetic_texts_have_the_drawn_lengths_in_tokens(
    texts: list[TextPair], bos_tokenizer: PreTrainedTokenizerBase
) -> None:
    words = rowing.words_of(texts, bos_tokenizer)
    wanted = rowing.draw_lengths(HH, 30)
    make = RowMaker(bos_tokenizer, 2048)
    rows = make.first(rowing.synthetic_pairs(wanted, words, 2048), 30, "here")
    assert len(rows) == 30
    for part in range(3):
        found, drawn = (sum(pair[part] for pair in c) for c in ([r.lengths for r in rows], wanted))
        assert found == pytest.approx(drawn, rel=0.05)
    long = rowing.synthetic_pairs([PairLengths(900, 900, 900)], words, 100)
    (row,) = RowMaker(bos_tokenizer, 100).first(long, 1, "here")
    assert row.lengths.prompt <= 51
    assert row.lengths.prompt + row.lengths.chosen <= 100


def test_rows_that_a_side_would_drop_are_left_out_and_conversations_become_text(
    small_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.jsonl"
    rejected = (" b", " ", " c")
    rows = [f'{{"prompt": "a", "chosen": " b", "rejected": "{one}"}}\n' for one in rejected]
    path.write_text("".join(rows), encoding="utf-8")
    make = RowMaker(byte_tokenizer(), 64)
    (row,) = make.first(make.text_pairs(str(path)), 5, str(path))
    assert row.texts == {"prompt": "<s>a", "chosen": " b", "rejected": " c"}
    assert row.lengths == (2, 3, 3)
    with pytest.raises(DataError, match="no row fits"):
        make.first([TextPair("a", " b", " b")], 5, str(path))
    path.write_text(
        '{"prompt": [{"role": "user", "content": "What is it?"}],'
        ' "chosen": [{"role": "assistant", "content": "An answer."}],'
        ' "rejected": [{"role": "assistant", "content": "I think."}]}\n',
        encoding="utf-8",
    )
    (text,) = RowMaker(small_tokenizer, 64).text_pairs(str(path))
    assert text.prompt == "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n"
    assert text.chosen == "An answer.<|im_end|>"


def side_of(seconds: list[float], rows: list[BenchRow], peak: int = 300) -> Side:
    facts = {"engine": "e", "gradient_checkpointing": False, "notes": [], "tokens": ["x", "y"]}
    memory = {"peak": peak, "idle": 100, "exact": True}
    return Side("orpo", rows, 1, 1, facts, [Step(s, 0.0, 2.0) for s in seconds], memory)


def test_figures_and_ratios_by_hand() -> None:
    rows = rows_of([(1, 1, 1), (2, 3, 5), (4, 4, 12)])
    ours, peer = side_of([9.0, 1.0, 4.0], rows), side_of([1.0, 2.0, 6.0], rows, peak=500)
    found = bench.side_figures(ours, ModelSize(10, 1, 1), 1000.0, lora=False)
    flops = (6 * 100 + 6 * 9) / 1, (6 * 200 + 6 * 19) / 4
    expected = {
        "pairs_per_second": (1 + 1 / 4) / 2,
        "pairs_per_second_overall": 2 / 5,
        "tokens_per_second": (10 + 5) / 2,
        "useful_flops_per_second": sum(flops) / 2,
        "share_of_matmul_rate": sum(flops) / 2 / 1000,
        "beyond_idle_bytes": 200,
    }
    assert {name: found[name] for name in expected} == expected
    found = bench.against(ours, peer)
    assert found["speed_ratio"] == {"median": 1.75, "min": 1.5, "max": 2.0, "overall": 8 / 5}
    assert (found["peak_memory_ratio"], found["beyond_idle_memory_ratio"]) == (3 / 5, 1 / 2)
    assert found["same_tokens"] is True
    swapped = side_of([1.0, 4.0, 1.0], [rows[0], rows[2], rows[1]])  # a peer with grouped rows
    assert bench.against(ours, swapped)["speed_ratio"]["median"] == (10 / 5 + 5 / 10) / 2
    peer.facts["tokens"] = ["x", "z"]
    assert bench.against(ours, peer)["rows_with_other_tokens"] == 1


def test_sides_take_turns_in_swapped_order() -> None:
    taken: list[str] = []

    class Recorder(Side):
        def go(self, kind: str) -> dict[str, Any]:
            taken.append(self.name)
            return {"seconds": 1.0, "between": 0.0, "loss": None}

    sides = [Recorder(name, [], 1, 0) for name in "ab"]
    bench.take_turns(sides, 3)
    assert [len(side.steps) for side in sides] == [3, 3]
    assert "".join(taken) == "abbaab"


def test_a_side_is_at_rest_until_every_side_has_taken_its_last_step() -> None:
    happened: list[str] = []

    class Meter(MemoryMeter):
        def peak(self) -> int:
            happened.append("at work")
            return 0

    channel: Any = SimpleNamespace(
        send=lambda kind, content: happened.append(kind), wait=lambda: happened.append("rest")
    )
    pacemaker = Pacemaker(channel, Meter())
    for _ in range(2):
        pacemaker.on_step_begin(None, None, None, model=torch.nn.Linear(1, 1))
        pacemaker.on_step_end(None, None, None)
    pacemaker.on_train_end(None, None, None)
    assert happened == ["ready", "rest", "step", "rest", "step", "rest", "at work", "done"]


def started(model: Path, folder: Path, group: Supervisor, steps: int = 2) -> Side:
    job = BenchJob(model=str(model), precision="fp32", steps=steps - 1)
    side = Side("orpo", [], 2, 1)
    side.start(SideSpec("orpo", job, 2, 128, str(folder), text_rows(2 * steps)), group)
    return side


@pytest.mark.usefixtures("forked_python")
def test_workers_step_when_told_and_end_with_their_reader(model: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_bytes((model / "config.json").read_bytes())
    with supervised() as group:
        steady = started(model, tmp_path / "steady", group, 3)
        refused = started(empty, tmp_path / "refused", group)
        killed = started(model, tmp_path / "killed", group)
        os.kill(killed.child.process.pid, signal.SIGKILL)
        with pytest.raises(TrainingError, match="the orpo side stopped with SIGKILL: said nothing"):
            killed.receive("ready")
        facts = steady.receive("ready")
        assert len(set(facts["tokens"])) == 6
        first, second = steady.go("step"), steady.go("step")
        assert first["seconds"] > 0
        assert first["loss"] is not None
        assert first["loss"] != second["loss"]
        steady.child.process.stdin.close()
        with pytest.raises(TrainingError, match=r"the orpo side stopped .* nobody is measuring"):
            steady.receive("step")
        with pytest.raises(ConfigError, match=r"orpo: .* cannot be loaded"):
            refused.receive("ready")


def test_without_trl_our_engines_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    real, said = importlib.util.find_spec, []
    there = lambda name, *how: None if name == "trl" else real(name, *how)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", there)
    job = BenchJob(model="./nowhere", rows="hh-like", batch_sizes=(1,))
    with pytest.raises(ModelError, match="nowhere"):
        bench.run_bench(job, say=said.append)
    (line,) = said
    assert "orpo[bench]" in line


def test_trl_runs_with_the_memory_settings_that_its_users_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, by_itself in (("THP_MEM_ALLOC_ENABLE", "0"), ("LRU_CACHE_CAPACITY", "1024")):
        monkeypatch.setenv(name, "7")
        assert bench.environment_of("trl")[name] == by_itself
        assert bench.environment_of("trl-grouped")[name] == by_itself
        assert bench.environment_of("orpo")[name] == "7"
