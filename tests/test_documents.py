"""What a document says is done, in order; a block that fails is said with its place."""

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
```

```python
with open("both") as file:
    print(len(file.readlines()))
```

```text
not a command
```
"""


def test_a_document_is_followed(tmp_path: Path) -> None:
    document = tmp_path / "guide.md"
    document.write_text(DOCUMENT, encoding="utf-8")
    found = [(block.kind, block.title, block.line) for block in blocks_of(document)]
    assert found == [
        ("yaml", "", 3),
        ("json", "made/settings.json", 9),
        ("sh", "", 13),
        ("python", "", 17),
        ("text", "", 22),
    ]
    _, settings, commands, *_ = blocks_of(document)
    assert settings.text == '{"a": 1}\n'
    assert commands.without_comments()[1] == "cat recipe.yaml made/settings.json > both"
    with workplace(tmp_path) as place:
        assert place.follow(document) == 2
        assert (tmp_path / "both").read_text() == 'model: none\n{"a": 1}\n'
        (tmp_path / "both").unlink()
        with pytest.raises(AssertionError, match=r"guide.md:17\n"):
            place.follow(document, skip=("cat",))
        for was, now, said in (
            ("cat recipe", "false | cat recipe", r"guide.md:13\n"),
            ("print(", "raise SystemExit(", r"guide.md:17\n"),
        ):
            document.write_text(DOCUMENT.replace(was, now), encoding="utf-8")
            with pytest.raises(AssertionError, match=f"(?s){said}"):
                place.follow(document)
