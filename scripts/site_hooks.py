"""What mkdocs.yml calls while it builds: pages that stand outside of docs/, and formulas.

README.md, its translation, CONTRIBUTING.md and CHANGELOG.md are pages of the site too; links
between them and docs/ are right on GitHub, and are turned here. A fenced block `math` holds LaTeX,
as GitHub reads it, and becomes MathML, which browsers draw by themselves: nothing is fetched.
The table of settings is read out of orpo/config.py.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "README.zh-CN.md": "zh.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
}
"""A file of the repository -> its page."""

_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_config(config: Any) -> Any:
    """Add the fence to superfences."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "math", "class": "math", "format": _formula}]
    return config


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages that stand outside of docs/, and the other files that pages link to."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    for path in sorted(_linked() - PAGES.keys()):
        if not path.startswith("docs/") and (ROOT / path).is_file():
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def _linked() -> set[str]:
    """What documents link to, as paths in the repository."""
    documents = [*(ROOT / name for name in PAGES), *(ROOT / "docs").rglob("*.md")]
    return {
        normpath(str(document.relative_to(ROOT).parent / target))
        for document in documents
        for target in _LINK.findall(document.read_text(encoding="utf-8"))
    }


def on_page_markdown(markdown: str, *, page: Any, **_others: Any) -> str:
    """Turn links that leave or enter docs/."""
    place = page.file.src_uri
    names = {written: name for name, written in PAGES.items()}
    at = PurePosixPath(names.get(place, f"docs/{place}")).parent

    def turned(link: re.Match[str]) -> str:
        target = normpath(str(at / link[1]))
        found = PAGES.get(target, target.removeprefix("docs/"))
        return relpath(found, str(PurePosixPath(place).parent))

    return _LINK.sub(turned, markdown).replace("<!-- settings -->", _settings())


def _settings() -> str:
    """A table of our own fields of `ORPOConfig`, read without importing it."""
    tree = ast.parse((ROOT / "src" / "orpo" / "settings.py").read_text(encoding="utf-8"))
    config = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "OwnSettings")
    strengths = _strengths(tree)
    rows = ["| setting | type | default |", "|---|---|---|"]
    for field in config.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.value, ast.Call):
            name, given = ast.unparse(field.target), field.value.args[1:]
            default = ast.unparse(given[0]).strip("'") if given else strengths.get(name)
            kind = ast.unparse(field.annotation).replace("|", "or")
            rows.append(f"| `{name}` | `{kind}` | `{default}` |")
    return "\n".join(rows)


def _strengths(tree: ast.Module) -> dict[str, float]:
    """Defaults that depend on the objective: `_STRENGTHS` of orpo.settings."""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign | ast.Assign) and node.value is not None:
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            if ast.unparse(targets[0]) == "_STRENGTHS":
                of: dict[str, dict[str, float]] = ast.literal_eval(node.value)
                return {name: value for one in of.values() for name, value in one.items()}
    raise LookupError("orpo.settings has no _STRENGTHS")


def _formula(source: str, *_args: Any, **_options: Any) -> str:
    r"""A block; a line that ends in `\\` ends a formula."""
    lines = [line.removesuffix("\\\\") for line in source.strip().splitlines()]
    return "".join(f'<div class="formula">{convert(line, display="block")}</div>' for line in lines)
