"""Models that also see or hear, trained on text as a whole; what they see with stays as it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from orpo import ORPOTrainer
from orpo.commands.main import main
from orpo.engine.look import look_through
from orpo.engine.shared import SharedEngine
from orpo.train.card import _loader as loader_of
from orpo.train.models import auto_class
from tests.train.one_step import quiet_trainer, step_gradients
from tests.train.oracle_fp64 import gradients, pairs_of, relative_difference
from tests.train.small import byte_tokenizer, text_rows, write_rows

WIDTH: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48}
TEXT: dict[str, Any] = {
    **{**WIDTH, "vocab_size": 300, "max_position_embeddings": 256},
    **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
SIGHT: dict[str, Any] = {
    **{**WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"image_size": 28, "patch_size": 14},
}
PATCHES: dict[str, Any] = {"depth": 1, "num_heads": 2, "patch_size": 14}
ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}
IN_THREE: dict[str, Any] = {**ROPE, "mrope_section": [1, 1, 2]}
IMAGE: dict[str, Any] = {"image_token_id": 290, "video_token_id": 291}
QWEN: dict[str, Any] = {
    **IMAGE,
    "text_config": {**TEXT, "rope_parameters": IN_THREE},
    "vision_start_token_id": 292,
    "vision_end_token_id": 293,
}


def gemma3() -> hf.PretrainedConfig:
    text = {
        **TEXT,
        "head_dim": 8,
        "sliding_window": 8,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    return hf.Gemma3Config(
        text_config=text, vision_config=SIGHT, mm_tokens_per_image=4, image_token_index=290
    )


def mllama() -> hf.PretrainedConfig:
    text = {**TEXT, "num_hidden_layers": 3, "cross_attention_layers": [1]}
    sight = {
        **{k: v for k, v in SIGHT.items() if k != "num_attention_heads"},
        "attention_heads": 2,
        "num_global_layers": 1,
        "intermediate_layers_indices": [0],
        "vision_output_dim": 64,
    }
    text["rope_parameters"] = ROPE
    return hf.MllamaConfig(text_config=text, vision_config=sight, image_token_index=290)


CONFIGS: dict[str, Any] = {
    "Gemma3ForConditionalGeneration": gemma3,
    "Qwen2VLForConditionalGeneration": lambda: hf.Qwen2VLConfig(
        **QWEN, vision_config={**PATCHES, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    ),
    "Qwen2_5_VLForConditionalGeneration": lambda: hf.Qwen2_5_VLConfig(
        **QWEN,
        vision_config={
            **PATCHES,
            "hidden_size": 32,
            "intermediate_size": 32,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [0],
        },
    ),
    "LlavaForConditionalGeneration": lambda: hf.LlavaConfig(
        text_config=hf.LlamaConfig(**TEXT),
        vision_config=hf.CLIPVisionConfig(**SIGHT),
        image_token_index=290,
    ),
    "Idefics3ForConditionalGeneration": lambda: hf.Idefics3Config(
        text_config=hf.LlamaConfig(**TEXT), vision_config=SIGHT, image_token_id=290
    ),
    "MllamaForConditionalGeneration": mllama,
    "Qwen2AudioForConditionalGeneration": lambda: hf.Qwen2AudioConfig(
        text_config=hf.Qwen2Config(**TEXT),
        audio_config={
            "d_model": 32,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
        },
        audio_token_index=290,
    ),
}


def model_of(name: str) -> hf.PreTrainedModel:
    torch.manual_seed(0)
    config = CONFIGS[name]()
    model: hf.PreTrainedModel = auto_class(config).from_config(config)
    assert type(model).__name__ == name
    return model


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", text_rows())


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith(("Qwen2_", "M"))])
def test_the_command_trains_and_saves_the_whole_model(
    name: str, tmp_path: Path, rows: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "model", tmp_path / "run"
    before = model_of(name)
    before.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    quiet = ["--use_cpu", "true", "--report_to", "none", "--samples", "0", "--data_cache", "off"]
    given = ["--model", str(folder), "--dataset", str(rows), "--output_dir", str(out)]
    assert main(["train", *given, *quiet, "--max_steps", "2", "--learning_rate", "1e-2"]) == 0
    said = capfd.readouterr().err
    assert "that no text reaches (images, sound) are not trained" in said
    assert "shared engine" in said
    after, report = auto_class(before.config).from_pretrained(out, output_loading_info=True)
    assert type(after).__name__ == name
    assert not report["missing_keys"]
    old, new = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    assert old.keys() == new.keys()
    moved = {key for key in old if not torch.equal(old[key], new[key])}
    assert any("embed_tokens" in key for key in moved)
    assert not any("vision" in key or "visual" in key or "audio" in key for key in moved)
    assert loader_of(out) == name


@pytest.mark.parametrize("name", CONFIGS)
def test_the_gradient_is_that_of_each_sequence_alone(name: str, tmp_path: Path) -> None:
    given = {"model": model_of(name), "train_dataset": text_rows()}
    trainer = quiet_trainer(ORPOTrainer, str(tmp_path / "told"), **given)
    assert isinstance(trainer.engine, SharedEngine)
    ours = step_gradients(str(tmp_path / "run"), model=model_of(name))
    expected = gradients(model_of(name), pairs_of(trainer.train_dataset), alpha=0.5)
    assert relative_difference(ours, {key: expected[key] for key in ours}) < 1e-5
    rest = [grad for key, grad in expected.items() if key not in ours]
    assert not any(bool(grad.any()) for grad in rest)


def test_what_an_image_alone_reaches_is_frozen_and_experts_are_not() -> None:
    unreached = look_through(model_of("MllamaForConditionalGeneration")).unreached
    assert any("cross_attn" in name for name in unreached)
    assert any("vision_model" in name for name in unreached)
    assert any("multi_modal_projector" in name for name in unreached)
    text = hf.MixtralConfig(**TEXT, num_local_experts=64, num_experts_per_tok=1)
    config = hf.LlavaConfig(
        text_config=text, vision_config=hf.CLIPVisionConfig(**SIGHT), image_token_index=290
    )
    torch.manual_seed(0)
    mixture = auto_class(config).from_config(config)
    assert not [name for name in look_through(mixture).unreached if "experts" in name]


def test_what_reads_ahead_is_refused_in_one_line(
    tmp_path: Path, rows: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """PaliGemma sees all of its prompt at once."""
    config = hf.PaliGemmaConfig(
        text_config=hf.GemmaConfig(**TEXT, head_dim=8),
        vision_config=hf.SiglipVisionConfig(**SIGHT, projection_dim=32),
        image_token_index=290,
        projection_dim=32,
    )
    torch.manual_seed(0)
    auto_class(config).from_config(config).save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    given = ["--model", str(tmp_path / "model"), "--dataset", str(rows), "--use_cpu", "true"]
    assert main(["train", *given, "--output_dir", str(tmp_path / "run"), "--max_steps", "1"]) == 2
    (line,) = (one for one in capfd.readouterr().err.splitlines() if one.startswith("error"))
    assert "PaliGemmaForConditionalGeneration: the model sees what comes after a token" in line
