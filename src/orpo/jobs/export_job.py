"""A model as a GGUF file, through llama.cpp's own converter.

The converter is a script of the llama.cpp repository, and knows models and tokenizers that nobody
else keeps up with. What is ours is to hand it the committed model, whole and with its template,
and to look at what came out before it gets its name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo.config import ORPOConfig
from orpo.data.tokenize import answer_endings
from orpo.errors import ConfigError, ModelError, OrpoError
from orpo.evaluate import is_adapter
from orpo.jobs.gguf_check import check_gguf
from orpo.jobs.merge_job import MERGED, merge_once, merged_folder
from orpo.runs import ensure_as_committed, read_object, remove
from orpo.train.tokenizer import load_tokenizer

__all__ = ["OUTTYPES", "ExportJob", "ExportPlan", "plan_export", "run_export"]

OUTTYPES = ("auto", "f32", "f16", "bf16", "q8_0")
_SCRIPT = "convert_hf_to_gguf.py"
_INSTALL = (
    "git clone https://github.com/ggml-org/llama.cpp, then --llama_cpp FOLDER or LLAMA_CPP=FOLDER."
)


@dataclass(frozen=True)
class ExportJob:
    """What `orpo export` needs.

    Attributes:
        model: A run folder, a model folder or an adapter folder.
        output: The GGUF file to write.
        outtype: One of `OUTTYPES`; "auto" is the 16-bit type that loses least.
        llama_cpp: Folder of llama.cpp; $LLAMA_CPP or the PATH if absent.
        overwrite: Replace the file that is there.
        trust_remote_code: The model's own code may run: the converter would run it unasked.

    Raises:
        ConfigError: A value that cannot be meant.
    """

    model: str
    output: Path
    outtype: str = "auto"
    llama_cpp: Path | None = None
    overwrite: bool = False
    trust_remote_code: bool = False

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


@dataclass(frozen=True)
class ExportPlan:
    """The converter's command.

    Attributes:
        job: What was asked for.
        folder: The model that is converted.
        converter: llama.cpp's script.
        notes: What was decided, in words.
    """

    job: ExportJob
    folder: Path
    converter: Path
    notes: list[str] = field(default_factory=list)

    @property
    def staged(self) -> Path:
        """Where the file is written before it was looked at."""
        return self.job.output.with_name(f".{self.job.output.name}.new")

    @property
    def command(self) -> list[str]:
        """Program and arguments; the script runs in a process of this Python."""
        what = [str(self.folder), "--outfile", str(self.staged), "--outtype", self.job.outtype]
        return [sys.executable, str(self.converter), *what]


def plan_export(job: ExportJob, *, dry: bool = False) -> ExportPlan:
    """Find the converter and the model; writes nothing.

    Args:
        job: What is converted.
        dry: Go on without a converter, with a note.

    Raises:
        ModelError: There is no such model, or it comes with code of its own.
        CheckpointError: It is not what was committed.
        ConfigError: llama.cpp is not there.
    """
    folder = Path(job.model)
    notes: list[str] = []
    adapter = is_adapter(folder)
    if not adapter and not (folder / "config.json").is_file():
        raise ModelError(
            "no such model folder" if not folder.is_dir() else "the folder holds no model",
            where=job.model,
            fix="Give the folder of a finished run or of a model; a Hub id must be downloaded.",
        )
    ensure_as_committed(folder)
    if not job.trust_remote_code:
        _refuse_code(folder)
    converter = _converter(job.llama_cpp)
    if converter is None:
        missing = ConfigError(
            "llama.cpp's converter is not installed", where="orpo export", fix=_INSTALL
        )
        if not dry:
            raise missing
        notes.append(str(missing))
        converter = Path(_SCRIPT)
    if adapter:
        merged = merged_folder(folder)
        notes.append(f"the adapter is merged into {merged or folder / MERGED}")
        folder = merged or folder / MERGED
    return ExportPlan(job, folder, converter, notes)


def run_export(job: ExportJob, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Convert, look at the file, and give it its name.

    Args:
        job: What is converted.
        say: Told, line by line, what happens.

    Returns:
        The file, its size and what was checked.

    Raises:
        UserError: The model or the converter is none, or llama.cpp does not know the model.
        OrpoError: The converter broke.
    """
    plan = plan_export(job)
    if is_adapter(job.model):
        merge_once(Path(job.model), say=say)
    job.output.parent.mkdir(parents=True, exist_ok=True)
    say(f"converting {plan.folder} with {plan.converter}")
    remove(plan.staged)  # the converter would follow a link
    try:
        _convert(plan)
        checked = check_gguf(plan.staged, plan.folder)
        plan.staged.replace(job.output)
    finally:
        plan.staged.unlink(missing_ok=True)
    for line in (*checked, *_endings(plan.folder)):
        say(line)
    size = job.output.stat().st_size
    say(f"{job.output}: {size:,} bytes")
    return {"file": str(job.output), "size": size, "checked": checked}


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


def _refuse_code(folder: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file() and "auto_map" in read_object(path):
            raise ModelError(
                "the model comes with code of its own, which the converter would run",
                where=str(path),
                fix="Read that code, and add --trust_remote_code if you trust it.",
            )


def _convert(plan: ExportPlan) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(  # noqa: S603 - no shell, and the user's own converter
        plan.command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        check=False,
    )
    if done.returncode or not plan.staged.is_file():
        raise _explained(done.stdout, plan)


def _explained(said: str, plan: ExportPlan) -> OrpoError:
    """What the converter's last words mean."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else "it said nothing"
    where = str(plan.folder)
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
            where=str(plan.converter),
            fix="pip install 'orpo[export]', or what its requirements file names.",
        )
    if "is not supported" in last or "not supported!" in last:
        return ModelError(
            "llama.cpp cannot convert this architecture", where=where, fix="A newer one may."
        )
    return OrpoError(f"{plan.converter} broke: {last}")


def _endings(folder: Path) -> list[str]:
    """A hint where an answer ends with another token than EOS, which is all that the file names."""
    tokenizer = load_tokenizer(str(folder), ORPOConfig(output_dir="unused"))
    others = answer_endings(tokenizer) - {tokenizer.eos_token_id}
    names = [str(tokenizer.convert_ids_to_tokens(one)) for one in sorted(others)]
    return [
        f"answers end with {name}: name it as a stop where answers do not end" for name in names
    ]
