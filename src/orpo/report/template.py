"""Pages from templates: everything is escaped but the figures that we drew ourselves."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from orpo.report.values import visible

__all__ = ["rendered"]


def rendered(template: str, **values: object) -> str:
    """The page that a template of this room makes of some values, without control characters."""
    environment = Environment(
        loader=PackageLoader("orpo.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawn"] = Markup  # figures only: `svg.drawn` writes no foreign text
    return visible(environment.get_template(template).render(values))
