"""Whose settings a file holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orpo.errors import ConfigError
from orpo.migrate.ledger import Key
from orpo.migrate.python_script import read_script
from orpo.migrate.reading import read_mapping
from orpo.migrate.shell import Command, read_commands

__all__ = ["PEERS", "VERSIONS", "Document", "read_document"]

PEERS = {
    "trl": "TRL",
    "llama-factory": "LLaMA-Factory",
    "axolotl": "Axolotl",
    "ms-swift": "ms-swift",
}
"""What `--from` may say -> what it is called."""

VERSIONS = {
    "trl": "1.16.0",
    "llama-factory": "0.9.5",
    "axolotl": "0.19.0",
    "ms-swift": "4.6.0",
}
"""The releases whose sources the rules and defaults were taken from."""

_MARKS = {
    "trl": {"dataset_name", "use_peft", "lora_r", "beta", "dataset_train_split", "dtype"},
    "llama-factory": {
        *("stage", "pref_loss", "pref_beta", "finetuning_type", "cutoff_len", "lora_target"),
        *("dataset_dir", "preprocessing_num_workers", "pref_ftx"),
    },
    "axolotl": {
        *("base_model", "rl", "sequence_len", "micro_batch_size", "num_epochs", "adapter"),
        *("rl_beta", "lora_target_linear", "val_set_size"),
    },
    "ms-swift": {
        *("rlhf_type", "tuner_type", "train_type", "torch_dtype", "split_dataset_ratio"),
        *("target_modules", "dataset_num_proc", "model"),
    },
}
"""Keys that tell trainers apart."""
_SHARED = {"model_name_or_path": {"trl", "llama-factory"}, "lora_rank": {"llama-factory"}}
_ACCELERATE = {"compute_environment", "distributed_type", "num_machines"}
_SCRIPTS = {".py"}
_SHELL = {".sh", ".bash"}
_MAPPINGS = {".yaml", ".yml", ".json"}


@dataclass(frozen=True)
class Document:
    """A file of settings.

    Attributes:
        path: The file.
        peer: A name of `PEERS`; empty for the configuration of `accelerate launch`.
        keys: Its keys.
    """

    path: Path
    peer: str
    keys: list[Key]


def read_document(path: Path, asked: str | None) -> Document:
    """Read a file and see whose it is.

    Args:
        path: A script, a shell script, or YAML or JSON.
        asked: The trainer, where the user says it.

    Raises:
        ConfigError: It cannot be read, or could be of several trainers, or of none.
    """
    suffix = path.suffix.lower()
    if suffix in _SCRIPTS:
        return Document(path, asked or "trl", read_script(path))
    if suffix in _SHELL:
        peer, keys = _of_commands(read_commands(path), path, asked)
        return Document(path, peer, keys)
    if suffix not in _MAPPINGS:
        raise ConfigError(
            f"unknown kind of file {suffix or path.name!r}",
            where=str(path),
            fix="Use .py, .sh, .yaml or .json.",
        )
    keys = read_mapping(path)
    names = {key.name.partition(".")[0].partition("[")[0] for key in keys}
    if len(names & _ACCELERATE) > 1:
        return Document(path, "", keys)
    return Document(path, asked or _by_names(names, path), keys)


def _by_names(names: Iterable[str], path: Path) -> str:
    marks = {peer: len(own & set(names)) for peer, own in _MARKS.items()}
    for name, peers in _SHARED.items():
        if name in names:
            for peer in peers:
                marks[peer] += 1
    most = max(marks.values())
    best = [peer for peer, count in marks.items() if count == most]
    if most == 0:
        raise ConfigError(
            "holds no key by which its trainer could be told",
            where=str(path),
            fix=f"Say it: --from {'|'.join(PEERS)}.",
        )
    if len(best) > 1:
        names_of_best = " or ".join(PEERS[peer] for peer in best)
        raise ConfigError(
            f"could be of {names_of_best}", where=str(path), fix=f"Say it: --from {best[0]}."
        )
    return best[0]


def _of_commands(commands: list[Command], path: Path, asked: str | None) -> tuple[str, list[Key]]:
    """The one command of a script that trains, with its trainer."""
    known = [(command, asked or _of_words(command.words)) for command in commands]
    trains = [(command, peer) for command, peer in known if peer]
    if not trains:
        raise ConfigError(
            "runs no `swift rlhf`, no llamafactory-cli and no Python script with flags",
            where=str(path),
            fix="Give the YAML or the script that it runs.",
        )
    if len(trains) > 1:
        places = ", ".join(command.keys[0].where.rpartition(":")[2] for command, _ in trains)
        raise ConfigError(
            f"trains {len(trains)} times (lines {places})",
            where=str(path),
            fix="Give a script with one of these commands.",
        )
    command, peer = trains[0]
    launcher = [Key(f"launcher.{key.name}", key.value, key.where) for key in command.launcher]
    environment = [Key(f"env.{key.name}", key.value, key.where) for key in command.environment]
    return peer, [*environment, *launcher, *command.keys]


def _of_words(words: list[str]) -> str:
    program = Path(words[0]).name if words else ""
    if program == "swift" and "rlhf" in words:
        return "ms-swift"
    if program in {"llamafactory-cli", "lmf"}:
        return "llama-factory"
    if program == "axolotl" or any("axolotl" in word for word in words):
        return "axolotl"
    script = any(word.endswith(".py") for word in words)
    return "trl" if script or program == "trl" else ""
