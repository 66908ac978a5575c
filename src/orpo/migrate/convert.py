"""Settings of another trainer in, a recipe and an account of every key out; nothing is run.

A file is read into keys (`reading`) and the rules of its trainer (`peers`, with the tables of names
in `tables.yaml`) write settings into a `Ledger`, which holds that no key is passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from orpo.errors import ConfigError
from orpo.migrate.ledger import FILL_IN, Kind, Ledger, Outcome, Setting
from orpo.migrate.peers import require_orpo, settle
from orpo.migrate.reading import read_document
from orpo.migrate.rules import PEERS, known_to_transformers
from orpo.terminal import spelled_out

_GROUPS = {
    "model and data": (
        *("model", "tokenizer", "model_dtype", "model_revision", "model_init_kwargs"),
        *("trust_remote_code", "chat_template_kwargs", "dataset", "eval_dataset", "held_out"),
    ),
    "objective": ("orpo_alpha", "orpo_beta", "nll_scope", "disable_dropout"),
    "lengths": ("max_length", "max_prompt_length", "truncation"),
    "adapter": ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"),
    "optimizer": (
        *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"),
        *("num_train_epochs", "max_steps", "per_device_train_batch_size"),
        *("gradient_accumulation_steps", "optim", "weight_decay", "adam_beta1", "adam_beta2"),
        *("adam_epsilon", "max_grad_norm", "seed", "train_sampling_strategy"),
    ),
}
_WIDE = 44
"""Comments begin there, or after the value."""


@dataclass(frozen=True)
class Conversion:
    """What some files became: lines of a recipe, and an outcome for every key, in their order."""

    files: tuple[str, ...]
    peer: str
    settings: tuple[Setting, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def trainer(self) -> str:
        """What the trainer is called, with the release whose rules were applied."""
        return f"{PEERS[self.peer]['called']} (rules of {PEERS[self.peer]['release']})"

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
        told = {
            kind.replace(" ", "_"): [
                {"key": one.key.name, "where": one.key.where, "said": one.said}
                for one in self.of_kind(kind)
            ]
            for kind in kinds
        }
        return {
            "files": list(self.files),
            "from": self.peer,
            "rules_of": PEERS[self.peer]["release"],
            "keys": len(self.outcomes),
            **told,
            "settings": self.values,
            "fill_in": self.blanks,
            "missing": self.missing,
        }


def convert(files: Sequence[str], asked: str | None = None) -> Conversion:
    """Convert the settings of one run, which may stand in several files.

    Args:
        files: YAML or JSON; of a key given twice the later one counts. The configuration of
            `accelerate launch` may be among them.
        asked: A name of `PEERS`, where it cannot be seen.

    Raises:
        ConfigError: A file cannot be read, is of no known trainer, or trains something else.
    """
    documents = [read_document(Path(file), asked) for file in files]
    peers = list(dict.fromkeys(peer for peer, _ in documents if peer))
    if len(peers) != 1:
        names = " and ".join(PEERS[peer]["called"] for peer in peers) or "accelerate alone"
        raise ConfigError(
            f"the settings are of {names}",
            where=", ".join(files),
            fix="Give the files of one run of one trainer.",
        )
    keys = [
        key if peer else replace(key, name=f"accelerate.{key.name}")
        for peer, found in documents
        for key in found
    ]
    ledger = Ledger(PEERS[peers[0]]["called"], keys)
    require_orpo(ledger, peers[0])
    finish = settle(ledger, peers[0], known_to_transformers())
    ledger.close()
    finish()
    order = {id(key): i for i, key in enumerate(keys)}
    outcomes = sorted(ledger.outcomes, key=lambda outcome: order[id(outcome.key)])
    return Conversion(tuple(files), peers[0], tuple(ledger.settings.values()), tuple(outcomes))


def recipe_text(conversion: Conversion) -> str:
    """YAML for `orpo train`."""
    files = ", ".join(_no_lines(file) for file in conversion.files)
    lines = [f"# Converted from {files}: settings of {conversion.trainer}."]
    left = {setting.name: setting for setting in conversion.settings}
    for title, names in _GROUPS.items():
        group = [left.pop(name) for name in names if name in left]
        lines += _block(title, group)
    lines += _block("the rest", list(left.values()))
    lost = [
        f"{_no_lines(o.key.name)} ({_no_lines(o.key.where)}): {_no_lines(o.said)}"
        for o in conversion.of_kind("not supported")
    ]
    lost += [f"the files do not say the {n}: put it here, or --{n}" for n in conversion.missing]
    if lost:
        lines += ["", "# Not carried over:", *(f"# - {line}" for line in lost)]
    return "\n".join(lines) + "\n"


def _block(title: str, settings: list[Setting]) -> list[str]:
    if not settings:
        return []
    shown = ((f"{s.name}: {_value(s.value)}", _no_lines(s.source)) for s in settings)
    return ["", f"# {title}", *(f"{text:<{_WIDE}}  # {source}" for text, source in shown)]


def _value(value: Any) -> str:
    """On one line, as YAML that reads as the same value, also where it is shown on a terminal."""
    text = _dumped(value, allow_unicode=True)
    if spelled_out(text) != text:
        text = _dumped(value, allow_unicode=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _dumped(value: Any, *, allow_unicode: bool) -> str:
    text: str = yaml.safe_dump(
        value,
        default_flow_style=True,
        width=2**31,
        allow_unicode=allow_unicode,
        sort_keys=False,
    )
    return text


def _no_lines(text: str) -> str:
    """A text on one line, without what would steer a terminal or end a comment."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
