"""A model handed over to a server that speaks OpenAI's protocol: its command, made right.

The server is another program: `transformers serve`, or vLLM. What is ours is to hand it the very
model that was committed, with the chat template of the training, and to say where it answers.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from orpo.config import ORPOConfig
from orpo.data.asked import asked_otherwise
from orpo.data.rendering import has_chat_template
from orpo.errors import ConfigError, ModelError
from orpo.evaluate import is_adapter
from orpo.jobs.merge_job import MERGED, merge_once, merged_folder
from orpo.runs import ensure_as_committed
from orpo.runs.names import located
from orpo.train.adapters import base_of_adapter, read_adapter
from orpo.train.tokenizer import load_tokenizer

__all__ = ["ENGINES", "ServeJob", "ServePlan", "hand_over", "plan_serve"]

ENGINES = ("auto", "transformers", "vllm")
_TEMPLATE = "chat_template.jinja"
# What vLLM takes as --max-lora-rank, its vllm/config/lora.py of v0.27 says.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_EVERYWHERE = {"0.0.0.0": "localhost", "::": "localhost"}  # noqa: S104 - shown, not bound
_SAFE_NAME = "@:"  # `transformers serve` reads MODEL@REVISION and MODEL:FILE


@dataclass(frozen=True)
class ServeJob:
    """What `orpo serve` needs.

    Attributes:
        model: A run folder, a model folder, an adapter folder or a Hub id.
        engine: One of `ENGINES`; "auto" takes vLLM where it is installed.
        host: Where it listens.
        port: And on which port.
        extra: Further arguments of the server's own command.

    Raises:
        ConfigError: A value that cannot be meant.
    """

    model: str
    engine: str = "auto"
    host: str = "localhost"
    port: int = 8000
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what can be checked without the model."""
        if not 0 < self.port < 2**16:
            raise ConfigError(f"must be 1 to 65535, is {self.port}", where="--port")
        if not self.host.strip():
            raise ConfigError("is empty", where="--host", fix="Leave it out, or name an address.")


@dataclass(frozen=True)
class ServePlan:
    """A server's command, and how to ask it.

    Attributes:
        engine: "transformers" or "vllm".
        command: Program and arguments.
        model: What the model is called in requests.
        url: Address of the server.
        notes: What was decided, or does not work, in words.
    """

    engine: str
    command: list[str]
    model: str
    url: str
    notes: list[str] = field(default_factory=list)

    @property
    def curl(self) -> str:
        """A request that can be pasted into a shell."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": "Hello!"}],
            "max_tokens": 128,
        }
        return (
            f"curl {self.url}/v1/chat/completions -H 'Content-Type: application/json' "
            f"-d {shlex.quote(json.dumps(body))}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The plan for JSON."""
        return {
            "engine": self.engine,
            "command": self.command,
            "model": self.model,
            "url": self.url,
            "curl": self.curl,
            "notes": self.notes,
        }


def plan_serve(job: ServeJob, *, say: Callable[[str], None], dry: bool = False) -> ServePlan:
    """The command that serves a model.

    Args:
        job: What is served, and where.
        say: Told what takes time.
        dry: Change nothing: no adapter is merged, and neither port nor program need be there.

    Raises:
        ModelError: There is no such model.
        CheckpointError: It is not what was committed.
        ConfigError: The server is not installed, or its port is taken.
    """
    _look_at(job.model)
    engine, program = _engine(job.engine)
    notes = _notes(job)
    if program is None:
        if not dry:
            raise _not_installed(engine)
        notes.append(str(_not_installed(engine)))
    if not dry:
        _ensure_free(job.host, job.port)
    adapter = is_adapter(job.model)
    if engine == "vllm":
        name = Path(job.model).resolve().name if Path(job.model).is_dir() else job.model
        what = _for_vllm(job.model, name, adapter=adapter)
    else:
        if adapter:
            notes.append(f"`transformers serve` knows no adapters: merged into {_merged(job)}")
        name = _for_transformers(job, adapter=adapter, dry=dry, say=say)
        what = [name]
    where = ["--host", job.host, "--port", str(job.port)]
    url = f"http://{_EVERYWHERE.get(job.host, job.host)}:{job.port}"
    command = [program or engine, "serve", *what, *where, *job.extra]
    return ServePlan(engine, command, name, url, notes)


def hand_over(plan: ServePlan) -> NoReturn:
    """Become the server; signals and output are its own from here on.

    Raises:
        ConfigError: Its program cannot be started.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execv(plan.command[0], plan.command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        raise ConfigError(f"cannot be started ({error.strerror})", where=plan.command[0]) from error


def _look_at(model: str) -> None:
    """Better said here in one line than by the server in fifty."""
    folder = Path(located(model))
    if model.endswith("/") and not folder.is_dir():
        raise ModelError("no such model folder", where=model, fix="Give a folder, or a Hub id.")
    ensure_as_committed(folder)


def _engine(wanted: str) -> tuple[str, str | None]:
    """The server to take, and its program; None where it is not installed."""
    vllm = shutil.which("vllm")
    if wanted == "vllm" or (wanted == "auto" and vllm):
        return "vllm", vllm
    return "transformers", _transformers()


def _not_installed(engine: str) -> ConfigError:
    what = {
        "vllm": ("vLLM is not installed", "pip install vllm (it wants a GPU)."),
        "transformers": (
            "no server is installed",
            "pip install 'orpo[serve]' for `transformers serve`, or pip install vllm.",
        ),
    }
    return ConfigError(what[engine][0], where="orpo serve", fix=what[engine][1])


def _transformers() -> str | None:
    """The program `transformers` of this Python, if what its server needs is there."""
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        return None
    return shutil.which("transformers", path=str(Path(sys.executable).parent)) or shutil.which(
        "transformers"
    )


def _ensure_free(host: str, port: int) -> None:
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        raise ConfigError(
            "is taken by another program" if taken else f"cannot be listened on ({error.strerror})",
            where=f"--port {port}" if taken else f"--host {host}",
            fix="Give another one.",
        ) from error


def _notes(job: ServeJob) -> list[str]:
    notes = []
    tokenizer = load_tokenizer(job.model, ORPOConfig(output_dir="unused"))
    if not has_chat_template(tokenizer):
        notes.append(
            "the tokenizer has no chat template: ask /v1/completions, which continues a text"
        )
    differs = asked_otherwise(tokenizer)
    if differs:
        notes.append(f"the server asks with the template alone: {differs}")
    if job.host not in {"localhost", "127.0.0.1", "::1"}:
        notes.append("whoever reaches this machine can ask the model: the server wants no key")
    return notes


def _for_vllm(model: str, name: str, *, adapter: bool) -> list[str]:
    """The model's part of vLLM's command, with the template that the model was trained with."""
    template = Path(model) / _TEMPLATE
    templated = ["--chat-template", str(template)] if template.is_file() else []
    if not adapter:
        return [model, "--served-model-name", name, *templated]
    try:
        settings = read_adapter(model)
        base, rank = base_of_adapter(model), int(settings["r"])
    except (ModelError, KeyError, TypeError) as error:
        raise ModelError(
            "the adapter is none that vLLM can load: its base model or rank is missing",
            where=str(Path(model) / "adapter_config.json"),
            fix="`orpo merge` makes a whole model of it.",
        ) from error
    room = next((most for most in _RANKS if most >= rank), rank)
    pinned = ["--revision", str(settings["revision"])] if settings.get("revision") else []
    lora = ["--enable-lora", "--lora-modules", f"{name}={model}", "--max-lora-rank", str(room)]
    return [base, *pinned, "--tokenizer", model, *lora, *templated]


def _for_transformers(
    job: ServeJob, *, adapter: bool, dry: bool, say: Callable[[str], None]
) -> str:
    """The folder or id that `transformers serve` loads; requests must name it so."""
    model = job.model
    if adapter:
        model = str(_merged(job) if dry else merge_once(Path(job.model), say=say))
    if any(sign in model for sign in _SAFE_NAME):
        raise ConfigError(
            f"`transformers serve` cannot take a name with {_SAFE_NAME[0]} or {_SAFE_NAME[1]}",
            where=model,
            fix="Rename the folder.",
        )
    return model


def _merged(job: ServeJob) -> Path:
    return merged_folder(Path(job.model)) or Path(job.model) / MERGED
