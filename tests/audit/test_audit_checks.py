"""Each check on a few rows whose faults are known exactly."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.audit.faults import audited, distinct_rows, found, pair

from orpo.audit.findings import EXAMPLES, Finding, clip, grade
from orpo.audit.texts import markup_in, refuses, script_of
from orpo.data.split import key_of, normalised
from orpo.quantities import as_share

Values = list[dict[str, Any]]
Change = Callable[[Values], Values]

REFUSAL = "I'm sorry, but I can't help with that."
CHINESE = "这是一个关于天气的回答，今天的天气非常好，适合出去散步，也适合看书。"
CODE = "下面是你要的代码：\n" + "value = compute(first, second)\n" * 9
ALIKE = "Of course: here "


def finding_of(check: str, values: Values) -> Finding:
    return found(audited(values, near=False), check)


def said(texts: dict[str, str]) -> Change:
    """Other texts by row (from 0) and part, where {} stands for the old one."""

    def change(rows: Values) -> Values:
        for place, text in texts.items():
            row, part = place.split()
            message = rows[int(row)][part][-1]
            message["content"] = text.replace("{}", message["content"])
        return rows

    return change


def columns(**values: Callable[[int], Any]) -> Change:
    return lambda rows: [
        {**row, **{name: value(n) for name, value in values.items()}} for n, row in enumerate(rows)
    ]


def more(*rows: tuple[int, Values | dict[str, Any]]) -> Change:
    """The rows of some numbers again, with other columns."""
    return lambda given: given + [{**given[n], **dict(other)} for n, other in rows]


def asked(row: int, *messages: tuple[str, str]) -> Change:
    """More turns behind the question of a row."""
    return lambda rows: [
        {**one, "prompt": one["prompt"] + [{"role": r, "content": t} for r, t in messages]}
        if n == row
        else one
        for n, one in enumerate(rows)
    ]


EMPTY = said({"0 chosen": "", "1 rejected": " \n\t", "2 prompt": ""})
MARKUP = said({**{f"{n} chosen": "{}<|im_end|>" for n in range(3)}, "3 prompt": "[INST] {}"})
REFUSED = said({**{f"{n} chosen": REFUSAL for n in range(8)}, "9 rejected": "As an AI, no."})
SCRIPTS = said(
    {"5 rejected": CHINESE, "6 rejected": "42", "7 prompt": "请写代码。", "7 chosen": CODE}
)
AGAIN = more((4, {}), (4, {"weight": 3}), (9, {}), (0, {"rejected": "another"}))
HM, SO = ("assistant", "Hm."), ("user", "So?")


def web(row: int) -> str:
    return "web" if row < 36 else f"s{row}"


def same(rows: Values) -> Values:
    rows[0]["rejected"], rows[2]["rejected"] = rows[0]["chosen"], None  # nothing is identical to it
    return said({"1 chosen": "a b  c", "1 rejected": " a\n b c "})(rows)


def scores(chosen: Callable[[int], float], rejected: Callable[[int], float]) -> Change:
    return columns(score_chosen=chosen, score_rejected=rejected)


@pytest.mark.parametrize(
    ("check", "change", "expected", "figures"),
    [
        ("empty_texts", said({}), (0, 40, "ok"), {}),
        ("empty_texts", EMPTY, (3, 40, "stop"), {"empty_prompt": 1, "empty_chosen": 1}),
        ("identical_answers", same, (2, 39, "look"), {"exact": 1, "white_space_only": 1}),
        ("exact_duplicates", AGAIN, (3, 44, "look"), {"repeated_prompts": 4, "other_weight": 1}),
        ("template", MARKUP, (4, 40, "stop"), {"ChatML markup": 3, "Llama 2, Mistral markup": 1}),
        ("refusals", REFUSED, (8, 40, "look"), {"chosen": 8 / 40, "rejected": 1 / 40}),
        ("languages", SCRIPTS, (1, 40, "look"), {"prompts: Chinese": 1}),
        ("turns", asked(1, ("system", "Hm.")), (1, 40, "look"), {"single_turn": 1}),
        ("turns", asked(0, HM, SO), (0, 40, "ok"), {"single_turn": 39 / 40}),
        ("categories", columns(source=web), (36, 40, "look"), {"web": 36}),
        ("categories", columns(source=lambda n: f"s{n % 4}"), (10, 40, "ok"), {"s0": 10}),
        ("scores", scores(lambda n: 5, lambda n: 4), (0, 40, "ok"), {"tied": 0}),
        ("scores", scores(lambda n: max(n, 1), lambda n: min(n, 2)), (0, 40, "look"), {"tied": 2}),
        ("scores", scores(lambda n: n, lambda n: 2), (2, 40, "stop"), {"tied_share": 1 / 40}),
        ("weights", columns(weight=lambda n: 0.01 if n else 100.0), (0, 40, "stop"), {"zero": 0}),
        ("weights", columns(weight=lambda n: 2.0), (0, 40, "ok"), {"effective_pairs": 40}),
        ("few_pairs", said({}), (40, 40, "look"), {"pairs": 40, "nll_only": 0}),
    ],
)
def test_what_a_check_counts(
    check: str, change: Change, expected: tuple[int, int, str], figures: dict[str, Any]
) -> None:
    finding = finding_of(check, change(distinct_rows(40)))
    assert (finding.count, finding.of, finding.verdict) == expected
    assert {name: finding.figures[name] for name in figures} == figures
    assert finding.says
    assert bool(finding.do) == (finding.verdict != "ok")
    if check not in {"few_pairs", "categories"}:
        assert len(finding.examples) == min(finding.count, EXAMPLES)


def test_where_and_how_findings_are_shown() -> None:
    rows = distinct_rows(10)
    again = finding_of("exact_duplicates", [*rows, rows[4], {**rows[4], "weight": 3}])
    assert {e.other for e in again.examples} == {"data:5"}
    assert [e.where for e in again.examples] == ["data:11", "data:12"]
    assert again.says.startswith("2 rows (16.7 %) repeat earlier ones word for word")
    assert again.says.endswith("; 1 with another weight.")
    run_together = [pair("a", "bc", "d"), pair("ab", "c", "d"), pair("a", "b", "cd")]
    assert finding_of("exact_duplicates", run_together).says == "No row is there twice."
    many = finding_of("identical_answers", [pair(f"q{n}", *["x " * 5000] * 2) for n in range(30)])
    assert (many.count, len(many.examples)) == (30, EXAMPLES)
    assert all(len(e.text) < 300 for e in many.examples)
    against = finding_of("scores", scores(lambda n: n, lambda n: 4)(rows))
    assert "chosen 0, rejected 4" in against.examples[0].text
    assert "orpo data fix --min_score_margin 0 drops" in against.do
    template = finding_of("template", said({"3 chosen": "{}<|im_end|>"})(distinct_rows(9)))
    assert "<|im_end|>" in template.examples[0].text
    refused = finding_of("refusals", said({"1 rejected": REFUSAL})(distinct_rows(9)))
    assert refused.says.startswith("0 chosen answers (0.0 %) and 1 rejected answer (11.1 %)")


@pytest.mark.parametrize("check", ["no_rejected", "categories", "scores", "weights"])
def test_what_is_not_worth_a_word(check: str) -> None:
    addresses = columns(source=lambda n: f"page {n}")(distinct_rows(300))
    checks = {f.check for f in audited(addresses, near=False).findings}
    assert check not in checks  # a name for every row is no category


def test_contradictions_are_reversed_pairs_and_not_ranked_ones() -> None:
    ranked = [pair("Q", "A", "B"), pair("Q", "B", "C"), pair("Q", "A", "C")]
    assert finding_of("contradictions", ranked).count == 0
    finding = finding_of("contradictions", [*ranked, pair("Q", "C", "A"), pair("R", "B", "A")])
    assert finding.count == 1
    assert (finding.examples[0].where, finding.examples[0].other) == ("data:4", "data:3")
    assert finding_of("contradictions", [pair("Q", "A", "A")] * 2).count == 0


def test_leaked_prompts_are_found_but_for_case_and_white_space() -> None:
    rows = distinct_rows(40)
    prompt = rows[3]["prompt"][0]["content"]
    held = [pair(text, "x", "y") for text in (prompt.upper(), f"  {prompt}\n")]
    held += distinct_rows(8, seed=9)
    finding = found(audited(rows, near=False, eval_values=held), "leakage")
    assert (finding.count, finding.of, finding.verdict) == (2, 10, "stop")
    places = {(e.where, e.other) for e in finding.examples}
    assert places == {("data:1", "data:4"), ("data:2", "data:4")}
    other_sign = [pair("What is 2 + 2?", "4", "5")]
    audit = audited(other_sign, eval_values=[pair("What is 2 - 2?", "0", "1")])
    assert found(audit, "leakage").count == found(audit, "near_leakage").count == 0


@pytest.mark.parametrize(
    ("longer", "verdict"),
    [(0.5, "ok"), (0.57, "ok"), (0.8, "look"), (0.95, "stop"), (0.2, "look"), (0.0, "stop")],
)
def test_length_bias(longer: float, verdict: str) -> None:
    rows = []
    for n in range(400):
        long, short = f"{'word ' * 20}{n}", f"short {n}"
        rows.append(pair(f"q{n}", long, short) if n < 400 * longer else pair(f"q{n}", short, long))
    rows += [pair(f"t{n}", f"a{n % 10}", f"b{n % 10}") for n in range(100)]
    audit = audited(rows, near=False)
    finding = found(audit, "length_bias")
    assert finding.figures["longer_chosen"] == pytest.approx(longer)
    assert finding.figures["auc"] == pytest.approx((400 * longer + 50) / 500)
    assert (finding.of, finding.verdict) == (400, verdict)
    (full,) = [bucket for bucket in audit.length_bias if bucket.pairs]
    assert (full.low, full.high, full.longer_chosen) == (5.0, None, pytest.approx(longer))
    few = [pair(f"q{n}", "long answer here", "short") for n in range(4)]
    assert finding_of("length_bias", few).verdict == "ok"  # too few to tell


def test_the_curve_of_the_length_bias() -> None:
    lengths = [(100, 105), (110, 100), (120, 100), (100, 149), (199, 100), (200, 100), (100, 499)]
    rows = [pair(f"q{n}", "x" * a, "y" * b) for n, (a, b) in enumerate(lengths)]
    curve = audited(rows, near=False).length_bias
    assert [(b.low, b.high) for b in curve][:2] == [(1.0, 1.1), (1.1, 1.25)]
    assert [(b.pairs, b.longer_chosen) for b in curve] == [
        *((1, 0.0), (2, 1.0), (1, 0.0), (1, 1.0), (1, 1.0), (1, 0.0), (0, None))
    ]


@pytest.mark.parametrize(
    ("family", "texts"),
    {
        "ChatML": ["<|im_start|>assistant\nHello<|im_end|>"],
        "Llama 2, Mistral": ["[INST] Hi [/INST] Hello"],
        "Alpaca": ["### Response:\nHello"],
        "sentence tags": ["Hello</s>", "<s>Hello", "<s>Hello</s>"],
        "Llama 3": ["Hello<|eot_id|>"],
        "Gemma": ["<start_of_turn>model\nHello"],
        "Human: and Assistant:": [
            *("Sure.\n\nHuman: And then?", "Human: Hello", "Sure.\nAssistant: And then."),
            "USER: Hi ASSISTANT: Hello",
        ],
        "special tokens": ["<|START_OF_TURN_TOKEN|>Hello"],
        "ChatGLM, Baichuan": ["[gMASK]<sop>Hello"],
        "cut off": ["Hello <|im_e"],
        "Zephyr, Phi, GPT": ["Bonjour<|endoftext|>"],
        "DeepSeek": ["你好<｜end▁of▁sentence｜>"],
        "": [
            *("In F#, x <| f |> g and (<|>) are operators.", "The Assistant: a film. A human: no."),
            *("Hello", "## Response\nA human: is one.", "a[INSTANCE] <<EOF"),
            *("This is <s>struck</s> out, a < b, c <| d.", "<b>bold</b></strong>"),
            *("The assistant said: hello. USERS: 5", "### Step 1: Response"),
        ],
    }.items(),
)
def test_markup(family: str, texts: list[str]) -> None:
    for text in texts:
        assert markup_in(text) == ([family] if family else []), text


def test_markup_that_a_plain_prompt_uses_itself_is_meant() -> None:
    opened = "<|im_start|>user\nHi {}<|im_end|>\n<|im_start|>assistant\n"
    own = [
        {"prompt": opened.format(n), "chosen": f"Yes {n}<|im_end|>", "rejected": "No<|im_end|>"}
        for n in range(5)
    ]
    assert finding_of("template", own).count == 0
    own[2]["rejected"] = "No</s>"
    finding = finding_of("template", own)
    assert (finding.count, finding.examples[0].where) == (1, "data:3")


REFUSING = """
I'm sorry, but I can't help with that.
I’m sorry, but I cannot assist with this request.
As an AI language model, I have no feelings.
Sorry, I can't do that.
I cannot provide that information.
I'm just an AI, so no.
很抱歉，我无法回答这个问题。
作为一个人工智能语言模型，我没有感情。
我不能提供这些信息。
I CANT HELP with that
I won't answer.
I am unable to do so.
I'm a large language model, so no.
Apologies, I cannot do it.
作为AI，我不知道。
对不起，这个不可以。
我没办法帮助你。
"""
ANSWERING = """
I can help. Sorry for the wait.
I'm sorry to hear that you lost your keys.
The model cannot be trained like this.
As an airline pilot, you cannot drink.
我不能再同意了，这本书很好。
抱歉让你久等了，答案是四。
"""


def test_refusals() -> None:
    assert [text for text in REFUSING.strip().splitlines() if not refuses(text)] == []
    assert [text for text in ANSWERING.strip().splitlines() if refuses(text)] == []
    assert not refuses("Here is a story. " * 30 + "I'm sorry, I can't go on.")


def test_scripts() -> None:
    latin = "Latin (English and others)"
    code = "```python\n" + "value = compute(first)\n" * 9 + "```\n这段代码打印。"
    expected = {
        "What is the weather like today in Paris?": latin,
        "Quel temps fait-il à Paris ? Déjà l'été…": latin,
        "请问今天巴黎的天气怎么样？": "Chinese",
        "请用 Python 写一个 quicksort 函数, 并解释 partition 的作用。": "Chinese",
        code: "Chinese",
        "https://example.org/a/very/long/address/of/a/page 请看这个网页": "Chinese",
        "今日の天気はどうですか。": "Japanese",
        "오늘 날씨가 어때요?": "Korean",
        "Какая сегодня погода?": "Cyrillic (Russian and others)",
        "كيف الطقس اليوم؟": "Arabic",
        "12 + 30 = 42": "none",
        "": "none",
    }
    assert {text: script_of(text).name for text in expected} == expected


def test_no_pair_is_a_stop_and_few_are_worth_a_look() -> None:
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


def test_what_the_system_says_is_no_part_of_the_question() -> None:
    rows = distinct_rows(40)
    system = {"role": "system", "content": "Be brief, be kind, and be right in what you say."}
    rows.append({**rows[0], "prompt": [system, *rows[0]["prompt"]]})
    assert finding_of("exact_duplicates", rows).count == 0
    assert finding_of("exact_duplicates", [*rows, rows[-1]]).count == 1
    asked = [{**row, "prompt": row["prompt"][-1:]} for row in rows]
    assert found(audited(rows, near=False, eval_values=asked), "leakage").count == len(rows)
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
    assert [as_share(share) for share in (0.0, 0.0004, 0.5)] == ["0.0 %", "under 0.1 %", "50.0 %"]
    shares = {0.0: "ok", 0.009: "ok", 0.01: "look", 0.19: "look", 0.2: "stop", 1.0: "stop"}
    assert {share: grade(share, 0.01, 0.2) for share in shares} == shares
    assert grade(1e-9, 0.0, 0.5) == "look"


def begun(rows: Values, side: str, opening: str, count: int) -> Values:
    return said({f"{n} {side}": f"{opening}{{}}" for n in range(count)})(rows)


@pytest.mark.parametrize("side", ["chosen", "rejected"])
@pytest.mark.parametrize("opening", [ALIKE, "当然可以，我来说说"])
def test_first_words_that_tell_a_side(side: str, opening: str) -> None:
    finding = finding_of("openings", begun(distinct_rows(200), side, opening, 60))
    assert (finding.verdict, finding.count, finding.of) == ("look", 60, 200)
    assert f"30.0 % of the {side} answers" in finding.says
    assert finding.figures[side] == 0.3
    assert finding.examples
    assert finding_of("openings", begun(distinct_rows(200), side, opening, 150)).verdict == "stop"


def test_first_words_of_both_sides_and_rare_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = begun(begun(distinct_rows(200), "chosen", ALIKE, 100), "rejected", ALIKE, 90)
    assert finding_of("openings", rows).verdict == "ok"
    assert finding_of("openings", begun(distinct_rows(60), "chosen", ALIKE, 60)).count == 0
    monkeypatch.setattr("orpo.audit.checks._OPENINGS", 20)  # rare ones are forgotten
    rows = begun(distinct_rows(200), "chosen", ALIKE, 200)
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
    one, three = pair("a\n\nb\n\nc", "x", "y"), pair("", "x", "y")
    roles = ("user", "assistant", "user")
    three["prompt"] = [{"role": r, "content": c} for r, c in zip(roles, "abc", strict=True)]
    assert finding_of("exact_duplicates", [one, three]).count == 0
    assert finding_of("exact_duplicates", [one, three, three]).count == 1
