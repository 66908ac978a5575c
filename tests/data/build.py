"""Rows and pairs as the tests of this folder write them."""

from typing import Any

import pytest

from orpo.data.reading import PairReader
from orpo.data.types import PreferencePair, Row, TextPair
from orpo.errors import DataError

Values = dict[str, Any]
WHERE = "pairs.jsonl:7"


def user(text: Any) -> Values:
    return {"role": "user", "content": text}


def assistant(text: Any, **fields: Any) -> Values:
    return {"role": "assistant", "content": text, **fields}


def as_row(values: Values) -> Row:
    return Row(values, WHERE, 6)


def rows_of(values: list[Values]) -> list[Row]:
    return [Row(one, f"d row {i}", i) for i, one in enumerate(values)]


def asked(prompt: list[Values], chosen: Values, rejected: Values) -> PreferencePair:
    return PreferencePair(as_row({}), prompt=prompt, chosen=chosen, rejected=rejected)


def read(values: Values, rule: str = "best_worst") -> PreferencePair:
    """The pair of a row that alone makes up a data set."""
    pair = PairReader(pair_rule=rule)(as_row(values))
    assert isinstance(pair, PreferencePair)
    return pair


def refusal(values: Values, reader: PairReader | None = None) -> str:
    """What is said of a row that is no pair: one line, with its place."""
    with pytest.raises(DataError) as caught:
        (reader or PairReader())(as_row(values))
    message = str(caught.value)
    assert "\n" not in message
    assert WHERE in message
    message.encode()
    return message


def spoken(pair: PreferencePair) -> tuple[Any, Any, Any]:
    return pair.prompt, pair.chosen, pair.rejected


def said(values: Values) -> Any:
    """The messages of a row, or its text if it has none."""
    pair = read(values)
    return pair.text if pair.prompt is None else spoken(pair)


def text_of(values: Values) -> TextPair:
    text = read(values).text
    assert text is not None
    return text
