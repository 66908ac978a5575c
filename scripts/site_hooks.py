"""What mkdocs.yml calls while it builds: pages that stand outside of docs/, and formulas.

README.md, its translation, CONTRIBUTING.md and CHANGELOG.md are pages of the site too; links
between them and docs/ are right on GitHub, and are turned here. A fenced block `math` holds LaTeX,
as GitHub reads it, and becomes MathML, which browsers draw by themselves: nothing is fetched.
The table of settings and the page of all commands are made from the package itself.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from command_reference import markdown as commands
from latex2mathml.converter import convert
from mkdocs.structure.files import File

from orpo.settings import _STRENGTHS, OwnSettings, settings_of

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

    text = _LINK.sub(turned, markdown)
    for mark, made in (("<!-- settings -->", _settings), ("<!-- commands -->", commands)):
        text = text.replace(mark, made()) if mark in text else text
    return text


def _settings() -> str:
    """A table of our own fields of `ORPOConfig`; some defaults depend on the objective."""
    strengths = {name: value for one in _STRENGTHS.values() for name, value in one.items()}
    rows = ["| setting | type | default |", "|---|---|---|"]
    for one in settings_of(OwnSettings).values():
        kind = one.type.__name__ if isinstance(one.type, type) else str(one.type)
        default = strengths.get(one.name, one.default)
        rows.append(f"| `{one.name}` | `{kind.replace('|', 'or')}` | `{default}` |")
    return "\n".join(rows)


def _formula(source: str, *_args: Any, **_options: Any) -> str:
    r"""A block; a line that ends in `\\` ends a formula."""
    lines = [line.removesuffix("\\\\") for line in source.strip().splitlines()]
    return "".join(f'<div class="formula">{convert(line, display="block")}</div>' for line in lines)
