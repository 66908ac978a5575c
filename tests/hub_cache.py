"""A cache of the Hub as a user has it after downloading: what the recipes name, by its Hub id.

Models have the published configuration, a small tokenizer and no weights; data sets have the
published columns and splits, and rows made here. `python -m tests.hub_cache FOLDER` makes one, for
HF_HOME.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from tests.conftest import CHATML, make_tokenizer

COMMIT = "1" * 40
ROWS = 500
_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "model_type": "llama",
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}


def _sizes(
    width: int, layers: int, heads: int, keys: int, mlp: int, vocabulary: int, **rest: Any
) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "intermediate_size": mlp,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        **rest,
    }


MODELS: dict[str, dict[str, Any]] = {
    "HuggingFaceTB/SmolLM2-135M": {
        **_LLAMA,
        **_sizes(576, 30, 9, 3, 1536, 49152, max_position_embeddings=8192),
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen2.5-0.5B": {
        **_LLAMA,
        **_sizes(896, 24, 14, 2, 4864, 151936, max_position_embeddings=32768),
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "tie_word_embeddings": True,
    },
    "mistralai/Mistral-7B-v0.1": {
        **_LLAMA,
        **_sizes(4096, 32, 32, 8, 14336, 32000, max_position_embeddings=32768),
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": 4096,
    },
    "meta-llama/Meta-Llama-3-8B": {
        **_LLAMA,
        **_sizes(4096, 32, 32, 8, 14336, 128256, max_position_embeddings=8192),
    },
    "meta-llama/Llama-2-7b-hf": {
        **_LLAMA,
        **_sizes(4096, 32, 32, 32, 11008, 32000, max_position_embeddings=4096),
    },
    "microsoft/phi-2": {
        "architectures": ["PhiForCausalLM"],
        "model_type": "phi",
        **_sizes(2560, 32, 32, 32, 10240, 51200, max_position_embeddings=2048),
        "partial_rotary_factor": 0.4,
        "layer_norm_eps": 1e-5,
        "torch_dtype": "float16",
    },
}
"""Hub ids -> what their config.json says."""

_WORDS = (
    "the",
    "old",
    "new",
    "way",
    "paths",
    "stars",
    "night",
    "when",
    "find",
    "again",
    "go",
    "on",
)
_SIGNS = "今天的天气很好我们一起去看看这个问题怎么回答"


def make_hub_cache(home: Path) -> Path:
    """Fill a folder for HF_HOME."""
    for name, config in MODELS.items():
        _model(home / "hub", name, config)
    for name, splits in _published().items():
        config_name = "train" if name.startswith("wenbopan/") else "default"
        _data(home / "datasets", name, config_name, splits)
    return home


def _model(hub: Path, name: str, config: dict[str, Any]) -> None:
    folder = hub / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_text(json.dumps(config))
    tokenizer = make_tokenizer()
    if name.startswith("Qwen/"):  # whose base models come with a template
        tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(snapshot)


def _data(home: Path, name: str, config_name: str, splits: dict[str, list[Any]]) -> None:
    """As `datasets` keeps what it loaded from the Hub."""
    owner, _, short = name.partition("/")
    short = short.lower()
    with tempfile.TemporaryDirectory() as scratch:
        files = {}
        for split, rows in splits.items():
            files[split] = str(Path(scratch, f"{split}.jsonl"))
            Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in rows))
        builder = datasets.load_dataset_builder("json", data_files=files, cache_dir=scratch)
        builder.download_and_prepare()
        folder = home / f"{owner}___{short}" / config_name / "0.0.0" / COMMIT
        shutil.copytree(builder.cache_dir, folder)
    for part in folder.glob("json-*.arrow"):
        part.rename(folder / part.name.replace("json-", f"{short}-", 1))
    info = json.loads((folder / "dataset_info.json").read_text())
    info |= {"dataset_name": short, "builder_name": "parquet", "config_name": config_name}
    (folder / "dataset_info.json").write_text(json.dumps(info))


def _published() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Hub ids -> splits -> rows in the published columns."""
    h4, clean = list(_rows(_h4)), list(_rows(_argilla))
    return {
        "Anthropic/hh-rlhf": {"train": list(_rows(_hh)), "test": list(_rows(_hh))[:20]},
        "HuggingFaceH4/ultrafeedback_binarized": {
            **{f"train_{part}": h4 for part in ("prefs", "sft", "gen")},
            **{f"test_{part}": list(_rows(_h4, 1))[:20] for part in ("prefs", "sft", "gen")},
        },
        "argilla/ultrafeedback-binarized-preferences-cleaned": {"train": clean},
        "mlabonne/orpo-dpo-mix-40k": {"train": list(_rows(_mix))},
        "wenbopan/Chinese-dpo-pairs": {"train": list(_rows(_chinese))},
    }


def _rows(make: Any, seed: int = 0) -> Iterator[dict[str, Any]]:
    draw = random.Random(seed)
    for number in range(ROWS):
        prompt, chosen, rejected = (" ".join(draw.choices(_WORDS, k=k)) for k in (12, 15, 14))
        yield make(f"{prompt} {seed}{number}?", f"{chosen}.", f"{rejected}!", number)


def _talk(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"content": prompt, "role": "user"}, {"content": answer, "role": "assistant"}]


def _h4(prompt: str, chosen: str, rejected: str, number: int) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "prompt_id": f"{number:064x}",
        "chosen": _talk(prompt, chosen),
        "rejected": _talk(prompt, rejected),
        "messages": _talk(prompt, chosen),
        "score_chosen": 8.5,
        "score_rejected": 6.0,
    }


def _argilla(prompt: str, chosen: str, rejected: str, _number: int) -> dict[str, Any]:
    return {
        "source": "evol_instruct",
        "prompt": prompt,
        "chosen": _talk(prompt, chosen),
        "chosen-rating": 4.5,
        "chosen-model": "gpt-4",
        "rejected": _talk(prompt, rejected),
        "rejected-rating": 3.0,
        "rejected-model": "alpaca-7b",
    }


def _mix(prompt: str, chosen: str, rejected: str, _number: int) -> dict[str, Any]:
    return {
        "source": "Airoboros",
        "chosen": _talk(prompt, chosen),
        "rejected": _talk(prompt, rejected),
        "prompt": prompt,
        "question": prompt,
    }


def _hh(prompt: str, chosen: str, rejected: str, _number: int) -> dict[str, Any]:
    begin = f"\n\nHuman: {prompt}\n\nAssistant: "
    return {"chosen": begin + chosen, "rejected": begin + rejected}


def _chinese(_prompt: str, _chosen: str, _rejected: str, number: int) -> dict[str, Any]:
    return {
        "prompt": f"第{number}题:{_SIGNS[number % 7 :]}",
        "system": "",
        "chosen": f"{_SIGNS[:10]}{number}。",
        "rejected": f"{_SIGNS[5:]}{number}。",
        "source": "sharegpt",
        "id": str(number),
    }


if __name__ == "__main__":
    print(make_hub_cache(Path(sys.argv[1])))
