"""`orpo serve`: a model handed over to a server that speaks OpenAI's protocol.

The server is another program: `transformers serve`, or vLLM. What is ours is to hand it the very
model that was committed, with the chat template of the training, and to say where it answers.
"""

import errno
import json
import os
import shlex
import shutil
import socket
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orpo.commands.console import say
from orpo.errors import ConfigError, ModelError
from orpo.options import argument, asked, option
from orpo.runs.checkpoints import ensure_as_committed
from orpo.runs.files import ADAPTER_FILE, ensure_reachable

EXAMPLES = """\
examples:
  orpo serve run
  orpo serve run --engine vllm --port 9000
  orpo serve run --dry_run
  orpo serve run -- --dtype bfloat16        what stands after -- goes to the server

The server is `transformers serve` (pip install 'orpo[serve]') or vLLM; this command becomes it."""

PASSES_ON = True

# What vLLM takes as --max-lora-rank, its vllm/config/lora.py of v0.27 says.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_SAFE_NAME = "@:"  # `transformers serve` reads MODEL@REVISION and MODEL:FILE
_NOT_INSTALLED = {
    "vllm": ("vLLM is not installed", "pip install vllm (it wants a GPU)."),
    "transformers": (
        "no server is installed",
        "pip install 'orpo[serve]' for `transformers serve`, or pip install vllm.",
    ),
}


@dataclass(frozen=True)
class Options:
    """The model, the server, and where it listens."""

    model: str = argument("RUN", help="run folder, model folder, adapter folder or Hub id")
    engine: str = option(
        "auto",
        choices=("auto", "transformers", "vllm"),
        help="default: vLLM where it is installed",
    )
    host: str = option("localhost", help="where it listens; default localhost")
    port: int = option(8000, help="and on which port; default 8000")
    dry_run: bool = option(False, help="show the command, start nothing")
    json: bool = asked("json")
    passed_on: tuple[str, ...] = asked("passed_on")


def run(options: Options) -> dict[str, Any]:
    """Become the server, or show how; a dry run changes nothing."""
    if not 0 < options.port < 2**16:
        raise ConfigError(f"must be 1 to 65535, is {options.port}", where="--port")
    if not options.host.strip():
        raise ConfigError("is empty", where="--host", fix="Leave it out, or name an address.")
    folder, notes = Path(options.model), list[str]()
    ensure_reachable(options.model)
    ensure_as_committed(folder)  # better said here in one line than by the server in fifty
    engine, program = _engine(options.engine)
    if program is None:
        what, fix = _NOT_INSTALLED[engine]
        absent = ConfigError(what, where="orpo serve", fix=fix)
        if not options.dry_run:
            raise absent
        notes.append(str(absent))
    if not options.dry_run:
        _ensure_free(options.host, options.port)
    notes = _notes(options) + notes
    if engine == "vllm":
        name = folder.resolve().name if folder.is_dir() else options.model
        served = _for_vllm(options.model, name)
    else:
        name = _for_transformers(options, notes)
        served = [name]
    shown = "localhost" if options.host in {"0.0.0.0", "::"} else options.host  # noqa: S104
    where = ["--host", options.host, "--port", str(options.port)]
    command = [program or engine, "serve", *served, *where, *options.passed_on]
    url = f"http://{shown}:{options.port}"
    messages = [{"role": "user", "content": "Hello!"}]
    body = json.dumps({"model": name, "messages": messages, "max_tokens": 128})
    header = "-H 'Content-Type: application/json'"
    curl = f"curl {url}/v1/chat/completions {header} -d {shlex.quote(body)}"
    for note in (*notes, f"{url}/v1 answers as model {name!r}; try:\n{curl}"):
        say(note)
    if not options.dry_run:
        say(f"starting: {shlex.join(command)}")
        hand_over(command)
    if not options.json:
        print(shlex.join(command))
    plan = {"engine": engine, "command": command, "model": name, "url": url}
    return {**plan, "curl": curl, "notes": notes}


def hand_over(command: list[str]) -> None:
    """Become the server; signals and output are its own from here on."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        raise ConfigError(f"cannot be started ({error.strerror})", where=command[0]) from error


def _engine(wanted: str) -> tuple[str, str | None]:
    """The server to take, and its program; None where it is not installed."""
    vllm = shutil.which("vllm")
    if wanted == "vllm" or (wanted == "auto" and vllm):
        return "vllm", vllm
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        return "transformers", None
    own = shutil.which("transformers", path=str(Path(sys.executable).parent))
    return "transformers", own or shutil.which("transformers")


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


def _notes(options: Options) -> list[str]:
    from orpo.config import ORPOConfig  # noqa: PLC0415 - as below
    from orpo.data.asked import asked_otherwise  # noqa: PLC0415 - as below
    from orpo.data.rendering import has_chat_template  # noqa: PLC0415 - as below
    from orpo.train.models import load_tokenizer  # noqa: PLC0415 - loads transformers

    tokenizer = load_tokenizer(options.model, ORPOConfig(output_dir="unused"))
    untemplated = "the tokenizer has no chat template: ask /v1/completions, which continues a text"
    differs = asked_otherwise(tokenizer)
    said = {
        untemplated: not has_chat_template(tokenizer),
        f"the server asks with the template alone: {differs}": bool(differs),
        "whoever reaches this machine can ask the model: the server wants no key": (
            options.host not in {"localhost", "127.0.0.1", "::1"}
        ),
    }
    return [note for note, holds in said.items() if holds]


def _for_vllm(model: str, name: str) -> list[str]:
    """The model's part of vLLM's command, with the template that the model was trained with."""
    from orpo.train.adapters import base_of_adapter, read_adapter  # noqa: PLC0415 - loads torch

    template = Path(model) / "chat_template.jinja"
    templated = ["--chat-template", str(template)] if template.is_file() else []
    if not (Path(model) / ADAPTER_FILE).is_file():
        return [model, "--served-model-name", name, *templated]
    try:
        settings = read_adapter(model)
        base, rank = base_of_adapter(model), int(settings["r"])
    except (ModelError, KeyError, TypeError) as error:
        raise ModelError(
            "the adapter is none that vLLM can load: its base model or rank is missing",
            where=str(Path(model) / ADAPTER_FILE),
            fix="`orpo merge` makes a whole model of it.",
        ) from error
    room = next((most for most in _RANKS if most >= rank), rank)
    pinned = ["--revision", str(settings["revision"])] if settings.get("revision") else []
    lora = ["--enable-lora", "--lora-modules", f"{name}={model}", "--max-lora-rank", str(room)]
    return [base, *pinned, "--tokenizer", model, *lora, *templated]


def _for_transformers(options: Options, notes: list[str]) -> str:
    """The folder or id that `transformers serve` loads; requests must name it so."""
    model, folder = options.model, Path(options.model)
    if (folder / ADAPTER_FILE).is_file():
        from orpo.evaluate import loading  # noqa: PLC0415 - loads torch

        model = str(folder / loading.MERGED)
        notes.append(f"`transformers serve` knows no adapters: merged into {model}")
        if not options.dry_run:
            loading.merge_once(folder, say=say)
    if any(sign in model for sign in _SAFE_NAME):
        raise ConfigError(
            f"`transformers serve` cannot take a name with {_SAFE_NAME[0]} or {_SAFE_NAME[1]}",
            where=model,
            fix="Rename the folder.",
        )
    return model
