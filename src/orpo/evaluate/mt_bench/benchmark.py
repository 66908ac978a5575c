"""MT-Bench: what is asked and how it is judged, from a folder or fetched.

The protocol is that of Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena"
(arXiv 2306.05685), with the settings of FastChat 0.2.36 (`fastchat.llm_judge`). None of the files'
text is part of this library.
"""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo.data.sources import default_cache
from orpo.errors import DataError
from orpo.evaluate.questions import Question
from orpo.runs.reading import parse_json, read_json
from orpo.runs.writing import write_bytes

CATEGORIES = (
    "writing",
    "roleplay",
    "reasoning",
    "math",
    "coding",
    "extraction",
    "stem",
    "humanities",
)
"""In the order of the questions and of the published radar charts."""

OTHER = "other"
"""The category of a question that the benchmark does not have."""

WITH_REFERENCE = frozenset({"math", "reasoning", "coding"})
"""Categories whose answers the judge compares with a reference answer."""

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "stem": 0.1,
    "humanities": 0.1,
    **dict.fromkeys(("reasoning", "math", "coding", "extraction"), 0.0),
}
"""At which temperature answers are drawn."""

MAX_NEW_TOKENS = 1024
"""Longest answer."""

JUDGE_TOKENS = 2048
"""Longest judgment."""

LOWEST, HIGHEST = 1.0, 10.0
"""The scale that the judge is told."""

UNPARSED = -1
"""Written as the score where a judgment names none."""

_FIRST, _EACH = 81, 10


FILES = ("question.jsonl", "reference_answer.jsonl", "judge_prompts.jsonl")
"""What a folder of the benchmark holds."""

PAPER = "orpo_paper_category_scores_digitised.json"
"""May lie beside them: category scores read off the method's published figure."""

_SPACE = ("lmsys/mt-bench", "data/mt_bench/question.jsonl")
"""Space of the Hub, and the file in it. It holds no reference answers and no judge prompts."""

_FASTCHAT = "https://raw.githubusercontent.com/lm-sys/FastChat/v0.2.36/fastchat/llm_judge/data/"
_FASTCHAT_FILES = {
    "reference_answer.jsonl": "mt_bench/reference_answer/gpt-4.jsonl",
    "judge_prompts.jsonl": "judge_prompts.jsonl",
}


@dataclass(frozen=True)
class JudgePrompt:
    """A prompt of the protocol.

    Attributes:
        name: "single-v1", "single-math-v1", and each with "-multi-turn".
        system: The system message.
        template: The user message, with fields in braces.
    """

    name: str
    system: str
    template: str


@dataclass(frozen=True)
class Benchmark:
    """What is asked and how it is judged.

    Attributes:
        questions: In the order of the file; their ids are the numbers as text.
        prompts: Name -> judge prompt, those of single-answer grading.
        numbers: Question's id -> its number, as FastChat writes it.
        sources: File -> {"from", "sha256"}.
        paper: Model -> {"overall", category -> score} as read off the published figure.
    """

    questions: tuple[Question, ...]
    prompts: Mapping[str, JudgePrompt]
    numbers: Mapping[str, int | str]
    sources: Mapping[str, Mapping[str, str]]
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def categories(self) -> dict[int | str, str]:
        """Question's number -> category."""
        return {self.numbers[question.id]: question.category for question in self.questions}


def category_of(question: int | str, known: Mapping[int | str, str] | None = None) -> str:
    """The category of a question: of the 81 to 160, ten each; `known` is asked first."""
    if known and question in known:
        return known[question]
    place = question - _FIRST if isinstance(question, int) else -1
    return CATEGORIES[place // _EACH] if 0 <= place < _EACH * len(CATEGORIES) else OTHER


def temperature_of(category: str) -> float:
    """At which temperature a question of this category is answered; 0.7 for unknown ones."""
    return TEMPERATURES.get(category, 0.7)


def read_benchmark(folder: str | Path, *, origin: Mapping[str, str] | None = None) -> Benchmark:
    """The benchmark from a folder with the three `FILES`.

    FastChat's own `data` folder works too: there they are `mt_bench/question.jsonl`,
    `mt_bench/reference_answer/gpt-4.jsonl` and `judge_prompts.jsonl`.

    Raises:
        DataError: A file is missing or is not what it should be.
    """
    paths = {name: _found(Path(folder), name) for name in FILES}
    references = _references(paths["reference_answer.jsonl"])
    questions, numbers = _questions(paths["question.jsonl"], references)
    return Benchmark(
        questions=questions,
        prompts=_prompts(paths["judge_prompts.jsonl"]),
        numbers=numbers,
        sources={
            name: {
                "from": (origin or {}).get(name, path.name),
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for name, path in paths.items()
        },
        paper=_paper(Path(folder) / PAPER),
    )


def fetch_benchmark(say: Callable[[str], None]) -> Benchmark:
    """The benchmark from where its authors keep it; fetched once, then from the cache.

    Questions come from the Space lmsys/mt-bench of the Hub. Reference answers and judge prompts
    are not there; they come from FastChat 0.2.36 on GitHub.

    Raises:
        DataError: The network is off or does not answer, and the cache has no copy.
    """
    folder = default_cache() / "mt_bench"
    origin = {FILES[0]: f"Space {_SPACE[0]}, {_SPACE[1]}"}
    origin |= {name: _FASTCHAT + path for name, path in _FASTCHAT_FILES.items()}
    for name in FILES:
        if not (folder / name).is_file():
            say(f"fetching {origin[name]}")
            content = _from_hub() if name == FILES[0] else _from_fastchat(origin[name])
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / name, content)
    return read_benchmark(folder, origin=origin)


def _from_hub() -> bytes:
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - seconds to load

    try:
        path = hf_hub_download(_SPACE[0], _SPACE[1], repo_type="space")
    except Exception as error:  # whatever it raises, nothing was fetched
        raise _not_fetched(f"the Space {_SPACE[0]}", error) from error
    return Path(path).read_bytes()


def _from_fastchat(address: str) -> bytes:
    from huggingface_hub.constants import HF_HUB_OFFLINE  # noqa: PLC0415 - seconds to load

    try:
        if HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310 - https
            content: bytes = answer.read()
    except OSError as error:
        raise _not_fetched(address, error) from error
    return content


def _not_fetched(source: str, error: Exception) -> DataError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return DataError(
        f"cannot be fetched ({reason})",
        where=source,
        fix=f"Give --data FOLDER with {', '.join(FILES)}.",
    )


def _found(folder: Path, name: str) -> Path:
    elsewhere = {
        "question.jsonl": "mt_bench/question.jsonl",
        "reference_answer.jsonl": "mt_bench/reference_answer/gpt-4.jsonl",
    }
    for path in (folder / name, folder / elsewhere.get(name, name)):
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
        number = question_id(row, where)
        texts = entry(row, "turns", list, where)
        if len(texts) not in (1, 2) or not all(isinstance(text, str) for text in texts):
            fix = "Each question has one or two turns."
            raise DataError("field 'turns' is no list of texts", where=where, fix=fix)
        if str(number) in numbers:
            raise DataError(f"question {number} is there twice", where=where, fix="Remove one.")
        category = str(row.get("category") or OTHER)
        reference = references.get(number, ()) if category in WITH_REFERENCE else ()
        if category in WITH_REFERENCE and len(reference) < len(texts):
            fix = "Give the reference_answer.jsonl that belongs to these questions."
            raise DataError(f"question {number} has no reference answer", where=where, fix=fix)
        numbers[str(number)] = number
        questions.append(
            Question(str(number), tuple(texts), category=category, reference=reference)
        )
    if not questions:
        raise DataError("holds no question", where=str(path), fix="Give the 80 questions.")
    return tuple(questions), numbers


def _references(path: Path) -> dict[int | str, tuple[str, ...]]:
    return {question_id(row, where): turns(row, where) for where, row in read_lines(path)}


def _prompts(path: Path) -> dict[str, JudgePrompt]:
    found: dict[str, JudgePrompt] = {}
    for where, row in read_lines(path):
        if row.get("type") != "single":
            continue
        name = entry(row, "name", str, where)
        template = entry(row, "prompt_template", str, where)
        found[name] = JudgePrompt(name, entry(row, "system_prompt", str, where), template)
    for math in ("", "-math"):
        for turn in ("", "-multi-turn"):
            name = f"single{math}-v1{turn}"
            if name not in found:
                fix = "Give FastChat's judge_prompts.jsonl."
                raise DataError(f"there is no judge prompt '{name}'", where=str(path), fix=fix)
    return found


def _paper(path: Path) -> dict[str, dict[str, float]]:
    if not path.is_file():
        return {}
    try:
        content: Any = read_json(path)
    except DataError as error:
        raise DataError(f"no JSON ({error})", where=str(path), fix="Repair it.") from error
    models = content.items() if isinstance(content, dict) else ()
    return {
        str(model): {k: float(v) for k, v in scores.items() if isinstance(v, int | float)}
        for model, scores in models
        if isinstance(scores, dict)
    }


def read_lines(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of each line of a JSONL file."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"unreadable ({error})"
        raise DataError(reason, where=str(path), fix="Name a JSONL file.") from error
    # Not splitlines: JSON leaves U+2028 and its like inside of a string as they are.
    for number, line in enumerate(text.split("\n"), 1):
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


def entry(row: Mapping[str, Any], name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A field that has to be there, and to be of a kind."""
    value = row.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        problem = "is missing" if name not in row else f"is no {_called(kind)}"
        fix = "Give a file in FastChat's format."
        raise DataError(f"field '{name}' {problem}", where=where, fix=fix)
    return value


def question_id(row: Mapping[str, Any], where: str) -> int | str:
    """The question's number; a text where it is none."""
    found: int | str = entry(row, "question_id", (int, str), where)
    return found


def turns(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The answers of the first choice, one for each turn: FastChat's `choices[0].turns`."""
    choices = entry(row, "choices", list, where)
    first = choices[0] if choices and isinstance(choices[0], dict) else {}
    texts = entry(first, "turns", list, where)
    if not texts or not all(isinstance(text, str) for text in texts):
        fix = "Give a file in FastChat's format."
        raise DataError("field 'turns' is no list of texts", where=where, fix=fix)
    return tuple(texts)


def _called(kind: type | tuple[type, ...]) -> str:
    names = {str: "text", int: "number", float: "number", list: "list", dict: "object"}
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(dict.fromkeys(names[one] for one in kinds))
