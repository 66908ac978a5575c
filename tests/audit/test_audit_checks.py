"""Each check on a few rows whose faults are known exactly."""

from __future__ import annotations

from typing import Any

import pytest
from tests.audit.faults import audited, distinct_rows, found, pair

from orpo.audit.findings import EXAMPLES, Finding, clip, grade, percent
from orpo.audit.texts import markup_in, refuses, script_of
from orpo.data.split import key_of, normalised

Values = list[dict[str, Any]]


def finding_of(check: str, values: Values) -> Finding:
    return found(audited(values, near=False), check)


@pytest.fixture
def rows() -> Values:
    return distinct_rows(40)


def test_empty_texts_are_counted_by_part(rows: Values) -> None:
    rows[0]["chosen"][0]["content"] = ""
    rows[1]["rejected"][0]["content"] = " \n\t"
    rows[2]["prompt"][0]["content"] = ""
    rows[3]["chosen"][0]["content"] = rows[3]["rejected"][0]["content"] = ""
    finding = finding_of("empty_texts", rows)
    assert (finding.count, finding.of) == (4, 40)
    assert finding.figures == {"empty_prompt": 1, "empty_chosen": 2, "empty_rejected": 2}
    assert [e.where for e in finding.examples] == [f"data:{n}" for n in (1, 2, 3, 4)]
    assert finding_of("empty_texts", distinct_rows(40)).count == 0


def test_identical_answers_are_told_from_those_that_differ_in_white_space(rows: Values) -> None:
    rows[0]["rejected"] = rows[0]["chosen"]
    said = rows[1]["chosen"][0]["content"]
    rows[1]["rejected"] = [{"role": "assistant", "content": said.replace(" ", "\n ") + " "}]
    rows[2]["rejected"] = None  # has nothing identical
    finding = finding_of("identical_answers", rows)
    assert (finding.count, finding.of, finding.verdict) == (2, 39, "look")
    assert finding.figures == {"exact": 1, "white_space_only": 1}
    many = finding_of("identical_answers", [pair(f"q{n}", *["x " * 5000] * 2) for n in range(30)])
    assert (many.count, len(many.examples)) == (30, EXAMPLES)
    assert all(len(e.text) < 300 for e in many.examples)


def test_exact_duplicates_are_all_but_the_first(rows: Values) -> None:
    other_answer = {**rows[0], "rejected": rows[1]["rejected"]}
    again = [rows[4], {**rows[4], "weight": 3}, rows[9], other_answer]
    run_together = [pair("a", "bc", "d"), pair("ab", "c", "d"), pair("a", "b", "cd")]
    finding = finding_of("exact_duplicates", [*rows, *again, *run_together])
    assert finding.count == 3
    assert [(e.where, e.other) for e in finding.examples] == [
        ("data:41", "data:5"),
        ("data:42", "data:5"),
        ("data:43", "data:10"),
    ]
    assert finding.figures == {"repeated_prompts": 5, "other_weight": 1}
    assert "1 with another weight" in finding.says


def test_contradictions_are_reversed_pairs_and_not_ranked_ones() -> None:
    ranked = [pair("Q", "A", "B"), pair("Q", "B", "C"), pair("Q", "A", "C")]
    assert finding_of("contradictions", ranked).count == 0
    finding = finding_of("contradictions", [*ranked, pair("Q", "C", "A"), pair("R", "B", "A")])
    assert finding.count == 1
    assert (finding.examples[0].where, finding.examples[0].other) == ("data:4", "data:3")
    same = [pair("Q", "A", "A"), pair("Q", "A", "A")]
    assert finding_of("contradictions", same).count == 0


def test_leaked_prompts_are_found_but_for_case_and_white_space(rows: Values) -> None:
    prompt = rows[3]["prompt"][0]["content"]
    held = [
        pair(prompt.upper(), "x", "y"),
        pair(f"  {prompt}\n", "x", "y"),
        *distinct_rows(8, seed=9),
    ]
    finding = found(audited(rows, near=False, eval_values=held), "leakage")
    assert (finding.count, finding.of, finding.verdict) == (2, 10, "stop")
    assert {(e.where, e.other) for e in finding.examples} == {
        ("data:1", "data:4"),
        ("data:2", "data:4"),
    }
    other_sign = [pair("What is 2 + 2?", "4", "5")]
    audit = audited(other_sign, eval_values=[pair("What is 2 - 2?", "0", "1")])
    assert found(audit, "leakage").count == found(audit, "near_leakage").count == 0


@pytest.mark.parametrize("longer", [0.5, 0.57, 0.8, 0.95, 0.2, 0.0])
def test_length_bias(longer: float) -> None:
    rows = []
    for n in range(400):
        long, short = f"{'word ' * 20}{n}", f"short {n}"
        rows.append(pair(f"q{n}", long, short) if n < 400 * longer else pair(f"q{n}", short, long))
    audit = audited([*rows, *(pair(f"t{n}", f"a{n % 10}", f"b{n % 10}") for n in range(100))])
    finding = found(audit, "length_bias")
    assert finding.figures["longer_chosen"] == pytest.approx(longer)
    assert finding.figures["auc"] == pytest.approx((400 * longer + 50) / 500)
    assert finding.of == 400
    expected = {0.5: "ok", 0.57: "ok", 0.8: "look", 0.95: "stop", 0.2: "look", 0.0: "stop"}[longer]
    assert finding.verdict == expected
    (full,) = [bucket for bucket in audit.length_bias if bucket.pairs]
    assert full.longer_chosen == pytest.approx(longer)
    assert full.low == 5.0
    assert full.high is None
    few = [pair(f"q{n}", "long answer here", "short") for n in range(4)]
    assert finding_of("length_bias", few).verdict == "ok"  # too few to tell


def test_the_curve_of_the_length_bias() -> None:
    lengths = [(100, 105), (110, 100), (120, 100), (100, 149), (199, 100), (200, 100), (100, 499)]
    rows = [pair(f"q{n}", "x" * a, "y" * b) for n, (a, b) in enumerate(lengths)]
    curve = audited(rows, near=False).length_bias
    assert [(b.low, b.high, b.pairs, b.longer_chosen) for b in curve] == [
        (1.0, 1.1, 1, 0.0),
        (1.1, 1.25, 2, 1.0),
        (1.25, 1.5, 1, 0.0),
        (1.5, 2.0, 1, 1.0),
        (2.0, 3.0, 1, 1.0),
        (3.0, 5.0, 1, 0.0),
        (5.0, None, 0, None),
    ]


@pytest.mark.parametrize(
    ("text", "families"),
    [
        ("<|im_start|>assistant\nHello<|im_end|>", ["ChatML"]),
        ("[INST] Hi [/INST] Hello", ["Llama 2, Mistral"]),
        ("### Response:\nHello", ["Alpaca"]),
        ("Hello</s>", ["sentence tags"]),
        ("<s>Hello", ["sentence tags"]),
        ("<s>Hello</s>", ["sentence tags"]),
        ("Hello<|eot_id|>", ["Llama 3"]),
        ("<start_of_turn>model\nHello", ["Gemma"]),
        ("Sure.\n\nHuman: And then?", ["Human: and Assistant:"]),
        ("Human: Hello", ["Human: and Assistant:"]),
        ("Sure.\nAssistant: And then.", ["Human: and Assistant:"]),
        ("USER: Hi ASSISTANT: Hello", ["Human: and Assistant:"]),
        ("<|START_OF_TURN_TOKEN|>Hello", ["special tokens"]),
        ("[gMASK]<sop>Hello", ["ChatGLM, Baichuan"]),
        ("In F#, x <| f |> g and (<|>) are operators.", []),
        ("The Assistant: a film. A human: no.", []),
        ("Hello <|im_e", ["cut off"]),
        ("Bonjour<|endoftext|>", ["Zephyr, Phi, GPT"]),
        ("你好<｜end▁of▁sentence｜>", ["DeepSeek"]),
        ("Hello", []),
        ("## Response\nA human: is one.", []),
        ("This is <s>struck</s> out, a < b, c <| d.", []),
        ("a[INSTANCE] <<EOF", []),
        ("The assistant said: hello. USERS: 5", []),
        ("### Step 1: Response", []),
        ("<b>bold</b></strong>", []),
    ],
)
def test_markup(text: str, families: list[str]) -> None:
    assert markup_in(text) == families


def test_template_problems_are_rows_with_foreign_markup(rows: Values) -> None:
    for row in rows[:3]:
        row["chosen"][0]["content"] += "<|im_end|>"
    rows[3]["prompt"][0]["content"] = "[INST] " + rows[3]["prompt"][0]["content"]
    finding = finding_of("template", rows)
    assert (finding.count, finding.verdict) == (4, "stop")
    assert finding.figures == {"ChatML markup": 3, "Llama 2, Mistral markup": 1}
    assert "<|im_end|>" in finding.examples[0].text


def test_markup_that_a_plain_prompt_uses_itself_is_meant() -> None:
    opened = "<|im_start|>user\nHi {}<|im_end|>\n<|im_start|>assistant\n"
    own = [
        {"prompt": opened.format(n), "chosen": f"Yes {n}<|im_end|>", "rejected": "No<|im_end|>"}
        for n in range(5)
    ]
    assert finding_of("template", own).count == 0
    own[2]["rejected"] = "No</s>"
    finding = finding_of("template", own)
    assert finding.count == 1
    assert finding.examples[0].where == "data:3"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I’m sorry, but I cannot assist with this request.", True),
        ("As an AI language model, I have no feelings.", True),
        ("Sorry, I can't do that.", True),
        ("I cannot provide that information.", True),
        ("I'm just an AI, so no.", True),
        ("很抱歉，我无法回答这个问题。", True),
        ("作为一个人工智能语言模型，我没有感情。", True),
        ("我不能提供这些信息。", True),
        ("I CANT HELP with that", True),
        ("I won't answer.", True),
        ("I am unable to do so.", True),
        ("I'm a large language model, so no.", True),
        ("Apologies, I cannot do it.", True),
        ("作为AI，我不知道。", True),
        ("对不起，这个不可以。", True),
        ("我没办法帮助你。", True),
        ("I can help. Sorry for the wait.", False),
        ("I'm sorry to hear that you lost your keys.", False),
        ("The model cannot be trained like this.", False),
        ("As an airline pilot, you cannot drink.", False),
        ("我不能再同意了，这本书很好。", False),
        ("抱歉让你久等了，答案是四。", False),
        ("Here is a story. " * 30 + "I'm sorry, I can't go on.", False),
    ],
)
def test_refusals(answer: str, *, expected: bool) -> None:
    assert refuses(answer) is expected


def test_refusals_are_counted_by_side(rows: Values) -> None:
    for row in rows[:8]:
        row["chosen"][0]["content"] = "I'm sorry, but I can't help with that."
    rows[9]["rejected"][0]["content"] = "As an AI language model, I cannot."
    finding = finding_of("refusals", rows)
    assert (finding.count, finding.verdict) == (8, "look")
    assert finding.figures == {"chosen": 8 / 40, "rejected": 1 / 40}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("What is the weather like today in Paris?", "Latin (English and others)"),
        ("请问今天巴黎的天气怎么样？", "Chinese"),
        ("请用 Python 写一个 quicksort 函数, 并解释 partition 的作用。", "Chinese"),
        ("今日の天気はどうですか。", "Japanese"),
        ("오늘 날씨가 어때요?", "Korean"),
        ("Какая сегодня погода?", "Cyrillic (Russian and others)"),
        ("كيف الطقس اليوم؟", "Arabic"),
        ("Quel temps fait-il à Paris ? Déjà l'été…", "Latin (English and others)"),
        ("```python\nprint('hello world')\n```\n这段代码打印一句话。", "Chinese"),
        ("```python\n" + "value = compute(first)\n" * 9 + "```\n这段代码打印。", "Chinese"),
        ("https://example.org/a/very/long/address/of/a/page 请看这个网页", "Chinese"),
        ("12 + 30 = 42", "none"),
        ("", "none"),
    ],
)
def test_scripts(text: str, name: str) -> None:
    assert script_of(text).name == name


def test_answers_in_different_scripts_are_found(rows: Values) -> None:
    chinese = "这是一个关于天气的回答，今天的天气非常好，适合出去散步，也适合看书。"
    rows[5]["rejected"][0]["content"] = chinese
    rows[6]["rejected"][0]["content"] = "42"
    rows[7] = pair(
        "请写代码。", "下面是你要的代码：\n" + "value = compute(first, second)\n" * 9, chinese
    )
    finding = finding_of("languages", rows)
    assert (finding.count, finding.verdict) == (1, "look")
    assert finding.examples[0].where == "data:6"


def test_turns_are_counted_and_prompts_that_ask_nothing_are_found(rows: Values) -> None:
    rows[0]["prompt"] = [
        *rows[0]["prompt"],
        {"role": "assistant", "content": "Hm."},
        {"role": "user", "content": "So?"},
    ]
    rows[1]["prompt"] = [*rows[1]["prompt"], {"role": "system", "content": "Hm."}]
    audit = audited(rows, near=False)
    assert audit.turns == {"1": 39, "2": 1}
    assert found(audit, "turns").count == 1
    assert found(audit, "turns").examples[0].where == "data:2"


def test_a_category_that_outweighs_the_others(rows: Values) -> None:
    named = [{**row, "source": "web" if n < 36 else f"s{n}"} for n, row in enumerate(rows)]
    finding = finding_of("categories", named)
    assert (finding.count, finding.verdict) == (36, "look")
    assert finding.figures["web"] == 36
    even = [{**row, "source": f"s{n % 4}"} for n, row in enumerate(rows)]
    assert finding_of("categories", even).verdict == "ok"
    addresses = [{**row, "source": f"page {n}"} for n, row in enumerate(distinct_rows(300))]
    checks = {f.check for f in audited(addresses, near=False).findings}
    assert "categories" not in checks  # a name for every row is no category


def test_scores_against_the_preference() -> None:
    rows = [
        pair(f"q{n}", f"a{n}", f"b{n}", score_chosen=5.0, score_rejected=4.0) for n in range(20)
    ]
    assert finding_of("scores", rows).verdict == "ok"
    rows[1]["score_chosen"] = 4.0
    tied = finding_of("scores", rows)
    assert (tied.count, tied.verdict) == (0, "look")
    rows[0]["score_chosen"] = 1.0
    finding = finding_of("scores", rows)
    assert (finding.count, finding.of, finding.verdict) == (1, 20, "stop")
    assert finding.figures == {"tied": 1, "tied_share": 1 / 20}
    assert "chosen 1, rejected 4" in finding.examples[0].text
    assert "orpo data fix --min_score_margin 0 drops" in finding.do


def test_weights_that_silence_most_pairs(rows: Values) -> None:
    assert "weights" not in {f.check for f in audited(rows, near=False).findings}
    for row in rows:
        row["weight"] = 0.01
    rows[0]["weight"] = 100.0
    finding = finding_of("weights", rows)
    assert finding.verdict == "stop"
    assert finding.figures["effective_pairs"] == pytest.approx(1.0, abs=0.01)
    for row in rows:
        row["weight"] = 2.0
    assert finding_of("weights", rows).verdict == "ok"


def test_no_pair_is_a_stop_and_few_are_worth_a_look() -> None:
    few = finding_of("few_pairs", distinct_rows(20))
    assert (few.verdict, few.count, few.of) == ("look", 20, 20)
    assert finding_of("lost_rows", distinct_rows(20)).verdict == "ok"
    rows = distinct_rows(600)
    for row in rows[:59]:
        row["rejected"] = row["chosen"]
    rows[59]["weight"] = 0
    audit = audited(rows, near=False)
    lost, enough = found(audit, "lost_rows"), found(audit, "few_pairs")
    assert (lost.verdict, lost.count, lost.of) == ("look", 60, 600)
    assert "59 identical answers, 1 zero weight" in lost.says
    assert (enough.verdict, enough.do) == ("ok", "")
    same = [pair(f"q{n}", "a", "a") for n in range(3)]
    audit = audited([*same, {"prompt": "p", "chosen": None, "rejected": "r"}], near=False)
    verdicts = {found(audit, name).verdict for name in ("few_pairs", "lost_rows")}
    assert verdicts == {found(audit, "unreadable_rows").verdict} == {"stop"}
    assert found(audit, "unreadable_rows").count == 1


def test_what_the_system_says_is_no_part_of_the_question(rows: Values) -> None:
    prompt = rows[0]["prompt"]
    system = {"role": "system", "content": "Be brief, be kind, and be right in what you say."}
    rows.append({**rows[0], "prompt": [system, *prompt]})
    assert finding_of("exact_duplicates", rows).count == 0
    assert finding_of("exact_duplicates", [*rows, rows[-1]]).count == 1
    asked = [{**row, "prompt": row["prompt"][-1:]} for row in rows]
    assert found(audited(rows, eval_values=asked), "leakage").count == len(rows)
    system["content"] *= 9
    held = [pair("Which of the two colours do you like best?", "a", "b")]
    held[0]["prompt"].insert(0, system)
    audit = audited([{**row, "prompt": [system, *row["prompt"]]} for row in rows], eval_values=held)
    assert found(audit, "near_leakage").count == 0
    assert audit.lengths["prompt"].edges[-1] < len(system["content"])


def test_words_and_grades() -> None:
    assert normalised(" Straße\n\tÀ ") == normalised("STRASSE à")
    assert normalised("ＡＢＣ") == "abc"
    assert key_of("half \ud800") == key_of("half \ud800") != key_of("b")
    assert clip("a\n\nb") == "a b"
    assert [percent(share) for share in (0.0, 0.0004, 0.5)] == ["0.0 %", "under 0.1 %", "50.0 %"]
    shares = {0.0: "ok", 0.009: "ok", 0.01: "look", 0.19: "look", 0.2: "stop", 1.0: "stop"}
    assert {share: grade(share, 0.01, 0.2) for share in shares} == shares
    assert grade(1e-9, 0.0, 0.5) == "look"


def begun(rows: Values, side: str, opening: str, count: int) -> Values:
    for row in rows[:count]:
        row[side][0]["content"] = opening + row[side][0]["content"]
    return rows


@pytest.mark.parametrize("side", ["chosen", "rejected"])
@pytest.mark.parametrize("opening", ["Of course: here ", "当然可以，我来说说"])
def test_first_words_that_tell_a_side(side: str, opening: str) -> None:
    finding = finding_of("openings", begun(distinct_rows(200), side, opening, 60))
    assert (finding.verdict, finding.count, finding.of) == ("look", 60, 200)
    assert f"30.0 % of the {side} answers" in finding.says
    assert finding.figures[side] == 0.3
    assert finding.examples
    assert finding_of("openings", begun(distinct_rows(200), side, opening, 150)).verdict == "stop"


def test_first_words_of_both_sides_tell_nothing() -> None:
    rows = begun(distinct_rows(200), "chosen", "Of course: here ", 100)
    rows = begun(rows, "rejected", "Of course: here ", 90)
    assert finding_of("openings", rows).verdict == "ok"
    assert finding_of("openings", distinct_rows(200)).verdict == "ok"
    assert finding_of("openings", begun(distinct_rows(60), "chosen", "Yes it is ", 60)).count == 0


def test_rare_openings_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orpo.audit.checks._OPENINGS", 20)
    rows = begun(distinct_rows(200), "chosen", "Of course: here ", 200)
    assert finding_of("openings", rows).count == 200


@pytest.mark.parametrize(
    ("renamed", "of", "check", "verdict", "says"),
    [
        (None, 10, "no_rejected", "ok", "10 rows (33.3 %) have no rejected answer"),
        (None, 10, "few_pairs", "look", "20 pairs and 10 rows without rejected answer"),
        ("second", 10, "no_rejected", "look", "(but 'second')"),
        ("source", 30, "no_rejected", "stop", "orpo train refuses"),
        ("source", 30, "few_pairs", "stop", "0 pairs and 30 rows without rejected answer"),
        ("rejectd", 10, "unreadable_rows", "stop", "10 rows (33.3 %) cannot be read"),
    ],
)
def test_rows_without_rejected_answer_are_named(
    renamed: str | None, of: int, check: str, verdict: str, says: str
) -> None:
    rows = distinct_rows(30)
    assert "no_rejected" not in {f.check for f in audited(rows, near=False).findings}
    for row in rows[:of]:
        answer = row.pop("rejected")
        row.update({"rejected": None} if renamed is None else {renamed: answer})
    finding = finding_of(check, rows)
    assert finding.verdict == verdict
    assert says in finding.says


SETTINGS: Values = [
    {"system": "Answer formally."},
    {"system": "Answer casually."},
    {"tools": [{"type": "function", "function": {"name": "time"}}]},
    {},
]


@pytest.mark.parametrize("plain", [False, True])
def test_rows_with_another_setting_neither_repeat_nor_contradict(*, plain: bool) -> None:
    texts = [f"word{n} and word{n + 3}" for n in range(12)]
    row = pair(" ".join(texts), " ".join(texts[4:]), " ".join(reversed(texts)))
    if plain:
        row = {name: row[name][0]["content"] for name in row}
    swapped = {**row, "chosen": row["rejected"], "rejected": row["chosen"]}
    rows = [{**row, **more} for more in SETTINGS]
    audit = audited(rows)
    assert found(audit, "exact_duplicates").count == found(audit, "near_duplicates").count == 0
    assert finding_of("contradictions", [rows[0], {**swapped, **SETTINGS[1]}]).count == 0
    assert finding_of("contradictions", [rows[0], {**swapped, **SETTINGS[0]}]).count == 1
    assert finding_of("exact_duplicates", [*rows, *rows]).count == len(rows)


def test_who_speaks_belongs_to_the_prompt() -> None:
    one = pair("a\n\nb\n\nc", "x", "y")
    three = pair("", "x", "y")
    roles = ("user", "assistant", "user")
    three["prompt"] = [{"role": r, "content": c} for r, c in zip(roles, "abc", strict=True)]
    assert finding_of("exact_duplicates", [one, three]).count == 0
    assert finding_of("exact_duplicates", [one, three, three]).count == 1
