"""What a document says is done, in order; a block that fails is said with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import blocks_of, workplace

DOCUMENT = """\
# Title

```yaml
model: none
```

1. In a list:

    ```json title="made/settings.json"
    {"a": 1}
    ```

```sh
cat recipe.yaml made/settings.json > both  # a comment
make nothing
```

```python
with open("both") as file:
    print(len(file.readlines()))
```

```text
not a command
```
"""


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "guide.md"
    path.write_text(DOCUMENT, encoding="utf-8")
    return path


def test_blocks_are_found_where_they_stand(document: Path) -> None:
    found = [(block.kind, block.title, block.line) for block in blocks_of(document)]
    assert found == [
        ("yaml", "", 3),
        ("json", "made/settings.json", 9),
        ("sh", "", 13),
        ("python", "", 18),
        ("text", "", 23),
    ]
    _, settings, commands, *_ = blocks_of(document)
    assert settings.text == '{"a": 1}\n'
    assert commands.without_comments()[1].startswith("cat recipe.yaml made/settings.json > both\n")


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("make nothing", "make nothing", r"guide.md:13\ncat .*No rule to make target"),
        ("make nothing", "false | cat", r"guide.md:13\n"),
        ("print(", "raise SystemExit(", r"guide.md:17\n"),
    ],
)
def test_a_block_that_fails_fails_the_document(
    document: Path, was: str, now: str, said: str
) -> None:
    text = DOCUMENT if was == "make nothing" else DOCUMENT.replace("make nothing\n", "")
    document.write_text(text.replace(was, now), encoding="utf-8")
    with workplace(document.parent) as place, pytest.raises(AssertionError, match=f"(?s){said}"):
        place.follow(document)


def test_a_document_is_followed(document: Path) -> None:
    document.write_text(DOCUMENT.replace("make nothing\n", ""), encoding="utf-8")
    with workplace(document.parent) as place:
        assert place.follow(document) == 2
        assert (document.parent / "both").read_text() == 'model: none\n{"a": 1}\n'
        (document.parent / "both").unlink()
        with pytest.raises(AssertionError, match=r"guide.md:17\n"):
            place.follow(document, skip=("cat",))
