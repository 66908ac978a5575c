"""A dry run: its estimate against real runs and real models, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from orpo import ORPOConfig
from orpo.engine.footprint import ADAPTER_RANK, Counted, ModelShape
from orpo.errors import ConfigError, DataError, UserError
from orpo.jobs import TrainJob, run_training
from orpo.runs.lock import run_lock
from orpo.train.adapters import add_adapter
from orpo.train.dry_run import SAMPLED, DryRun, run_dry_run
from orpo.train.estimate import MemoryNeed, never_reached
from orpo.train.fleet import DEVICES, WRAPPERS, Assumptions, Fleet
from orpo.train.job import adapter_of
from orpo.train.memory import count_bytes, load_outline, shape_of
from orpo.train.models import load_model
from tests.cli.conftest import Orpo
from tests.train.accelerate_configs import CONFIGS
from tests.train.small import byte_tokenizer, saved_llama, text_rows, tiny_llama, write_rows

HERE = Assumptions(gpu="cpu", memory_gib=8, device_tflops=0.1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its tokenizer."""
    return saved_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def outline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without weights: nothing but its configuration and tokenizer."""
    folder = tmp_path_factory.mktemp("outline")
    tiny_llama().config.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    return str(write_rows(tmp_path / "pairs.jsonl", text_rows(22)))


def settings(folder: Path, **more: Any) -> ORPOConfig:
    given = {"use_cpu": True, "report_to": "none", "max_length": 128, "save_strategy": "no"}
    return ORPOConfig(output_dir=str(folder / "run"), **{**given, **more})


def dry(job: TrainJob, config: ORPOConfig, assumed: Assumptions = HERE) -> DryRun:
    return run_dry_run(job, config, say=lambda line: None, assumed=assumed)


class TestAgainstRealRuns:
    @pytest.mark.parametrize(
        "more",
        [
            {"num_train_epochs": 2, "gradient_accumulation_steps": 2},
            {"max_steps": 3, "objective": "sft"},
            {"max_steps": 3, "objective": "dpo", "nll_scope": "completion"},
        ],
        ids=["orpo", "sft", "dpo"],
    )
    def test_steps_positions_and_operations(
        self, more: dict[str, Any], base: Path, pairs: str, tmp_path: Path
    ) -> None:
        """Whole epochs agree exactly; of a part of one the pairs are of other lengths."""
        job = TrainJob(model=str(base), dataset=[pairs], samples=0, held_out=0.2)
        more = {"per_device_train_batch_size": 3, **more}
        foreseen = dry(job, settings(tmp_path, **more)).plan
        assert not (tmp_path / "run").exists()
        result = run_training(job, settings(tmp_path, **more), say=lambda line: None)
        work = json.loads((tmp_path / "run" / "work.json").read_text())
        assert (foreseen.steps, foreseen.pairs) == (result.steps, work["pairs"])
        near = 1e-6 if "num_train_epochs" in more else 0.3
        assert foreseen.positions == pytest.approx(work["positions_trained"], rel=near)
        assert foreseen.flops == pytest.approx(work["flops"], rel=near)


def outline_of(job: TrainJob, config: ORPOConfig) -> torch.nn.Module:
    assert job.model is not None
    return load_outline(job.model, config, adapter_of(job))


class TestAgainstRealModels:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "auto"])
    @pytest.mark.parametrize("rank", [None, 4])
    def test_bytes_of_the_weights(self, dtype: str, rank: int | None, base: Path) -> None:
        job = TrainJob(model=str(base), dataset=["x"], lora_r=rank)
        config = ORPOConfig(output_dir="unused", use_cpu=True, model_dtype=dtype)
        real = load_model(str(base), config)
        real = real if rank is None else add_adapter(real, adapter_of(job), config)
        counted = count_bytes(outline_of(job, config), config)
        assert counted.weights == sum(p.nbytes for p in real.parameters())
        assert counted.gradients == sum(p.nbytes for p in real.parameters() if p.requires_grad)

    @pytest.mark.filterwarnings("ignore:bitsandbytes")
    def test_bytes_in_four_bits(self, tmp_path: Path) -> None:
        bitsandbytes = pytest.importorskip("bitsandbytes")
        from peft import prepare_model_for_kbit_training

        shape = ModelShape(width=256, layers=2, mlp=704, vocabulary=2048, keys=128)
        sizes = {"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 704}
        tiny_llama(**sizes, num_attention_heads=4).save_pretrained(tmp_path)
        config = settings(tmp_path, quantize="4bit", model_dtype="bfloat16")
        job = TrainJob(model=str(tmp_path), dataset=["x"], lora_r=ADAPTER_RANK)
        loaded = load_model(str(tmp_path), config)
        real = prepare_model_for_kbit_training(loaded, use_gradient_checkpointing=False)
        assert isinstance(real.model.layers[0].mlp.up_proj, bitsandbytes.nn.Linear4bit)
        held = sum(p.nbytes for p in real.parameters())
        for parameter in real.parameters():
            state = getattr(parameter, "quant_state", None)
            held += state.absmax.nbytes + state.state2.absmax.nbytes if state else 0
        adapter = 4 * shape.adapter(ADAPTER_RANK)
        counted = count_bytes(outline_of(job, config), config)
        by_shape = Counted.by_shape(shape, "qlora", autocast=True)
        for found in (counted, by_shape):
            assert found.weights - adapter == pytest.approx(held, rel=0.005)
        assert (counted.gradients, counted.states) == (by_shape.gradients, by_shape.states)

    @pytest.mark.parametrize("tied", [False, True])
    def test_a_llamas_shape_is_its_own(self, tied: bool, tmp_path: Path) -> None:
        sizes = {"hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 96}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 500}
        LlamaConfig(**sizes, **heads, tie_word_embeddings=tied).save_pretrained(tmp_path)
        config = ORPOConfig(output_dir="unused", use_cpu=True, bf16=True)
        model = load_outline(str(tmp_path), config, None)
        assert {p.device.type for p in model.parameters()} == {"meta"}
        by_hand = ModelShape(width=64, layers=3, mlp=96, vocabulary=500, keys=32, tied=tied)
        found, counted = shape_of(model), count_bytes(model, config)
        expected = Counted.by_shape(by_hand, "full", autocast=True)
        for name in ("total", "layer", "outer"):
            assert getattr(found, name) == getattr(by_hand, name)
        for name in ("weights", "gradients", "states"):
            assert getattr(counted, name) == getattr(expected, name)
        assert counted.cast == pytest.approx(expected.cast, rel=0.02)  # norms are not cast


class TestWhatIsNeeded:
    def test_no_weights_and_nothing_written(
        self, outline: Path, pairs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))
        before, told = sorted(tmp_path.rglob("*")), []
        job = TrainJob(model=str(outline), dataset=[pairs], held_out=0.2)
        config = settings(tmp_path, max_steps=5, warmup_steps=5, save_strategy="steps")
        found = run_dry_run(job, config, say=told.append, assumed=HERE)
        assert sorted(tmp_path.rglob("*")) == before
        assert any("rows = " in line for line in told)
        assert found.memory.fits
        assert found.plan.hours == found.plan.device_hours
        assert json.loads(json.dumps(found.as_dict()))["settings"]["max_length"] == 128
        # What lies beyond the end is said.
        assert [line.split()[0] for line in found.notes[-2:]] == ["warmup_steps", "save_steps"]
        assert told[-2:] == found.notes[-2:]
        assert never_reached(settings(tmp_path, max_steps=5, warmup_steps=4), 5) == []

    def test_of_many_rows_some_are_drawn(self, outline: Path, tmp_path: Path) -> None:
        rows = write_rows(tmp_path / "many.jsonl", [*text_rows(SAMPLED), {"prompt": "odd"}])
        job = TrainJob(model=str(outline), dataset=[str(rows)])
        with pytest.raises(DataError, match=rf"many.jsonl:{SAMPLED + 1}"):
            dry(job, settings(tmp_path))
        found = dry(job, settings(tmp_path, on_bad_row="drop"))
        seen = found.data["train_dataset"]
        assert (seen.rows, seen.sampled, seen.whole) == (SAMPLED + 1, SAMPLED, False)
        assert seen.pairs == pytest.approx(SAMPLED, abs=2)
        assert found.pair.longest == 2 * 128  # a longer one may be among the others
        assert any("drawn" in line for line in found.assumptions)

    def test_numbers_of_data_that_are_not_here(
        self, outline: Path, pairs: str, tmp_path: Path
    ) -> None:
        job = TrainJob(model=str(outline), dataset=[pairs], held_out=0.25)
        of_data: dict[str, Any] = {"pairs": 8000, "pair_tokens": (10.0, 20.0, 30.0)}
        of_fleet: dict[str, Any] = {"ranks": 2, "price_per_hour": 3.0, "utilisation": 0.5}
        assumed = Assumptions(gpu="h100", **of_data, **of_fleet)
        plan = dry(job, settings(tmp_path, num_train_epochs=1), assumed).plan
        assert (plan.pairs, plan.positions) == (6000, 6000 * 60)
        assert plan.steps == 375  # of 2 ranks of 8 pairs
        operations = plan.flops + plan.evaluation_flops
        assert plan.hours == pytest.approx(operations / (2 * 989e12 * 0.5) / 3600)
        assert plan.cost == pytest.approx(3 * 2 * (plan.hours or 0))
        assert plan.evaluation_flops == pytest.approx(plan.flops * 2 * 2000 / 6000 / 3, rel=1e-3)


class TestWhatWouldFail:
    def test_a_folder_that_is_taken(self, outline: Path, pairs: str, tmp_path: Path) -> None:
        job = TrainJob(model=str(outline), dataset=[pairs])
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "recipe.yaml").write_text("model: x\n")
        with pytest.raises(ConfigError, match="already holds a run"):
            dry(job, settings(tmp_path))
        (folder / "recipe.yaml").unlink()
        with run_lock(folder), pytest.raises(ConfigError, match="another run is writing"):
            dry(job, settings(tmp_path))

    @pytest.mark.parametrize(
        ("job", "config", "says"),
        [
            ({"resume": "newest"}, {}, "nothing to go on with"),
            ({"held_out": 0.001}, {}, "one side empty"),
            ({"model": "nowhere/at-all/never"}, {}, "no such model folder"),
            ({"model": "small"}, {}, "outside the model's vocabulary of 40"),
            ({}, {"quantize": "4bit"}, "--lora_r"),
            ({}, {"eval_strategy": "steps", "eval_steps": 2}, "eval_dataset"),
            ({"lora_r": 4, "lora_target_modules": "nothing"}, {}, "peft_config"),
            ({}, {"max_length": 4}, "no pair is left"),
            ({"eval_dataset": "empty.jsonl"}, {}, "empty.jsonl: the data set is empty"),
        ],
    )
    def test_in_the_words_of_the_run(
        self, job: Any, config: Any, says: str, outline: Path, pairs: str, here: Path
    ) -> None:
        Path("empty.jsonl").touch()
        tiny_llama(vocab_size=40).config.save_pretrained("small")
        byte_tokenizer().save_pretrained("small")
        asked = TrainJob(**{"model": str(outline), "dataset": [pairs], **job})
        with pytest.raises(UserError, match=says) as caught:
            dry(asked, settings(here, **config))
        assert "\n" not in str(caught.value)

    def test_a_launcher(
        self, outline: Path, pairs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = settings(tmp_path)
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ConfigError, match="--ranks"):
            dry(TrainJob(model=str(outline), dataset=[pairs]), config)

    def test_memory(self, outline: Path, pairs: str, tmp_path: Path) -> None:
        job = TrainJob(model=str(outline), dataset=[pairs])
        small = Assumptions(gpu="cpu", memory_gib=0.01, device_tflops=0.1)
        found = dry(job, settings(tmp_path), small).memory
        assert not found.fits
        assert found.verdict.startswith("does not fit: 0.3 of 0.0 GiB")


SEVEN = ModelShape(width=4096, layers=32, mlp=14336, vocabulary=32000, keys=1024)


LORA = Counted.by_shape(SEVEN, "lora", autocast=True)


def setup(**changes: Any) -> MemoryNeed:
    given: dict[str, Any] = {
        **{"shape": SEVEN, "counted": Counted.by_shape(SEVEN, "full", autocast=True)},
        **{"wrapper": "one", "ranks": 1, "kind": "cuda", "available": 80 << 30},
        **{"longest": 2048, "most": 10**6, "asked": None},
        **{"checkpointing": True, "autocast": True},
    }
    return MemoryNeed(**{**given, **changes})


class TestVerdict:
    def test_what_would_fit_is_said_and_does(self) -> None:
        verdict = setup().verdict
        assert verdict.startswith("does not fit")
        assert "lora_r: 16" in verdict
        assert setup(counted=LORA).fits
        spread = setup(wrapper="ddp", ranks=8, available=40 << 30)
        assert "quantize" in spread.verdict or "lora_r" in spread.verdict

    def test_what_is_said_is_all_that_it_takes(self) -> None:
        """Micro-batches of the size that was asked for would be too large for the remedy too."""
        asked = setup(available=24 << 30, asked=30_000)
        assert not replace(asked, counted=LORA).fits
        assert replace(asked, counted=LORA, asked=2048).fits
        verdict = asked.verdict
        assert "lora_r: 16, model_dtype: bfloat16, max_tokens_per_microbatch: 2048" in verdict

    def test_checkpointing_comes_first(self) -> None:
        tight = setup(counted=LORA, checkpointing=False, available=24 << 30)
        assert not tight.fits
        assert "gradient_checkpointing: true" in tight.verdict

    def test_micro_batches_are_planned_from_the_memory_unless_they_are_given(self) -> None:
        planned = setup(counted=LORA, available=24 << 30)
        assert planned.longest < planned.tokens < 16384
        assert planned.parts.total <= planned.room
        assert planned.at(planned.tokens + 100).total > planned.room
        assert setup(counted=LORA, asked=4096).tokens == 4096
        assert setup(counted=LORA, asked=100).tokens == 2048  # a pair is never divided
        assert setup(counted=LORA, most=3000).tokens == 3000
        assert setup(counted=LORA, wrapper="fsdp2", ranks=8).tokens == 16384


class TestAssumptions:
    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"gpu": "abacus"}, "--gpu: 'abacus' is none of cpu"),
            ({"ranks": 0}, "--ranks: must be positive"),
            ({"wrapper": "cling"}, "--wrapper"),
            ({"utilisation": 35.0}, "is a share"),
            ({"price_per_hour": -1.0}, "negative"),
            ({"pair_tokens": (1.0, 0.0, 1.0)}, "three positive numbers"),
            ({"memory_gib": float("nan")}, "--memory_gib"),
            ({"accelerate_config": "x.yaml", "ranks": 2}, "says ranks and wrapper itself"),
        ],
    )
    def test_that_cannot_be_meant(self, given: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            Assumptions(**given)

    def fleet(self, given: dict[str, Any], **more: Any) -> Fleet:
        config = ORPOConfig(output_dir="unused", use_cpu=True, **more)
        return Fleet.of(Assumptions(gpu="h100", **given), config)

    def test_ranks_and_wrapper(self, tmp_path: Path) -> None:
        for given, expected in (
            *(({"accelerate_config": str(CONFIGS / f"{n}.yaml")}, (8, n)) for n in WRAPPERS),
            ({}, (1, "one")),
            ({"ranks": 4}, (4, "ddp")),
            ({"ranks": 4, "wrapper": "fsdp2"}, (4, "fsdp2")),
        ):
            found = self.fleet(given)
            assert (found.ranks, found.wrapper) == expected
        with pytest.raises(ConfigError, match="needs several devices"):
            self.fleet({"wrapper": "fsdp2"})
        with pytest.raises(ConfigError, match="four bits cannot be divided by fsdp2"):
            self.fleet({"ranks": 4, "wrapper": "fsdp2"}, quantize="4bit")
        (tmp_path / "x.yaml").write_text("just: a file\n")
        for name in ("x.yaml", "nowhere.yaml"):
            with pytest.raises(ConfigError, match="no config of accelerate"):
                self.fleet({"accelerate_config": str(tmp_path / name)})

    def test_what_is_given_wins(self) -> None:
        found = self.fleet({"memory_gib": 10.0, "device_tflops": 100.0, "utilisation": 0.5})
        assert found.device.memory == 10 << 30
        assert found.flops_per_second == 50e12
        assert DEVICES["h100"].memory == 80 << 30


@pytest.mark.filterwarnings("ignore:bitsandbytes")
def test_four_bits_are_trained_on_as_a_setting_says(tmp_path: Path, pairs: str) -> None:
    pytest.importorskip("bitsandbytes")
    base = saved_llama(tmp_path / "base", hidden_size=128, intermediate_size=256)
    job = TrainJob(model=str(base), dataset=[pairs], lora_r=4, samples=0)
    how = {"quantize": "4bit", "max_steps": 1}
    foreseen = dry(job, settings(tmp_path, **how))
    run_training(job, settings(tmp_path, **how), say=lambda line: None)
    assert (tmp_path / "run" / "adapter_model.safetensors").is_file()
    work = json.loads((tmp_path / "run" / "work.json").read_text())
    assert foreseen.plan.flops == pytest.approx(work["flops"], rel=0.3)
    whole = AutoModelForCausalLM.from_pretrained(base)
    assert foreseen.model["weights"] == whole.num_parameters()


# On the command line

FLAGS = ("--gpu", "cpu", "--memory_gib", "8", "--device_tflops", "0.1", "--use_cpu")


def test_tables_for_people_and_json_for_machines_and_no_ranks(
    orpo: Orpo, outline: Path, pairs: str, tmp_path: Path
) -> None:
    where = ("--model", outline, "--dataset", pairs, "--output_dir", tmp_path / "run")
    flags = ("--price_per_hour", "2", "--learning_rate", "1e-4", "--nproc", "3", "--json")
    found = orpo.does("train", "--dry-run", *where, *FLAGS, *flags)
    assert found["dry_run"] is True
    for said in (found["verdict"], "learning_rate", "nothing was written"):
        assert said in orpo.err
    assert (found["device"]["ranks"], found["device"]["wrapper"]) == (3, "ddp")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--gpu", "h100"], "--gpu: is only used by a dry run. Add --dry_run."),
        (["--dry_run", "--gpu", "h1000"], "--gpu: 'h1000' is none of cpu, "),
        (["--dry_run", "--resume"], "--resume: a dry run begins nothing"),
        (["--dry_run", "--pair_tokens", "1", "2"], "expected 3 arguments. See `orpo"),
        (["--dry_run", "--memory_gib", "0.01", "--strict"], "--strict: "),
        (["--quantize", "8bit"], "quantize: '8bit' is none of none, 4bit"),
    ],
)
def test_mistakes_are_one_line(
    orpo: Orpo, flags: list[str], says: str, outline: Path, pairs: str, tmp_path: Path
) -> None:
    where = ("--model", outline, "--dataset", pairs, "--output_dir", tmp_path / "run")
    assert says in orpo.refuses("train", *where, *flags)
