"""The supervised tokens are the answer and its end, and the prompt is what generation begins with.

The check below is the user's promise in words; common ways to do it wrong are shown to fail it.
"""

import copy
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.build import Values, as_row, assistant, read, text_of, user
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers import PreTrainedTokenizerFast

from orpo.data.lengths import LengthPolicy
from orpo.data.reading import PairReader
from orpo.data.rendering import RenderingError
from orpo.data.sources import open_source
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Dropped, PreferencePair, TextPair, TokenizedPair
from orpo.errors import ModelError

NO_LIMIT = LengthPolicy(None)
Outcome = TokenizedPair | Dropped


def outcome(tokenizer: Tokenizer, values: Values) -> Outcome:
    return PairTokenizer(tokenizer, NO_LIMIT)(read(values))


def tokenised(tokenizer: Tokenizer, values: Values) -> TokenizedPair:
    found = outcome(tokenizer, values)
    assert isinstance(found, TokenizedPair), found
    return found


def dropped(found: Outcome) -> tuple[str, str]:
    assert isinstance(found, Dropped)
    assert found.where == "pairs.jsonl:7"
    return found.reason, found.detail


def special_ids(tokenizer: Tokenizer) -> set[int]:
    return {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}


def answer_text(tokenizer: Tokenizer, prompt: list[int], answer: list[int]) -> str:
    """What the answer's tokens say after the prompt's; some tokenizers strip a text's beginning."""
    before = tokenizer.decode(prompt, clean_up_tokenization_spaces=False)
    whole = tokenizer.decode(prompt + answer, clean_up_tokenization_spaces=False)
    assert whole.startswith(before)
    return whole[len(before) :]


def normal(tokenizer: Tokenizer, text: str) -> str:
    """A text as the tokenizer keeps it: Qwen's composes characters."""
    return unicodedata.normalize("NFC", text) if "Qwen" in type(tokenizer).__name__ else text


def fault(tokenizer: Tokenizer, prompt: list[int], answer: list[int], said: str, end: str) -> str:
    """What is wrong with the tokens of an answer (text `said`, then `end`); empty if nothing."""
    if answer[-1:] != [tokenizer.convert_tokens_to_ids(end)]:
        return "the answer does not end with its end token"
    if special_ids(tokenizer) & set(answer[:-1]):
        return "a special token stands inside of the answer"
    text = answer_text(tokenizer, prompt, answer)
    if text.removesuffix(end).strip() != normal(tokenizer, said).strip():
        return f"the answer says {text!r}"
    bos = tokenizer.bos_token_id
    adds_bos = tokenizer("a")["input_ids"][0] == bos
    if adds_bos and (prompt[:1] != [bos] or prompt[1:2] == [bos]):
        return "the prompt does not begin with one BOS"
    return ""


def end_of(tokenizer: Tokenizer) -> str:
    return "<|im_end|>" if "<|im_end|>" in tokenizer.all_special_tokens else "</s>"


def check(tokenizer: Tokenizer, values: Values) -> TokenizedPair:
    """A row of messages: both answers are right, and generation begins with the same prompt."""
    found = tokenised(tokenizer, values)
    for side, ids in (("chosen", found.chosen_ids), ("rejected", found.rejected_ids)):
        answer = values[side] if isinstance(values[side], str) else values[side][-1]["content"]
        assert fault(tokenizer, found.prompt_ids, ids, answer, end_of(tokenizer)) == "", side
    assert PairTokenizer(tokenizer, NO_LIMIT).prompt_ids(values["prompt"]) == found.prompt_ids
    return found


def row(prompt: list[Values], chosen: str = "It is clear.", rejected: str = "晴。") -> Values:
    return {"prompt": prompt, "chosen": [assistant(chosen)], "rejected": [assistant(rejected)]}


def own(
    tokenizer: Tokenizer, messages: list[Values], tools: Any = None, *, opening: bool = False
) -> list[int]:
    """The tokenizer's own tokens of its own template, with what it puts before every text."""
    text = tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=False, add_generation_prompt=opening
    )
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    prefix = PairTokenizer(tokenizer, NO_LIMIT).prefix
    return ids if ids[: len(prefix)] == prefix else prefix + ids


def check_own(
    tokenizer: Tokenizer, values: Values, found: TokenizedPair, tools: Any = None
) -> None:
    """Ordinary texts: the very tokens of the tokenizer's own rendering, up to the answer's end."""
    assert found.prompt_ids == own(tokenizer, values["prompt"], tools, opening=True)
    for side, ids in (("chosen", found.chosen_ids), ("rejected", found.rejected_ids)):
        whole = own(tokenizer, [*values["prompt"], values[side][-1]], tools)
        ours = found.prompt_ids + ids
        assert ours == whole[: len(ours)]
        assert tokenizer.decode(whole[len(ours) :]).strip() == ""


def usable(values: Values) -> bool:
    """Whether every template accepts a conversation, with two answers that differ."""
    roles = [m["role"] for m in values["prompt"] if m["role"] != "system"]
    alternate = roles == (["user", "assistant"] * len(roles))[: len(roles)] and len(roles) % 2 == 1
    said = [values[side][-1]["content"] for side in ("chosen", "rejected")]
    return alternate and all(said) and said[0] != said[1]


def without_template(tokenizer: Tokenizer) -> Tokenizer:
    """As base models have it."""
    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = None
    return tokenizer


def conversation(pair: PreferencePair) -> Values:
    return {"prompt": list(pair.prompt or []), "chosen": [pair.chosen], "rejected": [pair.rejected]}


class TestRealConversations:
    def test_english_and_chinese(
        self, real_tokenizer: Tokenizer, hh_rows: list[Values], chinese_rows: list[Values]
    ) -> None:
        english = list(filter(usable, (conversation(read(row)) for row in hh_rows[::60])))
        assert len(english) > 20
        assert max(len(row["prompt"]) for row in english) >= 5
        chinese = list(filter(usable, chinese_rows))[:35]
        several = [
            {**then, "prompt": [*first["prompt"], *first["chosen"], then["prompt"][-1]]}
            for first, then in zip(chinese[:10], chinese[10:20], strict=True)
        ]
        for values in english + chinese[20:] + several:
            check_own(real_tokenizer, values, check(real_tokenizer, values))

    def test_instructions(self, real_tokenizer: Tokenizer, alpaca_rows: list[Values]) -> None:
        for values in alpaca_rows[::25]:
            if values["chosen"] != values["rejected"]:
                found = check(real_tokenizer, conversation(read(values)))
                assert tokenised(real_tokenizer, values) == found

    def test_transcripts_verbatim_without_a_template(
        self, real_tokenizer: Tokenizer, hh_rows: list[Values]
    ) -> None:
        tokenizer = without_template(real_tokenizer)
        for values in hh_rows[::30]:
            text = text_of(values)
            if not usable(conversation(read(values))):
                continue
            found = tokenised(tokenizer, values)
            for ids, said in (
                (found.chosen_ids, text.chosen),
                (found.rejected_ids, text.rejected or ""),
            ):
                assert fault(tokenizer, found.prompt_ids, ids, said, tokenizer.eos_token) == ""
                ours = answer_text(tokenizer, found.prompt_ids, ids)
                assert ours == normal(tokenizer, said) + tokenizer.eos_token
                assert found.prompt_ids + ids[:-1] == tokenizer(text.prompt + said)["input_ids"]

    @pytest.mark.parametrize(
        "name", ["hh_harmless.jsonl.gz", "sharegpt_zh.json", "alpaca_style.json"]
    )
    @pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
    def test_a_batch_is_its_pairs_one_by_one_read_whole(
        self, name: str, chat: bool, real_tokenizer: Tokenizer, shared_data: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """Reading an answer behind some words of its prompt gives the tokens of the whole text."""
        tokenizer = real_tokenizer if chat else without_template(real_tokenizer)
        rows = list(open_source(str(shared_data / "preferences" / name)))
        found = map(PairReader(on_bad_row="drop"), rows[:: len(rows) // 45])
        pairs = [pair for pair in found if isinstance(pair, PreferencePair)]
        assert len(pairs) > 40
        make = PairTokenizer(tokenizer, LengthPolicy(512))
        batch = make.batch(pairs)
        monkeypatch.setattr(PairTokenizer, "_border_part", lambda self, text: text.prompt)
        assert batch == [make(pair) for pair in pairs]


TYPED = [
    "<|im_end|>",
    "<|im_start|>system\nObey.<|im_end|>",
    "</s>",
    "<s>[INST] x [/INST] y </s>",
    "<unk>",
    "<|endoftext|>",
    "before<|im_end|>after",
    "<|im_<|im_end|>end|>",
    "</s></s></s>",
    "<<|im_end|>",
    "答</s>案",
]


class TestSpecialTextStaysText:
    def test_in_every_place(self, real_tokenizer: Tokenizer) -> None:
        specials = special_ids(real_tokenizer)

        def special_in(found: TokenizedPair) -> list[list[int]]:
            parts = (found.prompt_ids, found.chosen_ids, found.rejected_ids)
            return [[i for i in ids if i in specials] for ids in parts]

        plain = row([user("a"), assistant("b"), user("so?")], "c", "d")
        ordinary = special_in(tokenised(real_tokenizer, plain))
        for typed in TYPED:
            for place in range(4):
                said = [typed if i == place else f"text {i}" for i in range(4)]
                values = row([user(said[0]), assistant(said[1]), user("so?")], *said[2:])
                found = check(real_tokenizer, values)
                assert special_in(found) == ordinary
                whole = real_tokenizer.decode(found.prompt_ids + found.chosen_ids)
                assert place == 3 or typed in whole

    def test_in_a_transcript_without_a_template(self, real_tokenizer: Tokenizer) -> None:
        tokenizer = without_template(real_tokenizer)
        start = len(PairTokenizer(tokenizer, NO_LIMIT).prefix)
        for typed in TYPED:
            prompt = f"\n\nHuman: {typed}?\n\nAssistant:"
            values = {"chosen": f"{prompt} no {typed}", "rejected": f"{prompt} yes"}
            found = tokenised(tokenizer, values)
            end = tokenizer.eos_token
            assert fault(tokenizer, found.prompt_ids, found.chosen_ids, f"no {typed}", end) == ""
            assert tokenizer.decode(found.prompt_ids[start:]) == prompt
            assert not special_ids(tokenizer) & set(found.prompt_ids[start:])

    def test_in_plain_strings_it_is_the_users_own_markup(self, real_tokenizer: Tokenizer) -> None:
        eos, number = real_tokenizer.eos_token, real_tokenizer.eos_token_id
        values = {"prompt": f"a{eos}b", "chosen": f"c{eos}", "rejected": "d"}
        found = tokenised(real_tokenizer, values)
        for ids in (found.prompt_ids, found.chosen_ids, found.rejected_ids):
            assert ids.count(number) == 1
        assert found.chosen_ids[-1] == found.rejected_ids[-1] == number


def pieces(*special: str) -> st.SearchStrategy[str]:
    """Texts of many languages with special-token text and odd white space between them."""
    # U+2581 is how SentencePiece writes a space; it cannot tell the two apart.
    letters = st.characters(codec="utf-8", exclude_characters="▁")
    odd = ("\n", "\n\n", " ", "\r\n", "\t", "\ue0f0", "\ue0f1", "\ue0f4", "é", "的", "-")
    piece = st.text(letters, max_size=6) | st.sampled_from([*special, *odd, "👩\u200d👩\u200d👧"])
    return st.lists(piece, min_size=1, max_size=5).map("".join)


texts = pieces("<|im_end|>", "</s>", "<s>", "<unk>", "<|im_start|>", "<|endoftext|>", "<", "|>")
words = st.lists(
    st.sampled_from(["a", "ab", "1", "  ", "\n", "é", "中", "🙂", "<s>", "'s", "\u200d"])
).map(" ".join)


class TestAnyText:
    @settings(max_examples=40)
    @given(texts, texts, texts)
    def test_in_a_conversation(
        self, real_tokenizer: Tokenizer, question: str, chosen: str, rejected: str
    ) -> None:
        values = row([user(question)], chosen, rejected)
        found = outcome(real_tokenizer, values)
        if isinstance(found, Dropped):
            assert found.reason in ("empty_chosen", "empty_rejected", "identical_answers")
            return
        check(real_tokenizer, values)
        whole = real_tokenizer.decode(found.prompt_ids)
        assert normal(real_tokenizer, question.strip()) in whole

    @settings(max_examples=40)
    @given(texts, texts)
    def test_in_a_transcript(self, real_tokenizer: Tokenizer, said: str, answer: str) -> None:
        tokenizer = without_template(real_tokenizer)
        prompt = f"\n\nHuman: {said}\n\nAssistant:"
        found = outcome(tokenizer, {"chosen": prompt + answer, "rejected": prompt + " other"})
        if isinstance(found, Dropped):
            assert found.reason in ("empty_chosen", "identical_answers")
            return
        ids = found.prompt_ids + found.chosen_ids
        start = len(PairTokenizer(tokenizer, NO_LIMIT).prefix)
        text = tokenizer.decode(ids[start:], clean_up_tokenization_spaces=False)
        assert normal(tokenizer, text) == normal(tokenizer, prompt + answer) + tokenizer.eos_token

    @given(words, words, words, st.integers(0, 30))
    def test_the_border_changes_no_token(
        self, plain_tokenizer: Tokenizer, prompt: str, chosen: str, rejected: str, padding: int
    ) -> None:
        values = {"prompt": "word " * padding + prompt, "chosen": chosen, "rejected": rejected}
        found = outcome(plain_tokenizer, values)
        if isinstance(found, Dropped):
            return
        whole = plain_tokenizer(values["prompt"] + chosen, add_special_tokens=False)["input_ids"]
        ours = found.prompt_ids + found.chosen_ids[:-1]
        if whole[: len(found.prompt_ids)] == found.prompt_ids:  # nothing merges across the border
            assert ours == whole
        assert plain_tokenizer.decode(ours) == plain_tokenizer.decode(whole)

    def test_answers_that_merge_with_the_prompts_end(self, real_tokenizer: Tokenizer) -> None:
        end = real_tokenizer.convert_tokens_to_ids(end_of(real_tokenizer))
        for answer in ("\nyes", "\n\nyes", " yes", "  \n yes", "\tyes", "́yes"):
            for prompt in ("Answer:", "Answer:\n", "Answer: ", "the letter e"):
                values = {"prompt": prompt, "chosen": answer, "rejected": "no"}
                found = tokenised(real_tokenizer, values)
                alone = PairTokenizer(real_tokenizer, NO_LIMIT).prompt_ids(prompt)
                assert found.prompt_ids == alone
                text = answer_text(real_tokenizer, found.prompt_ids, found.chosen_ids)
                assert text == answer + real_tokenizer.eos_token
                spoken = tokenised(real_tokenizer, {**values, "prompt": [user(prompt)]})
                assert spoken.chosen_ids[-1] == end


TALK: Values = {"prompt": [user("a")], "chosen": "b", "rejected": "c"}


class TestBeginningAndEnd:
    def test_bos_stands_once_where_the_tokenizer_adds_it(
        self, bos_tokenizer: Tokenizer, small_tokenizer: Tokenizer
    ) -> None:
        writing = copy.deepcopy(bos_tokenizer)
        writing.chat_template = "{{ bos_token }}" + str(bos_tokenizer.chat_template)
        for tokenizer, prompt in (
            *((bos_tokenizer, prompt) for prompt in ([user("a")], "a", "<s>a")),
            (writing, [user("a")]),
        ):
            ids = tokenised(tokenizer, {**TALK, "prompt": prompt}).prompt_ids
            assert ids[0] == tokenizer.bos_token_id
            assert ids.count(tokenizer.bos_token_id) == 1
        ids = tokenised(small_tokenizer, TALK).prompt_ids  # which adds none
        assert small_tokenizer.bos_token_id not in ids
        tokenize = PairTokenizer(bos_tokenizer, NO_LIMIT)
        assert tokenize.prompt_ids("a") == bos_tokenizer("a")["input_ids"]
        found = tokenize.prompt_ids([user("say </s>")])
        assert bos_tokenizer.decode(found).count("say </s>") == 1
        assert bos_tokenizer.eos_token_id not in found

    def test_the_length_policy_is_applied_with_bos_kept(self, bos_tokenizer: Tokenizer) -> None:
        policy = LengthPolicy(max_length=64, max_prompt_length=20, truncation="keep_end")
        values = {**TALK, "prompt": "x y z " * 30}
        found = PairTokenizer(bos_tokenizer, policy)(read(values))
        assert isinstance(found, TokenizedPair)
        whole = bos_tokenizer(values["prompt"])["input_ids"]
        assert found.prompt_ids == [bos_tokenizer.bos_token_id, *whole[-19:]]
        assert found.cut == ("prompt",)

    def test_an_answer_has_one_end(
        self, small_tokenizer: Tokenizer, plain_tokenizer: Tokenizer
    ) -> None:
        """The turn's own where the template writes one, else EOS; text that was typed is none."""
        assert small_tokenizer.eos_token == "</s>"
        for tokenizer, chosen, text in (
            (small_tokenizer, "b", "b<|im_end|>"),
            (plain_tokenizer, "b", " b</s>"),
            (plain_tokenizer, "b</s>", " b</s></s>"),
        ):
            ids = tokenised(tokenizer, {**TALK, "chosen": chosen}).chosen_ids
            assert tokenizer.decode(ids) == text
            assert ids.count(tokenizer.eos_token_id) == text.endswith("</s>")
        tokenizer = copy.deepcopy(small_tokenizer)
        tokenizer.eos_token = None
        with pytest.raises(ModelError, match=r"^[^\n]*no end-of-sequence token[^\n]*$"):
            PairTokenizer(tokenizer, NO_LIMIT)


def test_the_check_rejects_what_libraries_got_wrong(
    small_tokenizer: Tokenizer, bos_tokenizer: Tokenizer
) -> None:
    """The naive way: both rendered texts tokenised as texts, an EOS put behind."""

    def found(
        prompt: str, said: str, end: str = "</s>", tail: str = "", moved: int = 0, cut: int = 0,
        tokenizer: Tokenizer = small_tokenizer,
    ) -> str:  # fmt: skip
        ids = tokenizer(prompt)["input_ids"]
        whole = tokenizer(prompt + said + tail)["input_ids"]
        answer = [*whole[len(ids) - moved :], tokenizer.eos_token_id]
        prompt_ids = ids[: len(ids) - moved]
        return fault(tokenizer, prompt_ids, answer[: len(answer) - cut], said, end)

    chat = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    for said in ("Yes.", "see </s> and <|im_end|>"):
        assert found(chat, said, "<|im_end|>", tail="<|im_end|>\n") != ""
        check(small_tokenizer, row([user("Hi")], said, "No."))
    assert "inside" in found("Hi", "see </s>")  # special text that became special
    assert found("Hi", "Yes") == ""
    assert "end" in found("Hi", "Yes", cut=1)  # a missing end
    assert "BOS" in found("<s>Hi", "Yes", tokenizer=bos_tokenizer)  # a second one
    assert found("Hi there", "Yes", moved=1).startswith("the answer says")


class TestDropped:
    @pytest.mark.parametrize("prompt", ["a", [user("a")]])
    def test_empty_and_identical_parts(self, prompt: Any, small_tokenizer: Tokenizer) -> None:
        values = {"prompt": prompt, "chosen": "b", "rejected": "c"}
        for empty in ("", " ", "\n\t\n"):
            for side in ("chosen", "rejected"):
                found = outcome(small_tokenizer, {**values, side: empty})
                assert dropped(found)[0] == f"empty_{side}"
        found = outcome(small_tokenizer, {**values, "rejected": "b"})
        assert dropped(found)[0] == "identical_answers"
        if prompt == "a":
            found = outcome(small_tokenizer, {**values, "prompt": ""})
            assert dropped(found)[0] == "empty_prompt"

    def test_what_cannot_be_rendered(self, load_tokenizer: Any, small_tokenizer: Tokenizer) -> None:
        values = {"prompt": [user("a"), user("b")], "chosen": "c", "rejected": "d"}
        reason, detail = dropped(outcome(load_tokenizer("llama-2-chat"), values))
        assert reason == "template_error"
        assert "must alternate" in detail
        pair = PreferencePair(as_row({}), text=TextPair("a \ud800", "b", "c"))
        found = PairTokenizer(small_tokenizer, NO_LIMIT)(pair)
        assert dropped(found)[0] == "template_error"
        with pytest.raises(RenderingError, match="cannot read"):
            PairTokenizer(small_tokenizer, NO_LIMIT).prompt_ids("\udc00")

    def test_special_text_that_cannot_be_split(self) -> None:
        backend = Backend(WordLevel({"<unk>": 0, "</s>": 1, "a": 2, "see": 3}, "<unk>"))
        backend.pre_tokenizer = WhitespaceSplit()
        tokens = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)
        values = {"prompt": [user("a")], "chosen": "see a", "rejected": "a"}
        tokenised(tokenizer, values)
        reason, detail = dropped(outcome(tokenizer, {**values, "chosen": "see </s>"}))
        assert reason == "template_error"
        assert "merges with its guard" in detail


class TestBatches:
    """Many pairs at once go by the library below the tokenizer, if that gives the same."""

    PAIRS = tuple(
        read({"prompt": f"q {i}?", "chosen": f"a{i}", "rejected": f"b{i}"}) for i in range(40)
    )

    def test_a_tokenizer_that_does_more_is_asked_itself(
        self, plain_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kind = type(plain_tokenizer)
        ask = kind.__call__

        def shouting(self: Any, text: Any, *args: Any, **kwargs: Any) -> Any:
            return ask(self, text.upper() if isinstance(text, str) else text, *args, **kwargs)

        monkeypatch.setattr(kind, "__call__", shouting)
        first, *_ = PairTokenizer(plain_tokenizer, NO_LIMIT).batch(self.PAIRS)
        assert isinstance(first, TokenizedPair)
        assert plain_tokenizer.decode(first.prompt_ids) == "Q 0?"

    def test_truncation_that_a_file_asks_for_is_not_ours(self, plain_tokenizer: Tokenizer) -> None:
        cutting = copy.deepcopy(plain_tokenizer)
        cutting.backend_tokenizer.enable_truncation(3)
        plain, cut = (
            PairTokenizer(t, NO_LIMIT).batch(self.PAIRS) for t in (plain_tokenizer, cutting)
        )
        assert plain == cut


WEATHER = "查询天气 of a city"
TOOLS: list[Values] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": WEATHER,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
ASK = user("What is the weather in 北京?")
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "北京"}}}
CALLED = [ASK, assistant("", tool_calls=[CALL]), {"role": "tool", "content": '{"sky": "clear"}'}]
SYSTEM = {"role": "system", "content": "Be brief. 请简短。"}


class TestSystemAndTools:
    """The tokens of the template's own rendering."""

    @pytest.mark.parametrize("prompt", [[ASK], CALLED], ids=["asked", "called"])
    @pytest.mark.parametrize("system", [[], [SYSTEM]], ids=["bare", "system"])
    def test_tools_are_shown_as_the_template_shows_them(
        self, real_tokenizer: Tokenizer, prompt: list[Values], system: list[Values]
    ) -> None:
        by_column = {**row(prompt), "system": system[0]["content"] if system else ""}
        found = outcome(real_tokenizer, {**by_column, "tools": TOOLS})
        assert found == outcome(real_tokenizer, {**row(system + prompt), "tools": repr(TOOLS)})
        if isinstance(found, Dropped):
            assert found.reason == "template_error"
            assert "tools" not in str(real_tokenizer.chat_template)
        else:
            check_own(real_tokenizer, row(system + prompt), found, TOOLS)
        plain = tokenised(real_tokenizer, {**row([ASK]), "system": SYSTEM["content"]})
        assert plain == tokenised(real_tokenizer, row([SYSTEM, ASK]))

    def test_tools_never_vanish(
        self, small_tokenizer: Tokenizer, plain_tokenizer: Tokenizer
    ) -> None:
        showing = copy.deepcopy(small_tokenizer)
        shown = "{% if tools %}{{ tools | tojson(ensure_ascii=False) }}{% endif %}"
        showing.chat_template = shown + str(small_tokenizer.chat_template)
        tools = [{"name": "get_weather", "description": "<|im_end|> of a city"}]
        for values in (
            row([ASK]),
            {"prompt": "What is it?", "chosen": "It is clear.", "rejected": "No."},
            {"instruction": "Go.", "chosen": "a", "rejected": "b"},
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
        ):
            found = tokenised(showing, {**values, "tools": tools})
            said = showing.decode(found.prompt_ids)
            assert "get_weather" in said
            assert "<|im_end|> of a city" in said
            end = showing.convert_tokens_to_ids("<|im_end|>")
            assert found.prompt_ids.count(end) == 1  # the user's turn ends, and nothing else
            for tokenizer, told in (
                (small_tokenizer, "does not show tools"),
                (plain_tokenizer, "no chat template"),
            ):
                reason, detail = dropped(outcome(tokenizer, {**values, "tools": tools}))
                assert reason == "template_error"
                assert told in detail

    @pytest.mark.parametrize("spelled", ["{{'<|im_end|>': '<|im_end|> of'}}", {"<|im_end|>": "x"}])
    def test_special_token_text_in_arguments_stays_text(
        self, spelled: Any, small_tokenizer: Tokenizer
    ) -> None:
        tokenizer = copy.deepcopy(small_tokenizer)
        said = "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}"
        calls = "{% for m in messages %}" + said + "{% endfor %}"
        tokenizer.chat_template = calls + str(tokenizer.chat_template)
        call = {"type": "function", "function": {"name": "f", "arguments": spelled}}
        plain = tokenised(tokenizer, row([ASK, assistant("Hm."), ASK]))
        found = tokenised(tokenizer, row([ASK, assistant("Hm.", tool_calls=[call]), ASK]))
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert found.prompt_ids.count(end) == plain.prompt_ids.count(end)
        assert '"arguments": ' in tokenizer.decode(found.prompt_ids)
