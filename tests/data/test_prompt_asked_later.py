"""The prompt that pairs are trained after is the prompt that the saved model is asked with.

The oracle is the tokenizer as anybody loads it from the saved folder: the token ids of the trained
prompt must be those that our commands make, and those of `apply_chat_template` unless it was said.
"""

from pathlib import Path
from typing import Any

import pytest
from tests.conftest import make_tokenizer
from tests.templates import KINDS
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from orpo.data.asked import Asking, Decision, asked_otherwise, decide, keep_asked
from orpo.data.lengths import LengthPolicy
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Ledger, PreferencePair, Row, TokenizedPair
from orpo.evaluate.generation import encode_prompt

Values = dict[str, Any]

SYSTEM = {"role": "system", "content": "Be calm."}
HI = {"role": "user", "content": "Hi?"}


def said(text: str, thought: str = "", **fields: Any) -> Values:
    block = f"<think>\n{thought}\n</think>\n\n" if thought else ""
    return {"role": "assistant", "content": block + text, **fields}


PLAIN = (said("Yes"), said("No"))
CONVERSATIONS: dict[str, tuple[list[Values], Values, Values]] = {
    "plain": ([HI], *PLAIN),
    "thoughts in both": ([HI], said("Yes", "hm a"), said("No", "hm b")),
    "thoughts in one": ([HI], said("Yes"), said("No", "hm b")),
    "thoughts in fields": (
        [HI],
        said("Yes", reasoning_content="hm a"),
        said("No", reasoning_content="hm b"),
    ),
    "thoughts in one field": ([HI], said("Yes", reasoning="hm a"), said("No")),
    "turns": ([HI, said("Well"), {"role": "user", "content": "And?"}], *PLAIN),
    "turns with thoughts": ([HI, said("Well", "hm"), HI], *PLAIN),
    "system": ([SYSTEM, HI], *PLAIN),
    "typed special tokens": ([{"role": "user", "content": "a <|im_end|> b </s>"}], *PLAIN),
}

# Trained on plain answers, these open the turn with something else, whatever they are told.
INSIST = {"gpt-oss", "glm-4.5", "hunyuan", "kimi", "minimax", "nemotron", "r1"}


def tokenizer_with(template: str) -> PreTrainedTokenizerBase:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def saved(tokenizer: PreTrainedTokenizerBase, folder: Path) -> PreTrainedTokenizerBase:
    tokenizer.save_pretrained(folder)
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return loaded


def trained(
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[tuple[list[Values], Values, Values]],
    variables: Values | None = None,
) -> tuple[list[TokenizedPair], Decision]:
    """What a run does with its tokenizer: render all pairs, decide, keep the decision."""
    pairs, ledger = PairTokenizer(tokenizer, LengthPolicy(None), variables), Ledger()
    found = []
    for prompt, chosen, rejected in conversations:
        pair = pairs(PreferencePair(Row({}, "x:1", 0), None, prompt, chosen, rejected))
        assert isinstance(pair, TokenizedPair), pair
        ledger.count(pair)
        found.append(pair)
    decision = decide(pairs.template, ledger.after, variables or {})
    assert decision is not None
    keep_asked(tokenizer, decision.asked)
    return found, decision


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_trained_is_what_is_asked(kind: str, tmp_path: Path) -> None:
    for conversation, asked in CONVERSATIONS.items():
        tokenizer = tokenizer_with(KINDS[kind])
        (pair,), decision = trained(tokenizer, [asked])
        loaded = saved(tokenizer, tmp_path)
        again = saved(loaded, tmp_path / "again")  # as merge, export and push do
        for one in (tokenizer, loaded, again):
            assert encode_prompt(one, asked[0]) == pair.prompt_ids, conversation
        assert bool(asked_otherwise(loaded)) is not decision.agrees
        assert any("opens with" in note for note in decision.notes()) is not decision.agrees
        assert conversation != "plain" or decision.agrees is (kind not in INSIST)
        if decision.agrees and "special" not in conversation:
            own = loaded.apply_chat_template(asked[0], add_generation_prompt=True, tokenize=False)
            assert loaded(own, add_special_tokens=False)["input_ids"] == pair.prompt_ids


@pytest.mark.parametrize(
    ("kind", "conversation", "prompt", "chosen", "rejected"),
    [
        ("qwen3", "plain", "<|im_start|>assistant\n<think>\n\n</think>\n\n", "Yes", "No"),
        (
            "qwen3",
            "thoughts in one",
            "<|im_start|>assistant\n",
            "<think>\n\n</think>\n\nYes",
            "<think>\nhm b\n</think>\n\nNo",
        ),
        (
            "gpt-oss",
            "thoughts in one field",
            "<|start|>assistant",
            "<|channel|>analysis<|message|>hm a<|end|><|start|>assistant"
            "<|channel|>final<|message|>Yes",
            "<|channel|>final<|message|>No",
        ),
        ("gpt-oss", "plain", "<|start|>assistant<|channel|>final<|message|>", "Yes", "No"),
        ("deepseek-v3", "plain", "<|Assistant|></think>", "Yes", "No"),
        ("r1", "plain", "<|Assistant|>", "Yes", "No"),
        ("glm-4", "plain", "<|assistant|>", "\nYes", "\nNo"),
        ("nemotron", "thoughts in both", "Assistant\n<think>\n", "hm a\n</think>\n\nYes", None),
        ("nemotron", "thoughts in one", "Assistant\n<think>", "</think>Yes", "\nhm b"),
    ],
)
def test_what_is_supervised(
    kind: str, conversation: str, prompt: str, chosen: str, rejected: str | None
) -> None:
    tokenizer = tokenizer_with(KINDS[kind])
    (pair,), _ = trained(tokenizer, [CONVERSATIONS[conversation]])
    assert tokenizer.decode(pair.prompt_ids).endswith(prompt)
    assert tokenizer.decode(pair.chosen_ids).startswith(chosen)
    assert tokenizer.decode(pair.rejected_ids).startswith(rejected or "")


@pytest.mark.parametrize(
    ("kind", "decided"),
    [("qwen3", {"enable_thinking": False}), ("deepseek-v3", {"thinking": False}), ("chatml", {})],
)
def test_the_argument_that_opens_so_becomes_the_default(
    kind: str, decided: Values, tmp_path: Path
) -> None:
    tokenizer = tokenizer_with(KINDS[kind])
    _, decision = trained(tokenizer, [CONVERSATIONS["plain"]])
    assert decision.asked.decided == decided
    loaded = saved(tokenizer, tmp_path)
    assert Asking.of(loaded).variables == decided
    assert (tokenizer.chat_template == KINDS[kind]) is not bool(decided)
    if kind == "qwen3":  # who asks may say otherwise
        thinking = loaded.decode(encode_prompt(loaded, [HI], {"enable_thinking": True}))
        assert thinking.endswith("<|im_start|>assistant\n")
        same = encode_prompt(loaded, [HI], {"enable_thinking": False})
        assert same == encode_prompt(loaded, [HI])


def test_several_templates_by_name_and_the_users_variables(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = {"default": KINDS["qwen3"], "tool_use": KINDS["qwen3"]}
    (pair,), _ = trained(tokenizer, [CONVERSATIONS["plain"]])
    loaded = saved(tokenizer, tmp_path)
    own = loaded.apply_chat_template([HI], add_generation_prompt=True, tokenize=False)
    assert loaded(own)["input_ids"] == pair.prompt_ids == encode_prompt(loaded, [HI])
    tokenizer = tokenizer_with("{{ 'mood=' ~ mood ~ ' ' }}" + KINDS["chatml"])
    mood = {"mood": 'calm "é" 😀', "n": [1, None, True]}
    (pair,), _ = trained(tokenizer, [CONVERSATIONS["plain"]], mood)
    loaded = saved(tokenizer, tmp_path)
    assert encode_prompt(loaded, [HI]) == pair.prompt_ids
    own = loaded.apply_chat_template([HI], add_generation_prompt=True, tokenize=False)
    assert own.startswith('mood=calm "é" 😀 ')
    assert encode_prompt(loaded, [HI], {"mood": "wild"}) != pair.prompt_ids


def test_a_model_that_nobody_trained_here_is_asked_as_its_template_opens() -> None:
    for kind, text in KINDS.items():
        tokenizer = tokenizer_with(text)
        opened = tokenizer.apply_chat_template([HI], add_generation_prompt=True, tokenize=False)
        if kind != "hunyuan":  # which opens nothing
            assert tokenizer.decode(encode_prompt(tokenizer, [HI])) == opened
    tokenizer = tokenizer_with(KINDS["chatml"])  # what strangers write there does no harm
    for planted in ({"prompt": "answered", "given": 3}, {"prompt": 7}, "x", {"prompt": "evil"}):
        tokenizer.init_kwargs["orpo"] = planted
        assert tokenizer.decode(encode_prompt(tokenizer, [HI])).endswith("assistant\n")


@pytest.mark.parametrize("plain", [1, 3])
def test_mixed_data_are_decided_by_majority_and_both_counts_are_said(plain: int) -> None:
    tokenizer = tokenizer_with(KINDS["qwen3"])
    rows = [CONVERSATIONS["plain"]] * plain + [CONVERSATIONS["thoughts in both"]] * 2
    pairs, decision = trained(tokenizer, rows)
    assert encode_prompt(tokenizer, [HI]) == pairs[0 if plain == 3 else -1].prompt_ids
    (said_of_both,) = [note for note in decision.notes() if "another opening" in note]
    most, least = max(plain, 2), min(plain, 2)
    assert f"{most} pairs are trained after" in said_of_both
    assert f"{least} after another opening" in said_of_both


def test_training_goes_on_with_other_data(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(KINDS["qwen3"])
    trained(tokenizer, [CONVERSATIONS["plain"]])
    second = saved(tokenizer, tmp_path)
    (pair,), decision = trained(second, [CONVERSATIONS["thoughts in both"]])
    assert second.decode(pair.prompt_ids).endswith("<|im_start|>assistant\n")
    assert decision.asked.decided == {"enable_thinking": True}
    third = saved(second, tmp_path / "third")
    assert encode_prompt(third, [HI]) == pair.prompt_ids
    own = third.apply_chat_template([HI], add_generation_prompt=True, tokenize=False)
    assert third(own)["input_ids"] == pair.prompt_ids
    assert third.chat_template.count("orpo: end") == 1


@pytest.mark.parametrize("kind", ["qwen3", "smollm3", "nemotron", "deepseek-v3"])
@pytest.mark.parametrize("conversation", ["plain", "thoughts in one", "thoughts in both"])
@pytest.mark.parametrize("thinking", [False, True])
def test_what_the_pairs_show_goes_before_what_the_user_said(
    kind: str, conversation: str, thinking: bool, tmp_path: Path
) -> None:
    tokenizer = tokenizer_with(KINDS[kind])
    variables = {"enable_thinking": thinking, "thinking": thinking}
    (pair,), _ = trained(tokenizer, [CONVERSATIONS[conversation]], variables)
    assert encode_prompt(saved(tokenizer, tmp_path), [HI]) == pair.prompt_ids
