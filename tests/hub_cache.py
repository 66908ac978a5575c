"""A cache of the Hub as a user has it after downloading: what the recipes name, by its Hub id.

Models have the published configuration, a small tokenizer and no weights; data sets have the
published columns and splits, and rows made here. `python -m tests.hub_cache FOLDER` makes one, for
HF_HOME.
"""

import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import datasets

from tests.conftest import CHATML, make_tokenizer

COMMIT = "1" * 40
ROWS = 500
_SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "vocab_size", "max_position_embeddings"),
)


def _config(kind: str, *sizes: int, **rest: Any) -> dict[str, Any]:
    """What a published config.json says."""
    common: dict[str, Any] = {"model_type": kind, "tie_word_embeddings": False}
    if kind != "phi":
        common |= {"hidden_act": "silu", "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2}
    common |= {"architectures": [f"{kind.capitalize()}ForCausalLM"], "torch_dtype": "bfloat16"}
    return {**common, **dict(zip(_SIZES, sizes, strict=True)), **rest}


_PHI = {"partial_rotary_factor": 0.4, "layer_norm_eps": 1e-5, "torch_dtype": "float16"}
_MISTRAL = (4096, 32, 32, 8, 14336, 32000, 32768)
_TIED = {"tie_word_embeddings": True}
MODELS = {
    "HuggingFaceTB/SmolLM2-135M": _config("llama", 576, 30, 9, 3, 1536, 49152, 8192, **_TIED),
    "Qwen/Qwen2.5-0.5B": _config("qwen2", 896, 24, 14, 2, 4864, 151936, 32768, **_TIED),
    "mistralai/Mistral-7B-v0.1": _config("mistral", *_MISTRAL, sliding_window=4096),
    "meta-llama/Meta-Llama-3-8B": _config("llama", 4096, 32, 32, 8, 14336, 128256, 8192),
    "meta-llama/Llama-2-7b-hf": _config("llama", 4096, 32, 32, 32, 11008, 32000, 4096),
    "microsoft/phi-2": _config("phi", 2560, 32, 32, 32, 10240, 51200, 2048, **_PHI),
}
"""Hub ids -> what their config.json says."""

_WORDS = (
    *("the", "old", "new", "way", "paths", "stars"),
    *("night", "when", "find", "again", "go", "on"),
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
    h4, tested, hh = _rows(_h4), _rows(_h4, 1)[:20], _rows(_hh)
    parts = ("prefs", "sft", "gen")
    return {
        "Anthropic/hh-rlhf": {"train": hh, "test": hh[:20]},
        "HuggingFaceH4/ultrafeedback_binarized": {
            **{f"train_{part}": h4 for part in parts},
            **{f"test_{part}": tested for part in parts},
        },
        "argilla/ultrafeedback-binarized-preferences-cleaned": {"train": _rows(_argilla)},
        "mlabonne/orpo-dpo-mix-40k": {"train": _rows(_mix)},
        "wenbopan/Chinese-dpo-pairs": {"train": _rows(_chinese)},
    }


def _rows(make: Any, seed: int = 0) -> list[dict[str, Any]]:
    draw, rows = random.Random(seed), []
    for number in range(ROWS):
        prompt, chosen, rejected = (" ".join(draw.choices(_WORDS, k=k)) for k in (12, 15, 14))
        rows.append(make(f"{prompt} {seed}{number}?", f"{chosen}.", f"{rejected}!", number))
    return rows


def _talk(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"content": prompt, "role": "user"}, {"content": answer, "role": "assistant"}]


def _talks(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    both = {"chosen": _talk(prompt, chosen), "rejected": _talk(prompt, rejected)}
    return {"prompt": prompt, **both}


def _h4(prompt: str, chosen: str, rejected: str, number: int) -> dict[str, Any]:
    rest = {"messages": _talk(prompt, chosen), "score_chosen": 8.5, "score_rejected": 6.0}
    return {"prompt_id": f"{number:064x}", **_talks(prompt, chosen, rejected), **rest}


def _argilla(prompt: str, chosen: str, rejected: str, _number: int) -> dict[str, Any]:
    models = {"chosen-model": "gpt-4", "rejected-model": "alpaca-7b"}
    ratings = {"chosen-rating": 4.5, "rejected-rating": 3.0}
    return {"source": "evol_instruct", **_talks(prompt, chosen, rejected), **models, **ratings}


def _mix(prompt: str, chosen: str, rejected: str, _number: int) -> dict[str, Any]:
    return {"source": "Airoboros", "question": prompt, **_talks(prompt, chosen, rejected)}


def _hh(prompt: str, chosen: str, rejected: str, _number: int) -> dict[str, Any]:
    begin = f"\n\nHuman: {prompt}\n\nAssistant: "
    return {"chosen": begin + chosen, "rejected": begin + rejected}


def _chinese(_prompt: str, _chosen: str, _rejected: str, number: int) -> dict[str, Any]:
    answers = {"chosen": f"{_SIGNS[:10]}{number}。", "rejected": f"{_SIGNS[5:]}{number}。"}
    prompt = f"第{number}题:{_SIGNS[number % 7 :]}"
    return {"prompt": prompt, "system": "", **answers, "source": "sharegpt", "id": str(number)}


if __name__ == "__main__":
    print(make_hub_cache(Path(sys.argv[1])))
