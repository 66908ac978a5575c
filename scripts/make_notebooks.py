"""Make both tutorial notebooks, English and Chinese, out of notebooks/cells.

    python scripts/make_notebooks.py               write them and run them: outputs are kept in them
    python scripts/make_notebooks.py --only zh-CN  one of them
    python scripts/make_notebooks.py --texts       after changes of texts: the outputs stay

A file of cells is Markdown. `<!-- en -->` and `<!-- zh-CN -->` open a text in either language, and
a fence that begins with "python cell" is a cell of code for both of them; words behind it are the
cell's tags, and a cell with the tag "solution" is folded. A comment in the code stands on a line of
its own, and below it, behind `# // `, the Chinese one that takes its place; the code is the same.

Running needs `pip install 'orpo[notebook]'` and no network; it takes two or three minutes.
"""

from __future__ import annotations

import argparse
import ast
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
LANGUAGES = {
    "en": "orpo_finetuning_example.ipynb",
    "zh-CN": "orpo_finetuning_example.zh-CN.ipynb",
}
"""Language -> name of its notebook."""

CELL_SECONDS = 300
MOST_BYTES = 700_000

_BLOCK = re.compile(
    r"^<!-- (?P<language>[\w-]+) -->\n(?P<text>.*?)(?=^<!-- [\w-]+ -->$|^```python cell|\Z)"
    r"|^```python cell(?P<tags>[^\n]*)\n(?P<code>.*?)^```$",
    re.M | re.S,
)
_TRANSLATED = "# // "
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_FOLDED = {"source_hidden": True, "outputs_hidden": True}
_MACHINE = re.compile(r"/(?:tmp|home|root|work|Users|usr|opt|var)/[\w.-]+")


@dataclass(frozen=True)
class Cell:
    """A cell of both notebooks.

    Attributes:
        texts: Language -> its Markdown; empty for code.
        code: The code, with comments in both languages; empty for a text.
        tags: Such as "solution".
    """

    texts: Mapping[str, str]
    code: str = ""
    tags: tuple[str, ...] = ()


def read_cells(folder: Path) -> list[Cell]:
    """The cells of all files of a folder, in order of their names.

    Raises:
        ValueError: A text is not there in every language.
    """
    return [cell for path in sorted(folder.glob("*.md")) for cell in _cells_of(path)]


def _cells_of(path: Path) -> Iterator[Cell]:
    texts: dict[str, str] = {}
    written = path.read_text(encoding="utf-8")
    if left := _BLOCK.sub("", written).strip():
        raise ValueError(f"{path.name}: outside of every cell: {left[:80]!r}")
    for block in _BLOCK.finditer(written):
        if block["language"]:
            texts[block["language"]] = block["text"].strip()
            if len(texts) == len(LANGUAGES):
                yield Cell(texts)
                texts = {}
        elif texts:
            break
        else:
            yield Cell({}, block["code"].rstrip("\n"), tuple(block["tags"].split()))
    if texts:
        raise ValueError(f"{path.name}: a text in {', '.join(texts)} only: {texts}")


def in_language(code: str, language: str) -> str:
    """The code with its comments in one language."""
    lines: list[str] = []
    for line in code.splitlines():
        indent, side, translated = line.partition(_TRANSLATED)
        if not side or indent.strip():
            lines.append(line)
        elif language != "en":
            lines[-1] = f"{indent}# {translated}"
    return "\n".join(lines)


def build(language: str) -> NotebookNode:
    """The notebook of one language, without outputs."""
    cells = [
        _node(cell, language, f"cell-{number:02}")
        for number, cell in enumerate(read_cells(NOTEBOOKS / "cells"))
    ]
    return new_notebook(cells=cells, metadata=_METADATA)


def _node(cell: Cell, language: str, name: str) -> NotebookNode:
    if cell.texts:
        return new_markdown_cell(cell.texts[language], id=name)
    metadata: dict[str, Any] = {"tags": list(cell.tags)} if cell.tags else {}
    if "solution" in cell.tags:
        metadata["jupyter"] = _FOLDED
    return new_code_cell(in_language(cell.code, language), id=name, metadata=metadata)


def execute(notebook: NotebookNode) -> NotebookNode:
    """Run a notebook from top to bottom in an empty folder; it is changed, and returned.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
        ).execute()
    notebook.metadata = nbformat.from_dict(_METADATA)
    return notebook


def with_outputs_of(ran: NotebookNode, notebook: NotebookNode) -> NotebookNode:
    """A notebook with the outputs that the same code had before; it is changed, and returned.

    Raises:
        ValueError: The code is another one.
    """
    olds, news = ([c for c in one.cells if c.cell_type == "code"] for one in (ran, notebook))
    if [_bare(cell.source) for cell in olds] != [_bare(cell.source) for cell in news]:
        raise ValueError("the code has changed: run it, without --texts")
    for old, new in zip(olds, news, strict=True):
        new.outputs, new.execution_count = old.outputs, old.execution_count
    return notebook


def _bare(code: str) -> str:
    return ast.dump(ast.parse(code))


def faults(notebook: NotebookNode) -> list[str]:
    """What must not be in a notebook that is given to readers; empty if there is nothing."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = nbformat.writes(new_notebook(cells=[new_code_cell(outputs=[output])]))
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"{cell.id}: {text[:400]}")
            found += [f"{cell.id}: a path, {path}" for path in _MACHINE.findall(text)]
    size = len(nbformat.writes(notebook).encode())
    if size > MOST_BYTES:
        found.append(f"{size:,} bytes are more than {MOST_BYTES:,}")
    return found


def main() -> None:
    """Write the notebooks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", choices=LANGUAGES, help="one language")
    parser.add_argument("--texts", action="store_true", help="keep the outputs that are there")
    given = parser.parse_args()
    for language in [given.only] if given.only else LANGUAGES:
        path, notebook = NOTEBOOKS / LANGUAGES[language], build(language)
        if given.texts:
            with_outputs_of(nbformat.read(path, as_version=4), notebook)
        else:
            execute(notebook)
        wrong = faults(notebook)
        if wrong:
            raise SystemExit("\n".join(wrong))
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
