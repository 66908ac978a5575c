"""The code blocks of a document, and a place to run them as printed, in order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import forked
from tests.forked import ROOT

__all__ = ["ROOT", "Block", "Workplace", "blocks_of", "workplace"]

_FENCE = re.compile(r"^( *)```(\w+)(?: title=\"([^\"]+)\")?[^\n]*\n(.*?)^\1```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    kind: str  # what it says it is: sh, python, yaml, text...
    text: str
    title: str  # the file that it is, as `title="recipe.yaml"` says; empty without
    line: int

    def without_comments(self) -> tuple[str, str]:
        """Kind and text without comments, which are translated."""
        lines = (re.sub(r"\s*#.*", "", line) for line in self.text.splitlines())
        return self.kind, "\n".join(line for line in lines if line)


def blocks_of(document: Path) -> list[Block]:
    """Every fenced block that names its language."""
    text = document.read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(text):
        indent, kind, title, body = fence.groups()
        lines = [line.removeprefix(indent) for line in body.splitlines(keepends=True)]
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Block(kind, "".join(lines), title or "", line))
    return found


@contextmanager
def workplace(folder: Path) -> Iterator[Workplace]:
    """A folder in which commands run; `orpo` and `python` there start without importing anew."""
    programs = f"{forked.programs()}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    yield Workplace(folder, {**os.environ, "PATH": programs, "HF_HUB_OFFLINE": "1"})


@dataclass(frozen=True)
class Workplace:
    """Runs blocks in a folder; later ones find what earlier ones made."""

    folder: Path
    environment: dict[str, str]

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        """A text of shell commands; the first that fails ends it."""
        return self._run(["bash", "-euo", "pipefail", "-c", text], "")

    def follow(self, document: Path, skip: tuple[str, ...] = ()) -> int:
        """Do what a document says: write its files, run its commands; how many blocks that were.

        Blocks `sh` and `python` are run but for shell blocks that begin as one of `skip`; `yaml`
        and blocks with a title are written, others are read by people only.
        """
        count = 0
        for block in blocks_of(document):
            if block.title or block.kind == "yaml":
                path = self.folder / (block.title or "recipe.yaml")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text, encoding="utf-8")
            elif block.kind in {"sh", "python"} and not block.text.startswith(skip or ("\0",)):
                shell = block.kind == "sh"
                done = self.run(block.text) if shell else self._run(["python"], block.text)
                said = f"{document.name}:{block.line}\n{block.text}\n{done.stdout}\n{done.stderr}"
                assert done.returncode == 0, said
                count += 1
        return count

    def _run(self, command: list[str], stdin: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
