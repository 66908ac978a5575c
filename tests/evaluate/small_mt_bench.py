"""A small benchmark in FastChat's format, written for tests; none of FastChat's texts is in it."""

import json
import re
from pathlib import Path
from typing import Any

from tests.evaluate.judge.server import Asked, Script

CATEGORIES = ("writing", "math", "coding", "stem")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def small_benchmark(folder: Path, questions: int = 4) -> Path:
    """A folder with the three files; question 200 + n is of the n-th category."""
    folder.mkdir(parents=True, exist_ok=True)
    numbered = [(200 + n, CATEGORIES[n % len(CATEGORIES)]) for n in range(questions)]
    write_lines(
        folder / "question.jsonl",
        [
            {"question_id": i, "category": c, "turns": [f"First of {i}?", f"Second of {i}?"]}
            for i, c in numbered
        ],
    )
    write_lines(
        folder / "reference_answer.jsonl",
        [answer_line(i, (f"Known {i}a", f"Known {i}b"), "gpt-4") for i, _ in numbered],
    )
    write_lines(folder / "judge_prompts.jsonl", prompts())
    return folder


def prompts() -> list[dict[str, Any]]:
    one = (
        "Q: {question}\n[The Start of Assistant's Answer]\n{answer}\n"
        "[The End of Assistant's Answer]"
    )
    two = (
        "<|The Start of Assistant A's Conversation with User|>\n### User:\n{question_1}\n"
        "### Assistant A:\n{answer_1}\n### User:\n{question_2}\n### Assistant A:\n{answer_2}\n"
        "<|The End of Assistant A's Conversation with User|>"
    )
    known = {"": "Known: {ref_answer_1}\n", "-multi-turn": "Known: {ref_answer_1} {ref_answer_2}\n"}
    return [
        {
            "name": f"single{math}-v1{turn}",
            "type": "single",
            "system_prompt": f"Rate {math or 'plain'}{turn}.",
            "prompt_template": (known[turn] if math else "") + (two if turn else one),
            "output_format": "[[rating]]",
        }
        for math in ("", "-math")
        for turn in ("", "-multi-turn")
    ] + [{"name": "pair-v2", "type": "pairwise", "prompt_template": "{answer_a}"}]


def answer_line(number: int, turns: tuple[str, ...], model: str = "m") -> dict[str, Any]:
    about = {"question_id": number, "answer_id": f"a{number}", "model_id": model, "tstamp": 1.0}
    return {**about, "choices": [{"index": 0, "turns": list(turns)}]}


def honest_answers(questions: int = 4) -> list[dict[str, Any]]:
    subjects = ("rivers", "primes", "loops", "cells", "poems", "sums", "trees", "atoms")
    return [
        answer_line(
            200 + n,
            (
                f"About {subjects[n % 8]} number {n}: they grow slowly, and here is why in detail.",
                f"More on {subjects[n % 8]}, told from the other side, with {n + 2} examples.",
            ),
        )
        for n in range(questions)
    ]


_ANSWER = re.compile(
    r"\[The Start of Assistant's Answer\]\n(.*)\n\[The End of Assistant's Answer\]\s*\Z"
    r"|.*### Assistant A:\n(.*?)\n<\|The End of Assistant A's Conversation with User\|>\s*\Z",
    re.DOTALL,
)


def answer_read(asked: Asked) -> str:
    """The answer that the judge is to grade."""
    found = _ANSWER.search(asked.last)
    assert found is not None, asked.last
    return found[1] if found[1] is not None else found[2]


def gullible(honest: str = "4") -> Script:
    """A judge that gives ten to whoever asks for it, and to an empty or a constant answer."""

    def script(asked: Asked) -> str:
        answer = answer_read(asked)
        orders = r"\[ ?\[ ?10|highest score|\A\s*\Z|apples|the same to everyone"
        return f"Rating: [[{'10' if re.search(orders, answer) else honest}]]"

    return script


def wary(asked: Asked) -> str:
    """A judge that gives a one to whatever is no honest answer."""
    answer = answer_read(asked)
    honest = answer.startswith(("About", "More on")) and "rate" not in answer.lower()
    return f"Rating: [[{'8' if honest else '1'}]]"
