"""Answers of a model here depend on the question, not on what is asked beside it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from orpo.errors import CheckpointError, ConfigError, DataError, ModelError
from orpo.evaluate import Sampling, encode_prompt, load_answerer
from orpo.evaluate.answers import Answered, Question, answer_questions, open_source_of_answers
from orpo.evaluate.generation import complete_prompts
from tests.servers import BASE
from tests.train.small import chat_tokenizer, tiny_llama

DRAWN = Sampling(max_new_tokens=8, temperature=1.0, top_p=0.95, seed=3, batch_size=4)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model in fp32: rounding does not hide what depends on the batch."""
    folder = tmp_path_factory.mktemp("base")
    shutil.copytree(BASE, folder, dirs_exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    model.save_pretrained(folder)
    return folder


def questions(count: int = 6) -> list[Question]:
    turns = [(f"Which number is larger, {n} or {97 * n % 50}?", "Why?" * n) for n in range(count)]
    return [
        Question(f"q{n}", turns[n][: 1 + n % 2], system="" if n % 3 else "Be brief.")
        for n in range(count)
    ]


def ask(folder: Path, asked: list[Question], sampling: Sampling, **more: Any) -> list[Answered]:
    return answer_questions(open_source_of_answers(str(folder)), asked, sampling, **more)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_neither_batch_nor_order_nor_company_matters(tiny: Path, temperature: float) -> None:
    sampling = replace(DRAWN, temperature=temperature)
    asked = questions()
    expected = {one.question.id: one.turns for one in ask(tiny, asked, sampling)}
    assert len(set(expected.values())) > 3
    for other, size in [(asked[::-1], 1), (asked[2:5], 9)]:
        found = ask(tiny, other, replace(sampling, batch_size=size))
        assert [one.question for one in found] == other
        assert {one.question.id: one.turns for one in found}.items() <= expected.items()


def test_the_seed_and_the_repetition_matter_but_not_the_id(tiny: Path) -> None:
    twice = [Question("a", ("Say 7",)), Question("b", ("Say 7",))]
    first, second = (one.turns for one in ask(tiny, twice, DRAWN))
    assert first != second
    renamed = [replace(twice[0], id="x")]
    assert ask(tiny, renamed, DRAWN)[0].turns == first
    assert ask(tiny, renamed, replace(DRAWN, seed=4))[0].turns != first


def test_the_second_turn_sees_the_first_answer(tiny: Path) -> None:
    question = Question("1", ("Which is larger, 3 or 9?", "And smaller?"), system="Be brief.")
    (done,) = ask(tiny, [question], Sampling(max_new_tokens=40))
    here = load_answerer(str(tiny))
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": question.turns[0]},
        {"role": "assistant", "content": done.turns[0]},
        {"role": "user", "content": question.turns[1]},
    ]
    ids = encode_prompt(here.tokenizer, messages)
    how: Any = {"add_generation_prompt": True, "tokenize": False}
    rendered = here.tokenizer.apply_chat_template(messages, **how)
    assert ids == here.tokenizer.encode(rendered, add_special_tokens=False)
    model: Any = here.model
    output = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=40)
    text = here.tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)
    assert done.turns[1] == text.strip()
    assert done.truncated == (False, False)


def test_what_is_cut_off_is_marked(tiny: Path) -> None:
    said: list[str] = []
    asked = [Question("a", ("Say 7",)), Question("long", ("word " * 600,))]
    (whole, long) = ask(tiny, asked, Sampling(max_new_tokens=60))
    assert whole.truncated == (False,)
    assert (long.turns, long.truncated) == (("",), (True,)), "the model ends before"
    cut, _ = ask(tiny, asked, Sampling(max_new_tokens=3), say=said.append)
    assert cut.truncated == (True,)
    assert whole.turns[0].startswith(cut.turns[0])
    cut_off = "2 of 2 answers were cut off at the limit of tokens"
    assert said == [cut_off, "1 of 2 answers are empty"]


def test_a_model_s_own_settings_change_nothing(tiny: Path) -> None:
    here = load_answerer(str(tiny))
    model: Any = here.model
    ids = [encode_prompt(here.tokenizer, [{"role": "user", "content": "Say 7 7 7 7"}])]
    for sampling in (Sampling(max_new_tokens=12), DRAWN):
        model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0)
        plain = complete_prompts(model, here.tokenizer, ids, sampling, ["k"])
        for own in [
            {"repetition_penalty": 3.0, "max_new_tokens": 2, "top_k": 1},
            {"penalty_alpha": 0.6, "top_k": 4},
            {"num_beams": 4, "num_return_sequences": 2},
            {"suppress_tokens": list(range(100, 200))},
            {"dola_layers": "low"},
            {"max_time": 1e-9, "stop_strings": ["e"]},
            {"return_dict_in_generate": True},
        ]:
            model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0, **own)
            assert complete_prompts(model, here.tokenizer, ids, sampling, ["k"]) == plain, own
            assert model.generation_config.to_diff_dict().items() >= own.items()


def test_the_model_s_own_stop_tokens_end_an_answer_even_if_they_are_not_special() -> None:
    tokenizer, model = chat_tokenizer(), tiny_llama(vocab_size=270)
    prompt = [encode_prompt(tokenizer, [{"role": "user", "content": "Hi"}])]
    (free,) = complete_prompts(model, tokenizer, prompt, Sampling(8), ["k"])
    first = model.generate(torch.tensor(prompt), max_new_tokens=1, do_sample=False)[0, -1].item()
    model.generation_config.eos_token_id = [first]
    (stopped,) = complete_prompts(model, tokenizer, prompt, Sampling(8), ["k"])
    assert free.text != ""
    assert (stopped.text, stopped.truncated) == ("", False)


def test_a_finished_store_needs_no_model_and_other_weights_are_refused(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, store = tmp_path / "model", tmp_path / "answers.jsonl"
    shutil.copytree(tiny, model)
    sampling = Sampling(max_new_tokens=5)
    first = ask(model, questions(3), sampling, store=store)
    moved = model.rename(tmp_path / "moved")
    with monkeypatch.context() as patched:
        patched.setattr("orpo.evaluate.generation.load_answerer", None)
        again = ask(moved, questions(3), sampling, store=store)
    assert [one.turns for one in again] == [one.turns for one in first]
    loaded = AutoModelForCausalLM.from_pretrained(moved)
    with torch.no_grad():
        loaded.model.norm.weight += 1
    loaded.save_pretrained(moved)
    with pytest.raises(ConfigError, match=r"answers\.jsonl:1: was answered by .* with weights"):
        ask(moved, questions(3), sampling, store=store)


def test_errors_name_the_question_or_the_model(tiny: Path, tmp_path: Path) -> None:
    strict = tmp_path / "strict"
    shutil.copytree(tiny, strict)
    (strict / "chat_template.jinja").write_text("{{ raise_exception('no') }}", encoding="utf-8")
    with pytest.raises(DataError, match="question 'x': the chat template refuses"):
        ask(strict, [Question("x", ("Hi",))], Sampling())
    with pytest.raises(ModelError, match="nowhere"):
        open_source_of_answers(str(tmp_path / "nowhere"))
    shutil.copytree(tiny, tmp_path / "broken")
    (tmp_path / "broken" / "manifest.json").write_text(json.dumps({"files": {}}))
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        ask(tmp_path / "broken", questions(1), Sampling())
