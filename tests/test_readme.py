"""The two READMEs say the same; tests/test_docs.py runs their commands."""

import re

from tests.documents import ROOT, blocks_of

READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")


def test_both_languages_show_the_same_code() -> None:
    english, chinese = (
        [block.without_comments() for block in blocks_of(name) if block.kind != "text"]
        for name in READMES
    )
    assert english == chinese
    assert english


def test_a_result_stands_in_the_first_ten_lines() -> None:
    for readme in READMES:
        head = "\n".join(readme.read_text(encoding="utf-8").splitlines()[:10])
        assert len(re.findall(r"\d+\.\d %", head)) >= 4, readme.name


def test_links_point_to_files_that_exist() -> None:
    for readme in READMES:
        for target in re.findall(r"\]\(([^)#]+)\)", readme.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (ROOT / target).exists(), f"{readme.name}: {target}"
