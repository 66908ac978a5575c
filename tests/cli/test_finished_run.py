"""What a run leaves can be saved, loaded and used: what would not let it is known before step 1."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from orpo import ORPOTrainer
from tests.cli.conftest import QUIET, Orpo
from tests.train.one_step import any_trainer
from tests.train.small import byte_tokenizer, saved_llama, text_rows, tiny_llama, write_rows

END = 2
DRY, LORA = ("--dry_run",), ("--lora_r", 2)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A model whose files a test spoils, with rows beside it."""
    write_rows(tmp_path / "rows.jsonl", text_rows())
    return saved_llama(tmp_path / "base")


def words(base: Path, *more: object) -> tuple[object, ...]:
    given = ("--max_steps", 1, "--samples", 0, "--save_strategy", "no", "--max_length", 64)
    where = ("--dataset", base.parent / "rows.jsonl", "--output_dir", base.parent / "run")
    return ("train", "--model", base, *where, *given, *QUIET, *more)


def change_config(base: Path, **values: object) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, **values}))


def set_generation(base: Path, **settings: Any) -> None:
    text = json.dumps({"eos_token_id": END, "bos_token_id": 1, **settings})
    (base / "generation_config.json").write_text(text, encoding="utf-8")


def used(run: Path) -> GenerationConfig:
    """Load, generate with the folder's own settings, save and load once more."""
    model = AutoModelForCausalLM.from_pretrained(run)
    AutoTokenizer.from_pretrained(run)
    model.generate(input_ids=torch.tensor([[5, 6]]), max_new_tokens=2)
    model.save_pretrained(run.parent / "again")
    again: GenerationConfig = GenerationConfig.from_pretrained(run.parent / "again")
    again.validate(strict=True)
    return again


@pytest.mark.parametrize(
    ("given", "kept", "word"),
    [
        ({"temperature": 0.6, "top_p": 0.9}, {"temperature": 0.6, "top_p": 0.9}, "do_sample"),
        ({"do_sample": False, "top_k": 5}, {"top_k": 5}, "do_sample"),
        ({"min_p": 0.1}, {"min_p": 0.1}, "min_p"),
        ({"do_sample": True, "temperature": 0.7}, {"temperature": 0.7}, ""),
    ],
)
def test_settings_of_sampling_are_kept_and_count(
    orpo: Orpo, base: Path, given: dict[str, Any], kept: dict[str, Any], word: str
) -> None:
    set_generation(base, **given)
    orpo.does(*words(base))
    said = [line for line in orpo.err.splitlines() if "generation_config.json" in line]
    assert [word in line for line in said] == ([True] if word else [])
    settings = used(base.parent / "run")
    assert settings.do_sample is True
    assert settings.eos_token_id in (END, [END])
    assert {name: getattr(settings, name) for name in kept} == kept


@pytest.mark.parametrize(
    ("given", "gone"),
    [
        ({"length_penalty": 0.6, "early_stopping": True}, ("length_penalty", "early_stopping")),
        ({"output_scores": True}, ("output_scores",)),
        ({"use_cache": False, "cache_implementation": "static"}, ("cache_implementation",)),
        ({"temperature": 0.0, "top_p": 0.9}, ("temperature", "top_p")),
        ({"do_sample": True, "temperature": 0}, ("temperature",)),
        ({"pad_token_id": -1}, ("-1",)),
        ({"pad_token_id": 260}, ("260",)),
        ({"eos_token_id": [9999, END]}, ("9999",)),
    ],
)
def test_what_has_no_effect_is_left_out_and_said(
    orpo: Orpo, base: Path, given: dict[str, Any], gone: tuple[str, ...]
) -> None:
    set_generation(base, **given)
    orpo.does(*words(base))
    said = [line for line in orpo.err.splitlines() if "generation_config.json" in line]
    assert len(said) == 1
    settings = used(base.parent / "run").to_dict()
    assert settings.get("do_sample") is not True
    assert not {settings.get(name) for name in gone} - {None, False}
    assert settings["eos_token_id"] in (END, [END])
    assert settings["pad_token_id"] == END


@pytest.mark.parametrize(
    ("more", "text", "word"),
    [
        ((), '{"repetition_penalty": 0}', "repetition_penalty"),
        (DRY, '{"do_sample": true, "temperature": "0.6"}', "temperature"),
        (LORA, '{"do_sample": "yes"}', "do_sample"),
        ((), '{"num_beams": "4"}', "num_beams"),
        (DRY, '{"eos_token_id": "2"}', "eos_token_id"),
        (LORA, '{"max_new_tokens": -1}', "max_new_tokens"),
        ((), '{"num_return_sequences": 3}', "num_return_sequences"),
        (DRY, '{"cache_implementation": "foo"}', "cache_implementation"),
        *((way, "{oops", "not JSON") for way in ((), DRY, LORA)),
        *((way, "[1, 2]", "list") for way in ((), DRY, LORA)),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_before_training(
    orpo: Orpo, base: Path, text: str, word: str, more: tuple[object, ...]
) -> None:
    (base / "generation_config.json").write_text(text, encoding="utf-8")
    last = orpo.refuses(*words(base, *more))
    assert "generation_config.json" in last
    assert word in last
    assert not (base.parent / "run" / "metrics.jsonl").exists()


def test_a_padding_token_outside_the_embedding_is_replaced(orpo: Orpo, base: Path) -> None:
    """Its id is the size of the vocabulary: the saved model could not be built."""
    shutil.rmtree(base)
    saved_llama(base, vocab_size=259)
    tokenizer = byte_tokenizer(pad_token="<pad>")
    assert tokenizer.pad_token_id == 259
    tokenizer.save_pretrained(base)
    orpo.does(*words(base))
    assert "'<pad>' is outside the model's vocabulary of 259" in orpo.err
    assert used(base.parent / "run").pad_token_id == END
    assert AutoTokenizer.from_pretrained(base.parent / "run").pad_token_id == END


@pytest.mark.parametrize("more", [(), DRY, LORA])
def test_a_model_that_cannot_be_built_is_refused_in_one_line(
    orpo: Orpo, base: Path, more: tuple[object, ...]
) -> None:
    for pad in (260, 9999):
        change_config(base, pad_token_id=pad)
        assert f"pad_token_id is {pad}" in orpo.refuses(*words(base, *more))


def test_a_configuration_of_another_model_is_refused_by_name(orpo: Orpo, base: Path) -> None:
    change_config(base, intermediate_size=300)
    for more in ((), ("--model_init_kwargs", '{"ignore_mismatched_sizes": true}')):
        last = orpo.refuses(*words(base, *more))
        assert "mlp.down_proj.weight" in last
        assert "300" in last


class TestFromPython:
    def trainer(self, folder: Path, model: Any = None) -> ORPOTrainer:
        how = {"save_strategy": "steps", "max_length": 64, "output_dir": str(folder)}
        return any_trainer(model=model, train_dataset=text_rows(), **how)

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [  # the first two as after modules were exchanged by hand
            ("vocab_size", 250, "has the shape .* says .*250"),
            ("intermediate_size", 80, "has the shape .* says .*80"),
            ("temperature", 0.5, "could not be saved"),  # it belongs into the generation config
        ],
    )
    def test_a_configuration_that_does_not_fit(
        self, tmp_path: Path, name: str, value: float, said: str
    ) -> None:
        model = tiny_llama()
        setattr(model.config, name, value)
        trainer = self.trainer(tmp_path / "run", model)
        with pytest.raises(ValueError, match=said):
            trainer.train()
        assert trainer.state.global_step == 0

    def test_weights_are_not_lost_where_settings_cannot_be_saved(self, tmp_path: Path) -> None:
        """They are spoilt after the trial, as by a callback."""
        trainer = self.trainer(tmp_path / "run")
        trainer.train()
        trained = {name: p.clone() for name, p in trainer.model.named_parameters()}
        trainer.model.generation_config.max_new_tokens = -3
        said: list[str] = []
        trainer.say = said.append
        trainer.save_model()
        assert ["max_new_tokens" in line for line in said] == [True]
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
        for name, parameter in again.named_parameters():
            assert torch.equal(parameter, trained[name]), name
