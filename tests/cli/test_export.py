"""`orpo export`: what llama.cpp's converter is handed, and what of its work is accepted.

The converter stands in for the real one, `converter.py`; the real one is asked where LLAMA_CPP
names a folder of llama.cpp.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from orpo.commands.main import main
from tests.cli.conftest import Orpo
from tests.jobs.small_run import flip

REAL = os.environ.get("LLAMA_CPP")


@pytest.fixture
def llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the stand-in; the file `does` says what it does."""
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    shutil.copy(Path(__file__).with_name("converter.py"), folder / "convert_hf_to_gguf.py")
    return folder


def test_the_model_arrives_with_its_template(
    orpo: Orpo, tiny: Path, llama_cpp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gguf import GGUFReader

    out = tmp_path / "new" / "model.gguf"
    monkeypatch.setenv("LLAMA_CPP", str(llama_cpp))
    assert orpo("export", tiny, out, "--outtype", "q8_0", "--json") == 0, orpo.err
    told = json.loads((llama_cpp / "told").read_text())
    assert told == [str(tiny), "--outfile", f"{out.parent}/.model.gguf.new", "--outtype", "q8_0"]
    fields = GGUFReader(out).fields
    template = (tiny / "chat_template.jinja").read_text()
    assert fields["tokenizer.chat_template"].contents() == template
    answer = json.loads(orpo.out)
    assert (answer["file"], answer["size"]) == (str(out), out.stat().st_size)
    assert "264 tokens, its chat template, EOS <|end|>" in answer["checked"][0]
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize(
    ("does", "code", "words"),
    [
        ("unknown tokenizer", 2, "llama.cpp does not know this tokenizer"),
        ("missing", 2, "the converter needs 'sentencepiece'. pip install 'orpo[export]'"),
        ("architecture", 2, "llama.cpp cannot convert this architecture"),
        ("text", 2, "wrote no GGUF file"),
        ("other template", 2, "wrote another chat template"),
        ("crash", 1, "broke: RuntimeError: out of luck"),
    ],
)
def test_what_goes_wrong_is_one_line_and_leaves_nothing(
    orpo: Orpo, tiny: Path, llama_cpp: Path, tmp_path: Path, does: str, code: int, words: str
) -> None:
    (llama_cpp / "does").write_text(does)
    out = tmp_path / "out" / "model.gguf"
    assert orpo("export", tiny, out, "--llama_cpp", llama_cpp) == code
    assert words in orpo.err.splitlines()[-1]
    assert len(orpo.err.strip().splitlines()) == 2
    assert not list(out.parent.iterdir())


def test_an_adapter_is_merged_first(
    orpo: Orpo, llama_cpp: Path, tmp_path: Path, copied_runs: Path
) -> None:
    run, out = copied_runs / "lora", tmp_path / "model.gguf"
    assert orpo("export", run, out, "--llama_cpp", llama_cpp, "--dry_run") == 0, orpo.err
    converter = llama_cpp / "convert_hf_to_gguf.py"
    command = f"{sys.executable} {converter} {run / 'merged'} --outfile"
    assert orpo.out.startswith(command)
    assert not (run / "merged").exists()
    assert orpo("export", run, out, "--llama_cpp", llama_cpp) == 0, orpo.err
    assert json.loads((llama_cpp / "told").read_text())[0] == str(run / "merged")
    flip(run / "adapter_model.safetensors")
    assert orpo("export", run, out, "--llama_cpp", llama_cpp, "--overwrite") == 2
    assert "is not what was committed" in orpo.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{model}", "{folder}/a.bin"), "is no name of a GGUF file"),
        (("{model}", "{folder}/there.gguf"), "is there already"),
        (("{model}/..", "{folder}/a.gguf"), "the folder holds no model"),
        (("nowhere", "{folder}/a.gguf"), "no such model folder"),
        (("{model}", "{folder}/a.gguf", "--llama_cpp", "nowhere"), "there is no convert_hf"),
        (("{model}", "{folder}/a.gguf", "--outtype", "q4"), "is none of"),
        (("{folder}/own", "{folder}/a.gguf"), "comes with code of its own"),
    ],
)
def test_wrong_input_is_one_line(
    orpo: Orpo, tiny: Path, llama_cpp: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    there, own = tmp_path / "there.gguf", tmp_path / "own"
    there.write_bytes(b"mine")
    own.mkdir()
    config = json.loads((tiny / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "x.Y"}}))
    given = [one.format(model=tiny, folder=tmp_path) for one in arguments]
    assert orpo("export", "--llama_cpp", llama_cpp, *given) == 2
    assert words in orpo.err
    assert len(orpo.err.strip().splitlines()) == 1
    assert there.read_bytes() == b"mine"


def test_without_llama_cpp_it_says_where_to_get_it(
    orpo: Orpo, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", "")
    assert orpo("export", tiny, tmp_path / "a.gguf") == 2
    assert "git clone https://github.com/ggml-org/llama.cpp" in orpo.err
    assert orpo("export", tiny, tmp_path / "a.gguf", "--dry_run") == 0
    assert "is not installed" in orpo.err, "a dry run goes on, and says so"
    assert "convert_hf_to_gguf.py" in orpo.out


@pytest.mark.skipif(not REAL, reason="LLAMA_CPP names no folder of llama.cpp")
def test_the_real_converter_and_back(tokenizer_folders: dict[str, Path], tmp_path: Path) -> None:
    """A model with a tokenizer that llama.cpp knows; transformers reads the same numbers back."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    model = tmp_path / "model"
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folders["qwen2.5-0.5b-instruct"])
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    config = Qwen2Config(vocab_size=len(tokenizer), **sizes, **heads, eos_token_id=151645)
    made = Qwen2ForCausalLM(config)
    made.save_pretrained(model)
    tokenizer.save_pretrained(model)
    out = tmp_path / "model.gguf"
    assert main(["export", str(model), str(out), "--outtype", "f32"]) == 0
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf")
    ids = tokenizer("How many words are in this list?", return_tensors="pt")["input_ids"]
    torch.testing.assert_close(read(ids).logits, made(ids).logits, atol=1e-4, rtol=1e-4)
