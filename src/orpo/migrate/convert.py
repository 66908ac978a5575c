"""Settings of another trainer in, a recipe and an account of every key out; nothing is run.

A file is read into keys and the rules of its trainer (`peers`, with the tables of names in
`tables.yaml`) write settings into a `Ledger`, which holds that no key is passed over. They are
asked for a single key, too: what a setting of another trainer, or an older name, is called here.
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from orpo.errors import ConfigError, DataError, did_you_mean
from orpo.migrate.ledger import FILL_IN, Key, Kind, Ledger, Outcome, Setting
from orpo.migrate.peers import require_orpo, settle
from orpo.migrate.rules import PEERS, TABLES, known_to_transformers
from orpo.runs import reading
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
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_NESTED = ("trl", "datasets", "test_datasets")
"""Blocks whose parts are settings of their own; other blocks are values."""
_ACCELERATE = {"compute_environment", "distributed_type", "num_machines"}
_SHELL = ("a shell script", "Write the flags of its command into a YAML file")
_SCRIPTS = {
    ".py": ("a Python script", "A script for TRL runs with two changed imports"),
    **{".sh": _SHELL, ".bash": _SHELL},
}
_ASKED = ("trl", "llama-factory", "ms-swift", "axolotl")
"""Of two that know a word, the first is followed: Axolotl's `batch_size` is that of a step."""
_SAMPLES: tuple[Any, ...] = (0.5, True, "lora")
_NEEDLESS = "Leave it out"

Hint: TypeAlias = tuple[tuple[str, ...], str]
"""What a setting that orpo does not have is called here, or what to do instead."""


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
    """Convert the settings of one run, in YAML or JSON; of a key given twice the later one counts.

    The configuration of `accelerate launch` may be among the files. `asked` is a name of `PEERS`,
    where it cannot be seen.
    """
    documents = [_read_document(Path(file), asked) for file in files]
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


def _read_document(path: Path, asked: str | None) -> tuple[str, list[Key]]:
    """Whose settings a file holds, and its keys; "" for those of `accelerate launch`."""
    suffix, where = path.suffix.lower(), str(path)
    if suffix in _SCRIPTS:
        kind, instead = _SCRIPTS[suffix]
        what, fix = f"is {kind}, and settings are read from YAML and JSON", f"{instead}: "
        raise ConfigError(what, where=where, fix=f"{fix}docs/migrate.md shows how.")
    if suffix not in (".yaml", ".yml", ".json"):
        what = f"unknown kind of file {suffix or path.name!r}"
        raise ConfigError(what, where=where, fix="Use .yaml or .json.")
    keys = read_mapping(path)
    names = {key.name.partition(".")[0].partition("[")[0] for key in keys}
    if len(names & _ACCELERATE) > 1:
        return "", keys
    if asked:
        return asked, keys
    marks = {peer: len(names.intersection(table["marks"])) for peer, table in PEERS.items()}
    best = [peer for peer, count in marks.items() if count == max(marks.values())]
    if not max(marks.values()):
        what, fix = "holds no key by which its trainer could be told", "|".join(PEERS)
    else:
        called = " or ".join(PEERS[peer]["called"] for peer in best)
        what, fix = f"could be of {called}", best[0]
    if len(best) > 1:
        raise ConfigError(what, where=where, fix=f"Say it: --from {fix}.")
    return best[0], keys


def read_mapping(path: Path) -> list[Key]:
    """The keys of a YAML or JSON file, in order."""
    if not path.is_file():
        raise ConfigError("no such file", where=str(path), fix="Give a file with settings.")
    try:
        text = reading.read_text(path)
        values = reading.load_yaml(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        json.dumps(values, default=str, skipkeys=True)  # what holds itself is refused
    except DataError as error:
        raise ConfigError(error.what, where=str(path)) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"cannot be read ({error.problem})", where=f"{path}:{line}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot be read ({error})", where=str(path)) from error
    if not isinstance(node, yaml.MappingNode) or not isinstance(values, dict):
        raise ConfigError("holds no settings", where=str(path), fix="Give `name: value` per line.")
    return list(_keys(node, values, path, ""))


def _keys(node: yaml.MappingNode, values: Any, path: Path, prefix: str) -> Iterator[Key]:
    for name_node, value_node in node.value:
        name, line = str(name_node.value), name_node.start_mark.line + 1
        value: Any = values.get(name, values.get(_scalar(name)))
        full, nested = f"{prefix}{name}", not prefix and name in _NESTED
        parts = value_node.value if isinstance(value_node, yaml.SequenceNode) else []
        if nested and isinstance(value_node, yaml.MappingNode):
            yield from _keys(value_node, value, path, f"{full}.")
        elif nested and parts and all(isinstance(part, yaml.MappingNode) for part in parts):
            for i, part in enumerate(parts):
                yield from _keys(part, value[i], path, f"{full}[{i}].")
        else:
            yield Key(full, _scalar(value), f"{path}:{line}")


def _scalar(value: Any) -> Any:
    """A value as it is meant: YAML reads 1e-5 as a text."""
    if isinstance(value, list):
        return [_scalar(part) for part in value]
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text in ("None", "null"):  # "none" is a logger, and a kind of schedule
        return None
    if not _NUMBER.fullmatch(text):
        return value
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)


def recipe_text(conversion: Conversion) -> str:
    """YAML for `orpo train`."""
    files = ", ".join(_no_lines(file) for file in conversion.files)
    lines = [f"# Converted from {files}: settings of {conversion.trainer}."]
    left = {setting.name: setting for setting in conversion.settings}
    groups = {t: [left.pop(n) for n in names if n in left] for t, names in _GROUPS.items()}
    for title, settings in {**groups, "the rest": list(left.values())}.items():
        lines += ["", f"# {title}"] if settings else []
        for one in settings:
            line = f"{one.name}: {_value(one.value)}"
            lines.append(f"{line:<{_WIDE}}  # {_no_lines(one.source)}")
    lost = [
        f"{_no_lines(o.key.name)} ({_no_lines(o.key.where)}): {_no_lines(o.said)}"
        for o in conversion.of_kind("not supported")
    ]
    lost += [f"the files do not say the {n}: put it here, or --{n}" for n in conversion.missing]
    if lost:
        lines += ["", "# Not carried over:", *(f"# - {line}" for line in lost)]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """On one line, as YAML that reads as the same value, also where it is shown on a terminal."""
    how: dict[str, Any] = {"default_flow_style": True, "width": 2**31, "sort_keys": False}
    text: str = yaml.safe_dump(value, allow_unicode=True, **how)
    if spelled_out(text) != text:
        text = yaml.safe_dump(value, allow_unicode=False, **how)
    return text.removesuffix("\n").removesuffix("\n...")


def _no_lines(text: str) -> str:
    """A text on one line, without what would steer a terminal or end a comment."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def suggestion(name: str, known: Collection[str], value: Any = None) -> str:
    """What to write in place of an unknown setting, out of what is known; or empty."""
    plain = name.lower().replace("-", "_")
    found = None if plain in known else _hint(plain, value)
    if found is not None and {*found[0]} <= {*known}:
        names, instead = found
        return f"Did you mean {' and '.join(map(repr, names))}?" if names else instead
    return did_you_mean(plain, known, shown="'{}'")


def _hint(name: str, value: Any) -> Hint | None:
    """What other trainers' rules make of a setting; None if none of them has it."""
    for setting, words in TABLES["words"].items():
        if name in words:
            return (setting,), ""
    for samples in ([] if value is None else [value]), _SAMPLES:
        answers = [a for peer in _ASKED for one in samples if (a := _asked(peer, name, one))]
        if answers:  # a name says most, that it can be left out least
            return min(answers, key=lambda answer: (not answer[0], answer[1].startswith(_NEEDLESS)))
    return None


def _asked(peer: str, name: str, value: Any) -> Hint | None:
    """What one trainer's rules say to a value of the setting."""
    key = Key(name, value, "")
    marks = PEERS[peer].get("required", {}).items()
    ledger = Ledger(PEERS[peer]["called"], [*(Key(k, v, "") for k, v in marks), key])
    try:
        require_orpo(ledger, peer)
        settle(ledger, peer, {})
    except ConfigError:  # such as a file that is not there
        return None
    if ledger.has(name):
        return None
    (outcome,) = [one for one in ledger.outcomes if one.key is key]
    made = [s.name for s in ledger.settings.values() if s.source.startswith(f"{name}, ")]
    if outcome.kind == "converted" and made:
        return tuple(made), ""
    said = outcome.said.rstrip(".")
    if outcome.kind == "not needed":
        return (), f"{_NEEDLESS}: {said}."
    return None if repr(value) in said else ((), f"{said[0].upper()}{said[1:]}.")
