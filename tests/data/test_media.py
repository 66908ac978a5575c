"""Rows that need pictures, sound or video are refused by name; words about them are text."""

from __future__ import annotations

import json
from typing import Any

import datasets
import pytest
from tests.data import build
from tests.data.build import Values, as_row
from transformers import PreTrainedTokenizerBase

from orpo.data.lengths import LengthPolicy
from orpo.data.reading import PairReader
from orpo.data.sources import iterate_dataset
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import PreferencePair, Row
from orpo.errors import DataError

USER = {"role": "user", "content": "What is it?"}
ROW: Values = {
    "prompt": [USER],
    "chosen": [{"role": "assistant", "content": "A cat."}],
    "rejected": [{"role": "assistant", "content": "A dog."}],
}


def asking(content: Any) -> Values:
    return {**ROW, "prompt": [{"role": "user", "content": content}]}


def is_read(values: Values) -> bool:
    return isinstance(PairReader()(as_row(values)), PreferencePair)


def refusal(values: Values) -> str:
    said = build.refusal(values)
    assert "nly texts are trained on" in said
    return said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images", ["img/0.jpg"]),
        ("image", "img/0.jpg"),
        ("img", "aGVsbG8="),
        ("image_path", "x"),
        ("imageUrl", "https://example.org/x"),
        ("image_1", "x"),
        ("images", [{"bytes": b"\x89PNG", "path": None}]),
        ("chosen_images", ["x.png"]),
        ("video", "clip.mp4"),
        ("videos", ["clip.mp4"]),
        ("audio", {"array": [0.0, 0.1], "sampling_rate": 16000}),
        ("audio_path", "x.wav"),
        ("pixel_values", [[0.5]]),
        ("image_id", "000012.jpg"),
        ("figure", {"bytes": b"\x89PNG", "path": None}),
        ("attachment", "data:image/png;base64,aGk="),
    ],
)
def test_a_column_that_holds_some_is_named(name: str, value: Any) -> None:
    assert f"pairs.jsonl:7, field '{name}': holds pictures" in refusal({**ROW, name: value})
    texts = {"prompt": "p", "chosen": "c", "rejected": "r", name: value}
    assert f"field '{name}'" in refusal(texts)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("images", empty) for empty in (None, [], "", [None], [""], "[]", float("nan"), {})],
        ("image", {"bytes": None, "path": None}),
        ("image_caption", "A cat on a mat."),
        ("image_id", 391895),
        ("num_images", 2),
        ("has_video", True),
        ("imagery", "green hills"),
        ("source", "audio"),
    ],
)
def test_an_empty_column_and_words_about_one_are_text(name: str, value: Any) -> None:
    assert is_read({**ROW, name: value})


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "image"}, "image"),
        ({"type": "image_url", "image_url": {"url": "x"}}, "image_url"),
        ({"type": "input_audio", "input_audio": {"data": "x"}}, "input_audio"),
        ({"type": "video", "video": "x.mp4", "text": None}, "video"),
        ({"type": "file", "text": "words of a file"}, "file"),
        ({"image": "x.png", "text": "?"}, "image"),
        ({"inlineData": {"mimeType": "image/png"}}, "inlineData"),
    ],
)
def test_a_part_of_a_message_is_named(part: Values, kind: str) -> None:
    said = refusal(asking([part, {"type": "text", "text": "What is it?"}]))
    assert f"pairs.jsonl:7, field 'prompt': holds a part of type {kind!r}" in said


def test_a_picture_beside_what_is_said() -> None:
    row = {**ROW, "prompt": [{**USER, "images": ["aGk="]}]}
    assert "field 'prompt': holds pictures" in refusal(row)
    assert is_read({**ROW, "prompt": [{**USER, "images": None}]})
    assert is_read(asking([{"type": "text", "text": "?", "image": None, "image_url": None}]))


@pytest.mark.parametrize(
    "said",
    [
        "<image>What is it?",
        "<image>\nWhat is it?",
        "What is it?\n<image>",
        "<image><image>Compare.",
        "<video>\nWhat is it?",
        "<|vision_start|><|image_pad|><|vision_end|>What is it?",
        "<|image_1|>\nWhat is it?",
        "<start_of_image>What is it?",
    ],
)
def test_a_placeholder_that_stands_for_a_picture(said: str) -> None:
    answers = {"chosen": "c", "rejected": "r"}
    for row in (
        asking(said),
        asking([{"type": "text", "text": said}]),
        {"prompt": said, **answers},
        {"instruction": said, **answers},
        {"conversations": [{"from": "human", "value": said}], **answers},
        {"prompt": json.dumps([{"role": "user", "content": said}]), **answers},
    ):
        assert "> in the prompt stands for a picture" in refusal(row).replace(">'", ">")


@pytest.mark.parametrize(
    "said",
    [
        "How do I use the <image> tag in SVG?",
        "<image> is an SVG element: how do I use it?",
        "What do `<image>` and <video> have in common?",
        "What is wrong?\n<image>\n  <url>x.png</url>\n</image>",
        "<img>\nWhy does this not show?",
        "What does <|image_pad|> mean?",
        "<imagery>",
    ],
)
def test_words_about_a_placeholder_are_text(said: str) -> None:
    assert is_read(asking(said))


def test_where_there_is_a_column_for_pictures_a_placeholder_lacks_its_own() -> None:
    assert "'<image>' in the prompt stands for" in refusal(
        {**asking("What is <image> here?"), "images": []}
    )


def test_an_answer_may_show_a_tag() -> None:
    answer = [{"role": "assistant", "content": "<video>\n  nothing yet"}]
    assert is_read({**ROW, "chosen": answer})


def test_tools_may_take_pictures() -> None:
    parameters = {"type": "object", "properties": {"image": {"type": "string"}}}
    assert is_read({**ROW, "tools": [{"name": "look", "parameters": parameters}]})


def test_columns_of_a_data_set_that_decodes_pictures() -> None:
    features = datasets.Features(
        {"prompt": datasets.Value("string"), "chosen": datasets.Value("string")}
        | {"rejected": datasets.Value("string"), "image": datasets.Image()}
    )
    row: Values = {"prompt": "p", "chosen": "c", "rejected": "r", "image": None}
    picture = {"bytes": b"no picture", "path": None}
    table = datasets.Dataset.from_list([row, {**row, "image": picture}], features=features)
    for rows in (table, table.to_iterable_dataset()):
        first = next(iterate_dataset(rows, "d"))
        assert isinstance(PairReader()(first), PreferencePair)
        with pytest.raises(DataError, match="d row 1: cannot be read"):
            list(iterate_dataset(rows, "d"))


def test_token_ids_beside_pixels_are_refused(small_tokenizer: PreTrainedTokenizerBase) -> None:
    tokenize = PairTokenizer(small_tokenizer, LengthPolicy(None))
    ids = {"prompt_ids": [5], "chosen_ids": [6, 2], "rejected_ids": [7, 2]}
    with pytest.raises(DataError, match="field 'pixel_values': holds pictures"):
        tokenize.from_tokens(Row({**ids, "pixel_values": [[0.5]]}, "d row 0", 0))
