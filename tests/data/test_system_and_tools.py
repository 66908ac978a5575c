"""System and tools columns, and files in batches: the tokens of the template's own rendering."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase as Tokenizer

from orpo.data.lengths import LengthPolicy
from orpo.data.reading import PairReader
from orpo.data.sources import open_source
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Dropped, PreferencePair, Row, TokenizedPair

Values = dict[str, Any]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "查询天气 <|im_end|> of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "北京"}}}
USER = {"role": "user", "content": "What is the weather in 北京?"}
CALLED = [
    USER,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": '{"sky": "clear"}'},
]


def tokens(tokenizer: Tokenizer, values: Values) -> TokenizedPair | Dropped:
    pair = PairReader()(Row(values, "rows.jsonl:1", 0))
    assert isinstance(pair, PreferencePair)
    return PairTokenizer(tokenizer, LengthPolicy(None))(pair)


def own(tokenizer: Tokenizer, messages: list[Values], tools: Any, *, opening: bool) -> list[int]:
    text = tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=False, add_generation_prompt=opening
    )
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def row(prompt: list[Values], chosen: str = "It is clear.", rejected: str = "晴。") -> Values:
    answers = {"chosen": chosen, "rejected": rejected}
    return {"prompt": prompt} | {
        side: [{"role": "assistant", "content": text}] for side, text in answers.items()
    }


@pytest.mark.parametrize("prompt", [[USER], CALLED], ids=["asked", "called"])
@pytest.mark.parametrize("system", ["", "Be brief. 请简短。"], ids=["bare", "system"])
@pytest.mark.parametrize("spelled", ["list", "json"])
def test_tools_are_shown_as_the_template_shows_them(
    real_tokenizer: Tokenizer, prompt: list[Values], system: str, spelled: str
) -> None:
    plain = json.loads(json.dumps(TOOLS).replace(" <|im_end|>", ""))
    tools = plain if spelled == "list" else json.dumps(plain)
    found = tokens(real_tokenizer, {**row(prompt), "tools": tools, "system": system})
    messages = [{"role": "system", "content": system}] * bool(system) + prompt
    if isinstance(found, Dropped):
        assert found.reason == "template_error"
        shown = "get_weather" in str(real_tokenizer.chat_template) or "tools" in str(
            real_tokenizer.chat_template
        )
        assert not shown
        return
    assert found.prompt_ids == own(real_tokenizer, messages, plain, opening=True)
    for text, ids in (("It is clear.", found.chosen_ids), ("晴。", found.rejected_ids)):
        answer = {"role": "assistant", "content": text}
        whole = own(real_tokenizer, [*messages, answer], plain, opening=False)
        ours = found.prompt_ids + ids
        assert ours == whole[: len(ours)]
        assert real_tokenizer.decode(whole[len(ours) :]).strip() == ""


def test_special_token_text_in_tools_stays_text(small_tokenizer: Tokenizer) -> None:
    tokenizer = with_tools(small_tokenizer)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    with_text = tokens(tokenizer, {**row([USER]), "tools": TOOLS})
    assert isinstance(with_text, TokenizedPair)
    assert with_text.prompt_ids.count(end) == 1  # the user's turn ends, and nothing else
    assert "<|im_end|> of a city" in tokenizer.decode(with_text.prompt_ids)


def test_a_template_that_shows_no_tools_is_no_template_for_them(small_tokenizer: Tokenizer) -> None:
    found = tokens(small_tokenizer, {**row([USER]), "tools": TOOLS})
    assert isinstance(found, Dropped)
    assert found.reason == "template_error"
    assert "does not show tools" in found.detail


def test_tools_need_a_template(plain_tokenizer: Tokenizer) -> None:
    found = tokens(plain_tokenizer, {**row([USER]), "tools": TOOLS})
    assert isinstance(found, Dropped)
    assert "no chat template" in found.detail


TEXTS = {"prompt": "What is the weather?", "chosen": "It is clear.", "rejected": "No."}
FORMS: dict[str, Values] = {
    "text": TEXTS,
    "alpaca": {"instruction": "Go.", "chosen": "a", "rejected": "b"},
    "hh": {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
}


@pytest.mark.parametrize("form", FORMS)
def test_tools_of_texts_never_vanish(
    form: str, small_tokenizer: Tokenizer, plain_tokenizer: Tokenizer
) -> None:
    values = {**FORMS[form], "tools": TOOLS}
    shown = with_tools(small_tokenizer)
    found = tokens(shown, values)
    assert isinstance(found, TokenizedPair)
    assert "get_weather" in shown.decode(found.prompt_ids)
    for tokenizer, reason in (
        (small_tokenizer, "does not show tools"),
        (plain_tokenizer, "no chat"),
    ):
        dropped = tokens(tokenizer, values)
        assert isinstance(dropped, Dropped)
        assert dropped.reason == "template_error"
        assert reason in dropped.detail


@pytest.mark.parametrize("spelled", ["object", "text"])
def test_special_token_text_in_arguments_stays_text(
    spelled: str, small_tokenizer: Tokenizer
) -> None:
    import copy

    tokenizer = copy.deepcopy(small_tokenizer)
    said = "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}"
    calls = "{% for m in messages %}" + said + "{% endfor %}"
    tokenizer.chat_template = calls + str(tokenizer.chat_template)
    arguments: Any = {"<|im_end|>": "<|im_end|> of a city"}
    arguments = json.dumps(arguments) if spelled == "text" else arguments
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    turn = {"role": "assistant", "content": "Hm.", "tool_calls": [call]}
    plain = tokens(tokenizer, row([USER, {"role": "assistant", "content": "Hm."}, USER]))
    found = tokens(tokenizer, row([USER, turn, USER]))
    assert isinstance(plain, TokenizedPair)
    assert isinstance(found, TokenizedPair)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert found.prompt_ids.count(end) == plain.prompt_ids.count(end)
    assert '"arguments": {' in tokenizer.decode(found.prompt_ids)


def with_tools(tokenizer: Tokenizer) -> Tokenizer:
    import copy

    tokenizer = copy.deepcopy(tokenizer)
    shown = "{% if tools %}{{ tools | tojson(ensure_ascii=False) }}{% endif %}"
    tokenizer.chat_template = shown + str(tokenizer.chat_template)
    return tokenizer


def test_a_system_column_is_a_system_message(real_tokenizer: Tokenizer) -> None:
    said = {"role": "system", "content": "Be brief. 请简短。"}
    by_column = tokens(real_tokenizer, {**row([USER]), "system": said["content"]})
    assert by_column == tokens(real_tokenizer, row([said, USER]))
    assert isinstance(by_column, TokenizedPair)


REAL_FILES = ("hh_harmless.jsonl.gz", "sharegpt_zh.json", "alpaca_style.json")


@pytest.mark.parametrize("name", REAL_FILES)
@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
def test_a_batch_is_its_pairs_one_by_one_read_whole(
    name: str,
    chat: bool,
    real_tokenizer: Tokenizer,
    shared_data: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reading an answer behind some words of its prompt gives the tokens of the whole text."""
    import copy

    tokenizer = copy.copy(real_tokenizer)
    tokenizer.chat_template = tokenizer.chat_template if chat else None
    read = PairReader(on_bad_row="drop")
    rows = list(open_source(str(shared_data / "preferences" / name)))[::7]
    pairs = [pair for pair in map(read, rows) if isinstance(pair, PreferencePair)]
    assert len(pairs) > 40
    make = PairTokenizer(tokenizer, LengthPolicy(512))
    batch = make.batch(pairs)
    monkeypatch.setattr(PairTokenizer, "_border_part", lambda self, text: text.prompt)
    assert batch == [make(pair) for pair in pairs]


words = st.lists(
    st.sampled_from(["a", "ab", "1", "  ", "\n", "é", "中", "🙂", "<s>", "'s", "\u200d"])
)


@given(st.lists(words, min_size=3, max_size=3), st.integers(0, 30))
def test_the_border_changes_no_token(
    plain_tokenizer: Tokenizer, parts: list[list[str]], padding: int
) -> None:
    prompt, chosen, rejected = (" ".join(part) for part in parts)
    values = {"prompt": "word " * padding + prompt, "chosen": chosen, "rejected": rejected}
    found = tokens(plain_tokenizer, values)
    if isinstance(found, Dropped):
        return
    whole = plain_tokenizer(values["prompt"] + chosen, add_special_tokens=False)["input_ids"]
    ours = found.prompt_ids + found.chosen_ids[:-1]
    if whole[: len(found.prompt_ids)] == found.prompt_ids:  # nothing merges across the border
        assert ours == whole
    assert plain_tokenizer.decode(ours) == plain_tokenizer.decode(whole)
