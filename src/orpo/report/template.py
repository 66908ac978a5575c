"""Pages from templates: everything is escaped but the figures that we drew ourselves."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from orpo.report.values import visible

__all__ = ["rendered"]


def _coded(text: str) -> Markup:
    """Escaped text, what stands between backticks as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    code = Markup("<code>{}</code>")
    return Markup("").join(
        code.format(part) if i % 2 else escape(part) for i, part in enumerate(parts)
    )


def rendered(template: str, **values: object) -> str:
    """The page that a template of this room makes of some values, without control characters."""
    environment = Environment(
        loader=PackageLoader("orpo.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawn"] = Markup  # figures only: matplotlib escapes their texts
    environment.filters["coded"] = _coded
    return visible(environment.get_template(template).render(values))
