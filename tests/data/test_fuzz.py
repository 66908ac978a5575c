"""Thousands of mutated rows in files of every kind: kept, or dropped by name, and nothing else."""

from __future__ import annotations

import gzip
import io
import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.data.build import Values, assistant, user
from tests.data.test_sources import as_csv
from transformers import PreTrainedTokenizerBase as Tokenizer

from orpo.data.lengths import LengthPolicy
from orpo.data.prepare import Preparation
from orpo.data.sources import Source, iterate_dataset
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Dropped, Ledger, TokenizedPair
from orpo.errors import UserError

USER, YES, NO = user("Why?"), assistant("Because."), assistant("No.")
ROWS: dict[str, Values] = {
    "prompt": {"prompt": "Why?", "chosen": "Because.", "rejected": "No.", "weight": 1},
    "messages of prompt": {"prompt": [USER], "chosen": [YES], "rejected": [NO], "system": "Hm."},
    "hh": {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
    "alpaca": {"instruction": "Add.", "input": "1", "chosen": "1", "rejected": "2"},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "嗯？"}],
        "chosen": {"from": "gpt", "value": "是"},
        "rejected": {"from": "gpt", "value": "不"},
    },
    "messages": {"messages": [USER, YES], "rejected_response": "No.", "tools": []},
    "two": {"chosen_messages": [USER, YES], "rejected_messages": [USER, NO]},
    "answers": {"prompt": "Why?", "answers": ["a", "b", "c"], "scores": [1, 3, 2]},
}
MORE = [
    "output",
    "history",
    "query",
    "context",
    "label",
    "completion",
    "score_chosen",
    "score_rejected",
    "system",
    "completions",
]
JUNK: list[Any] = [
    None, "", " ", 0, -1, 1e308, float("nan"), float("inf"), True, [], {}, [[]], [None], [[["x"]]],
    "\ud800", "half \udc00 a pair", "\x00", "\u202e", "<|im_end|>", "</s><s>", "x" * 50_000,
    {"role": "user"}, [{"role": "assistant", "content": None}], [USER, USER], [YES, NO],
    {"from": 1}, "\n\nHuman: a\n\nAssistant: b", [{**YES, "tool_calls": [{"a": [0.5, {}]}]}],
    [{"from": "gpt", "value": 7}], "[{]", '{"a": 1}', ["a", 1, None], {"a": {"b": {"c": []}}},
]  # fmt: skip


def mutated(draw: random.Random, row: Values, names: list[str]) -> Values:
    """A row with up to three things wrong with it."""
    values = dict(row)
    for _ in range(draw.randrange(4)):
        name = draw.choice([*values, *names]) if values else draw.choice(names)
        what = draw.random()
        if what < 0.5:
            values[name] = draw.choice(JUNK)
        elif what < 0.7:
            values.pop(name, None)
        elif isinstance(values.get(name), str):
            text = values[name]
            values[name] = text[: draw.randrange(len(text) + 1)] + draw.choice(["", "\ud83d", "é"])
        elif isinstance(values.get(name), list):
            values[name] = [*values[name], draw.choice(JUNK)]
    return values


def mutated_rows(seed: int, count: int) -> list[Values]:
    draw = random.Random(seed)
    kinds = list(ROWS)
    names = sorted({*MORE, *(name for row in ROWS.values() for name in row)})
    first = draw.choice(kinds)
    chosen = (first if draw.random() < 0.8 else draw.choice(kinds) for _ in range(count))
    rows = [mutated(draw, ROWS[kind], names) for kind in chosen]
    return [ROWS[first], *rows[1:]]  # the first row that can be read decides the format


LINE = re.compile(r"\d+(?:,| |$)")
FIELD = re.compile(r"field '\w+'|no column '\w+'|unpaired feedback|may be read as|columns? '")


class Everything(Ledger):
    """An account that remembers every row that was dropped, not the first few."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.drops: list[Dropped] = []

    def count(self, outcome: TokenizedPair | Dropped) -> None:
        super().count(outcome)
        if isinstance(outcome, Dropped):
            self.drops.append(outcome)


def account(prepare: Preparation, path: Path) -> Everything | None:
    """What became of every row of a file; None if reading it stopped before its end, by name."""
    ledger, said, kept = Everything("d"), "", 0
    try:
        for _ in prepare.stream(Source(str(path)), ledger):
            kept += 1
    except UserError as error:
        said = str(error)
    if said:
        assert "\n" not in said
        assert path.name in said
        said.encode()
        if "rows cannot be read; the first: " not in said:
            return None
    assert kept == ledger.kept
    assert ledger.rows_in == ledger.kept + ledger.dropped.total()
    assert len(ledger.drops) == ledger.dropped.total()
    for drop in ledger.drops:
        assert LINE.match(drop.where.removeprefix(f"{path}:")), drop
        assert drop.reason != "malformed" or FIELD.search(drop.where + drop.detail), drop
        (drop.where + drop.detail).encode()
    return ledger


@pytest.fixture(scope="module")
def drop(small_tokenizer: Tokenizer) -> Preparation:
    return Preparation(PairTokenizer(small_tokenizer, LengthPolicy(64)), "drop")


@pytest.mark.parametrize("seed", range(2))
def test_a_thousand_rows(seed: int, drop: Preparation, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    text = ["\n", "\r\n"][seed].join(map(json.dumps, mutated_rows(seed, 1000)))
    path.write_bytes([b"\xef\xbb\xbf", b""][seed] + text.encode())
    ledger = account(drop, path)
    assert ledger is not None
    assert ledger.rows_in == 1000
    assert ledger.kept > 50
    assert ledger.dropped["malformed"] > 50


def test_rows_with_real_templates(real_tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    tokenize = PairTokenizer(real_tokenizer, LengthPolicy(64))
    for seed in range(8):
        path.write_bytes(as_jsonl(mutated_rows(seed, 40)))
        account(Preparation(tokenize, "drop"), path)


def test_a_row_alone_is_a_pair_or_one_line(drop: Preparation) -> None:
    """Also where every bad row stops, and where the row holds token ids."""
    strict, draw = replace(drop, on_bad_row="error"), random.Random(0)
    ids = {"prompt_ids": [5, 6], "chosen_ids": [7, 2], "rejected_ids": [8, 9, 2]}
    junk = [*JUNK, [-2], [1, None], [500], 2**80, [[3]]]
    rows = [row for seed in range(6) for row in mutated_rows(seed, 100)]
    rows += [{**ids, draw.choice([*ids, "weight"]): one} for one in junk for _ in range(3)]
    for row in rows:
        said, pairs = "", []
        try:
            pairs = list(strict.stream(iterate_dataset([row], "d"), Ledger("d")))
        except UserError as error:
            said = str(error)
        assert "\n" not in said
        said.encode()
        assert all(pair.prompt_ids and pair.chosen_ids for pair in pairs)


def damage_lines(content: bytes, draw: random.Random) -> bytes:
    """Bytes deleted, changed and put in here and there."""
    data = bytearray(content)
    for _ in range(draw.randrange(1, 12)):
        at = draw.randrange(len(data) + 1)
        what = draw.randrange(4)
        if what == 0:
            del data[at : at + draw.randrange(1, 5)]
        elif what == 1:
            data[at : at + 1] = bytes([draw.choice(b'\xff\x00"{}[],:\n\r\\')])
        elif what == 2:
            data[at:at] = draw.choice([b"\xed\xa0\x80", b"\xff\xfe", b'"', b"\n\n", b"NaN", b"{"])
        else:
            data = data[: max(1, at)]
    return bytes(data)


def as_jsonl(rows: list[Values]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def plain(rows: list[Values]) -> list[Values]:
    return [{k: ascii(row.get(k)) for k in ("prompt", "chosen", "rejected")} for row in rows]


def as_parquet(rows: list[Values]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(plain(rows)), file)
    return file.getvalue()


KINDS: dict[str, Callable[[list[Values]], bytes]] = {
    "rows.jsonl": as_jsonl,
    "rows.json": lambda rows: json.dumps(rows, indent=1).encode(),
    "rows.csv": lambda rows: as_csv(plain(rows)).encode("utf-8", "replace"),
    "rows.parquet": as_parquet,
    "rows.jsonl.gz": lambda rows: gzip.compress(as_jsonl(rows)),
    "rows.json.gz": lambda rows: gzip.compress(json.dumps(rows).encode()),
}


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files(name: str, drop: Preparation, tmp_path: Path) -> None:
    path, read = tmp_path / name, 0
    for seed in range(30):
        content = KINDS[name](mutated_rows(seed, 12))
        path.write_bytes(damage_lines(content, random.Random(seed)))
        read += account(drop, path) is not None
    assert read > 7 or name != "rows.jsonl"  # a broken line leaves the others alone


def test_the_account_rejects_a_lost_row(drop: Preparation, tmp_path: Path) -> None:
    """The check itself: a row that is neither kept nor dropped is noticed."""

    class Forgetful(Ledger):
        def count(self, outcome: Any) -> None:
            super().count(outcome)
            if isinstance(outcome, TokenizedPair) and self.kept == 2:
                self.kept -= 1

    path = tmp_path / "rows.jsonl"
    path.write_bytes(as_jsonl([ROWS["prompt"]] * 3))
    ledger = Forgetful("d")
    assert sum(1 for _ in drop.stream(Source(str(path)), ledger)) != ledger.kept
