"""Chat templates of all kinds, small: what each does around an answer is what its family does.

Written for the tests; a file's name says which family its kind is known from.
"""

from pathlib import Path

__all__ = ["KINDS"]

KINDS = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted(Path(__file__).parent.glob("*.jinja"))
}
"""Name of a family -> a template of its kind."""
