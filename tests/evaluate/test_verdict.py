"""The verdict: what may be called better, and what may not."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orpo.audit.texts import broken
from orpo.evaluate.intervals import paired_interval
from orpo.evaluate.verdict import Answer, Measured, Moved, Verdict, judge, measured
from orpo.runs.files import read_run
from tests.report.runs import recipe_of, write_run

TEXT = "The capital of France is Paris, which lies on the river Seine, and {} is a number."
LONG = (
    f"{TEXT} It is old, and its name comes from a tribe; Rome called it Lutetia. Many go to see "
    "its tower, which was built for a fair, and its bread is good, so that few of them ever leave."
)
ANSWERS = [Answer(TEXT.format(i), TEXT.format(i + 50), TEXT.format(7)) for i in range(16)]
CHINESE = "好的，这个词是第{}号城市，它在河的旁边，每年都有很多人去看它，也有很多人留下来。"
LABELS = [
    Answer(TEXT.format(i), label, label) for i in range(16) for label in (("No.", "Yes.")[i % 2],)
]
HALF_EMPTY = [
    replace(one, before="" if i < 8 else one.before, after="" if i < 9 else one.after)
    for i, one in enumerate(ANSWERS)
]
GOOD = Measured(
    ranking=Moved(0.9, 0.7, 0.12, 0.28, 100),
    chosen=Moved(-1.0, -1.3, 0.2, 0.4, 100),
    checked=Moved(0.8, 0.5, 0.1, 0.5, 40),
    answers=ANSWERS,
)


def answers(after: Any, before: Any = None, **more: Any) -> list[Answer]:
    """Sixteen answers, `after` and `before` being texts with the number in braces."""
    return [
        Answer(
            *((TEXT if text is None else text).replace("{}", str(i)) for text in (before, after)),
            **more,
        )
        for i in range(16)
    ]


@pytest.mark.parametrize(
    ("change", "word", "said"),
    [
        ({}, "better", "90.0 % of 100 held-out prompts, before in 70.0 % (change +12.0 to +28.0"),
        ({}, "better", "NLL per token 1.00, a perplexity of 2.7; before 1.30, 3.7"),
        ({"checked": None}, "better", "its 16 answers read as text."),
        ({"answers": None}, "ranks better", "what it writes was not looked at"),
        ({"answers": []}, "ranks better", "what it writes was not looked at"),
        ({"answers": ANSWERS[:2]}, "ranks better", "what it writes was hardly looked at"),
        # The chosen answers.
        ({"chosen": Moved(-106.0, -12.6, -95, -91, 100)}, "worse", "became improbable (NLL per"),
        ({"chosen": Moved(-106.0, -12.6)}, "worse", "a perplexity of over a million"),
        ({"chosen": Moved(-1.5, -1.3, -0.3, -0.1, 100)}, "doubtful", "became less probable"),
        ({"chosen": Moved(-1.5, -1.3, -0.5, 0.1, 100)}, "better", "stayed as probable"),
        ({"chosen": Moved(-3.5, -1.3, -4.6, 0.1, 100)}, "doubtful", "may have become improbable"),
        ({"chosen": None}, "doubtful", "how probable the chosen answers became was not measured"),
        ({"chosen": None, "answers": None}, "doubtful", "became was not measured"),
        ({"chosen": Moved(-1.33, -1.3, -0.04, -0.02, 100)}, "better", "stayed as probable"),
        ({"chosen": Moved(-4.96, -9.0, 3, 5, 100)}, "doubtful", "improbable to it"),
        ({"chosen": Moved(math.nan, -1.3)}, "worse", "no finite probability"),
        ({"other_template": True, "checked": None}, "doubtful", "another chat template than the"),
        ({"broke": 40}, "worse", "the loss is no number since step 40"),
        # The ranking.
        ({"ranking": Moved(0.6, 0.7, -0.18, -0.02, 100)}, "worse", "it ranks worse"),
        ({"ranking": Moved(0.75, 0.7, -0.02, 0.12, 100)}, "undecided", "chance may explain"),
        ({"ranking": Moved(0.72, 0.7, -0.1, 0.1, 100, 1506)}, "undecided", "; about 1,500 pairs"),
        ({"ranking": Moved(0.7, 0.7, -0.02, 0.02, 100)}, "undecided", "its ranking is the same"),
        ({"ranking": Moved(1.0, 0.0, 0.4, 1.0, 6)}, "undecided", "fewer than 20 held-out prompts"),
        ({"ranking": Moved(0.9, 0.2, 0.5, 0.8, 100), "checked": None}, "doubtful", "wrong way rou"),
        ({"ranking": Moved(0.9, 0.2, 0.5, 0.8, 100)}, "better", "before in 20.0 %"),  # it was meant
        (
            {"ranking": Moved(0.0, 0.0, -0.09, 0.09, 39), "checked": None},
            "doubtful",
            "it prefers the rejected answers, so see whether",
        ),
        ({"ranking": Moved(0.0, 0.0, -0.09, 0.09, 39)}, "undecided", "its ranking is the same"),
        ({"remembered": (440, 440)}, "doubtful", "of 440 of 440 held-out rows are in the training"),
        ({"remembered": (4, 440)}, "better", "read as text"),
        ({"ranking": Moved(0.9, None, n=100)}, "undecided", "before was not measured"),
        ({"ranking": None, "checked": None}, "unmeasured", "no held-out pairs were scored"),
        (
            {"ranking": None, "checked": None, "chosen": None, "trained": (-1.3, -2.0)},
            "worse",
            "of its training pairs became improbable",
        ),
        # What it writes.
        ({"checked": Moved(0.3, 0.5, -0.3, -0.1, 40)}, "worse", "30.0 % of 40 checked answers"),
        (
            {"answers": answers("")},
            "worse",
            "do not read as text: 16 of 16 (no text in 16; before: 0)",
        ),
        (
            {"answers": answers("Sure, the reply\ufffd for {}.")},
            "worse",
            "invalid characters in 16",
        ),
        ({"answers": answers("thank you {} " * 20)}, "worse", "repetition in 16; before: 0"),
        ({"answers": answers("no " * 9, "no " * 9)}, "doubtful", "repetition in 16; before: 16"),
        (
            {"answers": answers("Thank you.")},
            "worse",
            "word for word the same: 16 of 16",
        ),
        ({"answers": LABELS}, "better", "its 16 answers read as text"),
        ({"answers": LABELS[:4]}, "better", "its 4 answers read as text"),
        ({"answers": [replace(a, after="Yes.") for a in LABELS]}, "worse", "the same: 16 of 16"),
        ({"answers": [replace(a, chosen="Yes.", after="Yes.") for a in LABELS]}, "worse", "the sa"),
        ({"answers": answers("Hi.")[:4]}, "worse", "word for word the same: 4 of 4"),
        ({"answers": HALF_EMPTY}, "doubtful", "do not read as text: 9 of 16"),
        ({"answers": answers(LONG, prompt=LONG), "checked": None}, "better", "read as text"),
        (
            {"answers": [replace(one, prompt=one.after) for one in ANSWERS], "checked": None},
            "doubtful",
            "answers that repeat the prompt: 16 of 16 (before: 0)",
        ),
        (
            {"answers": answers(CHINESE, chosen=TEXT), "checked": None},
            "doubtful",
            "in another script than the preferred ones: 16 of 16",
        ),
        ({"answers": answers(CHINESE, chosen=CHINESE), "checked": None}, "better", "read as"),
        ({"answers": answers("{} a", TEXT)}, "better", "read as text"),  # what was checked decides
        ({"answers": answers("{} a", TEXT), "checked": None}, "doubtful", "shrank to"),
        ({"answers": answers("{} a", TEXT, chosen="b c"), "checked": None}, "better", ""),
        (
            {"answers": answers(LONG), "longer_chosen": 0.9, "checked": None},
            "doubtful",
            "its answers are 3.2 times as long, and the longer answer is the chosen one in 90.0 %",
        ),
        (
            {"answers": answers(LONG, chosen="short", endless=(False, True))},
            "doubtful",
            "do not come to an end: 16 of 16",
        ),
        ({"answers": answers(LONG, chosen=LONG, endless=(False, True))}, "better", ""),
    ],
)
def test_one_thing_is_enough(change: dict[str, Any], word: str, said: str) -> None:
    found = judge(replace(GOOD, **change))
    assert found.word == word, found.says
    assert said in found.says
    assert found.good == (word in ("better", "ranks better"))
    assert ("etter" in found.says.replace("Not shown to be better", "")) == found.good
    beside = found.against or (word == "undecided" and "checked answers are" in found.says)
    assert bool(beside and found.gained) == (". Though " in found.says)


def test_what_the_audit_found_and_what_was_asked_are_read(tmp_path: Path) -> None:
    found = {"check": "leakage", "verdict": "stop", "count": 30, "of": 40}
    row = {"before": "a", "after": "b", "chosen": "c"}
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    files = {"audit": {"findings": [found]}, "samples": [{**row, "prompt": asked}, row]}
    seen = measured(read_run(write_run(tmp_path / "run", recipe_of(), **files)))
    assert seen.remembered == (30, 40)
    assert [one.prompt for one in seen.answers or ()] == ["Who?", ""]
    for broken_one in ({"findings": [1]}, {"findings": 3}, [], {}):
        (tmp_path / "run" / "audit.json").write_text(json.dumps(broken_one))
        assert measured(read_run(tmp_path / "run")).remembered is None


def test_it_is_never_better_by_chance_more_often_than_said() -> None:
    """Two thousand runs in which nothing changed: at most the 2.5 % that the interval allows."""
    draw = np.random.default_rng(0)
    better = 0
    for _ in range(2000):
        before, after = ((draw.random(60) < 0.7).astype(float).tolist() for _ in range(2))
        one = paired_interval(before, after, share=True)
        moved = Moved(float(np.mean(after)), float(np.mean(before)), one.low, one.high, 60)
        better += judge(replace(GOOD, ranking=moved)).good
    assert 0 < better / 2000 < 0.035


def test_real_kinds_of_text_are_text() -> None:
    for text in (
        "```python\nfor i in range(10):\n    print(i ** 2)\n```\n",
        "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |",
        "∑ x² = 1/(2π) · ∫ f(x) dx ≤ 4 ⇒ x ∈ [0, 1]",
        "我们使用 T1w 参考空间和 FLIRT（FSL）刚性配准方法，将 T2w 图像对齐。",
        "नमस्ते, आप कैसे हैं? मैं ठीक हूँ।",
        "これはテストです。カタカナとひらがなを混ぜた文章。",
        "Yes 👍🏽 — voilà: “naïve” façade…",
        "1. Apples\n2. Pears\n3. Plums\n4. Cherries\n5. Figs\n6. Dates",
        "No.",
        "1000000",
        "0.00001",
        "👍",
        "[]",
        "^[a-z]+$",
        "| a | b |\n|:---:|:---:|\n| 1 | 2 |",
        "São Paulo: £5, ÂNGELA, “naïve”, 20 °C",
        "Cut through the last 字\ufffd",
    ):
        assert broken(text) == "", text
    for text, what in {
        "": "no text",
        " \n": "no text",
        "the \x07 bell": "invalid characters",
        "<|im_start|>user": "a chat template's markup",
        "THE FINITE, THE FINITE, THE FINITE, THE FINITE, THE FINITE, ": "repetition",
        "好好好好好好好好好好好好好好好": "repetition",
        "no no no no no no": "repetition",
        "0000000000000000000": "repetition",
        "Itâ€™s a cafÃ©.": "invalid characters",
        "!!!": "jumbled characters",
        "$$#@@!!((**&&^^%%~~": "jumbled characters",
        "aбcдeжfзgиhкl": "jumbled characters",
    }.items():
        assert broken(text) == what, text


def test_a_verdict_is_one_sentence_that_names_what_it_is_compared_with() -> None:
    found = judge(replace(GOOD, answers=None), "base-model")
    assert isinstance(found, Verdict)
    assert found.says.startswith("It ranks held-out pairs better than base-model; what it writes")
    assert found.says.endswith(".")
    assert "\n" not in found.says
