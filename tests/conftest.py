"""Fixtures of all rooms: a small tokenizer made here, and the real data where they are at hand.

Real data and real tokenizers lie outside of the repository, in `../shared/data` or in the folder
that ORPO_SHARED_DATA names; what needs them is skipped with a reason where they are absent.
"""

import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "0")

import copy
import gc
import gzip
import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests import forked

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what the tests start is to hear it

settings.register_profile(
    "orpo",
    deadline=None,
    max_examples=50,  # "explore" draws more
    derandomize=True,  # the same examples everywhere; "explore" draws new ones
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile(
    "explore", settings.get_profile("orpo"), derandomize=False, max_examples=200
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "orpo"))

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
REAL_TOKENIZERS = ("qwen2.5-0.5b-instruct", "llama-2-chat", "mistral-zephyr", "minimind")
_TEXTS = (
    "The quick brown fox jumps over the lazy dog. Would you help me with this, please? ",
    "Human: What is it?\n\nAssistant: I think that this is an answer, and another one.\n\n",
    "你好,请问今天的天气怎么样?我觉得这个问题的答案是这样的。\n",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first: where two processes share the tests, it would be the last one."""
    items.sort(key=lambda item: item.path.name != "test_docs.py")


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests, and processes that they start, leave in temporary folders goes with pytest's."""
    scratch = tmp_path_factory.mktemp("scratch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(scratch))
        patch.setenv("TMPDIR", str(scratch))
        patch.setenv("ORPO_CACHE", str(scratch / "cache"))  # never the user's own
        yield
        forked.close()


@pytest.fixture(scope="module", autouse=True)
def _imported_once() -> None:
    """Every training run collects garbage: not among all that was imported, each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def forked_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of the code under test are forked, and need not import everything anew."""
    monkeypatch.setattr(sys, "executable", forked.python())


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; skips where there is none."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ORPO_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; ORPO_SHARED_DATA says where they are")
    return folder


@pytest.fixture(scope="session")
def tokenizer_folders(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Name -> folder of each real tokenizer."""
    target = tmp_path_factory.mktemp("tokenizers")
    for archive in sorted((shared_data / "tokenizers").glob("*.tar.gz")):
        with tarfile.open(archive) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # from 3.11.4 on
            tar.extractall(target)
    return {folder.name: folder for folder in target.iterdir()}


@pytest.fixture(scope="session")
def load_tokenizer(
    tokenizer_folders: dict[str, Path],
) -> Callable[[str], PreTrainedTokenizerBase]:
    """Loads one of `REAL_TOKENIZERS` once for all tests; copy it before changing it."""
    loaded: dict[str, PreTrainedTokenizerBase] = {}

    def load(name: str) -> PreTrainedTokenizerBase:
        if name not in loaded:
            loaded[name] = AutoTokenizer.from_pretrained(tokenizer_folders[name])
        return loaded[name]

    return load


@pytest.fixture(scope="session", params=REAL_TOKENIZERS)
def real_tokenizer(
    request: pytest.FixtureRequest, load_tokenizer: Callable[[str], PreTrainedTokenizerBase]
) -> PreTrainedTokenizerBase:
    """Each real tokenizer with its own chat template."""
    return load_tokenizer(request.param)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with a tiny model and its tokenizer."""
    from tests.train.small import saved_llama

    return saved_llama(tmp_path / "base")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of four steps with all that a run folder holds; never to be touched."""
    from tests.jobs.small_run import train

    return train(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="session")
def adapter_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with LoRA."""
    from tests.jobs.small_run import train

    return train(tmp_path_factory.mktemp("adapter"), lora_r=2)


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies a run into this test's own folder."""
    return lambda run: Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture(scope="session")
def small_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level BPE of about 500 tokens with a ChatML template, made here in no time."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def plain_tokenizer(small_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The same without a chat template, as base models have it."""
    tokenizer = copy.deepcopy(small_tokenizer)
    tokenizer.chat_template = None
    return tokenizer


@pytest.fixture(scope="session")
def bos_tokenizer() -> PreTrainedTokenizerBase:
    """The small tokenizer, putting BOS before every text."""
    return make_tokenizer(bos=True)


def make_tokenizer(*, bos: bool = False) -> PreTrainedTokenizerBase:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_TEXTS, trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="session")
def hh_rows(shared_data: Path) -> list[dict[str, Any]]:
    """1500 real HH-RLHF pairs."""
    path = shared_data / "preferences" / "hh_harmless.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="session")
def alpaca_rows(shared_data: Path) -> list[dict[str, Any]]:
    """1100 real instruction pairs."""
    rows: list[dict[str, Any]] = json.loads(
        (shared_data / "preferences" / "alpaca_style.json").read_text(encoding="utf-8")
    )
    return rows


@pytest.fixture(scope="session")
def chinese_rows(shared_data: Path) -> list[dict[str, Any]]:
    """300 real Chinese multi-turn pairs, made from ShareGPT style into prompt/chosen/rejected."""
    path = shared_data / "preferences" / "sharegpt_zh.json"
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    return [
        {
            "prompt": [
                {"role": roles[turn["from"]], "content": turn["value"]}
                for turn in row["conversations"]
            ],
            "chosen": [{"role": "assistant", "content": row["chosen"]["value"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]["value"]}],
        }
        for row in json.loads(path.read_text(encoding="utf-8"))
    ]
