"""`orpo data show`.

Tokens are drawn so that marks say what colours say: it reads without colours, too. What stands in
the data is inert: control characters, terminal escapes, text direction marks and half characters
are spelled out (`\\x1b`), and nothing is taken for markup.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, chop_cells
from rich.text import Text

from orpo.commands.console import Screen
from orpo.data.sources import open_source
from orpo.errors import ConfigError
from orpo.options import argument, asked, option, training_settings

if TYPE_CHECKING:
    from orpo.audit.show import ShownPart, ShownRow, TokenPiece

EXAMPLES = """\
examples:
  orpo data show pairs.jsonl --model ./model
  orpo data show pairs.jsonl --tokenizer Qwen/Qwen2.5-0.5B --row 17 --row pairs.jsonl:230
  orpo data show pairs.parquet --model ./model --max_length 512 --truncation keep_end
  orpo data show pairs.jsonl --model ./model --json
  FORCE_COLOR=1 orpo data show pairs.jsonl --model ./model -n 50 | less -R

Colours are left out where NO_COLOR is set or the output is no terminal."""

LEGEND = (
    "│ border of tokens   · space   ↵ line break   ⇥ tab   ⟨…⟩ special token\n"
    "⋯ rest of a character that began before   \\x1b a character spelled out   ✂ cut here\n"
    "║ up to here both answers begin alike: computed once, counted for both\n"
    "NLL: the token's own loss counts   odds ratio: counts in its answer's mean log-probability"
)

_MARKS = {" ": "·", "\n": "↵", "\t": "⇥"}
# Would be taken for a mark if it stood in the data.
_RESERVED = set("│║·↵⇥⟨⟩⋯✂")
# Control, format (text direction, zero width), surrogate, private use, unassigned, separators.
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}

_WHITE = re.compile("[·↵⇥⋯]+")  # marks that stand back
_LINE = re.compile(r"[^\n]*\n+|[^\n]+")  # up to each run of line breaks
_COLOURS = {"prompt": "cyan", "chosen": "green", "rejected": "red"}
_GUTTERS = {"prompt": "  ", "chosen": "+ ", "rejected": "- "}
_BORDERS = {"│": "dim", "║": "bold yellow"}
_TERMS = {"nll": "NLL", "odds_chosen": "odds ratio", "odds_rejected": "odds ratio"}


@dataclass(frozen=True)
class Options:
    """The data set, whose tokens, which rows, and the settings of the training that matter."""

    dataset: str = argument("DATASET", help="a file, a folder or a Hub id")
    model: str | None = option(None, help="whose tokenizer to use: a folder or a Hub id")
    tokenizer: str | None = option(None, help="the tokenizer, if not the model's")
    count: int = option(3, flag="n", metavar="COUNT", help="how many rows; default 3")
    row: tuple[str, ...] = option(
        (),
        metavar="N",
        repeat=True,
        help="a row by its number, from 1, or by its place (pairs.jsonl:7); may be given again",
    )
    settings: dict[str, Any] = training_settings(
        *("columns", "data_format", "pair_rule", "max_length", "max_prompt_length", "truncation"),
        *("nll_scope", "chat_template", "chat_template_kwargs", "trust_remote_code"),
    )
    json: bool = asked("json")

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        if not (self.tokenizer or self.model):
            raise ConfigError(
                "is needed, or --tokenizer: tokens are a tokenizer's",
                where="--model",
                fix="Add --model NAME, the model to be trained.",
            )
        if self.count < 1:
            raise ConfigError(f"must be at least 1, is {self.count}", where="-n")


def run(options: Options) -> dict[str, Any]:
    """Read the rows; draw them on stdout, or give them to `--json`."""
    open_source(options.dataset)  # refuses what is not there before anything is loaded
    from orpo.audit.show import show_rows  # noqa: PLC0415 - loads transformers
    from orpo.config import ORPOConfig  # noqa: PLC0415 - loads torch
    from orpo.train.models import named_tokenizer  # noqa: PLC0415

    config = ORPOConfig(**options.settings)
    name = options.tokenizer or options.model or ""
    tokenizer = named_tokenizer(name, config)
    rows = show_rows(options.dataset, tokenizer, config, count=options.count, rows=options.row)
    if not options.json:  # the picture is what was asked for, not prose about it: it is for `less`
        console = Screen(highlight=False, emoji=False)
        for row in rows:
            for line in draw_row(row, console.width):
                console.print(line, soft_wrap=True, end="\n")
            console.print()
        console.print(Text(LEGEND, "dim"), soft_wrap=True)
    return {"dataset": options.dataset, "tokenizer": name, "rows": [r.as_dict() for r in rows]}


def inert(text: str) -> str:
    """A text for one line of a terminal: what cannot be seen is spelled out, spaces stay."""
    return "".join(c if c == " " else _spelled(c) for c in text)


def draw_row(row: ShownRow, width: int) -> Iterator[Text]:
    """The lines of one row's picture."""
    how = ", ".join(part for part in (row.format, row.rendering) if part)
    yield Text(f"row {row.number}  {inert(row.where)}{f'  ({how})' if how else ''}", "bold")
    if row.dropped is not None:
        yield Text(f"  dropped: {row.dropped.reason} ({inert(row.dropped.detail)})", "yellow")
        return
    terms = row.denominators
    once = f", {row.shared} of them once for both answers" if row.shared else ""
    yield Text(f"  {_amount(row.positions)} through the model{once}")
    odds = "no rejected answer, so no odds ratio"
    if terms["odds_rejected"]:
        odds = f"odds ratio: means over {terms['odds_chosen']} chosen and "
        odds += f"{terms['odds_rejected']} rejected"
    weight = f" · weight {row.weight:g}" if row.weight != 1 else ""
    yield Text(f"  NLL: mean over {terms['nll']} · {odds}{weight}")
    for part in row.parts:
        yield Text()
        yield _heading(part)
        yield from _Canvas(part, max(width, 20)).lines()


def _heading(part: ShownPart) -> Text:
    said = [_amount(len(part.pieces))]
    if part.name != "prompt" and part.shared:
        first = "the first" if part.shared == 1 else f"the first {part.shared}"
        said.append(f"{first} as in the other answer")
    if part.lost:
        said.append(f"{part.lost} more cut away")
    counts = f"{part.counts} in {' and '.join(_TERMS[term] for term in part.terms)}"
    unpredicted = " (nothing predicts the first)" if part.unpredicted else ""
    said.append(counts + unpredicted if part.terms else "read only: in no term")
    heading = Text(f"{_GUTTERS[part.name]}{part.name}", f"bold {_COLOURS[part.name]}")
    return heading.append(f"  {', '.join(said)}", "not bold default")


def _amount(tokens: int) -> str:
    return f"{tokens} token{'s' * (tokens != 1)}"


class _Canvas:
    """Lays the tokens of one part out in lines of a given width, broken where the text breaks."""

    def __init__(self, part: ShownPart, width: int) -> None:
        self._part, self._width, self._colour = part, width, _COLOURS[part.name]
        self._gutter = Text().append(_GUTTERS[part.name], f"bold {self._colour}")
        self._line, self._done = self._gutter.copy(), list[Text]()

    def lines(self) -> list[Text]:
        """The part's picture."""
        pieces = self._part.pieces
        following = [*(piece.text[:1] for piece in pieces[1:]), ""]
        for index, piece in enumerate(pieces):
            self._cut(index)
            self._token(index, piece)
            if piece.text.endswith("\n") and not piece.special and following[index] != "\n":
                self._break()
        self._cut(len(pieces))
        if self._border(len(pieces)) == "║":
            self._put("║", "")
        self._break()
        return self._done

    def _break(self) -> None:
        if len(self._line) > len(self._gutter):
            self._done.append(self._line)
            self._line = self._gutter.copy()

    def _put(self, border: str, text: str, style: str = "") -> None:
        """Add a border and what follows it, unbroken unless it is longer than a line."""
        if cell_len(border + text) > self._width - cell_len(self._line.plain):
            self._break()
        self._line.append(border, _BORDERS.get(border, ""))
        for line in chop_cells(text, self._width - len(self._gutter) - 1):
            if cell_len(line) > self._width - cell_len(self._line.plain):
                self._break()
            drawn = Text(line, style)
            if "reverse" not in style:
                drawn.highlight_regex(_WHITE, "dim")
            self._line.append_text(drawn)

    def _cut(self, index: int) -> None:
        if self._part.lost and index == self._part.lost_at:
            self._put("│", f"✂ {self._part.lost} cut", "bold yellow")

    def _border(self, index: int) -> str:
        """What stands before a token: where both answers part, that is marked."""
        return "║" if self._part.name != "prompt" and 0 < self._part.shared == index else "│"

    def _token(self, index: int, piece: TokenPiece) -> None:
        part, border, text = self._part, self._border(index), piece.text
        style = f"{self._colour} reverse" if piece.special else self._colour
        if part.name != "prompt" and index < part.shared:
            style += " underline"
        style = style if part.counted(index) else f"{style} dim"
        if piece.special:  # in its own brackets: <s> as ⟨s⟩
            inner = text[1:-1] if text[:1] == "<" and text[-1:] == ">" else text
            self._put(border, f"⟨{''.join(map(_spelled, inner))}⟩", style)
            return
        lines = ["".join(map(_spelled, line)) for line in _LINE.findall(text)]
        if piece.continues or not lines:
            mark = "⋯" if piece.continues else f"⟨token {piece.id}⟩"
            lines[:1] = [mark + "".join(lines[:1])]
        self._put(border, lines[0], style)
        for line in lines[1:]:
            self._break()
            self._put("", line, style)


def _spelled(character: str) -> str:
    if character in _MARKS:
        return _MARKS[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that belongs to no character
        return f"\\x{code - 0xDC00:02x}"
    if character not in _RESERVED and unicodedata.category(character) not in _UNSEEN:
        return character
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
