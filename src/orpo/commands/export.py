"""`orpo export`: a model as a GGUF file, through llama.cpp's own converter.

What is ours is to hand it the committed model, whole and with its template, and to look at what
came out before it gets its name.
"""

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo.commands.console import say
from orpo.errors import ConfigError, ModelError, OrpoError
from orpo.options import argument, asked, option
from orpo.runs.checkpoints import ensure_as_committed
from orpo.runs.files import ADAPTER_FILE
from orpo.runs.reading import read_object
from orpo.runs.writing import remove

EXAMPLES = """\
examples:
  orpo export run model.gguf --llama_cpp ~/llama.cpp
  orpo export run model-q8.gguf --outtype q8_0
  orpo export run model.gguf --dry_run

The converter is llama.cpp's own convert_hf_to_gguf.py, of --llama_cpp, $LLAMA_CPP or the PATH;
pip install 'orpo[export]' has what it needs. An adapter is merged into its base model first."""

OUTTYPES = ("auto", "f32", "f16", "bf16", "q8_0")
_MAGIC = b"GGUF"
_HELD = ("tokenizer.chat_template", "tokenizer.ggml.eos_token_id", "general.architecture")
_TEMPLATE, _EOS, _KIND = _HELD
_SCRIPT = "convert_hf_to_gguf.py"
_INSTALL = (
    "git clone https://github.com/ggml-org/llama.cpp, then --llama_cpp FOLDER or LLAMA_CPP=FOLDER."
)


@dataclass(frozen=True)
class Options:
    """The model, the file, and the converter."""

    model: str = argument("RUN", help="run folder, model folder or adapter folder")
    output: Path = argument("OUT.gguf", parse=Path, help="the file to write")
    outtype: str = option("auto", choices=OUTTYPES, help="numbers; auto: 16 bits, losing least")
    llama_cpp: Path | None = option(None, metavar="FOLDER", help="folder of llama.cpp")
    overwrite: bool = option(False, help="replace the file")
    trust_remote_code: bool = option(False, help="allow a model's own code to run")
    dry_run: bool = option(False, help="show the command, write nothing")
    json: bool = asked("json")

    def __post_init__(self) -> None:
        where = str(self.output)
        if self.output.suffix != ".gguf" or "{" in self.output.name:
            raise ConfigError("is no name of a GGUF file", where=where, fix="Name a file .gguf.")
        if self.output.is_dir() or (self.output.exists() and not self.overwrite):
            raise ConfigError("is there already", where=where, fix="Name another, or --overwrite.")


def run(options: Options) -> dict[str, Any]:
    """Convert, look at the file, and give it its name; or show how."""
    model, notes = Path(options.model), []
    _refuse(model, trusted=options.trust_remote_code)
    converter = _converter(options.llama_cpp)
    if converter is None:
        what = "llama.cpp's converter is not installed"
        missing = ConfigError(what, where="orpo export", fix=_INSTALL)
        if not options.dry_run:
            raise missing
        notes, converter = [str(missing)], Path(_SCRIPT)
    if (model / ADAPTER_FILE).is_file():
        from orpo.evaluate import loading  # noqa: PLC0415 - loads torch

        folder = model / loading.MERGED
        notes.append(f"the adapter is merged into {folder}")
        if not options.dry_run:
            loading.merge_once(model, say=say)
        model = folder
    staged = options.output.with_name(f".{options.output.name}.new")  # until it was looked at
    how = ["--outfile", str(staged), "--outtype", options.outtype]
    command = [sys.executable, str(converter), str(model), *how]
    if options.dry_run:
        for note in notes:
            say(note)
        if not options.json:
            print(shlex.join(command))
        return {"command": command, "notes": notes}
    return _convert(options.output, staged, model, command)


def _refuse(folder: Path, *, trusted: bool) -> None:
    """Unless the model is there, as it was committed, and brings no code that is not trusted."""
    if not any((folder / name).is_file() for name in (ADAPTER_FILE, "config.json")):
        raise ModelError(
            "no such model folder" if not folder.is_dir() else "the folder holds no model",
            where=str(folder),
            fix="Give the folder of a finished run or of a model; a Hub id must be downloaded.",
        )
    ensure_as_committed(folder)
    for path in (folder / "config.json", folder / "tokenizer_config.json"):
        if not trusted and path.is_file() and "auto_map" in read_object(path):
            raise ModelError(
                "the model comes with code of its own, which the converter would run",
                where=str(path),
                fix="Read that code, and add --trust_remote_code if you trust it.",
            )


def _converter(named: Path | None) -> Path | None:
    """llama.cpp's script: where it was said to be, else on the PATH; None if it is not there."""
    told = str(named or os.environ.get("LLAMA_CPP") or "")
    if not told:
        on_path = shutil.which(_SCRIPT)
        return Path(on_path).resolve() if on_path else None
    for found in (Path(told), Path(told, _SCRIPT)):
        if found.is_file():
            return found.resolve()
    where = "--llama_cpp" if named else "LLAMA_CPP"
    raise ConfigError(f"there is no {_SCRIPT} in {told}", where=where, fix=_INSTALL)


def _convert(output: Path, staged: Path, model: Path, command: list[str]) -> dict[str, Any]:
    from orpo.config import ORPOConfig  # noqa: PLC0415 - loads torch
    from orpo.data.tokenize import answer_endings  # noqa: PLC0415
    from orpo.train.models import load_tokenizer  # noqa: PLC0415

    output.parent.mkdir(parents=True, exist_ok=True)
    say(f"converting {model} with {command[1]}")
    remove(staged)  # the converter would follow a link
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and the user's own converter
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            check=False,
        )
        if done.returncode or not staged.is_file():
            raise _explained(done.stdout, str(model), command[1])
        tokenizer = load_tokenizer(str(model), ORPOConfig(output_dir="unused"))
        checked = _check(staged, model, tokenizer)
        staged.replace(output)
    finally:
        staged.unlink(missing_ok=True)
    for line in checked:
        say(line)
    # EOS is all that the file names.
    for one in sorted(answer_endings(tokenizer) - {tokenizer.eos_token_id}):
        name = tokenizer.convert_ids_to_tokens(one)
        say(f"answers end with {name}: name it as a stop where answers do not end")
    size = output.stat().st_size
    say(f"{output}: {size:,} bytes")
    return {"file": str(output), "size": size, "checked": checked}


def _explained(said: str, where: str, converter: str) -> OrpoError:
    """What the converter's last words mean."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else "it said nothing"
    if "pre-tokenizer was not recognized" in said:
        return ModelError(
            "llama.cpp does not know this tokenizer: it tells tokenizers apart by a checksum of "
            "what they make of one text, and this one is of none of its families",
            where=where,
            fix="Only models with a known tokenizer, such as Llama's or Qwen's, can be converted.",
        )
    if "ModuleNotFoundError: No module named" in last:
        what = f"the converter needs {last.rsplit(maxsplit=1)[-1]}"
        fix = "pip install 'orpo[export]', or what its requirements file names."
        return ConfigError(what, where=converter, fix=fix)
    if "is not supported" in last or "not supported!" in last:
        what = "llama.cpp cannot convert this architecture"
        return ModelError(what, where=where, fix="A newer one may.")
    return OrpoError(f"{converter} broke: {last}")


def _check(file: Path, folder: Path, tokenizer: Any) -> list[str]:
    """What of a GGUF file is as in the model that it was made of: kind, template, words."""
    with file.open("rb") as opened:
        if opened.read(len(_MAGIC)) != _MAGIC:
            raise ModelError("the converter wrote no GGUF file", where=str(folder))
    try:
        from gguf import GGUFReader  # noqa: PLC0415 - an extra
    except ImportError:
        return ["a GGUF file by its first bytes; pip install 'orpo[export]' checks what is in it"]
    from orpo.data.asked import asked_otherwise  # noqa: PLC0415 - loads torch

    fields = GGUFReader(file).fields
    held = {name: one.contents() for name, one in fields.items() if name in _HELD}
    tokens = fields.get("tokenizer.ggml.tokens")
    size = read_object(folder / "config.json").get("vocab_size") or len(tokenizer)
    for what, found, expected in (
        ("chat template", held.get(_TEMPLATE), tokenizer.chat_template),
        ("size of the vocabulary", 0 if tokens is None else len(tokens.data), size),
        ("EOS token", held.get(_EOS), tokenizer.eos_token_id),
    ):
        if found != expected:
            texts = (repr(one) for one in (found, expected))
            shown = [one if len(one) < 40 else f"{one[:40]}..." for one in texts]
            raise ModelError(
                f"the converter wrote another {what}: {shown[0]} instead of {shown[1]}",
                where="orpo export",
                fix="Take a newer llama.cpp.",
            )
    template = "its chat template" if tokenizer.chat_template else "no chat template, as the model"
    kind, differs = held.get(_KIND), asked_otherwise(tokenizer)
    found = f"architecture {kind}, {size:,} tokens, {template}, EOS {tokenizer.eos_token}"
    return [found, *([differs] if differs else [])]
