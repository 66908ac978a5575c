"""What becomes of every key of another trainer's settings: none is passed over, none twice.

keys = converted + not needed + not supported
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["converted", "not needed", "not supported"]

FILL_IN = "FILL_IN"
"""Stands where a value could not be read; `orpo train` refuses it, so that it is not forgotten."""
_HALVES = {"bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class Key:
    """A setting as its file has it; the parts of a nested one are joined by dots."""

    name: str
    value: Any
    where: str


@dataclass(frozen=True)
class Outcome:
    """What became of a key: the settings it is now, why it is not needed, or what to do instead."""

    key: Key
    kind: Kind
    said: str


@dataclass(frozen=True)
class Setting:
    """A line of the recipe, and the key that it comes from, or whose default it is."""

    name: str
    value: Any
    source: str


class Ledger:
    """Takes keys one by one, and keeps what became of them; what is not open is left as it is."""

    def __init__(self, peer: str, keys: Sequence[Key]) -> None:
        self.peer = peer  # in words
        self.settings: dict[str, Setting] = {}  # lines of the recipe, as they were decided
        self.outcomes: list[Outcome] = []  # of the keys that were taken
        self._open: dict[str, Key] = {}
        for key in keys:
            earlier = self._open.get(key.name)
            if earlier is not None:
                self.not_needed(key.name, f"given again at {key.where}, which counts")
            self._open[key.name] = key

    @property
    def names(self) -> list[str]:
        """Keys that are still open."""
        return list(self._open)

    def has(self, name: str) -> bool:
        """Whether a key is still open."""
        return name in self._open

    def get(self, name: str, default: Any = None) -> Any:
        """The value of an open key; the default if there is none, or nothing was set."""
        key = self._open.get(name)
        return default if key is None or key.value is None else key.value

    def given(self, *names: str) -> list[str]:
        """Those of some keys that are open and set to something."""
        return [name for name in names if self.get(name) is not None]

    def where(self, name: str) -> str:
        """File and line of an open key; its name if there is none."""
        return self._open[name].where if name in self._open else name

    def converted(self, name: str, settings: Mapping[str, Any], note: str = "") -> None:
        """A key becomes settings."""
        key, shown = self._open.get(name), []
        if key is None:
            return
        for setting, value in settings.items():
            source = f"{key.name}, {key.where}" + (f"; {note}" if note else "")
            self.settings[setting] = Setting(setting, value, source)
            plain = value is None or isinstance(value, bool)
            spelled = {True: "true", False: "false", None: "null"}[value] if plain else value
            shown.append(f"{setting}: {spelled}")
        self._settle(name, "converted", ", ".join(shown) + (f" ({note})" if note else ""))

    def not_needed(self, name: str, why: str) -> None:
        """A key has nothing to decide here."""
        self._settle(name, "not needed", why)

    def not_supported(self, name: str, instead: str) -> None:
        """A key cannot be carried over; says what to do."""
        self._settle(name, "not supported", instead)

    def refuse_unless_off(self, name: str, instead: str) -> None:
        """A key that cannot be carried over, and needs not be where it is switched off."""
        if self.get(name) in (False, "none", "no", "", 0):
            self.not_needed(name, "is off, as it is here")
        else:
            self.not_supported(name, instead)

    def default(self, source: str, settings: Mapping[str, Any]) -> None:
        """What holds where the file says nothing, written out because our default is another."""
        for name, value in settings.items():
            self.settings.setdefault(name, Setting(name, value, source))

    def keep_small_updates(self) -> None:
        """Weights that are all trained are kept in 32 bits: in 16 most updates are rounded away."""
        dtype = self.settings.get("model_dtype")
        if dtype is None or dtype.value not in _HALVES or "lora_r" in self.settings:
            return
        why = f"{dtype.value} there ({dtype.source}), in which small updates are rounded away"
        self.settings["model_dtype"] = Setting("model_dtype", "float32", why)
        self.default("computes as before", {_HALVES[str(dtype.value)]: True})

    def close(self) -> None:
        """Settle what no rule has taken: empty keys need nothing, others are unknown."""
        unknown = f"is no key of {self.peer} that is known here: look up what it does"
        for name in self.names:
            if self._open[name].value is None:
                self.not_needed(name, "is empty")
            else:
                self.not_supported(name, unknown)

    def _settle(self, name: str, kind: Kind, said: str) -> None:
        if name in self._open:
            self.outcomes.append(Outcome(self._open.pop(name), kind, said))
