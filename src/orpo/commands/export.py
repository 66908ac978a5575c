"""`orpo export`: a model as a GGUF file, through llama.cpp's own converter.

The converter is a script of the llama.cpp repository, and knows models and tokenizers that nobody
else keeps up with. What is ours is to hand it the committed model, whole and with its template,
and to look at what came out before it gets its name.
"""

from __future__ import annotations

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
_SCRIPT = "convert_hf_to_gguf.py"
_INSTALL = (
    "git clone https://github.com/ggml-org/llama.cpp, then --llama_cpp FOLDER or LLAMA_CPP=FOLDER."
)


@dataclass(frozen=True)
class Options:
    """The model, the file, and the converter.

    Raises:
        ConfigError: A value that cannot be meant.
    """

    model: str = argument("RUN", help="run folder, model folder or adapter folder")
    output: Path = argument("OUT.gguf", parse=Path, help="the file to write")
    outtype: str = option("auto", choices=OUTTYPES, help="numbers; auto: 16 bits, losing least")
    llama_cpp: Path | None = option(None, metavar="FOLDER", help="folder of llama.cpp")
    overwrite: bool = option(False, help="replace the file")
    trust_remote_code: bool = option(False, help="allow a model's own code to run")
    dry_run: bool = option(False, help="show the command, write nothing")
    json: bool = asked("json")

    def __post_init__(self) -> None:
        """Check what can be checked without the model."""
        if self.output.suffix != ".gguf" or "{" in self.output.name:
            raise ConfigError(
                "is no name of a GGUF file", where=str(self.output), fix="Name a file .gguf."
            )
        if self.output.is_dir() or (self.output.exists() and not self.overwrite):
            raise ConfigError(
                "is there already", where=str(self.output), fix="Name another, or --overwrite."
            )

    @property
    def staged(self) -> Path:
        """Where the file is written before it was looked at."""
        return self.output.with_name(f".{self.output.name}.new")


def run(options: Options) -> dict[str, Any]:
    """Convert, look at the file, and give it its name; or show how."""
    converter, notes = _checked(options), []
    if converter is None:
        missing = ConfigError(
            "llama.cpp's converter is not installed", where="orpo export", fix=_INSTALL
        )
        if not options.dry_run:
            raise missing
        notes, converter = [str(missing)], Path(_SCRIPT)
    model = Path(options.model)
    if (model / "adapter_config.json").is_file():
        from orpo.evaluate import merging  # noqa: PLC0415 - loads torch

        folder = merging.merged_folder(model) or model / merging.MERGED
        notes.append(f"the adapter is merged into {folder}")
        if not options.dry_run:
            merging.merge_once(model, say=say)
        model = folder
    what = [str(model), "--outfile", str(options.staged), "--outtype", options.outtype]
    command = [sys.executable, str(converter), *what]
    if options.dry_run:
        for note in notes:
            say(note)
        if not options.json:
            print(shlex.join(command))
        return {"command": command, "notes": notes}
    return _convert(options, model, command)


def _checked(options: Options) -> Path | None:
    """llama.cpp's script, if it is there; the model is as it was committed, and brings no code.

    Raises:
        ModelError: There is no such model, or it comes with code of its own.
        CheckpointError: It is not what was committed.
        ConfigError: llama.cpp is not where it was said to be.
    """
    folder = Path(options.model)
    adapter = (folder / "adapter_config.json").is_file()
    if not adapter and not (folder / "config.json").is_file():
        raise ModelError(
            "no such model folder" if not folder.is_dir() else "the folder holds no model",
            where=options.model,
            fix="Give the folder of a finished run or of a model; a Hub id must be downloaded.",
        )
    ensure_as_committed(folder)
    for name in () if options.trust_remote_code else ("config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file() and "auto_map" in read_object(path):
            raise ModelError(
                "the model comes with code of its own, which the converter would run",
                where=str(path),
                fix="Read that code, and add --trust_remote_code if you trust it.",
            )
    return _converter(options.llama_cpp)


def _converter(named: Path | None) -> Path | None:
    """llama.cpp's script: where it was said to be, else on the PATH; None if it is not there."""
    told = named or (Path(os.environ["LLAMA_CPP"]) if os.environ.get("LLAMA_CPP") else None)
    if told is not None:
        found = told if told.is_file() else told / _SCRIPT
        if found.is_file():
            return found.resolve()
        where = "--llama_cpp" if named else "LLAMA_CPP"
        raise ConfigError(f"there is no {_SCRIPT} in {told}", where=where, fix=_INSTALL)
    on_path = shutil.which(_SCRIPT)
    return Path(on_path).resolve() if on_path else None


def _convert(options: Options, model: Path, command: list[str]) -> dict[str, Any]:
    from orpo.config import ORPOConfig  # noqa: PLC0415 - loads torch
    from orpo.train.tokenizer import load_tokenizer  # noqa: PLC0415 - loads torch

    options.output.parent.mkdir(parents=True, exist_ok=True)
    say(f"converting {model} with {command[1]}")
    remove(options.staged)  # the converter would follow a link
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
        if done.returncode or not options.staged.is_file():
            raise _explained(done.stdout, str(model), command[1])
        tokenizer = load_tokenizer(str(model), ORPOConfig(output_dir="unused"))
        checked = check_gguf(options.staged, model, tokenizer)
        options.staged.replace(options.output)
    finally:
        options.staged.unlink(missing_ok=True)
    for line in (*checked, *_endings(tokenizer)):
        say(line)
    size = options.output.stat().st_size
    say(f"{options.output}: {size:,} bytes")
    return {"file": str(options.output), "size": size, "checked": checked}


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
        return ConfigError(
            f"the converter needs {last.rsplit(maxsplit=1)[-1]}",
            where=converter,
            fix="pip install 'orpo[export]', or what its requirements file names.",
        )
    if "is not supported" in last or "not supported!" in last:
        return ModelError(
            "llama.cpp cannot convert this architecture", where=where, fix="A newer one may."
        )
    return OrpoError(f"{converter} broke: {last}")


def _endings(tokenizer: Any) -> list[str]:
    """A hint where an answer ends with another token than EOS, which is all that the file names."""
    from orpo.data.tokenize import answer_endings  # noqa: PLC0415 - loads torch

    others = answer_endings(tokenizer) - {tokenizer.eos_token_id}
    names = [str(tokenizer.convert_ids_to_tokens(one)) for one in sorted(others)]
    return [
        f"answers end with {name}: name it as a stop where answers do not end" for name in names
    ]


def check_gguf(file: Path, folder: Path, tokenizer: Any) -> list[str]:
    """Whether a GGUF file holds the model that it was made of: its kind, its template, its words.

    Returns:
        What was found to be so, one line each.

    Raises:
        ModelError: It is no GGUF file, or not that of this model.
    """
    with file.open("rb") as opened:
        if opened.read(len(_MAGIC)) != _MAGIC:
            raise ModelError("the converter wrote no GGUF file", where=str(folder))
    try:
        from gguf import GGUFReader  # noqa: PLC0415 - an extra
    except ImportError:
        return ["a GGUF file by its first bytes; pip install 'orpo[export]' checks what is in it"]
    from orpo.data.asked import asked_otherwise  # noqa: PLC0415 - loads torch

    fields = GGUFReader(file).fields
    config = read_object(folder / "config.json")
    _same("chat template", _held(fields, "tokenizer.chat_template"), tokenizer.chat_template)
    tokens = fields.get("tokenizer.ggml.tokens")
    size = config.get("vocab_size") or len(tokenizer)
    _same("size of the vocabulary", 0 if tokens is None else len(tokens.data), size)
    _same("EOS token", _held(fields, "tokenizer.ggml.eos_token_id"), tokenizer.eos_token_id)
    kind = _held(fields, "general.architecture")
    template = "its chat template" if tokenizer.chat_template else "no chat template, as the model"
    differs = asked_otherwise(tokenizer)
    found = f"architecture {kind}, {size:,} tokens, {template}, EOS {tokenizer.eos_token}"
    return [found, *([differs] if differs else [])]


def _held(fields: Any, name: str) -> Any:
    return fields[name].contents() if name in fields else None


def _same(what: str, found: object, expected: object) -> None:
    if found != expected:
        shown = [
            repr(one) if len(repr(one)) < 40 else f"{repr(one)[:40]}..."
            for one in (found, expected)
        ]
        raise ModelError(
            f"the converter wrote another {what}: {shown[0]} instead of {shown[1]}",
            where="orpo export",
            fix="Take a newer llama.cpp.",
        )
