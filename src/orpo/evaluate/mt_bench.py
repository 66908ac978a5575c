"""MT-Bench: what is asked and how it is judged; FastChat's files of answers and of judgments.

The protocol is that of Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena"
(arXiv 2306.05685), with the settings of FastChat 0.2.36 (`fastchat.llm_judge`). None of the files'
text is part of this library.
"""

import hashlib
import json
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo.data.sources import default_cache
from orpo.errors import DataError
from orpo.evaluate.published import from_address, from_hub, reason, source_of
from orpo.evaluate.questions import Answered, Question
from orpo.runs.files import write_jsonl
from orpo.runs.reading import parse_json, read_json, read_text
from orpo.runs.writing import write_bytes
from orpo.terminal import Say

CATEGORIES = (
    *("writing", "roleplay", "reasoning", "math"),
    *("coding", "extraction", "stem", "humanities"),
)
"""In the order of the questions, of which each has ten, and of the published radar charts."""
WITH_REFERENCE = frozenset({"math", "reasoning", "coding"})
"""Categories whose answers the judge compares with a reference answer."""
LOWEST, HIGHEST = 1.0, 10.0
"""The scale that the judge is told."""
FILES = ("question.jsonl", "reference_answer.jsonl", "judge_prompts.jsonl")
"""What a folder of the benchmark holds."""

_TEMPERATURES = {**dict.fromkeys(CATEGORIES, 0.0), "stem": 0.1, "humanities": 0.1}
_TEMPERATURES |= {"writing": 0.7, "roleplay": 0.7}
_OTHER = "other"
_UNPARSED = -1  # FastChat's score where a judgment names none
_FIRST, _EACH = 81, 10  # numbers of questions
_PAPER = "orpo_paper_category_scores_digitised.json"
_SPACE = ("lmsys/mt-bench", "data/mt_bench/question.jsonl")  # it has no more than the questions
_FASTCHAT = "https://raw.githubusercontent.com/lm-sys/FastChat/v0.2.36/fastchat/llm_judge/data/"
_THERE = {  # where FastChat's own folder has them
    "question.jsonl": "mt_bench/question.jsonl",
    "reference_answer.jsonl": "mt_bench/reference_answer/gpt-4.jsonl",
    "judge_prompts.jsonl": "judge_prompts.jsonl",
}
_RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")
_IN_FILE = ("question_id", "model", "judge", "user_prompt", "judgment", "score", "turn", "tstamp")
_OURS = "Give a file in FastChat's format."
_KINDS = {str: "text", int: "number", float: "number", list: "list", dict: "object"}


@dataclass(frozen=True)
class JudgePrompt:
    """A prompt of the protocol: "single-v1", "single-math-v1", and each with "-multi-turn"."""

    name: str
    system: str
    template: str  # the user message, with fields in braces


@dataclass(frozen=True)
class Benchmark:
    """What is asked and how it is judged."""

    questions: tuple[Question, ...]  # their ids are the numbers as text
    prompts: Mapping[str, JudgePrompt]
    numbers: Mapping[str, int | str]  # question's id -> its number, as FastChat writes it
    sources: Mapping[str, Mapping[str, str]]  # see results.Sources
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Model -> {"overall", category -> score} as read off the method's published figure."""

    @property
    def categories(self) -> dict[int | str, str]:
        """Question's number -> category."""
        return {self.numbers[question.id]: question.category for question in self.questions}


def category_of(question: int | str, known: Mapping[int | str, str] | None = None) -> str:
    """The category of a question: of the 81 to 160, ten each; `known` is asked first."""
    if known and question in known:
        return known[question]
    place = question - _FIRST if isinstance(question, int) else -1
    return CATEGORIES[place // _EACH] if 0 <= place < _EACH * len(CATEGORIES) else _OTHER


def temperature_of(category: str) -> float:
    """At which temperature a question of this category is answered; 0.7 for unknown ones."""
    return _TEMPERATURES.get(category, 0.7)


def read_benchmark(folder: Path, *, origin: Mapping[str, str] | None = None) -> Benchmark:
    """The benchmark from a folder with the three `FILES`, or from FastChat's own `data` folder."""
    paths = {name: _found(folder, name) for name in FILES}
    lines = read_lines(paths["reference_answer.jsonl"])
    references = {_question_id(row, where): _turns(row, where) for where, row in lines}
    questions, numbers = _questions(paths["question.jsonl"], references)
    return Benchmark(
        questions=questions,
        prompts=_prompts(paths["judge_prompts.jsonl"]),
        numbers=numbers,
        sources={n: source_of(path, (origin or {}).get(n, "")) for n, path in paths.items()},
        paper=_paper(folder / _PAPER),
    )


def fetch_benchmark(say: Say) -> Benchmark:
    """The benchmark from where its authors keep it; fetched once, then from the cache.

    Questions come from a Space of the Hub, which has neither reference answers nor judge prompts:
    those come from FastChat 0.2.36 on GitHub.
    """
    folder = default_cache() / "mt_bench"
    origin = {name: _FASTCHAT + path for name, path in _THERE.items()}
    origin[FILES[0]] = f"Space {_SPACE[0]}, {_SPACE[1]}"
    for name in FILES:
        if (folder / name).is_file():
            continue
        say(f"fetching {origin[name]}")
        try:
            if name == FILES[0]:
                content = from_hub(*_SPACE, "space").read_bytes()
                folder.mkdir(parents=True, exist_ok=True)
                write_bytes(folder / name, content)
            else:
                from_address(origin[name], folder / name)
        except Exception as error:  # whatever it raises, nothing was fetched
            raise DataError(
                f"cannot be fetched ({reason(error)})",
                where=f"the Space {_SPACE[0]}" if name == FILES[0] else origin[name],
                fix=f"Give --data FOLDER with {', '.join(FILES)}.",
            ) from error
    return read_benchmark(folder, origin=origin)


def _found(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / _THERE[name]):
        if path.is_file():
            return path
    fix = f"Give a folder with {', '.join(FILES)}, or leave --data out to fetch them."
    raise DataError(f"there is no {name}", where=str(folder), fix=fix)


def _questions(
    path: Path, references: Mapping[int | str, tuple[str, ...]]
) -> tuple[tuple[Question, ...], dict[str, int | str]]:
    questions: list[Question] = []
    numbers: dict[str, int | str] = {}
    for where, row in read_lines(path):
        number = _question_id(row, where)
        texts = _entry(row, "turns", list, where)
        if len(texts) not in (1, 2) or not all(isinstance(text, str) for text in texts):
            fix = "Each question has one or two turns."
            raise DataError("field 'turns' is no list of texts", where=where, fix=fix)
        if str(number) in numbers:
            raise DataError(f"question {number} is there twice", where=where, fix="Remove one.")
        category = str(row.get("category") or _OTHER)
        known = references.get(number, ()) if category in WITH_REFERENCE else ()
        if category in WITH_REFERENCE and len(known) < len(texts):
            fix = "Give the reference_answer.jsonl that belongs to these questions."
            raise DataError(f"question {number} has no reference answer", where=where, fix=fix)
        numbers[str(number)] = number
        questions.append(Question(str(number), tuple(texts), category=category, reference=known))
    if not questions:
        raise DataError("holds no question", where=str(path), fix="Give the 80 questions.")
    return tuple(questions), numbers


def _prompts(path: Path) -> dict[str, JudgePrompt]:
    found: dict[str, JudgePrompt] = {}
    for where, row in read_lines(path):
        if row.get("type") == "single":
            names = ("name", "system_prompt", "prompt_template")
            prompt = JudgePrompt(*(_entry(row, name, str, where) for name in names))
            found[prompt.name] = prompt
    for name in (f"single{kind}-v1{n}" for kind in ("", "-math") for n in ("", "-multi-turn")):
        if name not in found:
            fix = "Give FastChat's judge_prompts.jsonl."
            raise DataError(f"there is no judge prompt '{name}'", where=str(path), fix=fix)
    return found


def _paper(path: Path) -> dict[str, dict[str, float]]:
    content = read_json(path) if path.is_file() else {}
    return {
        str(model): {k: float(v) for k, v in scores.items() if isinstance(v, int | float)}
        for model, scores in (content.items() if isinstance(content, dict) else ())
        if isinstance(scores, dict)
    }


def read_lines(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of each line of a JSONL file."""
    if not Path(path).exists():
        raise DataError("no such file", where=str(path), fix="Name a JSONL file.")
    # Not splitlines: JSON leaves U+2028 and its like inside of a string as they are.
    for number, line in enumerate(read_text(Path(path)).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = parse_json(line)
        except ValueError as error:
            fix = "Repair or remove the line."
            raise DataError(f"no JSON ({error})", where=where, fix=fix) from error
        if not isinstance(row, dict):
            raise DataError("no JSON object", where=where, fix="Give one object a line.")
        yield where, row


def _entry(row: Mapping[str, Any], name: str, kind: Any, where: str) -> Any:
    """A field that has to be there, and to be of a kind, or of one of several."""
    value = row.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(dict.fromkeys(_KINDS[one] for one in kinds))
        problem = "is missing" if name not in row else f"is no {wanted}"
        raise DataError(f"field '{name}' {problem}", where=where, fix=_OURS)
    return value


def _question_id(row: Mapping[str, Any], where: str) -> int | str:
    """The question's number; a text where it is none."""
    found: int | str = _entry(row, "question_id", (int, str), where)
    return found


def _turns(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The answers of the first choice, one for each turn: FastChat's `choices[0].turns`."""
    choices = _entry(row, "choices", list, where)
    first = choices[0] if choices and isinstance(choices[0], dict) else {}
    texts = _entry(first, "turns", list, where)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise DataError("field 'turns' is no list of texts", where=where, fix=_OURS)
    return tuple(texts)


def read_answers(path: Path, benchmark: Benchmark, model: str) -> tuple[list[Answered], int]:
    """Answers to each turn of the questions, and how many lines belong to none that is asked.

    The first choice counts, as in FastChat; of several lines for one question, the last.
    """
    lines = list(read_lines(path))
    said = {_question_id(row, where): _turns(row, where) for where, row in lines}
    names = {str(row.get("model_id") or "") for _, row in lines}
    if len(names) > 1:
        fix = "Give one file for each model, as FastChat writes them."
        raise DataError(f"answers of {len(names)} models", where=str(path), fix=fix)
    found = [
        (q, said.get(benchmark.numbers[q.id], ())[: len(q.turns)]) for q in benchmark.questions
    ]
    short = [q.id for q, answers in found if len(answers) < len(q.turns)]
    if short:
        more = f" and {len(short) - 1} more questions" if short[1:] else ""
        raise DataError(
            f"question {short[0]}{more} not answered in each turn",
            where=str(path),
            fix="Answer all of them, or leave --answers out.",
        )
    answered = [Answered(q, answers, model, (False,) * len(q.turns)) for q, answers in found]
    return answered, len(lines) - len(answered)


def write_answers(path: Path, answered: Sequence[Answered], benchmark: Benchmark) -> None:
    """FastChat's file of them."""
    lines = []
    for one in answered:
        content = json.dumps([one.model, one.question.id, one.turns])
        line = {
            "question_id": benchmark.numbers[one.question.id],
            "answer_id": hashlib.sha256(content.encode()).hexdigest()[:22],
            "model_id": one.model,
            "choices": [{"index": 0, "turns": list(one.turns)}],
            "tstamp": time.time(),
        }
        lines.append(line)
    write_jsonl(path, lines)


def parse_rating(judgment: str) -> float | None:
    """The score that a judgment names, by the protocol's rule.

    The first number in double square brackets; where there is none, the first in single ones.

        >>> parse_rating("A good answer [1]. Rating: [[8.5]]")
        8.5

    Args:
        judgment: What the judge wrote.

    Returns:
        The number as it stands there, on the scale or not; None if there is none.
    """
    match = _RATING.search(judgment) or _BACKUP.search(judgment)
    rating = float(match[1]) if match else math.inf
    return rating if math.isfinite(rating) else None


def named_ratings(judgment: str) -> set[float]:
    """The different numbers in double square brackets; more than one is a doubtful verdict."""
    return {float(found) for found in _RATING.findall(judgment)}


@dataclass(frozen=True)
class Judgment:
    """One grade: a line of FastChat's `model_judgment/<judge>_single.jsonl`."""

    question_id: int | str
    model: str
    turn: int
    score: float | None  # None where the judge named none (FastChat writes -1)
    judge: str = ""
    prompt: str = ""  # the name of the judge's prompt, such as "single-v1"
    judgment: str = ""
    user_prompt: str = ""  # what the judge read
    flags: tuple[str, ...] = ()  # what is suspicious about the answer; ours, FastChat skips it
    tstamp: float = 0.0


def read_judgments(path: str | Path) -> list[Judgment]:
    """Single-answer judgments from FastChat's file, in its order; every line is one.

    Raises:
        DataError: The file is missing or empty, or a line is no single-answer judgment.
    """
    judgments = [_judgment(row, where) for where, row in read_lines(path)]
    if not judgments:
        raise DataError("holds no judgment", where=str(path), fix="Name FastChat's file of them.")
    return judgments


def write_judgments(path: Path, judgments: Sequence[Judgment]) -> None:
    """FastChat's file of them; whole scores without a point."""
    lines = []
    for one in judgments:
        line = {name: getattr(one, name) for name in _IN_FILE}
        score = one.score if one.score is not None and math.isfinite(one.score) else _UNPARSED
        line |= {"judge": [one.judge, one.prompt]}
        line |= {"score": int(score) if score == int(score) else score}
        lines.append({**line, "flags": list(one.flags)} if one.flags else line)
    write_jsonl(path, lines)


def _judgment(row: dict[str, Any], where: str) -> Judgment:
    if "g1_winner" in row:
        fix = "Give the file of single-answer grading, *_single.jsonl."
        raise DataError("a pairwise judgment", where=where, fix=fix)
    turn = _entry(row, "turn", int, where)
    if turn not in (1, 2):
        raise DataError(f"turn {turn}", where=where, fix="MT-Bench has turns 1 and 2.")
    score = float(_entry(row, "score", (int, float), where))
    judge, flags, stamp = row.get("judge"), row.get("flags"), row.get("tstamp")
    judges = judge if isinstance(judge, list) else [judge] if isinstance(judge, str) else []
    names = [*map(str, judges), "", ""]
    return Judgment(
        question_id=_question_id(row, where),
        model=_entry(row, "model", str, where),
        turn=turn,
        score=None if score == _UNPARSED else score,
        judge=names[0],
        prompt=names[1],
        judgment=str(row.get("judgment") or ""),
        user_prompt=str(row.get("user_prompt") or ""),
        flags=tuple(map(str, flags)) if isinstance(flags, list) else (),
        tstamp=float(stamp) if isinstance(stamp, int | float) else 0.0,
    )
