"""The demo's world: splits that never meet, pairs that come out the same, honest proportions."""

import gzip
import itertools
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from demo_corpus import habits
from demo_corpus.answers import Ask, question
from demo_corpus.draw import Draw
from demo_corpus.lexicon import in_language
from demo_corpus.tasks import TASKS, Instance, draw_instance, mistakes, solve
from demo_corpus.texts import FORMATS
from demo_corpus.texts_en import ENGLISH_TEXTS
from demo_corpus.texts_zh import CHINESE_TEXTS
from demo_corpus.world import (
    HELDOUT_PAIRS,
    PAIR_TASKS,
    TRAIN_PAIRS,
    UNSEEN_WORDING,
    WORDINGS,
    Row,
    preference_rows,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

ASSETS = Path(str(files("orpo.demo"))) / "assets"
LIMIT_BYTES = 8_000_000


def committed(name: str) -> list[Any]:
    text = gzip.decompress((ASSETS / "pairs" / f"{name}.jsonl.gz").read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def train() -> list[Row]:
    return preference_rows("train", TRAIN_PAIRS)


@pytest.fixture(scope="module")
def heldout() -> list[Row]:
    return preference_rows("heldout", HELDOUT_PAIRS)


def fact(task: str, operands: list[str], argument: str) -> str:
    """What an instance teaches, written apart from the library: sums whole, lists without order."""
    english = sorted(in_language(operand, "en") for operand in operands)
    if task == "add":
        return "sum " + " ".join(english)
    if task == "subtract":
        rest = str(int(operands[0]) - int(operands[1]))
        return "sum " + " ".join(sorted([rest, operands[1]]))
    if task == "repeat":
        return f"repeat {english} {argument}"
    return " ".join(english)


def facts(rows: list[Row]) -> set[str]:
    checks = [row["check"] for row in rows]
    return {fact(check["task"], check["operands"], check["argument"]) for check in checks}


def pretraining_facts(monkeypatch: pytest.MonkeyPatch, count: int) -> set[str]:
    """The facts of the first `count` documents, taken from questions asked and sums printed."""
    seen: set[str] = set()

    def recorded(ask: Ask, draw: Draw) -> str:
        instance = ask.instance
        seen.add(fact(instance.task, list(instance.operands), instance.argument))
        return question(ask, draw)

    monkeypatch.setattr(habits, "question", recorded)
    documents = itertools.islice(habits.documents(plain_first=count // 2), count)
    text = "\n".join(document.text for document in documents if not document.conversation)
    for first, sign, second in re.findall(r"(\d+) ([+-]) (\d+) =", text):
        seen.add(fact("add" if sign == "+" else "subtract", [first, second], ""))
    return seen


def test_heldout_facts_occur_nowhere_else(
    train: list[Row], heldout: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretraining = pretraining_facts(monkeypatch, 6_000)
    assert len(pretraining) > 2000
    assert not facts(heldout) & facts(train)
    assert not facts(heldout) & pretraining
    assert not facts(train) & pretraining


def test_a_planted_leak_is_noticed(heldout: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    def leaking(draw: Draw, task: str, split: str) -> Instance:
        return draw_instance(draw, task, "heldout")

    monkeypatch.setattr(habits, "draw_instance", leaking)
    assert facts(heldout) & pretraining_facts(monkeypatch, 2000)


def test_no_prompt_twice(train: list[Row], heldout: list[Row]) -> None:
    prompts = [row["prompt"][0]["content"] for row in train + heldout]
    assert len(set(prompts)) == TRAIN_PAIRS + HELDOUT_PAIRS


@pytest.mark.parametrize("name", ["train", "heldout"])
def test_committed_pairs_are_the_generated_ones(name: str, request: pytest.FixtureRequest) -> None:
    generated: list[Row] = request.getfixturevalue(name)
    assert committed(name) == generated
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in generated)
    stored = (ASSETS / "pairs" / f"{name}.jsonl.gz").read_bytes()
    assert gzip.decompress(stored) == text.encode()
    assert stored[4:8] == bytes(4), "a time stamp would change the file at every run"


def test_the_pairs_are_spread(train: list[Row], heldout: list[Row]) -> None:
    for rows in (train, heldout):
        cells = [(row["task"], row["language"]) for row in rows]
        shares = [cells.count(cell) / len(cells) for cell in set(cells)]
        assert len(shares) == 2 * len(PAIR_TASKS)
        assert max(shares) - min(shares) < 0.001
        failures = [row["failure"] for row in rows]
        assert set(failures) == {"wrong", "rambling", "format", "refusal"}
        assert min(failures.count(failure) for failure in set(failures)) > 0.12 * len(rows)
    # One wording of each task is kept for the held-out prompts.
    assert UNSEEN_WORDING not in {row["wording"] for row in train}
    unseen = [row for row in heldout if row["wording"] == UNSEEN_WORDING]
    assert 0.15 < len(unseen) / len(heldout) < 0.35
    # Length does not give the chosen answer away.
    answers = [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in train]
    unequal = [len(chosen) > len(other) for chosen, other in answers if len(chosen) != len(other)]
    assert 0.4 < sum(unequal) / len(unequal) < 0.6


@pytest.mark.parametrize("task", TASKS)
def test_mistakes_are_never_right(task: str) -> None:
    draw = Draw(task)
    for _ in range(300):
        instance = TASKS[task].draw(draw)
        assert mistakes(instance)
        assert solve(instance) not in mistakes(instance)


@pytest.mark.parametrize("texts", [ENGLISH_TEXTS, CHINESE_TEXTS])
def test_every_language_words_everything(texts: Any) -> None:
    assert set(texts.prompts) == set(TASKS)
    assert {len(set(wordings)) for wordings in texts.prompts.values()} == {WORDINGS}
    assert set(texts.requests) == set(FORMATS)
    assert {key.partition(":")[0] for key in texts.bodies} == set(TASKS)


def test_the_base_model_is_small_and_speaks_its_chat_template() -> None:
    sizes = [[file.stat().st_size for file in (ASSETS / n).iterdir()] for n in ("base", "pairs")]
    assert 0 < sum(sizes[0]) <= LIMIT_BYTES
    assert sum(sizes[1]) < 1_000_000
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "base")
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "base")
    assert model.num_parameters() < 4_000_000
    assert model.config.vocab_size == len(tokenizer)
    conversation = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "[4]"}]
    text = tokenizer.apply_chat_template(conversation, tokenize=False)
    how = {"tokenize": False, "add_generation_prompt": True}
    prompt = tokenizer.apply_chat_template(conversation[:1], **how)
    assert text == prompt + "[4]" + tokenizer.eos_token
    assert tokenizer(text)["input_ids"][0] == tokenizer.bos_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    for text in ("naïve 😀 Ω", "龘\tタ", " two  spaces\n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("2026")) == 4
    assert len(tokenizer.encode("请把猫翻译成英文。")) == 9
