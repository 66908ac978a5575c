"""The tutorial: both notebooks come from one source, are what is on disk, and run to their end."""

import ast
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode

from tests.documents import ROOT

sys.path.append(str(ROOT / "scripts"))

import make_notebooks
from make_notebooks import LANGUAGES, NOTEBOOKS

_FORMULA = re.compile(r"\$\$.+?\$\$", re.S)
_CHINESE = re.compile(r"[\u4e00-\u9fff]")


def on_disk(language: str) -> NotebookNode:
    return nbformat.read(NOTEBOOKS / LANGUAGES[language], as_version=4)


def without_outputs(notebook: NotebookNode) -> NotebookNode:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def code_of(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_notebook_on_disk_is_what_the_script_makes(language: str) -> None:
    written = without_outputs(on_disk(language))
    built = make_notebooks.build(language)
    nbformat.validate(written)
    assert nbformat.writes(written) == nbformat.writes(built), "run scripts/make_notebooks.py"


@pytest.mark.parametrize("language", LANGUAGES)
def test_readers_see_the_outputs_of_one_clean_pass(language: str) -> None:
    notebook = on_disk(language)
    cells = code_of(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert make_notebooks.faults(notebook) == []
    pictures = [o for cell in cells for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) >= 6


def test_both_languages_run_the_same_code() -> None:
    english, chinese = (code_of(make_notebooks.build(language)) for language in LANGUAGES)
    for one, other in zip(english, chinese, strict=True):
        assert ast.dump(ast.parse(one.source)) == ast.dump(ast.parse(other.source))
        assert one.metadata == other.metadata


def test_each_text_is_in_its_language() -> None:
    english, chinese = (make_notebooks.build(language).cells for language in LANGUAGES)
    for one, other in zip(english, chinese, strict=True):
        if one.cell_type == "markdown":
            link = "[中文版]" in one.source
            assert link or not _CHINESE.search(one.source)
            assert _CHINESE.search(other.source)
            assert _FORMULA.findall(one.source) == _FORMULA.findall(other.source)
        else:
            assert not re.search(r"^\s*#.*[\u4e00-\u9fff]", one.source, re.M)


def test_outputs_stay_while_the_code_does() -> None:
    ran, changed = on_disk("en"), make_notebooks.build("zh-CN")
    kept = code_of(make_notebooks.with_outputs_of(ran, changed))
    assert [cell.outputs for cell in kept] == [cell.outputs for cell in code_of(ran)]
    kept[0].source += "\nmore = 1"
    with pytest.raises(ValueError, match="the code has changed"):
        make_notebooks.with_outputs_of(ran, changed)


def test_every_exercise_has_a_folded_solution() -> None:
    cells = make_notebooks.build("en").cells
    number = re.compile(r"^\*\*\d+\.\*\*", re.M)
    exercises = [i for i, cell in enumerate(cells) if number.search(cell.source)]
    assert len(exercises) >= 6
    for place in exercises:
        assert cells[place + 1].metadata["tags"] == ["solution"]
        assert cells[place + 1].metadata["jupyter"]["source_hidden"]


def test_links_point_to_files_that_exist() -> None:
    for language in LANGUAGES:
        for cell in make_notebooks.build(language).cells:
            for target in re.findall(r"\]\(([^)#]+)\)", cell.source):
                if cell.cell_type == "markdown" and "://" not in target:
                    assert (NOTEBOOKS / target).exists(), target


def test_a_text_in_one_language_only_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1.md").write_text("<!-- en -->\nOnly English\n```python cell\n1\n```\n", "utf-8")
    with pytest.raises(ValueError, match="in en only"):
        make_notebooks.read_cells(tmp_path)
    (tmp_path / "1.md").write_text("lost\n```python cell\n1\n```\n", "utf-8")
    with pytest.raises(ValueError, match="outside of every cell: 'lost'"):
        make_notebooks.read_cells(tmp_path)


def _output(**given: Any) -> NotebookNode:
    cell = nbformat.v4.new_code_cell("1", outputs=[nbformat.from_dict(given)])
    return nbformat.v4.new_notebook(cells=[cell])


def test_paths_and_warnings_do_not_reach_readers() -> None:
    faults = make_notebooks.faults
    assert not faults(_output(output_type="stream", name="stdout", text="l(y_w) = -0.2"))
    assert faults(_output(output_type="stream", name="stdout", text="saved in /home/me/run"))
    assert faults(_output(output_type="stream", name="stderr", text="a warning"))
    large = "x" * (make_notebooks.MOST_BYTES + 1)
    assert faults(_output(output_type="stream", name="stdout", text=large))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebook_runs_from_top_to_bottom() -> None:
    """One of them: `test_both_languages_run_the_same_code` compares the other's, cell by cell."""
    notebook = make_notebooks.execute(make_notebooks.build("en"))
    assert make_notebooks.faults(notebook) == []
