"""What may leave this machine: settings without its paths and without secrets."""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from orpo.errors import ConfigError
from orpo.runs.files import hub_id

_NAMED = {
    *("model", "dataset", "eval_dataset", "tokenizer", "output_dir", "chat_template"),
    *("data_cache", "logging_dir", "deepspeed", "fsdp_config", "resume_from_checkpoint"),
    *("base_model_name_or_path", "_name_or_path", "name_or_path", "cache_dir"),
}
_PRIVATE = {"dropped_examples", "started_in"}
_SECRET_NAME = re.compile(r"(^|_)(token|password|passwd|secret|api_key)$")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")
_QUERY = re.compile(r"(://[^\s?]+)\?[^\s'\"]*")
# A path from the root, from home or from a drive, within a text.
_PATH = re.compile(r"(?<![\w/.:~<\\-])(?:~?/|[A-Za-z]:[\\/])[^\s'\"<>|,;()\[\]]+")
_KEYS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY")


def public_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe that can be read anywhere: names for paths, no secrets, no text of the rows."""
    public: dict[str, Any] = _public(recipe, "")
    return public


def public_config(config: dict[str, Any], base_model: str | None) -> dict[str, Any]:
    """The settings of a model, a tokenizer or an adapter with a name where a path was.

    Nothing else is touched: a special token may look like anything. `base_model` is what an
    adapter's base model is called where others load it.
    """
    public = {name: _public(v, name) if name in _NAMED else v for name, v in config.items()}
    if base_model and "base_model_name_or_path" in public:
        public["base_model_name_or_path"] = base_model
    return public


def scrubbed(text: str, token: str | None) -> str:
    """A message, as from a server, without the token that was sent to it."""
    return _without_secrets(text.replace(token, "***") if token else text)


def refuse_leaks(files: Iterable[tuple[str, bytes]], token: str | None) -> None:
    """The last look at what is sent as text: names and contents, and the token that is in use."""
    secrets = [one for one in (token, *map(os.environ.get, _KEYS)) if one and len(one) > 8]
    folders = _folders()
    for name, content in files:
        text = content.decode("utf-8", errors="replace")
        if _TOKEN.search(text) or any(one in text for one in secrets):
            raise ConfigError(
                "holds what looks like a token; nothing was sent",
                where=name,
                fix="Take it out of the run folder, and revoke it.",
            )
        found = next((folder for folder in folders if folder in text), None)
        if found:
            raise ConfigError(
                f"names a folder of this machine ({found}); nothing was sent",
                where=name,
                fix="Take it out of the run folder.",
            )


def _folders() -> list[str]:
    """The user's own folder and the one that we are in."""
    found = {Path.cwd()}
    with suppress(RuntimeError):
        found.add(Path.home())
    return [f"{folder.as_posix()}/" for folder in found if len(folder.parts) > 1]


def _public(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {
            key: _public(one, str(key))
            for key, one in value.items()
            if key not in _PRIVATE
            and not (isinstance(one, str) and _SECRET_NAME.search(str(key).lower()))
        }
    if isinstance(value, list):
        return [_public(one, name) for one in value]
    if not isinstance(value, str):
        return value
    text = _without_secrets(value)
    if name in _NAMED or _PATH.match(text):
        return text if "://" in text or hub_id(text) else _last(text)
    return _PATH.sub(lambda found: _last(found[0]), text)


def _without_secrets(text: str) -> str:
    return _TOKEN.sub("***", _QUERY.sub(r"\1", _CREDENTIALS.sub("", text)))


def _last(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
