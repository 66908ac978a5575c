"""`orpo data show`: a picture that reads without colours, and in which data can do nothing."""

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from orpo.audit.show import ShownPart, ShownRow, TokenPiece
from orpo.commands.data_show import LEGEND, draw_row, inert
from orpo.data.types import Dropped
from tests.audit.faults import pair as chat
from tests.audit.faults import write
from tests.cli.conftest import Orpo

Values = dict[str, Any]


def test_the_picture_is_on_stdout_and_json_is_one_object(
    orpo: Orpo, tiny: Path, pairs: Path
) -> None:
    assert orpo("data", "show", pairs, "--model", tiny, "-n", 2) == 0, orpo.err
    assert orpo.err == ""
    assert orpo.out.count("row ") == 2
    assert LEGEND in orpo.out
    for place in (("data", "show", pairs, "--json"), ("data", "--json", "show", pairs)):
        assert orpo(*place, "--tokenizer", tiny, "-n", 2) == 0
        result = json.loads(orpo.out)
        assert len(orpo.out.splitlines()) == 1
        assert [row["row"] for row in result["rows"]] == [1, 2]
    row = result["rows"][0]
    tokens = row["prompt"]["sequence"]
    assert "".join(token["text"] for token in tokens) == "<|user|>Say 0<|end|><|assistant|>"
    assert set(tokens[0]) == {"id", "text", "role", "special", "shared", "terms"}
    assert row["denominators"]["odds_chosen"] == row["chosen"]["tokens"]
    assert row["where"] == f"{pairs}:1"


def test_the_picture_shows_borders_space_special_tokens_and_the_fork(
    orpo: Orpo, tiny: Path, tmp_path: Path
) -> None:
    data = write(tmp_path / "pairs.jsonl", [chat("Hi\n\nyou", "ab c", "ab\td")])
    assert orpo("data", "show", data, "--model", tiny) == 0
    lines = orpo.out.splitlines()
    assert lines[0] == f"row 1  {data}:1  (prompt, chat template)"
    assert lines[1:3] == [
        "  18 tokens through the model, 12 of them once for both answers",
        "  NLL: mean over 14 · odds ratio: means over 5 chosen and 5 rejected",
    ]
    assert lines[4:] == [
        "  prompt  10 tokens, 9 in NLL (nothing predicts the first)",
        "  │⟨|user|⟩│H│i│↵│↵",
        "  │y│o│u│⟨|end|⟩│⟨|assistant|⟩",
        "",
        "+ chosen  5 tokens, the first 2 as in the other answer, 5 in NLL and odds ratio",
        "+ │a│b║·│c│⟨|end|⟩",
        "",
        "- rejected  5 tokens, the first 2 as in the other answer, 5 in odds ratio",
        "- │a│b║⇥│d│⟨|end|⟩",
        "",
        *LEGEND.splitlines(),
    ]


def test_cuts_dropped_rows_and_absent_answers_are_told(
    orpo: Orpo, tiny: Path, tmp_path: Path
) -> None:
    rows = [chat("Hi", "x" * 90, "no"), chat("Hi", " ", "no"), chat("Hi", "yes", "no")]
    rows[2]["rejected"] = None
    data = write(tmp_path / "pairs.jsonl", rows)
    limits = ("--max-length", 40, "--nll_scope", "completion")
    assert orpo("data", "show", data, "--model", tiny, *limits) == 0, orpo.err
    assert "56 more cut away" in orpo.out
    assert "│✂ 56 cut\n" in orpo.out
    assert "dropped: empty_chosen (field 'chosen' holds no text)" in orpo.out
    assert "no rejected answer, so no odds ratio" in orpo.out
    assert "read only: in no term" in orpo.out


def test_what_stands_in_the_data_is_inert(orpo: Orpo, tiny: Path, tmp_path: Path) -> None:
    evil = "\x1b[31m\x9b\x07\r\x00\x7f [bold]x[/bold] \u202e\u2066\u200b\ufeff\u2028│║·⟨"
    name = tmp_path / "pairs\x1b]0;x\x07.jsonl"
    data = write(name, [chat(evil, evil, "no"), {"prompt": evil, "chosen": 5, "rejected": evil}])
    assert orpo("data", "show", data, "--model", tiny) == 0, orpo.err
    assert "".join(c for c in orpo.out if unicodedata.category(c) in {"Cc", "Cf"}).strip() == ""
    assert "\\x1b" in orpo.out
    assert "[│b│o│l│d│]" in orpo.out
    for mark in ("\\u2502", "\\u2551", "\\xb7", "\\u27e8"):  # what stands for something else here
        assert mark in orpo.out
    assert orpo("data", "show", data, "--model", tiny, "--json") == 0
    assert orpo.out.count("\n") == 1
    tokens = json.loads(orpo.out)["rows"][0]["chosen"]["sequence"]
    assert "".join(token["text"] for token in tokens) == f"{evil}<|end|>"


texts = st.one_of(st.text(max_size=8), st.text("你🙂a ", max_size=8))


@given(
    st.lists(st.builds(TokenPiece, st.just(7), texts, st.booleans(), st.booleans()), min_size=1),
    st.sampled_from(["prompt", "chosen", "rejected"]),
    st.integers(0, 4),
    st.integers(0, 3),
    st.integers(20, 60),
)
def test_lines_fit_and_every_token_is_there(
    pieces: list[TokenPiece], name: str, shared: int, lost: int, width: int
) -> None:
    part = ShownPart(name, tuple(pieces), min(shared, len(pieces)), ("nll",), lost=lost)
    row = ShownRow(1, "pairs.jsonl:1", parts=(part,))
    lines = list(draw_row(row, width))[5:]
    assert all(cell_len(line.plain) <= width for line in lines)
    assert not any(line.plain.endswith("│") for line in lines)  # a border goes with its token
    drawn = "".join(line.plain[2:] for line in lines)
    forks = 1 if name != "prompt" and part.shared > 0 else 0
    assert drawn.count("║") == forks
    borders = len(pieces) + bool(lost) - (forks and part.shared < len(pieces))
    assert drawn.count("│") == borders
    assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs"} for c in drawn)
    assert ("✂" in drawn) == bool(lost)
    plain = [p for p in pieces if not p.special]
    assert drawn.count("↵") == sum(p.text.count("\n") for p in pieces)
    assert drawn.count("⋯") == sum(p.continues for p in plain)


def test_colours_are_added_to_marks_and_never_needed() -> None:
    part = ShownPart("chosen", (TokenPiece(1, "a b"), TokenPiece(2, "<s>", True)), 1, ("nll",))
    row = ShownRow(1, "x:1", parts=(part,), weight=0.5)
    drawn = {}
    for colour in (True, False):
        console = Console(
            width=60, force_terminal=colour, color_system="standard" if colour else None
        )
        with console.capture() as capture:
            for line in draw_row(row, 60):
                console.print(line)
        drawn[colour] = capture.get()
    assert "\x1b[" in drawn[True]
    assert re.sub(r"\x1b\[[0-9;]*m", "", drawn[True]) == drawn[False]
    assert "│a·b║⟨s⟩" in drawn[False]
    assert "weight 0.5" in drawn[False]


def test_reasons_with_markup_are_text() -> None:
    row = ShownRow(2, "x:2", dropped=Dropped("malformed", "x:2", "[red]\x1b[0m"))
    lines = [line.plain for line in draw_row(row, 80)]
    assert lines == ["row 2  x:2", "  dropped: malformed ([red]\\x1b[0m)"]
    assert inert("a\nb c") == "a↵b c"


def test_the_formats_of_the_guide_are_what_it_says(orpo: Orpo, tiny: Path, tmp_path: Path) -> None:
    guide = Path(__file__).parents[2] / "docs" / "preference-data.md"
    examples = re.findall(r"^\| (\w+)[^|]*\| `(\{.*\})` \|$", guide.read_text("utf-8"), re.M)
    assert len(examples) == 11
    for number, (name, row) in enumerate(examples):
        data = tmp_path / f"{number}.jsonl"
        data.write_text(row + "\n", encoding="utf-8")
        assert orpo("data", "show", data, "--model", tiny, "--json") == 0, orpo.err
        (shown,) = json.loads(orpo.out)["rows"]
        assert shown["format"] == name
        assert "".join(token["text"] for token in shown["chosen"]["sequence"]).strip() == "4<|end|>"
        rejected = "".join(token["text"] for token in shown.get("rejected", {}).get("sequence", []))
        assert rejected.strip() == ("" if "null" in row else "5<|end|>")
