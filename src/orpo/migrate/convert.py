"""Files of settings in, a recipe and an account of every key out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orpo.errors import ConfigError
from orpo.migrate.axolotl import convert_axolotl, defaults_of_axolotl
from orpo.migrate.ledger import FILL_IN, Kind, Ledger, Outcome, Setting
from orpo.migrate.llama_factory import convert_llama_factory, defaults_of_llama_factory
from orpo.migrate.ms_swift import convert_ms_swift, defaults_of_ms_swift
from orpo.migrate.recognise import PEERS, VERSIONS, read_document
from orpo.migrate.shared import carry_over, launch
from orpo.migrate.trl import convert_trl, defaults_of_trl

__all__ = ["Conversion", "convert"]

_RULES: dict[str, tuple[Callable[[Ledger], None], Callable[[Ledger], None]]] = {
    "trl": (convert_trl, defaults_of_trl),
    "llama-factory": (convert_llama_factory, defaults_of_llama_factory),
    "axolotl": (convert_axolotl, defaults_of_axolotl),
    "ms-swift": (convert_ms_swift, defaults_of_ms_swift),
}


@dataclass(frozen=True)
class Conversion:
    """What some files became.

    Attributes:
        files: The files.
        peer: Whose settings they are, a name of `PEERS`.
        settings: Lines of the recipe.
        outcomes: What became of every key, in the order of the files and lines.
        launch: Flags of `orpo train` that are no setting.
    """

    files: tuple[str, ...]
    peer: str
    settings: tuple[Setting, ...]
    outcomes: tuple[Outcome, ...]
    launch: tuple[str, ...]

    @property
    def trainer(self) -> str:
        """What the trainer is called, with the release whose rules were applied."""
        return f"{PEERS[self.peer]} (rules of {VERSIONS[self.peer]})"

    @property
    def values(self) -> dict[str, Any]:
        """The recipe's settings by name."""
        return {setting.name: setting.value for setting in self.settings}

    @property
    def blanks(self) -> list[str]:
        """Settings whose value must be filled in by hand."""
        return [setting.name for setting in self.settings if setting.value == FILL_IN]

    @property
    def missing(self) -> list[str]:
        """What `orpo train` needs, and the files do not say."""
        return [name for name in ("model", "dataset") if name not in self.values]

    def of_kind(self, kind: Kind) -> list[Outcome]:
        """The keys that met with one outcome."""
        return [outcome for outcome in self.outcomes if outcome.kind == kind]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        kinds: tuple[Kind, ...] = ("converted", "not needed", "not supported")
        return {
            "files": list(self.files),
            "from": self.peer,
            "rules_of": VERSIONS[self.peer],
            "keys": len(self.outcomes),
            **{
                kind.replace(" ", "_"): [
                    {"key": o.key.name, "where": o.key.where, "said": o.said}
                    for o in self.of_kind(kind)
                ]
                for kind in kinds
            },
            "settings": self.values,
            "fill_in": self.blanks,
            "missing": self.missing,
            "launch": list(self.launch),
        }


def convert(files: Sequence[str], asked: str | None = None) -> Conversion:
    """Convert the settings of one run, which may stand in several files.

    Args:
        files: Scripts, shell scripts, YAML or JSON; of a key given twice the later one counts. The
            configuration of `accelerate launch` may be among them.
        asked: A name of `PEERS`, where it cannot be seen.

    Raises:
        ConfigError: A file cannot be read, is of no known trainer, or trains something else.
    """
    documents = [read_document(Path(file), asked) for file in files]
    peers = list(dict.fromkeys(document.peer for document in documents if document.peer))
    if len(peers) != 1:
        names = " and ".join(PEERS[peer] for peer in peers) or "accelerate alone"
        raise ConfigError(
            f"the settings are of {names}",
            where=", ".join(files),
            fix="Give the files of one run of one trainer.",
        )
    keys = [
        key if document.peer else replace(key, name=f"accelerate.{key.name}")
        for document in documents
        for key in document.keys
    ]
    ledger = Ledger(PEERS[peers[0]], keys)
    rules, defaults = _RULES[peers[0]]
    rules(ledger)
    launch(ledger)
    carry_over(ledger)
    ledger.close()
    defaults(ledger)
    ledger.keep_small_updates()
    order = {id(key): i for i, key in enumerate(keys)}
    outcomes = sorted(ledger.outcomes, key=lambda outcome: order[id(outcome.key)])
    return Conversion(
        tuple(files),
        peers[0],
        tuple(ledger.settings.values()),
        tuple(outcomes),
        tuple(ledger.launch),
    )
