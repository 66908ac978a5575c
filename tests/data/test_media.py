"""Rows that need pictures, sound or video are refused by name; words about them are text."""

import json
from typing import Any

import datasets
import pytest
from tests.data import build
from tests.data.build import Values, as_row, assistant, read, user
from transformers import PreTrainedTokenizerBase

from orpo.data.lengths import LengthPolicy
from orpo.data.reading import PairReader
from orpo.data.sources import iterate_dataset
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import PreferencePair
from orpo.errors import DataError

TEXTS: Values = {"prompt": "p", "chosen": "c", "rejected": "r"}
ROW: Values = {
    "prompt": [user("What is it?")],
    "chosen": [assistant("A cat.")],
    "rejected": [assistant("A dog.")],
}


def asking(content: Any) -> Values:
    return {**ROW, "prompt": [user(content)]}


def refusal(values: Values) -> str:
    said = build.refusal(values)
    assert "nly texts are trained on" in said
    return said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images", ["img/0.jpg"]), ("image", "img/0.jpg"), ("img", "aGVsbG8="), ("image_path", "x"),
        ("imageUrl", "https://example.org/x"), ("image_1", "x"), ("chosen_images", ["x.png"]),
        ("images", [{"bytes": b"\x89PNG", "path": None}]), ("video", "clip.mp4"),
        ("videos", ["clip.mp4"]), ("audio", {"array": [0.0, 0.1], "sampling_rate": 16000}),
        ("audio_path", "x.wav"), ("pixel_values", [[0.5]]), ("image_id", "000012.jpg"),
        ("figure", {"bytes": b"\x89PNG", "path": None}),
        ("attachment", "data:image/png;base64,aGk="),
    ],
)  # fmt: skip
def test_a_column_that_holds_some_is_named(name: str, value: Any) -> None:
    for row in (ROW, TEXTS):
        assert f"pairs.jsonl:7, field '{name}': holds pictures" in refusal({**row, name: value})


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


@pytest.mark.parametrize(
    "said",
    [
        "<image>What is it?", "<image>\nWhat is it?", "What is it?\n<image>",
        "<image><image>Compare.", "<video>\nWhat is it?", "<start_of_image>What is it?",
        "<|vision_start|><|image_pad|><|vision_end|>What is it?", "<|image_1|>\nWhat is it?",
    ],
)  # fmt: skip
def test_a_placeholder_that_stands_for_a_picture(said: str) -> None:
    answers = {"chosen": "c", "rejected": "r"}
    for row in (
        asking(said),
        asking([{"type": "text", "text": said}]),
        {"prompt": said, **answers},
        {"instruction": said, **answers},
        {"conversations": [{"from": "human", "value": said}], **answers},
        {"prompt": json.dumps([user(said)]), **answers},
    ):
        assert "> in the prompt stands for a picture" in refusal(row).replace(">'", ">")


def test_other_places_of_a_picture() -> None:
    beside = {**ROW, "prompt": [{**user("What is it?"), "images": ["aGk="]}]}
    assert "field 'prompt': holds pictures" in refusal(beside)
    # where there is a column for pictures, a placeholder anywhere lacks its own
    lacking = {**asking("What is <image> here?"), "images": []}
    assert "'<image>' in the prompt stands for" in refusal(lacking)


@pytest.mark.parametrize(
    "values",
    [
        *({**ROW, "images": e} for e in (None, [], "", [None], [""], "[]", float("nan"), {})),
        {**ROW, "image": {"bytes": None, "path": None}},
        {**ROW, "image_caption": "A cat on a mat."},
        {**ROW, "image_id": 391895},
        {**ROW, "num_images": 2},
        {**ROW, "has_video": True},
        {**ROW, "imagery": "green hills"},
        {**ROW, "source": "audio"},
        {**ROW, "prompt": [{**user("What is it?"), "images": None}]},
        {**ROW, "chosen": [assistant("<video>\n  nothing yet")]},  # an answer may show a tag
        {**ROW, "tools": [{"name": "look", "parameters": {"image": {"type": "string"}}}]},
        asking([{"type": "text", "text": "?", "image": None, "image_url": None}]),
        asking("How do I use the <image> tag in SVG?"),
        asking("<image> is an SVG element: how do I use it?"),
        asking("What do `<image>` and <video> have in common?"),
        asking("What is wrong?\n<image>\n  <url>x.png</url>\n</image>"),
        asking("<img>\nWhy does this not show?"),
        asking("What does <|image_pad|> mean?"),
        asking("<imagery>"),
    ],
)
def test_what_is_empty_and_words_about_pictures_are_text(values: Values) -> None:
    assert read(values).has_rejected


def test_columns_of_a_data_set_that_decodes_pictures() -> None:
    features = datasets.Features(
        {name: datasets.Value("string") for name in TEXTS} | {"image": datasets.Image()}
    )
    rows = [{**TEXTS, "image": None}, {**TEXTS, "image": {"bytes": b"no picture", "path": None}}]
    table = datasets.Dataset.from_list(rows, features=features)
    for dataset in (table, table.to_iterable_dataset()):
        first = next(iterate_dataset(dataset, "d"))
        assert isinstance(PairReader()(first), PreferencePair)
        with pytest.raises(DataError, match="d row 1: cannot be read"):
            list(iterate_dataset(dataset, "d"))


def test_token_ids_beside_pixels_are_refused(small_tokenizer: PreTrainedTokenizerBase) -> None:
    ids = {"prompt_ids": [5], "chosen_ids": [6, 2], "rejected_ids": [7, 2]}
    with pytest.raises(DataError, match="field 'pixel_values': holds pictures"):
        PairTokenizer(small_tokenizer, LengthPolicy(None)).from_tokens(
            as_row({**ids, "pixel_values": [[0.5]]})
        )
