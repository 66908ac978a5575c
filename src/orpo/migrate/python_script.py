"""A Python script for TRL as keys: its calls are read from the syntax tree, it is never run.

A name that is assigned once, to a value that stands there, is that value. What else the script
computes is kept as `Computed`, so that it can be asked for.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from orpo.errors import ConfigError
from orpo.migrate.ledger import Computed, Key
from orpo.migrate.reading import read_text

__all__ = ["read_script"]

_CALLS = {"LoraConfig": "LoraConfig", "BitsAndBytesConfig": "BitsAndBytesConfig"}
_CHANGES = ("map", "filter", "select", "shuffle", "train_test_split", "rename_column")
_ADAPTERS = ("get_peft_model", "prepare_model_for_kbit_training")
_SETS = {"train_dataset": "train_dataset", "eval_dataset": "eval_dataset"}
_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


def read_script(path: Path) -> list[Key]:
    """The keys of a script, in the order of its lines.

    `ORPOConfig` gives plain names, other calls `LoraConfig.r`, `from_pretrained.dtype`, ...; a data
    set that the trainer is given, what it was loaded from, with a split: `train_dataset`.

    Raises:
        ConfigError: It is no Python, or builds no ORPO trainer or settings.
    """
    text = read_text(path)
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None) or 1
        what = getattr(error, "msg", None) or error
        raise ConfigError(f"is no Python ({what})", where=f"{path}:{line}") from error
    script = _Script(tree, path)
    keys = script.keys()
    if not script.calls("ORPOConfig") and not script.calls("ORPOTrainer"):
        raise ConfigError(
            "calls neither ORPOConfig nor ORPOTrainer",
            where=str(path),
            fix="Give a script that trains with TRL's ORPOTrainer.",
        )
    return keys


class _Script:
    """A syntax tree, and what its names stand for."""

    def __init__(self, tree: ast.Module, path: Path) -> None:
        self._tree, self._path = tree, path
        self._assigned: dict[str, list[ast.expr]] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                target = node.targets[0]
                if isinstance(target, ast.Name):
                    self._assigned.setdefault(target.id, []).append(node.value)
            elif isinstance(node, ast.AugAssign | ast.For) and isinstance(node.target, ast.Name):
                self._assigned.setdefault(node.target.id, []).append(node.target)

    def calls(self, name: str) -> list[ast.Call]:
        """Calls of a function or class by its last name."""
        found = (n for n in ast.walk(self._tree) if isinstance(n, ast.Call))
        return [call for call in found if _name(call.func) == name]

    def keys(self) -> list[Key]:
        """Every setting that is found, in the order of the lines."""
        found = [
            *(key for call in self.calls("ORPOConfig") for key in self._arguments(call, "")),
            *(
                key
                for name, prefix in _CALLS.items()
                for call in self.calls(name)
                for key in self._arguments(call, f"{prefix}.")
            ),
            *self._models(),
            *(key for call in self.calls("ORPOTrainer") for key in self._of_trainer(call)),
            *self._changes(),
            *self._templates(),
            *self._parsers(),
        ]
        return sorted(found, key=lambda key: int(key.where.rpartition(":")[2]))

    def _arguments(self, call: ast.Call, prefix: str) -> Iterator[Key]:
        for argument in call.args:
            yield self._key(f"{prefix}(positional)", argument, Computed(ast.unparse(argument)))
        for word in call.keywords:
            name = word.arg or f"**{ast.unparse(word.value)}"
            value = self.value(word.value) if word.arg else Computed(name)
            yield self._key(prefix + name, word.value, value)

    def _models(self) -> Iterator[Key]:
        for call in self.calls("from_pretrained"):
            owner = _name(call.func.value) if isinstance(call.func, ast.Attribute) else ""
            if not ("Model" in owner or "Tokenizer" in owner):
                continue
            model = "Model" in owner
            words = [word for word in call.keywords if word.arg]
            if call.args:
                name = "model_name_or_path" if model else "tokenizer"
                yield self._key(name, call.args[0], self.value(call.args[0]))
            prefix = "from_pretrained" if model else "tokenizer"
            for word in words:
                yield self._key(f"{prefix}.{word.arg}", word.value, self.value(word.value))

    def _of_trainer(self, call: ast.Call) -> Iterator[Key]:
        words = {word.arg: word.value for word in call.keywords if word.arg}
        model = words.pop("model", call.args[0] if call.args else None)
        if model is not None and isinstance(self.value(model), str):
            yield self._key("model_name_or_path", model, self.value(model))
        for name, node in words.items():
            if name in _SETS:
                yield self._key(_SETS[name], node, self._data(node))
            elif name not in {"args", "peft_config", "processing_class", "tokenizer"}:
                value = self.value(node)
                yield self._key(f"ORPOTrainer.{name}", node, value)

    def _changes(self) -> Iterator[Key]:
        """Calls that change data sets or models after they were loaded."""
        for node in ast.walk(self._tree):
            if not isinstance(node, ast.Call):
                continue
            name = _name(node.func)
            if isinstance(node.func, ast.Attribute) and name in _CHANGES and self._is_data(node):
                yield self._key(f"dataset.{name}", node, Computed(f"{name}(...)"))
            elif name in _ADAPTERS:
                yield self._key(name, node, Computed(f"{name}(...)"))

    def _templates(self) -> Iterator[Key]:
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Attribute) and target.attr == "chat_template":
                        yield self._key("tokenizer.chat_template", node, Computed("..."))

    def _parsers(self) -> Iterator[Key]:
        """What reads the command line in place of settings that stand in the script."""
        parsers = (*self.calls("HfArgumentParser"), *self.calls("TrlParser"))
        for call in [] if self.calls("ORPOConfig") else parsers:
            yield self._key("HfArgumentParser", call, Computed(ast.unparse(call)))

    def _is_data(self, call: ast.Call) -> bool:
        """Whether the call is on what comes, by any way, from load_dataset."""
        return self._source(call) is not None

    def _data(self, node: ast.expr) -> Any:
        """What a data set was loaded from, as `ID`, `ID:SPLIT` or a file's path."""
        call = self._source(node)
        if call is None:
            return Computed(ast.unparse(node))
        words = {word.arg: self.value(word.value) for word in call.keywords}
        names = [self.value(argument) for argument in call.args]
        source, split = words.get("path", names[0] if names else None), words.get("split")
        split = split or self._split(node)
        files = words.get("data_files")
        plain = isinstance(source, str) and (len(names) < 2 and "name" not in words)
        if not plain or isinstance(split, Computed):
            return Computed(ast.unparse(call))
        if source in {"json", "csv", "parquet"}:
            return files if isinstance(files, str) else Computed(ast.unparse(call))
        if files is not None:
            return Computed(ast.unparse(call))
        return f"{source}:{split}" if split and split != "train" else source

    def _source(self, node: ast.AST, depth: int = 0) -> ast.Call | None:
        """The call of load_dataset that a data set comes from, over names, splits and changes."""
        if depth > len(self._assigned) + 50:
            return None
        if isinstance(node, ast.Call):
            if _name(node.func) == "load_dataset":
                return node
            inner = node.func.value if isinstance(node.func, ast.Attribute) else None
            return None if inner is None else self._source(inner, depth + 1)
        if isinstance(node, ast.Subscript):
            return self._source(node.value, depth + 1)
        if isinstance(node, ast.Name):
            for value in self._assigned.get(node.id, []):
                if (found := self._source(value, depth + 1)) is not None:
                    return found
        return None

    def _split(self, node: ast.AST, depth: int = 0) -> str | None:
        """The split that is taken out of a data set of several, `train` in `ds["train"]`."""
        if isinstance(node, ast.Subscript):
            part = self.value(node.slice)
            return part if isinstance(part, str) else None
        if isinstance(node, ast.Name) and depth < 50:
            splits = (self._split(value, depth + 1) for value in self._assigned.get(node.id, []))
            return next((split for split in splits if split), None)
        return None

    def value(self, node: ast.expr, depth: int = 0) -> Any:
        """A plain value, or `Computed`."""
        found: Any = Computed(" ".join(ast.unparse(node).split()))
        if depth > 20:
            return found
        if isinstance(node, ast.Name) and len(self._assigned.get(node.id, [])) == 1:
            inner = self.value(self._assigned[node.id][0], depth + 1)
            return found if isinstance(inner, Computed) else inner
        if isinstance(node, ast.Attribute) and _name(node.value) == "torch":
            return node.attr
        if isinstance(node, ast.BinOp):
            sides = (self.value(node.left, depth + 1), self.value(node.right, depth + 1))
            return _worked_out(node.op, *sides, otherwise=found)
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return found

    def _key(self, name: str, node: ast.AST, value: Any) -> Key:
        return Key(name, value, f"{self._path}:{getattr(node, 'lineno', 1)}")


def _name(node: ast.AST) -> str:
    """The last part of a dotted name."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _worked_out(sign: ast.operator, left: Any, right: Any, *, otherwise: Any) -> Any:
    """Two numbers with a sign between them."""
    numbers = type(left) in (int, float) and type(right) in (int, float)
    divides = isinstance(sign, ast.Div | ast.FloorDiv)
    if not numbers or type(sign) not in _OPERATIONS or (divides and not right):
        return otherwise
    return _OPERATIONS[type(sign)](left, right)
